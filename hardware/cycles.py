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
    ADDRESS_TO_WORD,
    COLUMN_TO_FREE,
    COLUMN_TO_PLANE_WORD,
    COLUMN_TO_SUM_WORD,
    COLUMN_TO_VALUE_WORD,
    DISPATCH_INTERVAL,
    END_TO_REQUEST,
    FREE_TO_REQUEST,
    INSTRUCTION_TO_STAGES,
    ISSUE_LATENCY,
    ISSUE_TO_WRITER,
    NEXT_JOB,
    PENDING_JOBS,
    READY_TO_STEP,
    REQUEST_TO_ADDRESS,
    RESPONSE_TO_END,
    START_TO_REQUEST,
    STEP_TO_FREE,
    SUMS_TO_COLUMN,
    TILE_INTERVAL,
    TILE_QUEUE,
    TILE_TO_TILE,
    VALUES_TO_PLANES,
    VECTOR_LATENCY,
    WALK_LATENCY,
    WORD_LATENCY,
    WORD_TO_READY,
    WRITE_QUEUE,
    WRITE_RESPONSE,
    WRITER_TO_BEAT,
    sums_latency,
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
    address = max(START_TO_REQUEST + REQUEST_TO_ADDRESS, channel_free)
    first_word = address + ADDRESS_TO_WORD + memory.latency + WORD_LATENCY
    stages_start = first_word + (INSTRUCTION_WORDS - 1) * interval + INSTRUCTION_TO_STAGES
    fetch = _ReadChannel(work, memory, stages_start, address + INSTRUCTION_WORDS * interval)
    result = _Result(work, interval)
    if work.operation == "matrix":
        _matrix(work, fetch, result, stages_start)
    else:
        _vector(work, fetch, result, stages_start)
    return result.written + WRITE_RESPONSE + RESPONSE_TO_END, fetch.free


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
                    fetch.lhs.release(work.lhs_tile_entries(bits), last_step + STEP_TO_FREE + FREE_TO_REQUEST)
                if row == work.row_tiles - 1:
                    fetch.rhs.release(work.rhs_tile_entries, last_step + STEP_TO_FREE + FREE_TO_REQUEST)
                planes = work.columns(tile) if row == work.row_tiles - 1 else 0
                result.tile(last_step + sums_latency(64 * work.lanes), work.columns(tile), planes)


def _vector(work: Pass, fetch: "_ReadChannel", result: "_Result", last_step: int) -> None:
    steps = work.steps(0)
    for tile in range(work.column_tiles):
        columns = work.columns(tile)
        last_step = max(last_step, fetch.column_tile(columns)) + READY_TO_STEP - 1
        for column in range(columns):
            for group in range(work.row_tiles):
                last_step = max(last_step + steps, result.free)
                ends = column == columns - 1 and group == work.row_tiles - 1
                result.tile(last_step + ISSUE_LATENCY + VECTOR_LATENCY, 1, columns if ends else 0)
        fetch.rhs.release(work.rhs_tile_entries, last_step + STEP_TO_FREE + FREE_TO_REQUEST)


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
    """The fetch stage and the read channel: tiles in fetch order, each waiting for buffer space.

    A request waits in the skid register, then in the first of the AXI unit's two registers, each until the one before
    has moved on, and in the second one until the memory accepts its address; so the fetch stage is up to three
    requests ahead.
    """

    def __init__(self, work: Pass, memory: Memory, stages_start: int, channel_free: int):
        self._work, self._memory = work, memory
        self._offer = stages_start + WALK_LATENCY
        """Cycle in which the next tile's first request can come at the earliest."""
        self._room = self._moved = self._address = 0
        """Cycles from which on the skid register takes the next request, and the AXI unit's registers do."""
        self._ends = deque([0] * (TILE_QUEUE + 1), TILE_QUEUE + 1)
        """When the last words came of the tile that leaves the queue next, if it fills, and of those behind it."""
        self.free = channel_free
        self.lhs, self.rhs = _Ring(work.lhs_depth), _Ring(work.rhs_depth)

    def row_tile(self, bits: int) -> int:
        """Fetch the next row tile; the cycle in which the execute stage sees it."""
        space = self.lhs.take(self._work.lhs_tile_entries(bits))
        return self._tile(1, self._work.lhs_tile_words(bits) // self._work.ports, space)

    def column_tile(self, columns: int) -> int:
        """Fetch the next column tile; the cycle in which the execute stage sees it."""
        work, space = self._work, self.rhs.take(self._work.rhs_tile_entries)
        requests = -(-columns // work.ports) * (work.column_words // work.run_words)
        return self._tile(requests, work.run_words, space)

    def _tile(self, requests: int, words: int, space: int) -> int:
        """Requests of ``words`` words each."""
        occupied = words * self._memory.cycles_per_word
        begun = offered = max(self._offer, space, self._ends[0] + END_TO_REQUEST)
        alone = min(requests, 5)
        for _ in range(alone):
            asked = max(offered, self._room)
            taken = max(asked, self._moved)
            self._moved = max(taken + 1, self._address)
            self._address = max(self._moved + REQUEST_TO_ADDRESS - 1, self.free)
            self.free = self._address + occupied
            self._room, offered = taken + 1, asked + 1
        more = (requests - alone) * occupied  # by now the memory sets the pace
        self.free, self._address, self._moved, self._room = (
            cycle + more for cycle in (self.free, self._address, self._moved, self._room)
        )
        self._offer = max(asked + more + TILE_INTERVAL, begun + TILE_TO_TILE)
        last_word = self.free - self._memory.cycles_per_word + ADDRESS_TO_WORD + self._memory.latency + WORD_LATENCY
        self._ends.append(last_word)
        return last_word + WORD_TO_READY


class _Result:
    """The result stage and the write channel."""

    def __init__(self, work: Pass, interval: int):
        self._work, self._interval = work, interval
        self.free = 0
        """Cycle from which on a tile's last step may be taken."""
        self.written = -interval
        """Cycle in which the memory has accepted the last word so far."""
        self._asked = 0
        """Cycle in which the drain has asked for it ..."""
        self._left = deque([-interval] * WRITE_QUEUE, WRITE_QUEUE)
        """... and in which it, and those before it, have left the write queue."""
        self._written_before = -interval
        """Cycle in which the memory has accepted the last word but one."""
        self._in_flight = sums_latency(64 * work.lanes)
        self._jobs = deque([-1] * PENDING_JOBS, PENDING_JOBS)
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
            begin = self._asked + VALUES_TO_PLANES
        if output.plane_bits and plane_columns:
            ready = column + columns - 1 + COLUMN_TO_PLANE_WORD
            self._stream(max(ready, begin), plane_columns * self._work.plane_words * output.plane_bits)
        self._jobs.append(self._asked)
        self._next_job = self._asked + NEXT_JOB

    def _stream(self, first: int, words: int) -> None:
        """Words that can be asked for from cycle ``first`` on, one a cycle."""
        if self._interval == 1:  # the queue never fills
            self._asked = first + words - 1
            self.written = self._asked + ISSUE_TO_WRITER + WRITER_TO_BEAT
            return
        alone = min(words, 3 * WRITE_QUEUE)
        for _ in range(alone):
            self._asked = max(first, self._left[0] + 1)
            # One word may wait in the AXI unit behind the one on the bus.
            self._left.append(max(self._asked + ISSUE_TO_WRITER, self._left[-1] + 1, self._written_before + 1))
            beat = max(self._left[-1] + WRITER_TO_BEAT, self.written + self._interval)
            self._written_before, self.written = self.written, beat
            first = self._asked + 1
        more = (words - alone) * self._interval  # by now the memory sets the pace
        self._asked, self.written = self._asked + more, self.written + more
        self._written_before += more
        self._left = deque((cycle + more for cycle in self._left), WRITE_QUEUE)
