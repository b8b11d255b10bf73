"""The cycle model: max-plus recurrences over the schedule's tiles, exact to the cycle.

Three resources run in parallel and only ever wait for one another through buffer space and registers:

- the read channel delivers tiles in fetch order, each occupying it for ``words * cycles_per_word`` cycles. Ports work
  in step, each on its part of a tile; the first port's part is never the smaller one, so it alone is timed;
- the array works through output tiles, one step a cycle;
- the result stage requantizes a tile, a column a cycle, and writes it, or the column tile's bit planes with the last
  row tile, one job after another on the write channel.

Every number below is either from the schedule, from the memory's description, or a latency in
`hardware.timing` that the RTL is built with. Nothing is fitted. `hardware.recurrences` has the recurrences.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np

from hardware import timing
from hardware.accelerator import Memory
from hardware.instruction import INSTRUCTION_WORDS
from hardware.passes import Pass
from hardware.recurrences import Latencies, program_times
from hardware.schedule import Schedule

LATENCIES = Latencies(*(getattr(timing, name.upper()) for name in Latencies._fields))


def layer_cycles(schedule: Schedule, memory: Memory | None = None) -> int:
    """Cycles the engine is busy with the layer, from its start strobe to ``busy`` falling.

    Parameters
    ----------
    memory:
        Latency and bandwidth, if not the accelerator's own.

    A layer whose kernels are all pruned has no pass and takes no cycle.
    """
    return program_cycles(schedule.passes, memory or schedule.accelerator.memory)


def program_cycles(passes: Sequence[Pass], memory: Memory) -> int:
    """Cycles of passes that run one after the other as one program."""
    return int(programs_cycles([passes], memory)[0])


def programs_cycles(programs: Sequence[Sequence[Pass]], memory: Memory) -> np.ndarray:
    """Cycles of many programs in one call: int64, (programs,)."""
    return _times(programs, memory, 0, True)[0]


def pass_cycles(work: Pass, memory: Memory, channel_free: int = 0, every_tile: bool = False) -> tuple[int, int]:
    """When one instruction ends and when it leaves the read channel free.

    Both count from the end of the instruction before (or the start strobe), and so does ``channel_free``, the cycle
    in which that one leaves the channel: a slow memory may still be busy with its last words.

    Parameters
    ----------
    every_tile:
        Walk every tile instead of multiplying out what repeats; the same result, for tests.
    """
    (end,), (free,) = _times([[work]], memory, channel_free, not every_tile)
    return int(end), int(end + free)


def _times(
    programs: Sequence[Sequence[Pass]], memory: Memory, channel_free: int, skip: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Cycles of programs, and when, counted from their ends, they leave the read channel free."""
    # Parts of a grouped layer differ in which channels they read and write only, and so not in their numbers.
    rows: dict[tuple[tuple[int, ...], tuple[tuple[int, ...], ...]], int] = {}
    known: dict[int, int] = {}  # passes of one program are often one object
    order, ends = [], []
    for passes in programs:
        for one in passes:
            row = known.get(id(one))
            if row is None:
                row = known[id(one)] = rows.setdefault(_numbers(one), len(rows))
            order.append(row)
        ends.append(len(order))
    if not rows:
        return np.zeros(len(ends), dtype=np.int64), np.zeros(len(ends), dtype=np.int64)
    works = np.fromiter(chain.from_iterable([numbers for numbers, _ in rows]), dtype=np.int64)
    works = works.reshape(len(rows), -1)
    segments = np.array([segment for _, segments in rows for segment in segments], dtype=np.int64)
    places = np.array(order, dtype=np.int64), np.array(ends, dtype=np.int64)
    return program_times(
        works, segments, *places, memory.cycles_per_word, memory.latency, channel_free, LATENCIES, skip
    )


def _numbers(work: Pass) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """What the recurrences need to know of a pass, see `program_times`: a row of works, and one of each segment."""
    output, row_tiles, run_words = work.output, work.row_tiles, work.run_words
    numbers = (
        work.operation == "matrix",
        row_tiles,
        work.column_tiles,
        work.dn,
        work.last_columns,
        work.group_tiles,
        work.lhs_resident,
        output.requantized,
        output.sums,
        work.result_words,
        work.plane_words * output.plane_bits,
        work.rhs_tile_entries,
        work.column_words // run_words,
        run_words,
        work.ports,
        work.lhs_depth,
        work.rhs_depth,
        timing.sums_latency(64 * work.lanes, work.kind),
        INSTRUCTION_WORDS,
        len(work.segments),
    )
    segments = [
        (tiles, work.steps(bits), work.lhs_tile_entries(bits), work.lhs_tile_words(bits) // work.ports)
        for bits, tiles in work.segments
    ]
    return numbers, tuple(segments)
