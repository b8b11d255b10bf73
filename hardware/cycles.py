"""The cycle model: max-plus recurrences over the schedule's tiles, exact to the cycle.

Three resources run in parallel and only ever wait for one another through buffer space and registers:

- the read channel delivers tiles in fetch order, each occupying it for ``words * cycles_per_word`` cycles. Ports work
  in step, each on its part of a tile; the first port's part is never the smaller one, so it alone is timed;
- the array works through output tiles, one step a cycle;
- the result stage requantizes a tile, a column a cycle, and writes it, or the column tile's bit planes with the last
  row tile, one job after another on the write channel.

Every number below is either from the schedule, from the memory's description, or a latency in
`hardware.timing` that the RTL is built with. Nothing is fitted.
"""

from collections import deque

from hardware.accelerator import Memory
from hardware.instruction import INSTRUCTION_WORDS
from hardware.schedule import Pass, Schedule
from hardware.timing import (
    COLUMN_TO_FREE,
    COLUMN_TO_PLANE_WORD,
    COLUMN_TO_SUM_WORD,
    COLUMN_TO_VALUE_WORD,
    DISPATCH_INTERVAL,
    INSTRUCTION_TO_STAGES,
    LAST_STEP_TO_FREE,
    NEXT_JOB,
    PENDING_JOBS,
    READY_TO_STEP,
    REQUEST_TO_WORD,
    RESULT_TO_END,
    START_TO_REQUEST,
    SUMS_TO_COLUMN,
    VALUES_TO_PLANES,
    VECTOR_LATENCY,
    WORD_TO_READY,
    array_latency,
)


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
    for one in passes:
        end, channel_free = pass_cycles(one, memory, channel_free)
        cycles, channel_free = cycles + end, channel_free - end
    return cycles


def pass_cycles(work: Pass, memory: Memory, channel_free: int = 0) -> tuple[int, int]:
    """When one instruction ends and when it leaves the read channel free.

    Both count from the end of the instruction before (or the start strobe), and so does ``channel_free``, the cycle
    in which that one leaves the channel: a slow memory may still be busy with its last words.
    """
    interval = memory.cycles_per_word
    request = max(START_TO_REQUEST, channel_free)
    first_word = request + REQUEST_TO_WORD + memory.latency
    stages_start = first_word + (INSTRUCTION_WORDS - 1) * interval + INSTRUCTION_TO_STAGES
    fetch = _ReadChannel(work, memory, stages_start, request + INSTRUCTION_WORDS * interval)
    result = _Result(work, interval)
    if work.operation == "matrix":
        _matrix(work, fetch, result, stages_start)
    else:
        _vector(work, fetch, result, stages_start)
    return result.written + RESULT_TO_END, fetch.free


def _matrix(work: Pass, fetch: "_ReadChannel", result: "_Result", last_step: int) -> None:
    widths = [bits for bits, tiles in work.segments for _ in range(tiles)]
    lhs_ready = dispatch = 0
    for group in range(0, work.column_tiles, work.group_tiles):
        tiles = range(group, min(group + work.group_tiles, work.column_tiles))
        rhs_ready: list[int] = []
        for row, bits in enumerate(widths):
            if group == 0 or not work.lhs_resident:
                lhs_ready = fetch.row_tile(bits)
            for tile in tiles:
                if row == 0:
                    rhs_ready.append(fetch.column_tile(work.columns(tile)))
                constants = work.output.requantized and tile == tiles[0]
                steps = max(1, work.steps(bits) + constants)
                dispatch = max(last_step, lhs_ready, rhs_ready[tile - group], dispatch + DISPATCH_INTERVAL)
                last_step = max(dispatch + READY_TO_STEP + steps - 1, result.free)
                if tile == tiles[-1] and not work.lhs_resident:
                    fetch.lhs.release(work.lhs_tile_entries(bits), last_step + LAST_STEP_TO_FREE)
                if row == work.row_tiles - 1:
                    fetch.rhs.release(work.rhs_tile_entries, last_step + LAST_STEP_TO_FREE)
                planes = work.columns(tile) if row == work.row_tiles - 1 else 0
                result.tile(last_step + array_latency(64 * work.lanes), work.columns(tile), planes)


def _vector(work: Pass, fetch: "_ReadChannel", result: "_Result", last_step: int) -> None:
    steps = work.steps(0)
    for tile in range(work.column_tiles):
        columns = work.columns(tile)
        last_step = max(last_step, fetch.column_tile(columns)) + READY_TO_STEP - 1
        for column in range(columns):
            for group in range(work.row_tiles):
                last_step = max(last_step + steps, result.free)
                ends = column == columns - 1 and group == work.row_tiles - 1
                result.tile(last_step + VECTOR_LATENCY, 1, columns if ends else 0)
        fetch.rhs.release(work.rhs_tile_entries, last_step + LAST_STEP_TO_FREE)


class _Ring:
    """Space of an operand buffer: entries taken by tiles in fetch order, given back by tiles in the same order."""

    def __init__(self, entries: int):
        self._entries = entries
        self._released: deque[tuple[int, int]] = deque()

    def release(self, entries: int, cycle: int) -> None:
        """``entries`` are seen as free from ``cycle`` on."""
        self._released.append((entries, cycle))

    def take(self, entries: int) -> int:
        """Take ``entries``; the cycle from which on they are free."""
        cycle = 0
        while self._entries < entries:
            freed, cycle = self._released.popleft()
            self._entries += freed
        self._entries -= entries
        return cycle


class _ReadChannel:
    """The fetch stage and the read channel: tiles in fetch order, each waiting for buffer space."""

    def __init__(self, work: Pass, memory: Memory, stages_start: int, channel_free: int):
        self._work, self._memory = work, memory
        self.free = max(stages_start, channel_free)
        self.lhs, self.rhs = _Ring(work.lhs_depth), _Ring(work.rhs_depth)

    def row_tile(self, bits: int) -> int:
        """Fetch the next row tile; the cycle in which the execute stage sees it."""
        space = self.lhs.take(self._work.lhs_tile_entries(bits))
        return self._tile(self._work.lhs_tile_words(bits) // self._work.ports, space)

    def column_tile(self, columns: int) -> int:
        """Fetch the next column tile; the cycle in which the execute stage sees it."""
        space = self.rhs.take(self._work.rhs_tile_entries)
        return self._tile(-(-columns // self._work.ports) * self._work.column_words, space)

    def _tile(self, words: int, space: int) -> int:
        begin = max(self.free, space)
        self.free = begin + words * self._memory.cycles_per_word
        last_word = self.free - self._memory.cycles_per_word + REQUEST_TO_WORD + self._memory.latency
        return last_word + WORD_TO_READY


class _Result:
    """The result stage and the write channel."""

    def __init__(self, work: Pass, interval: int):
        self._work, self._interval = work, interval
        self.free = 0
        """Cycle from which on a tile's last step may be taken."""
        self.written = 0
        """Cycle in which the last word so far has been accepted."""
        self._in_flight = array_latency(64 * work.lanes)
        self._jobs = deque([-1] * PENDING_JOBS, PENDING_JOBS)
        self._channel_free = 0
        self._next_job = 0
        self._to_word = COLUMN_TO_SUM_WORD if work.output.sums else COLUMN_TO_VALUE_WORD

    def tile(self, sums: int, columns: int, plane_columns: int) -> None:
        """A tile's sums are complete in cycle ``sums``; ``plane_columns`` pixels have all their channels with it."""
        output = self._work.output
        column = sums + SUMS_TO_COLUMN
        is_job = output.sums or output.values or (output.plane_bits and plane_columns)
        if is_job:
            column = max(column, self._jobs[0] + 1)
        self.free = column + max(0, columns - 1 - self._in_flight) + COLUMN_TO_FREE
        if not is_job:
            return
        begin = self._next_job
        if output.sums or output.values:
            self._stream(max(column + self._to_word, begin), columns * self._work.result_words)
            begin = self.written + VALUES_TO_PLANES
        if output.plane_bits and plane_columns:
            ready = column + columns - 1 + COLUMN_TO_PLANE_WORD
            self._stream(max(ready, begin), plane_columns * self._work.plane_words * output.plane_bits)
        self._jobs.append(self.written)
        self._next_job = self.written + NEXT_JOB

    def _stream(self, first: int, words: int) -> None:
        self.written = max(first, self._channel_free) + (words - 1) * self._interval
        self._channel_free = self.written + self._interval
