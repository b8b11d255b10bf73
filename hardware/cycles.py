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

from typing import Any

import numpy as np

from hardware import timing
from hardware.accelerator import Memory
from hardware.instruction import INSTRUCTION_WORDS
from hardware.recurrences import Latencies, Work, pass_times
from hardware.schedule import Pass, Schedule

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


def program_cycles(passes: tuple[Pass, ...], memory: Memory) -> int:
    """Cycles of passes that run one after the other as one program."""
    cycles = channel_free = 0
    known: dict[tuple[Any, ...], tuple[int, int]] = {}
    for one in passes:
        # Parts of a grouped layer differ in which channels they read and write only.
        alike = (
            one.segments,
            one.pixel_words,
            one.column_tiles,
            one.operation,
            one.output,
            one.group_tiles,
            one.kernel,
        )
        key = (*alike, one.activation_bits, one.last_columns, one.lhs_resident, one.dense_rows, channel_free)
        if len(passes) == 1 or key not in known:
            known[key] = pass_cycles(one, memory, channel_free)
        end, channel_free = known[key]
        cycles, channel_free = cycles + end, channel_free - end
    return cycles


def pass_cycles(work: Pass, memory: Memory, channel_free: int = 0, every_tile: bool = False) -> tuple[int, int]:
    """When one instruction ends and when it leaves the read channel free.

    Both count from the end of the instruction before (or the start strobe), and so does ``channel_free``, the cycle
    in which that one leaves the channel: a slow memory may still be busy with its last words.

    Parameters
    ----------
    every_tile:
        Walk every tile instead of multiplying out what repeats; the same result, for tests.
    """
    matrix, output = work.operation == "matrix", work.output
    numbers = Work(
        matrix=matrix,
        row_tiles=work.row_tiles,
        column_tiles=work.column_tiles,
        dn=work.dn,
        last_columns=work.last_columns,
        group_tiles=work.group_tiles,
        lhs_resident=work.lhs_resident,
        requantized=output.requantized,
        sums=output.sums,
        result_words=work.result_words,
        plane_words=work.plane_words * output.plane_bits,
        rhs_entries=work.rhs_tile_entries,
        column_requests=work.column_words // work.run_words,
        run_words=work.run_words,
        ports=work.ports,
        lhs_depth=work.lhs_depth,
        rhs_depth=work.rhs_depth,
        sums_latency=timing.sums_latency(64 * work.lanes),
        instruction_words=INSTRUCTION_WORDS,
    )
    segments = np.array(
        [
            (tiles, work.steps(bits), work.lhs_tile_entries(bits), work.lhs_tile_words(bits) // work.ports)
            for bits, tiles in work.segments
        ],
        dtype=np.int64,
    )
    end, free = pass_times(
        numbers, segments, memory.cycles_per_word, memory.latency, channel_free, LATENCIES, not every_tile
    )
    return int(end), int(free)
