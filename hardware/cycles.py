"""The cycle model: max-plus recurrences over the schedule's tiles, exact to the cycle.

Three resources run in parallel and only ever wait for one another through slots and registers:

- the read channel delivers tiles in fetch order, each occupying it for ``words * cycles_per_word`` cycles;
- the array works through output tiles, ``steps + DISPATCH`` cycles each;
- the write channel drains one output tile at a time.

Every number below is either from the schedule, from the memory's description, or a latency in
`hardware.timing` that the RTL is built with. Nothing is fitted.
"""

from hardware.accelerator import Memory
from hardware.instruction import INSTRUCTION_WORDS
from hardware.schedule import Pass, Schedule
from hardware.timing import (
    DISPATCH,
    INSTRUCTION_TO_STAGES,
    LAST_STEP_TO_FREE,
    LAST_STEP_TO_RESULT,
    REQUEST_TO_WORD,
    RESULT_TO_END,
    RESULT_TO_FREE,
    START_TO_REQUEST,
    WORD_TO_READY,
)


def layer_cycles(schedule: Schedule, memory: Memory | None = None) -> int:
    """Cycles the engine is busy with the layer, from its start strobe to ``busy`` falling.

    Parameters
    ----------
    memory:
        Latency and bandwidth, if not the accelerator's own.

    A layer whose kernels are all pruned has no pass and takes no cycle.
    """
    memory = memory or schedule.accelerator.memory
    cycles = channel_free = 0
    for one in schedule.passes:
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
    result_words = work.dm // 2
    lhs_ready = 0
    array_free = stages_start  # first cycle in which the next tile may be dispatched
    registers_free = 0
    write_free = 0
    last_word = 0
    for group in range(0, work.column_tiles, work.group_tiles):
        tiles = range(group, min(group + work.group_tiles, work.column_tiles))
        rhs_ready: list[int] = []
        for row in range(work.row_tiles):
            weights_arrive = group == 0 or not work.lhs_resident
            if weights_arrive:
                lhs_ready = fetch.row_tile()
            for tile in tiles:
                if row == 0:
                    rhs_ready.append(fetch.column_tile(work.columns(tile)))
                dispatch = max(array_free, lhs_ready, rhs_ready[tile - group])
                last_step = max(dispatch + DISPATCH + work.steps - 1, registers_free)
                array_free = last_step + 1
                if tile == tiles[-1] and not work.lhs_resident:
                    fetch.lhs_freed.append(last_step + LAST_STEP_TO_FREE)
                if row == work.row_tiles - 1:
                    fetch.rhs_freed.append(last_step + LAST_STEP_TO_FREE)
                first = max(last_step + LAST_STEP_TO_RESULT, write_free)
                last_word = first + (work.columns(tile) * result_words - 1) * interval
                write_free = last_word + interval
                registers_free = last_word + RESULT_TO_FREE
    return last_word + RESULT_TO_END, fetch.free


class _ReadChannel:
    """The fetch stage and the read channel: tiles in fetch order, each waiting for a free slot of its ring."""

    def __init__(self, work: Pass, memory: Memory, stages_start: int, channel_free: int):
        self._work, self._memory = work, memory
        self.free = max(stages_start, channel_free)
        self._lhs_count = self._rhs_count = 0
        self.lhs_freed: list[int] = []
        """Cycle in which the k-th release of a weight slot is seen."""
        self.rhs_freed: list[int] = []

    def row_tile(self) -> int:
        """Fetch the next row tile; the cycle in which the execute stage sees it."""
        slot_free = self._slot(self._lhs_count, self._work.lhs_slots, self.lhs_freed)
        self._lhs_count += 1
        return self._tile(self._work.lhs_tile_words, slot_free)

    def column_tile(self, columns: int) -> int:
        """Fetch the next column tile; the cycle in which the execute stage sees it."""
        slot_free = self._slot(self._rhs_count, self._work.rhs_slots, self.rhs_freed)
        self._rhs_count += 1
        return self._tile(columns * self._work.column_words, slot_free)

    @staticmethod
    def _slot(count: int, slots: int, freed: list[int]) -> int:
        return freed[count - slots] if count >= slots else 0

    def _tile(self, words: int, slot_free: int) -> int:
        begin = max(self.free, slot_free)
        self.free = begin + words * self._memory.cycles_per_word
        last_word = self.free - self._memory.cycles_per_word + REQUEST_TO_WORD + self._memory.latency
        return last_word + WORD_TO_READY
