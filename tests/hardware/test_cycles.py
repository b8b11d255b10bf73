"""The cycle model against cycles counted by hand, and against what must hold for any machine.

`tests/sim` compares it with the machine itself.
"""

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hardware.accelerator import Memory
from hardware.cycles import _Ring, layer_cycles, pass_cycles, program_cycles
from hardware.instruction import INSTRUCTION_WORDS
from hardware.layer import Layer
from hardware.schedule import Output, schedule, vector_passes

LINEAR = Layer("fc", "linear", in_channels=64, out_channels=2)
SUMS, VALUES, PLANES, BOTH = Output(sums=True), Output(values=True), Output(plane_bits=3), Output(False, True, 2)
S = INSTRUCTION_WORDS
"""Words of the instruction, below."""

# Counted on paper from the latencies in `hardware.timing`. Cycle 0 is the start strobe. All machines are 2x64x2, whose
# array takes 9 cycles from a step to its sum. t is the cycle in which the stages begin to work.
#
# A. 64 -> 2, one image, 1x1 bits, raw sums, latency 16, 1 cycle per word: one step.
#    Instruction: request 1 (START_TO_REQUEST), words 18 (+ REQUEST_TO_WORD + 16) to 17 + S, t = 19 + S
#    (+ INSTRUCTION_TO_STAGES).
#    Fetch: row tile requested t, 2 words t+17 t+18, ready t+20 (+ WORD_TO_READY); column requested t+2, word t+19,
#    ready t+21.
#    Execute: step t+22 (+ READY_TO_STEP), sums t+31 (+ array). Result: column t+32 (+ SUMS_TO_COLUMN), word t+34
#    (+ COLUMN_TO_SUM_WORD). End t+35 (+ RESULT_TO_END).
#
# B. 64 -> 4, three images, 2x1 bits, values, latency 0, 1 cycle per word: two row tiles of 2 entries and one of
#    constants, two column tiles of 2 and 1 columns in one group.
#    Instruction: request 1, words 2 to S + 1, t = S + 3.
#    Fetch: row tile 0 requested t, 6 words t+1 to t+6, ready t+8; columns requested t+6 t+7, words t+7 t+8, ready t+10;
#    column t+8, word t+9, ready t+11; row tile 1 requested t+9, words t+10 to t+15, ready t+17.
#    Tile (0, 0): 2 steps and the constants t+11 to t+13, sums t+22, columns t+23 t+24, registers seen free t+24
#    (first column + COLUMN_TO_FREE, as both leave before 9 more cycles), values t+30 t+31 (+ COLUMN_TO_VALUE_WORD).
#    Tile (0, 1): 2 steps from t+14, of which the last waits until t+24, sums t+33, column t+34, free t+35, value t+41.
#    Tile (1, 0): 3 steps from t+25, last t+35, sums t+44, columns t+45 t+46, free t+46, values t+52 t+53.
#    Tile (1, 1): 2 steps, last t+46, sums t+55, column t+56, value t+63. End t+64.
#
# C. The same, but 3 bit planes instead of values: fetch and steps as above.
#    Tile (0, 0): columns t+23 t+24. Tile (0, 1): column t+34. Nothing to write yet.
#    Tile (1, 0): columns t+45 t+46, planes t+56 (last column + COLUMN_TO_PLANE_WORD) to t+61, 3 for each column.
#    Tile (1, 1): column t+56, planes t+66 to t+68. End t+69.
#
# D. 64 -> 2, one image, 1x1 bits, values and 2 bit planes, latency 3, 5 cycles per word.
#    Instruction: request 1, words 5 10 ... 5 S, t = 5 S + 2; the read channel has been free since 5 S + 1.
#    Fetch: row tile requested t, 4 words t+4 t+9 t+14 t+19, ready t+21; column requested t+20, word t+24, ready t+26.
#    One step and the constants t+27 t+28, sums t+37, column t+38, value t+45. Planes could come at t+47
#    (+ VALUES_TO_PLANES) and are complete at t+48, but the write channel is taken until t+50: t+50 t+55. End t+56.
#
# E. 64 -> 4, four images, 1x1 bits, raw sums, latency 0, 40 cycles per word: two row tiles, two column tiles, groups of
#    one. The instruction's words occupy the channel longer than the stages need to start.
#    Instruction: request 1, words 2 42 ..., the last 40 S - 38; the stages begin 40 S - 36, the channel is free in
#    u = 40 S + 1.
#    Fetch: row tile 0 requested u, words u+1 u+41, ready u+43; columns requested u+80 u+120, words u+81 u+121, ready
#    u+123; row tile 1 requested u+160, words u+161 u+201, ready u+203; columns requested u+240 u+280, ready u+283.
#    Tile (0, 0): step u+124, sums u+133, columns u+134 u+135, words u+136 u+176, channel taken until u+216.
#    Tile (1, 0): step u+204, sums u+213, columns u+214 u+215, words u+216 u+256, channel taken until u+296.
#    Tile (0, 1): step u+284, sums u+293, columns u+294 u+295, words u+296 u+336.
#    Tile (1, 1): step u+285, waits for the registers, free u+295: last step u+295, sums u+304, columns u+305 u+306,
#    words u+376 u+416. End u+417.
#
# F. 64 -> 10, four images, 1x1 bits, raw sums, latency 0, 20 cycles per word: five resident row tiles, two column
#    tiles. As in E, u = 20 S + 1.
#    Fetch: row tile 0 requested u, words u+1 u+21, ready u+23; columns requested u+40 u+60, ready u+63; row tiles 1
#    to 4 requested u+80 u+120 u+160 u+200, ready u+103 u+143 u+183 u+223; columns requested u+240 u+260, ready
#    u+263.
#    Tiles (0 to 4, 0): step u+64 and then a cycle after each row tile is ready, words 12 cycles behind the steps:
#    u+76 u+96, u+116 u+136, u+156 u+176, u+196 u+216, u+236 u+256.
#    Tile (0, 1): step u+264, words u+276 u+296. The others follow as fast as the write channel takes words, at most two
#    tiles waiting: u+316 u+336, u+356 u+376, u+396 u+416, u+436 u+456. End u+457.
#
# G. 64 -> 2, four images, 1x1 bits, 8 bit planes, latency 0, 1 cycle per word: two column tiles in one group.
#    t = S + 3 as in B. Fetch: row tile requested t, 4 words to t+4, ready t+6; columns requested t+4 t+5, ready t+8;
#    columns requested t+6 t+7, ready t+10.
#    Tile 0: one step and the constants t+9 t+10, sums t+19, columns t+20 t+21, registers free t+21, 16 words t+31 to
#    t+46. Tile 1: its step waits until t+21, sums t+30, columns t+31 t+32, planes complete t+42, but the last job ends
#    at t+46: t+48 (+ NEXT_JOB) to t+63. End t+64.
BY_HAND = [
    (LINEAR, (1, 1), SUMS, Memory(latency=16, cycles_per_word=1), 19 + S + 35),
    (replace(LINEAR, out_channels=4, images=3), (2, 1), VALUES, Memory(latency=0, cycles_per_word=1), S + 3 + 64),
    (replace(LINEAR, out_channels=4, images=3), (2, 1), PLANES, Memory(latency=0, cycles_per_word=1), S + 3 + 69),
    (LINEAR, (1, 1), BOTH, Memory(latency=3, cycles_per_word=5), 5 * S + 2 + 56),
    (replace(LINEAR, out_channels=4, images=4), (1, 1), SUMS, Memory(latency=0, cycles_per_word=40), 40 * S + 1 + 417),
    (replace(LINEAR, out_channels=10, images=4), (1, 1), SUMS, Memory(latency=0, cycles_per_word=20), 20 * S + 1 + 457),
    (replace(LINEAR, images=4), (1, 1), Output(plane_bits=8), Memory(latency=0, cycles_per_word=1), S + 3 + 64),
]


@pytest.mark.parametrize(("layer", "bits", "output", "memory", "cycles"), BY_HAND, ids="ABCDEFG")
def test_cycles_are_those_counted_by_hand(tiny, layer, bits, output, memory, cycles):
    plan = schedule(layer, *bits, tiny, output=output)
    assert layer_cycles(plan, memory) == cycles


def test_planes_come_two_cycles_behind_the_values(machine):
    # 64 -> 8, four images, 1x1 bits, values and 2 bit planes on 8x64x4, latency 0: one tile. t = S + 3.
    # Fetch: row tile of 2 entries requested t, 16 words to t+16, ready t+18; columns requested from t+16, ready t+22.
    # One step and the constants t+23 t+24, sums t+33, columns t+34 to t+37, values t+41 to t+48, two words for each.
    # Planes are complete at t+47, and come from t+50 (+ VALUES_TO_PLANES) to t+57. End t+58.
    layer = replace(LINEAR, out_channels=8, images=4)
    plan = schedule(layer, 1, 1, machine(dm=8, dn=4), output=BOTH)
    assert layer_cycles(plan, Memory(latency=0, cycles_per_word=1)) == S + 3 + 58


def test_cycles_of_a_pool_are_counted_by_hand(tiny):
    # 4 channels in one word, windows of 2x1 over 2x3 pixels: 3 pixels in two column tiles, each with two pairs of
    # channels of 2 steps. Values, latency 0. As in B, t = S + 3.
    # Fetch: columns requested t t+2, words t+1 to t+4, ready t+6; column requested t+4, words t+5 t+6, ready t+8.
    # Pixel 0: first pair steps t+7 t+8, totals t+12 (+ VECTOR_LATENCY), column t+13, registers free t+14, value t+20.
    #          second pair: last step t+14, totals t+18, column t+19, free t+20, value t+26.
    # Every pair's last step waits for the registers, which are free again after 6 cycles: t+20 t+26 t+32 t+38.
    # Last pair: totals t+42, column t+43, value t+50. End t+51.
    pool = Layer("pool", "conv", 4, 4, 2, 3, kernel=(2, 1))
    (work,) = vector_passes("maximum", pool, tiny, VALUES)
    assert pass_cycles(work, Memory(latency=0, cycles_per_word=1))[0] == S + 3 + 51


def test_buffer_space_is_given_back_in_order():
    ring = _Ring(10)
    assert [ring.take(4), ring.take(6)] == [0, 0]  # room for both
    ring.release(4, 100)
    ring.release(6, 70)
    assert ring.take(3) == 100  # the first tile's space
    assert ring.take(1) == 0  # what was left of it
    assert ring.take(5) == 70
    ring.release(3, 200)
    ring.release(1, 300)
    ring.release(5, 400)
    assert ring.take(5) == 300  # 1 was left; 3 and 1 more, in that order
    assert ring.take(0) == 0
    with pytest.raises(IndexError):  # nobody will ever give back so much: the schedule would be wrong
        ring.take(6)


layers = st.builds(
    lambda images, inputs, outputs, groups, size, kernel: Layer(
        "x",
        "conv",
        inputs * groups,
        outputs * groups,
        *size,
        kernel=kernel,
        padding=(1, 1),
        images=images,
        groups=groups,
    ),
    images=st.integers(1, 3),
    inputs=st.integers(1, 150),
    outputs=st.integers(1, 30),
    groups=st.sampled_from([1, 1, 2, 4]),
    size=st.tuples(st.integers(2, 6), st.integers(2, 6)),
    kernel=st.tuples(st.integers(1, 2), st.integers(1, 2)),
)
arrays = st.sampled_from(
    [{"dm": 2, "dn": 2}, {"dm": 4, "dn": 4, "ports": 4}, {"dm": 8, "dn": 2, "ports": 2, "dk": 128}]
)
buffers = st.fixed_dictionaries(
    {
        "lhs_entries": st.sampled_from([512, 1024]),
        "rhs_entries": st.sampled_from([512, 1024]),
        "latency": st.integers(0, 60),
        "cycles_per_word": st.integers(1, 8),
    }
)
outputs = st.sampled_from([SUMS, VALUES, PLANES, BOTH])
widths = st.tuples(st.integers(1, 8), st.integers(1, 8))


@given(
    layer=layers,
    array=arrays,
    buffer=buffers,
    bits=widths,
    output=outputs,
    more=st.tuples(st.integers(0, 500), st.integers(0, 20)),
)
def test_a_slower_memory_is_never_faster(machine, layer, array, buffer, bits, output, more):
    plan = schedule(layer, *bits, machine(**array, **buffer), output=output)
    memory = plan.accelerator.memory
    slower = {"latency": memory.latency + more[0], "cycles_per_word": memory.cycles_per_word + more[1]}
    assert layer_cycles(plan, memory.model_copy(update=slower)) >= layer_cycles(plan)
    assert layer_cycles(plan, memory) == layer_cycles(plan)


@given(layer=layers, array=arrays, buffer=buffers, bits=widths, output=outputs, more=widths)
def test_more_bits_are_never_cheaper_under_one_loop_nest(machine, layer, array, buffer, bits, output, more):
    # More bits may change residency and groups, and another loop nest can happen to be the faster one.
    accelerator = machine(**array, **buffer)
    wider = tuple(min(8, bit + extra - 1) for bit, extra in zip(bits, more, strict=True))
    plan, wide_plan = (schedule(layer, *each, accelerator, output=output) for each in (bits, wider))
    for work, wide in zip(plan.passes, wide_plan.passes, strict=True):
        assume((work.lhs_resident, work.group_tiles) == (wide.lhs_resident, wide.group_tiles))
    assert layer_cycles(wide_plan) >= layer_cycles(plan)


@given(layer=layers, array=arrays, buffer=buffers, bits=widths, output=outputs)
def test_no_resource_is_faster_than_it_can_be(machine, layer, array, buffer, bits, output):
    plan = schedule(layer, *bits, machine(**array, **buffer), output=output)
    memory = plan.accelerator.memory
    for work in plan.passes:
        cycles, channel_free = pass_cycles(work, memory)
        assert cycles > work.row_tiles * work.column_tiles * work.steps(bits[0])
        written = layer.pixels * (work.row_tiles * work.result_words + work.plane_words * output.plane_bits)
        assert cycles > memory.cycles_per_word * (written - 1)
        operands = work.row_tiles * work.lhs_tile_words(bits[0]) + layer.pixels * work.column_words
        assert channel_free > memory.cycles_per_word * (INSTRUCTION_WORDS + operands / memory.ports)
        assert cycles + memory.cycles_per_word > channel_free + 2 * memory.latency


@given(layer=layers, array=arrays, buffer=buffers, bits=widths, output=outputs, busy=st.integers(0, 300))
def test_a_channel_that_is_still_taken_delays_everything_alike(machine, layer, array, buffer, bits, output, busy):
    plan = schedule(layer, *bits, machine(**array, **buffer), output=output)
    memory = plan.accelerator.memory
    cycles, free = pass_cycles(plan.passes[0], memory)
    delay = max(0, busy - 1)  # START_TO_REQUEST
    assert pass_cycles(plan.passes[0], memory, busy) == (cycles + delay, free + delay)


def test_latency_is_paid_for_the_instruction_and_for_the_first_operands_only(tiny):
    plan = schedule(replace(LINEAR, images=9, in_channels=640), 4, 4, tiny)
    cycles = [layer_cycles(plan, Memory(latency=latency, cycles_per_word=1)) for latency in (0, 1, 100)]
    assert [c - cycles[0] for c in cycles] == [0, 2, 200]


def test_ports_share_the_words(machine):
    # Bound by reading: 8 bits in 10 chunks for 4 rows and 4 columns each. Four ports need a fourth of the time.
    layer = replace(LINEAR, in_channels=640, out_channels=4, images=400)
    memory = Memory(latency=0, cycles_per_word=64)
    one, four = (
        layer_cycles(
            schedule(layer, 8, 1, machine(dm=4, dn=4, ports=ports)), memory.model_copy(update={"ports": ports})
        )
        for ports in (1, 4)
    )
    own = {1: 4 * 80 + 400 * 10, 4: 80 + 100 * 10}
    assert one - four == 64 * (own[1] - own[4])


def test_passes_follow_one_another(tiny):
    layer = Layer("dw", "conv", 140, 140, 6, 6, kernel=(3, 3), groups=140)
    plan = schedule(layer, 3, 4, tiny)
    assert len(plan.passes) == 3
    fast, slow = Memory(latency=5, cycles_per_word=1), Memory(latency=5, cycles_per_word=64)
    assert layer_cycles(plan, fast) == sum(pass_cycles(work, fast)[0] for work in plan.passes)
    assert program_cycles(plan.passes, fast) == layer_cycles(plan, fast)
    assert program_cycles((), fast) == 0
    # The second pass's request waits where the first one's last words still take the channel.
    end, free = pass_cycles(plan.passes[0], slow)
    assert program_cycles(plan.passes[:2], slow) == end + pass_cycles(plan.passes[1], slow, free - end)[0]
