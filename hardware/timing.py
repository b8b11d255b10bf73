"""Latencies that the RTL is built with and the cycle model counts with; each number exists once, here.

"From A to B" counts clock cycles between the cycle in which A is on the wires and the one in which B is.
`tests/rtl` measures every one of them on the simulated gateware.
"""

START_TO_REQUEST = 1
"""Start strobe (or the end of the last instruction) to the request for the instruction's words."""

REQUEST_TO_WORD = 1
"""Accepted read request to its first word, on top of the memory's own latency."""

INSTRUCTION_TO_STAGES = 2
"""Last instruction word to fetch, execute and result working on it."""

WORD_TO_READY = 2
"""Last word of a tile to the execute stage seeing the tile as ready."""

READY_TO_STEP = 1
"""A tile seen as ready to its first step, if the array waits for it."""

DISPATCH_INTERVAL = 2
"""Cycles between two tiles being taken by the execute stage, at least."""

LAST_STEP_TO_FREE = 1
"""Last array step that reads a tile to the fetch stage seeing its entries as free."""

VECTOR_LATENCY = 4
"""Last vector step of a group to its totals: buffer read 1, selection 1, accumulation 1, gathering 1."""

SUMS_TO_COLUMN = 1
"""Sums complete to their first column leaving the result registers."""

COLUMN_TO_FREE = 1
"""A column leaving the result registers, such that the rest will have left before the next tile's sums can come, to
the execute stage seeing the registers as free."""

COLUMN_TO_SUM_WORD = 2
"""First column leaving the registers to its first word of raw sums offered to the memory."""

COLUMN_TO_VALUE_WORD = COLUMN_TO_SUM_WORD + 5
"""The same for values: multiplication, addition, saturation."""

COLUMN_TO_PLANE_WORD = COLUMN_TO_VALUE_WORD + 3
"""Last column of a tile leaving the registers to its first word of bit planes."""

PENDING_JOBS = 2
"""Tiles whose results may wait for the write channel, the one that is being written included."""

NEXT_JOB = 2
"""Last word of a job accepted to the first word of the next one, if that is complete."""

VALUES_TO_PLANES = 2
"""Last value of a job accepted to its first word of bit planes, if these are complete."""

RESULT_TO_END = 1
"""Last result word accepted to the sequencer ending the instruction."""

BUFFER_LATENCY = 1
"""Array step to its operands out of the buffers."""


def popcount_latency(dk: int) -> int:
    """Operands in the array's registers to their count: low bits of the products, levels of counters, adder.

    Raises
    ------
    KeyError
        ``dk`` is not one an accelerator can have.
    """
    return {64: 6, 128: 6, 256: 7, 512: 9}[dk]


def array_latency(dk: int) -> int:
    """Array step to its sum in the accumulator: buffer read, operand register 1, popcount, add 1."""
    return BUFFER_LATENCY + 1 + popcount_latency(dk) + 1
