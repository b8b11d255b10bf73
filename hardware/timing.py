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

DISPATCH = 1
"""Overhead of a tile in the execute stage: the cycle that takes its tokens."""

LAST_STEP_TO_FREE = 1
"""Last array step that reads a tile to the fetch stage seeing its slot as free."""

ARRAY_LATENCY = 4
"""Array step to its sum in the accumulator: buffer read 1, products and first count 1, count 1, add 1."""

LAST_STEP_TO_RESULT = ARRAY_LATENCY + 1
"""Last array step of a tile to its first result word offered to the memory."""

RESULT_TO_FREE = 1
"""Last result word accepted to the execute stage seeing the result registers as free."""

RESULT_TO_END = 1
"""Last result word accepted to the sequencer ending the instruction."""
