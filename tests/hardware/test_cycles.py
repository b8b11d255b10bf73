"""The cycle model against cycles counted by hand, and against what must hold for any machine.

`tests/sim` and `tests/rtl/test_engine` compare it with the machine itself.
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
# array has a step's sum 10 cycles after the step is taken (ISSUE_LATENCY + 9). t is the cycle in which the stages begin
# to work. A request is made 5 cycles later (WALK_LATENCY), or when the channel can take it, and is on the bus a cycle
# later (REQUEST_TO_ADDRESS); "at" is that cycle. The program ends 8 cycles after the drain asks for its last word:
# 5 to the AXI unit, its beat, its response, the end.
#
# A. 64 -> 2, one image, 1x1 bits, raw sums, latency 16, 1 cycle per word: one step.
#    Instruction: request 1 (START_TO_REQUEST) at 2, words 19 (+ ADDRESS_TO_WORD + 16) to 18 + S, t = 21 + S
#    (+ WORD_LATENCY + INSTRUCTION_TO_STAGES).
#    Fetch: row tile at t+6, 2 words t+23 t+24, ready t+28 (+ WORD_LATENCY + WORD_TO_READY); column at t+9
#    (+ TILE_TO_TILE), word t+26, ready t+30.
#    Execute: step t+31 (+ READY_TO_STEP), sums t+41. Result: column t+42 (+ SUMS_TO_COLUMN), word t+44
#    (+ COLUMN_TO_SUM_WORD). End t+52.
#
# B. 64 -> 4, three images, 2x1 bits, values, latency 0, 1 cycle per word: two row tiles of 2 entries and one of
#    constants, two column tiles of 2 and 1 columns in one group.
#    Instruction: request 1 at 2, words 3 to S + 2, t = S + 5.
#    Fetch: row tile 0 at t+6, 6 words t+7 to t+12, ready t+16; columns at t+12 t+13, words t+13 t+14, ready t+18;
#    column at t+14 (asked for t+11, it waits for the bus), word t+15, ready t+19; row tile 1 asked for t+15
#    (TILE_INTERVAL behind the column leaving the skid register, t+13) at t+16, words t+17 to t+22, ready t+26.
#    Tile (0, 0): 2 steps and the constants t+19 to t+21, sums t+31, columns t+32 t+33, registers seen free t+33
#    (first column + COLUMN_TO_FREE, as both leave before 10 more cycles), values t+41 t+42 (+ COLUMN_TO_VALUE_WORD).
#    Tile (0, 1): 2 steps from t+22, of which the last waits until t+33, sums t+43, column t+44, free t+45, value t+53.
#    Tile (1, 0): 3 steps from t+34, last t+45, sums t+55, columns t+56 t+57, free t+57, values t+65 t+66.
#    Tile (1, 1): 2 steps, last t+57, sums t+67, column t+68, value t+77. End t+85.
#
# C. The same, but 3 bit planes instead of values: fetch and steps as above.
#    Tile (0, 0): columns t+32 t+33. Tile (0, 1): column t+44. Nothing to write yet.
#    Tile (1, 0): columns t+56 t+57, planes t+70 (last column + COLUMN_TO_PLANE_WORD) to t+75, 3 for each column.
#    Tile (1, 1): column t+68, planes t+81 to t+83. End t+91.
#
# D. 64 -> 2, one image, 1x1 bits, values and 2 bit planes, latency 3, 5 cycles per word.
#    Instruction: request 1 at 2, words 6 11 ... 5 S + 1, t = 5 S + 4; the read channel has been free since 5 S + 2.
#    Fetch: row tile at t+6, 4 words t+10 t+15 t+20 t+25, ready t+29; column at t+26, word t+30, ready t+34.
#    One step and the constants t+35 t+36, sums t+46, column t+47, value t+56, its beat t+62. Planes could come at t+58
#    (+ VALUES_TO_PLANES) and are complete at t+60: asked for t+60 t+61, beats t+67 t+72, every fifth cycle. End t+74.
#
# E. 64 -> 4, four images, 1x1 bits, raw sums, latency 0, 40 cycles per word: two row tiles, two column tiles, groups of
#    one. The instruction's words occupy the channel longer than the stages need to start.
#    Instruction: request 1 at 2, words 3 43 ..., the last 40 S - 37; the first row tile is asked for in 40 S - 29, but
#    the channel is free in u = 40 S + 2.
#    Fetch: row tile 0 at u, words u+1 u+41, ready u+45; columns at u+80 u+120, words u+81 u+121, ready u+125; row tile
#    1 at u+160, words u+161 u+201, ready u+205; columns at u+240 u+280, ready u+285.
#    Tile (0, 0): step u+126, sums u+136, columns u+137 u+138, words u+139 u+140, beats u+145 u+185.
#    Tile (1, 0): step u+206, sums u+216, columns u+217 u+218, words u+219 u+220, beats u+225 u+265.
#    Tile (0, 1): step u+286, sums u+296, columns u+297 u+298, words u+299 u+300, beats u+305 u+345.
#    Tile (1, 1): could begin u+289 (DISPATCH_INTERVAL behind u+285, + 1), waits for the registers, free u+298: its step
#    u+298, sums u+308, columns u+309 u+310, words u+311 u+312, beats u+385 u+425. End u+427.
#
# F. 64 -> 10, four images, 1x1 bits, raw sums, latency 0, 20 cycles per word: five resident row tiles, two column
#    tiles. As in E, u = 20 S + 2.
#    Fetch: row tile 0 at u, words u+1 u+21, ready u+25; columns at u+40 u+60, ready u+65; row tiles 1 to 4 at u+80
#    u+120 u+160 u+200, ready u+105 u+145 u+185 u+225; columns at u+240 u+260, ready u+265.
#    Tiles (0 to 4, 0): step u+66 and then a cycle after each row tile is ready, beats 19 cycles behind the steps:
#    u+85 u+105, u+125 u+145, u+165 u+185, u+205 u+225, u+245 u+265.
#    Tile (0, 1): step u+266, beats u+285 u+305. The others follow as fast as the write channel takes words: u+325
#    u+345, u+365 u+385, u+405 u+425, u+445 u+465. End u+467.
#
# G. 64 -> 2, four images, 1x1 bits, 8 bit planes, latency 0, 1 cycle per word: two column tiles in one group.
#    t = S + 5 as in B. Fetch: row tile at t+6, 4 words to t+10, ready t+14; columns at t+10 t+11, words t+11 t+12,
#    ready t+16; columns at t+12 t+13, words t+13 t+14, ready t+18.
#    Tile 0: one step and the constants t+17 t+18, sums t+28, columns t+29 t+30, registers free t+30, 16 words t+43 to
#    t+58. Tile 1: its step waits until t+30, sums t+40, columns t+41 t+42, planes complete t+55, but the last job ends
#    at t+58: t+60 (+ NEXT_JOB) to t+75. End t+83.
BY_HAND = [
    (LINEAR, (1, 1), SUMS, Memory(latency=16, cycles_per_word=1), 21 + S + 52),
    (replace(LINEAR, out_channels=4, images=3), (2, 1), VALUES, Memory(latency=0, cycles_per_word=1), S + 5 + 85),
    (replace(LINEAR, out_channels=4, images=3), (2, 1), PLANES, Memory(latency=0, cycles_per_word=1), S + 5 + 91),
    (LINEAR, (1, 1), BOTH, Memory(latency=3, cycles_per_word=5), 5 * S + 4 + 74),
    (replace(LINEAR, out_channels=4, images=4), (1, 1), SUMS, Memory(latency=0, cycles_per_word=40), 40 * S + 2 + 427),
    (replace(LINEAR, out_channels=10, images=4), (1, 1), SUMS, Memory(latency=0, cycles_per_word=20), 20 * S + 2 + 467),
    (replace(LINEAR, images=4), (1, 1), Output(plane_bits=8), Memory(latency=0, cycles_per_word=1), S + 5 + 83),
]


@pytest.mark.parametrize(("layer", "bits", "output", "memory", "cycles"), BY_HAND, ids="ABCDEFG")
def test_cycles_are_those_counted_by_hand(tiny, layer, bits, output, memory, cycles):
    plan = schedule(layer, *bits, tiny, output=output)
    assert layer_cycles(plan, memory) == cycles


def test_requests_wait_for_the_bus_so_a_short_tile_leaves_no_gap(machine):
    # 64 -> 32, one image, 1x1 bits, raw sums on 16x64x2, latency 0: two row tiles of 16 words. t = S + 5.
    # Fetch: row tile 0 asked for t+5 at t+6, words t+7 to t+22; column asked for t+8 (TILE_TO_TILE), waits in the AXI
    # unit, at t+22, word t+23, ready t+27; row tile 1 asked for t+11, waits in the skid register, at t+23, words t+24
    # to t+39, ready t+43.
    # Tile (0, 0): step t+28, sums t+38, column t+39, words t+41 to t+48. Tile (1, 0): step t+44, sums t+54, column
    # t+55, words t+57 to t+64. End t+72.
    plan = schedule(replace(LINEAR, out_channels=32), 1, 1, machine(dm=16))
    assert layer_cycles(plan, Memory(latency=0, cycles_per_word=1)) == S + 5 + 72


def test_planes_come_two_cycles_behind_the_values(machine):
    # 64 -> 8, four images, 1x1 bits, values and 2 bit planes on 8x64x4, latency 0: one tile. t = S + 5.
    # Fetch: row tile of 2 entries at t+6, 16 words t+7 to t+22, ready t+26; columns at t+22 to t+25, words t+23 to
    # t+26, ready t+30. One step and the constants t+31 t+32, sums t+42, columns t+43 to t+46, values t+52 to t+59, two
    # words for each. Planes are complete at t+59, and come from t+61 (+ VALUES_TO_PLANES) to t+68. End t+76.
    layer = replace(LINEAR, out_channels=8, images=4)
    plan = schedule(layer, 1, 1, machine(dm=8, dn=4), output=BOTH)
    assert layer_cycles(plan, Memory(latency=0, cycles_per_word=1)) == S + 5 + 76


def test_cycles_of_a_pool_are_counted_by_hand(tiny):
    # 4 channels in one word, windows of 2x1 over 2x3 pixels: 3 pixels in two column tiles, each with two pairs of
    # channels of 2 steps. Values, latency 0. As in B, t = S + 5.
    # Fetch: columns, two requests each, at t+6 to t+9, words t+7 to t+10, ready t+14; column at t+11 t+12
    # (TILE_INTERVAL behind t+9), words t+12 t+13, ready t+17.
    # Pixel 0: first pair steps t+15 t+16, totals t+21 (+ ISSUE_LATENCY + VECTOR_LATENCY), column t+22, registers free
    #          t+23, value t+31. Second pair: last step t+23, totals t+28, column t+29, free t+30, value t+38.
    # Every pair's last step waits for the registers, which are free again after 7 cycles: t+30 t+37 t+44 t+51.
    # Last pair: totals t+56, column t+57, value t+66. End t+74.
    pool = Layer("pool", "conv", 4, 4, 2, 3, kernel=(2, 1))
    (work,) = vector_passes("maximum", pool, tiny, VALUES)
    assert pass_cycles(work, Memory(latency=0, cycles_per_word=1))[0] == S + 5 + 74


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
    delay = max(0, busy - 2)  # START_TO_REQUEST + REQUEST_TO_ADDRESS
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
