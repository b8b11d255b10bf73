"""The cycle model against cycles counted by hand, and against what must hold for any machine.

`tests/sim` and `tests/rtl/test_engine` compare it with the machine itself.
"""

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hardware.accelerator import Memory
from hardware.cycles import layer_cycles, pass_cycles, program_cycles, programs_cycles
from hardware.instruction import INSTRUCTION_WORDS
from hardware.layer import Layer
from hardware.passes import Output
from hardware.recurrences import make_ring, release, take
from hardware.schedule import schedule, vector_passes

LINEAR = Layer("fc", "linear", in_channels=64, out_channels=2)
SUMS, VALUES, PLANES, BOTH = Output(sums=True), Output(values=True), Output(plane_bits=3), Output(False, True, 2)
S = INSTRUCTION_WORDS
"""Words of the instruction, below."""

# Counted on paper from the latencies in `hardware.timing`. Cycle 0 is the start strobe. All machines are 2x64x2, whose
# array has a step's sum 11 cycles after the step is taken (ISSUE_LATENCY + 10). t is the cycle in which the stages
# start to work. A request is made 6 cycles later (WALK_LATENCY), or when the channel can take it, and is on the bus two
# cycles later (REQUEST_TO_ADDRESS); "at" is that cycle. The program ends 11 cycles after the drain asks for its last
# word: 7 to the AXI unit, its beat, its response, 2 to the end.
#
# A. 64 -> 2, one image, 1x1 bits, raw sums, latency 16, 1 cycle per word: one step.
#    Instruction: request 1 (START_TO_REQUEST) at 3, words 20 (+ ADDRESS_TO_WORD + 16) to 19 + S, t = 23 + S
#    (+ WORD_LATENCY + INSTRUCTION_TO_STAGES).
#    Fetch: row tile at t+8, 2 words t+25 t+26, ready t+30 (+ WORD_LATENCY + WORD_TO_READY); column at t+12
#    (+ TILE_TO_TILE), word t+29, ready t+33.
#    Execute: step t+34 (+ READY_TO_STEP), sums t+45. Result: column t+46 (+ SUMS_TO_COLUMN), word t+51
#    (+ COLUMN_TO_SUM_WORD). End t+62.
#
# B. 64 -> 4, three images, 2x1 bits, values, latency 0, 1 cycle per word: two row tiles of 2 entries and one of
#    constants, two column tiles of 2 and 1 columns in one group.
#    Instruction: request 1 at 3, words 4 to S + 3, t = S + 7.
#    Fetch: row tile 0 at t+8, 6 words t+9 to t+14, ready t+18; columns, asked for t+10 t+11, wait for the bus, at t+14
#    t+15, words t+15 t+16, ready t+20; column asked for t+14 (TILE_TO_TILE behind t+10) at t+16, word t+17, ready
#    t+21; row tile 1 asked for t+18 at t+20, words t+21 to t+26, ready t+30.
#    Tile (0, 0): 2 steps and the constants t+21 to t+23, sums t+34, columns t+35 t+36, registers seen free t+36
#    (first column + COLUMN_TO_FREE, as both leave before 11 more cycles), values t+48 t+49 (+ COLUMN_TO_VALUE_WORD).
#    Tile (0, 1): 2 steps from t+25 (DISPATCH_INTERVAL behind t+20, + READY_TO_STEP), of which the last waits until
#    t+36, sums t+47, column t+48, free t+49, value t+61.
#    Tile (1, 0): 3 steps from t+37, last t+49, sums t+60, columns t+61 t+62, free t+62, values t+74 t+75.
#    Tile (1, 1): 2 steps, last t+62, sums t+73, column t+74, value t+87. End t+98.
#
# C. The same, but 3 bit planes instead of values: fetch and steps as above.
#    Tile (0, 0): columns t+35 t+36. Tile (0, 1): column t+48. Nothing to write yet.
#    Tile (1, 0): columns t+61 t+62, planes t+80 (last column + COLUMN_TO_PLANE_WORD) to t+85, 3 for each column.
#    Tile (1, 1): column t+74, planes t+92 to t+94. End t+105.
#
# D. 64 -> 2, one image, 1x1 bits, values and 2 bit planes, latency 3, 5 cycles per word.
#    Instruction: request 1 at 3, words 7 12 ... 5 S + 2, t = 5 S + 6; the read channel has been free since 5 S + 3.
#    Fetch: row tile at t+8, 4 words t+12 t+17 t+22 t+27, ready t+31; column at t+28, word t+32, ready t+36.
#    One step and the constants t+37 t+38, sums t+49, column t+50, value t+63, its beat t+71. Planes could come at t+65
#    (+ VALUES_TO_PLANES) and are complete at t+68: asked for t+68 t+69, beats t+76 t+81, every fifth cycle. End t+84.
#
# E. 64 -> 4, four images, 1x1 bits, raw sums, latency 0, 40 cycles per word: two row tiles, two column tiles, groups of
#    one. The instruction's words occupy the channel longer than the stages need to start.
#    Instruction: request 1 at 3, words 4 44 ..., the last 40 S - 36; the first row tile is asked for in 40 S - 26, but
#    the channel is free in u = 40 S + 3.
#    Fetch: row tile 0 at u, words u+1 u+41, ready u+45; columns at u+80 u+120, words u+81 u+121, ready u+125; row tile
#    1 at u+160, words u+161 u+201, ready u+205; columns at u+240 u+280, ready u+285.
#    Tile (0, 0): step u+126, sums u+137, columns u+138 u+139, words u+143 u+144, beats u+151 u+191.
#    Tile (1, 0): step u+206, sums u+217, columns u+218 u+219, words u+223 u+224, beats u+231 u+271.
#    Tile (0, 1): step u+286, sums u+297, columns u+298 u+299, words u+303 u+304, beats u+311 u+351.
#    Tile (1, 1): could begin u+290 (DISPATCH_INTERVAL behind u+285, + 1), waits for the registers, free u+299: its step
#    u+299, sums u+310, columns u+311 u+312, words u+316 u+317, beats u+391 u+431. End u+434.
#
# F. 64 -> 10, four images, 1x1 bits, raw sums, latency 0, 20 cycles per word: five resident row tiles, two column
#    tiles. As in E, u = 20 S + 3.
#    Fetch: row tile 0 at u, words u+1 u+21, ready u+25; columns at u+40 u+60, ready u+65; row tiles 1 to 4 at u+80
#    u+120 u+160 u+200, ready u+105 u+145 u+185 u+225; columns at u+240 u+260, ready u+265.
#    Tiles (0 to 4, 0): step u+66 and then a cycle after each row tile is ready, beats 25 cycles behind the steps:
#    u+91 u+111, u+131 u+151, u+171 u+191, u+211 u+231, u+251 u+271.
#    Tile (0, 1): step u+266, beats u+291 u+311. The others follow as fast as the write channel takes words: u+331
#    u+351, u+371 u+391, u+411 u+431, u+451 u+471. End u+474.
#
# G. 64 -> 2, four images, 1x1 bits, 8 bit planes, latency 0, 1 cycle per word: two column tiles in one group.
#    t = S + 7 as in B. Fetch: row tile at t+8, 4 words to t+12, ready t+16; columns at t+12 t+13, words t+13 t+14,
#    ready t+18; columns, asked for t+14 t+15, at t+16 t+17, words t+17 t+18, ready t+22.
#    Tile 0: one step and the constants t+19 t+20, sums t+31, columns t+32 t+33, registers free t+33, 16 words t+51 to
#    t+66. Tile 1: its step waits until t+33, sums t+44, columns t+45 t+46, planes complete t+64, but the last job ends
#    at t+66: t+68 (+ NEXT_JOB) to t+83. End t+94.
BY_HAND = [
    (LINEAR, (1, 1), SUMS, Memory(latency=16, cycles_per_word=1), 23 + S + 62),
    (replace(LINEAR, out_channels=4, images=3), (2, 1), VALUES, Memory(latency=0, cycles_per_word=1), S + 7 + 98),
    (replace(LINEAR, out_channels=4, images=3), (2, 1), PLANES, Memory(latency=0, cycles_per_word=1), S + 7 + 105),
    (LINEAR, (1, 1), BOTH, Memory(latency=3, cycles_per_word=5), 5 * S + 6 + 84),
    (replace(LINEAR, out_channels=4, images=4), (1, 1), SUMS, Memory(latency=0, cycles_per_word=40), 40 * S + 3 + 434),
    (replace(LINEAR, out_channels=10, images=4), (1, 1), SUMS, Memory(latency=0, cycles_per_word=20), 20 * S + 3 + 474),
    (replace(LINEAR, images=4), (1, 1), Output(plane_bits=8), Memory(latency=0, cycles_per_word=1), S + 7 + 94),
]


@pytest.mark.parametrize(("layer", "bits", "output", "memory", "cycles"), BY_HAND, ids="ABCDEFG")
def test_cycles_are_those_counted_by_hand(tiny, layer, bits, output, memory, cycles):
    plan = schedule(layer, *bits, tiny, output=output)
    assert layer_cycles(plan, memory) == cycles


def test_requests_wait_for_the_bus_so_a_short_tile_leaves_no_gap(machine):
    # 64 -> 32, one image, 1x1 bits, raw sums on 16x64x2, latency 0: two row tiles of 16 words. t = S + 7.
    # Fetch: row tile 0 asked for t+6 at t+8, words t+9 to t+24; column asked for t+10 (TILE_TO_TILE), waits for the bus
    # in the AXI unit, at t+24, word t+25, ready t+29; row tile 1 asked for t+14, waits behind it, at t+25, words t+26
    # to t+41, ready t+45.
    # Tile (0, 0): step t+30, sums t+41, column t+42, words t+47 to t+54. Tile (1, 0): step t+46, sums t+57, column
    # t+58, words t+63 to t+70. End t+81.
    plan = schedule(replace(LINEAR, out_channels=32), 1, 1, machine(dm=16))
    assert layer_cycles(plan, Memory(latency=0, cycles_per_word=1)) == S + 7 + 81


def test_planes_come_two_cycles_behind_the_values(machine):
    # 64 -> 8, four images, 1x1 bits, values and 2 bit planes on 8x64x4, latency 0: one tile. t = S + 7.
    # Fetch: row tile of 2 entries at t+8, 16 words t+9 to t+24, ready t+28; columns at t+24 to t+27, words t+25 to
    # t+28, ready t+32. One step and the constants t+33 t+34, sums t+45, columns t+46 to t+49, values t+59 to t+66, two
    # words for each. Planes are complete at t+67, and come from t+68 (+ VALUES_TO_PLANES) to t+75. End t+86.
    layer = replace(LINEAR, out_channels=8, images=4)
    plan = schedule(layer, 1, 1, machine(dm=8, dn=4), output=BOTH)
    assert layer_cycles(plan, Memory(latency=0, cycles_per_word=1)) == S + 7 + 86


def test_cycles_of_a_pool_are_counted_by_hand(tiny):
    # 4 channels in one word, windows of 2x1 over 2x3 pixels: 3 pixels in two column tiles, each with two pairs of
    # channels of 2 steps. Values, latency 0. As in B, t = S + 7.
    # Fetch: columns, two requests each, asked for t+6 to t+9, at t+8 to t+11, words t+9 to t+12, ready t+16; column
    # asked for t+11 t+12 (TILE_INTERVAL behind t+9), words t+14 t+15, ready t+19.
    # Pixel 0: first pair steps t+17 t+18, totals t+25 (+ ISSUE_LATENCY + VECTOR_LATENCY), column t+26, registers free
    #          t+27, value t+39. Second pair: last step t+27, totals t+34, column t+35, free t+36, value t+48.
    # Every pair's last step waits for the registers, which are free again after 9 cycles: t+36 t+45 t+54 t+63.
    # Last pair: totals t+70, column t+71, value t+84. End t+95.
    pool = Layer("pool", "conv", 4, 4, 2, 3, kernel=(2, 1))
    (work,) = vector_passes("maximum", pool, tiny, VALUES)
    assert pass_cycles(work, Memory(latency=0, cycles_per_word=1))[0] == S + 7 + 95


def test_tiles_wait_for_the_queue_between_the_halves_of_fetch(tiny):
    # 64 -> 2, 80 images, 1x1 bits, raw sums, latency 900: a row tile, tile 0, and 40 column tiles of two words, tiles 1
    # to 40. As in A, t = S + 907. Tile 0 asked for t+6, tile k t+6+4k (TILE_TO_TILE) up to tile 32, as tile 0 is being
    # written and 32 more (TILE_QUEUE) wait. Tile 0 at t+8, its last word at t+910, at the fetch stage t+911: tile 33 is
    # asked for t+914 (END_TO_REQUEST), its second column t+915, at t+917, word t+1818, ready t+1822. Tile 1's last word
    # at the fetch stage t+915: tile 34 asked for t+918, and so on, as far apart as tiles 1 to 7 come: 4 cycles.
    # Tile 33: step t+1823. Every other one waits for the registers: sums 11 cycles behind the step, column 12, free 13.
    # Tile 40: step t+1914 (7 * 13), sums t+1925, columns t+1926 t+1927, words t+1931 t+1932. End t+1943.
    plan = schedule(replace(LINEAR, images=80), 1, 1, tiny)
    assert layer_cycles(plan, Memory(latency=900, cycles_per_word=1)) == S + 907 + 1943


def test_buffer_space_is_given_back_in_order():
    ring = make_ring(10, 5)
    assert [take(ring, 4, 5), take(ring, 6, 5)] == [0, 0]  # room for both
    release(ring, 4, 70)
    release(ring, 6, 100)
    assert take(ring, 3, 5) == 70  # the first tile's space
    assert take(ring, 1, 5) == 0  # what was left of it
    assert take(ring, 2, 100) == 0  # the second one's is free by then
    assert take(ring, 4, 5) == 0  # what was left of that
    release(ring, 3, 200)
    release(ring, 1, 300)
    release(ring, 6, 400)
    assert take(ring, 4, 250) == 300  # 3 free by then, and 1 more
    assert take(ring, 0, 350) == 0
    with pytest.raises(IndexError):  # nobody will ever give back so much: the schedule would be wrong
        take(ring, 7, 0)


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


@settings(max_examples=300)
@given(
    layer=layers,
    array=arrays,
    buffer=buffers,
    bits=widths,
    output=outputs,
    images=st.integers(1, 40),
    pool=st.booleans(),
    busy=st.integers(0, 300),
)
def test_what_repeats_is_multiplied_out_to_the_cycle(machine, layer, array, buffer, bits, output, images, pool, busy):
    accelerator = machine(**array, **buffer)
    layer = replace(layer, images=images)
    if pool and not output.sums:
        pooled = replace(layer, out_channels=layer.in_channels, groups=1)
        passes = vector_passes("maximum", pooled, accelerator, output)
    else:
        passes = schedule(layer, *bits, accelerator, output=output).passes
    for work in passes:
        quick = pass_cycles(work, accelerator.memory, busy)
        assert quick == pass_cycles(work, accelerator.memory, busy, every_tile=True)


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
    delay = max(0, busy - 3)  # START_TO_REQUEST + REQUEST_TO_ADDRESS
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


@given(layer=layers, array=arrays, buffer=buffers, bits=st.lists(widths, max_size=4), output=outputs)
def test_programs_take_together_what_each_takes_alone_pass_by_pass(machine, layer, array, buffer, bits, output):
    plans = [schedule(layer, *each, machine(**array, **buffer), output=output) for each in bits]
    memory = Memory(latency=5, cycles_per_word=64)  # is still busy when an instruction ends
    alone = []
    for plan in plans:
        cycles = free = 0
        for work in plan.passes:
            end, left = pass_cycles(work, memory, free, every_tile=True)
            cycles, free = cycles + end, left - end
        alone.append(cycles)
    assert programs_cycles([plan.passes for plan in plans], memory).tolist() == alone
    assert [program_cycles(plan.passes, memory) for plan in plans] == alone
