"""Latencies that the RTL is built with and the cycle model counts with; each number exists once, here.

"From A to B" counts clock cycles between the cycle in which A is on the wires and the one in which B is.
`tests/rtl` measures every one of them on the simulated gateware.
"""

START_TO_REQUEST = 1
"""Start strobe (or the end of the last instruction) to the request for the instruction's words."""

REQUEST_TO_ADDRESS = 2
"""Read request to its address on the bus."""

ADDRESS_TO_WORD = 1
"""Address accepted to its first word, on top of the memory's own latency."""

WORD_LATENCY = 1
"""Word on the bus to sequencer and fetch seeing it."""

INSTRUCTION_TO_STAGES = 3
"""Last instruction word to fetch, execute and result working on it."""

WALK_LATENCY = 6
"""Fetch working on an instruction to its first place in memory, and so to its first request."""

WORD_TO_READY = 3
"""Last word of a tile to the execute stage seeing the tile as ready."""

READY_TO_STEP = 1
"""A tile seen as ready to its first step being taken, if the array waits for it."""

DISPATCH_INTERVAL = 4
"""Cycles between two tiles being taken by the execute stage, at least."""

ISSUE_LATENCY = 1
"""Step taken by the execute stage to the buffers and the array seeing it."""

STEP_TO_FREE = 1
"""Last step that reads a tile taken to the fetch stage being told that its entries are free."""

FREE_TO_REQUEST = 5
"""From there to the request that waits for them."""

TILE_INTERVAL = 2
"""Last request of a tile to the first one of the next ..."""

TILE_TO_TILE = 4
"""... which is also at least so many cycles behind the first one of that tile."""

TILE_QUEUE = 32
"""Tiles that have been asked for, at least in part, and whose words have not begun to come."""

END_TO_REQUEST = 3
"""Last word of a tile at the fetch stage to the first request of the tile that waits for its place in the queue."""

VECTOR_LATENCY = 6
"""Last step of a group at the vector unit's inputs to its totals: buffer 3, selection, accumulation, gathering."""

SUMS_TO_COLUMN = 1
"""Sums complete to their first column leaving the result registers."""

COLUMN_TO_FREE = 1
"""A column leaving the result registers, such that the rest will have left before the next tile's sums can come, to
the execute stage seeing the registers as free."""

COLUMN_TO_SUM_WORD = 5
"""First column chosen to leave the registers to its first word of raw sums being asked for by the drain: selection 3,
ring of columns 2."""

COLUMN_TO_VALUE_WORD = COLUMN_TO_SUM_WORD + 8
"""The same for values: multiplication, addition, shift, saturation."""

COLUMN_TO_PLANE_WORD = COLUMN_TO_VALUE_WORD + 5
"""Last column of a tile leaving the registers to its first word of bit planes."""

PENDING_JOBS = 2
"""Tiles whose results may wait for the drain, the one that it works on included."""

NEXT_JOB = 2
"""Last word of a job asked for by the drain to the first word of the next one, if that is complete."""

VALUES_TO_PLANES = 2
"""Last value of a job asked for by the drain to its first word of bit planes, if these are complete."""

WRITE_QUEUE = 8
"""Words between the drain and the AXI unit: being read from the buffers, and read."""

ISSUE_TO_WRITER = 7
"""Word asked for by the drain to the AXI unit taking it."""

WRITER_TO_BEAT = 1
"""Word taken by the AXI unit to its beat on the bus."""

WRITE_RESPONSE = 1
"""Last beat of a burst accepted to its response; a property of the simulated memory."""

RESPONSE_TO_END = 2
"""Last response to the sequencer ending the instruction."""

BUFFER_LATENCY = 3
"""Array step to its operands out of the buffers."""

FUSION_UNIT_LATENCY = 5
"""Packed operands at a fusion unit's routers to the sum of their products."""


def popcount_latency(dk: int) -> int:
    """Operands at the array's inputs to their count: low bits of the products, levels of counters, adder.

    Raises
    ------
    KeyError
        ``dk`` is not one an accelerator can have.
    """
    return {64: 6, 128: 6, 256: 7, 512: 9}[dk]


def masked_sum_latency(dk: int) -> int:
    """Operands at the array's inputs to the sum of the activations whose weight bit is set: a level of adders, then two
    levels per cycle."""
    levels = dk.bit_length() - 1
    return 1 + levels // 2


def fusion_latency(dk: int) -> int:
    """Entries at the array's inputs to the sum of their products: choice of their parts, fusion units, two levels of
    adders per cycle."""
    levels = (dk // 32).bit_length() - 1
    return 1 + FUSION_UNIT_LATENCY + (levels + 1) // 2


def array_latency(dk: int, kind: str = "bit_serial") -> int:
    """Step at the array's inputs to its sum in the accumulator: buffer, sum of products, add 1.

    Parameters
    ----------
    kind:
        Of `hardware.kinds.KINDS`.
    """
    latencies = {"bit_serial": popcount_latency, "serial_weight": masked_sum_latency, "bit_fusion": fusion_latency}
    return BUFFER_LATENCY + latencies[kind](dk) + 1


def sums_latency(dk: int, kind: str = "bit_serial") -> int:
    """Array step taken to its sum in the accumulator."""
    return ISSUE_LATENCY + array_latency(dk, kind)
