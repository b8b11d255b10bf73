"""The cycle model against cycles counted by hand, and against what must hold for any machine.

`tests/sim` compares it with the machine itself.
"""

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hardware.accelerator import Memory
from hardware.cycles import layer_cycles
from hardware.instruction import INSTRUCTION_WORDS
from hardware.layer import Layer
from hardware.schedule import schedule

LINEAR = Layer("fc", "linear", in_channels=64, out_channels=2)

# Counted on paper from the latencies in `hardware.timing`. Cycle 0 is the start strobe. All machines are 2x64x2.
#
# A. 64 -> 2, one image, 1x1 bits, latency 16, 1 cycle per word: one step.
#    Instruction: request 1 (START_TO_REQUEST), words 18 (+ REQUEST_TO_WORD + 16) to 26 (9 words), stages work
#    at 28 (+ INSTRUCTION_TO_STAGES).
#    Fetch: row tile requested 28, 2 words 45 46; column requested 30, word 47, seen ready 49 (+ WORD_TO_READY).
#    Execute: dispatch 49, step 50 (+ DISPATCH). Result: one word 55 (+ LAST_STEP_TO_RESULT). End 56 (+ RESULT_TO_END).
#
# B. 64 -> 2, three images, 2x1 bits, latency 0, 1 cycle per word: two column tiles (2 and 1 columns), two steps each.
#    Instruction: request 1, words 2 to 10, stages 12.
#    Fetch: row tile requested 12, 4 words 13 to 16; columns requested 16 17 18, words 17 18 19: tiles ready 20 and 21.
#    Tile 0: dispatch 20, steps 21 22, result words 27 28, registers seen free 29 (+ RESULT_TO_FREE).
#    Tile 1: dispatch 23, step 24, last step waits for the registers until 29, result word 34. End 35.
#
# C. 64 -> 3, two images, 1x1 bits, latency 5, 3 cycles per word: two row tiles, one column tile, one step each.
#    Instruction: request 1, words 7 10 ... 31, stages 33.
#    Fetch: row tile 0 requested 33, words 39 42, ready 44; columns requested 39 and 42, words 45 48, ready 50;
#    row tile 1 requested 45, words 51 54, ready 56.
#    Tile 0: dispatch 50, step 51, result words 56 59, registers seen free 60, write channel free 62.
#    Tile 1: dispatch 56, its only step waits for the registers until 60, result words 65 68. End 69.
#
# D. 64 -> 3, four images, 1x1 bits, latency 0, 11 cycles per word: two row tiles, two column tiles, one step each.
#    Instruction: request 1, words 2 13 ... 90, stages 92, but its words occupy the read channel until 100.
#    Fetch: row tile 0 requested 100, words 101 112, ready 114; columns requested 122 133, words 123 134, ready 136;
#    row tile 1 requested 144, words 145 156, ready 158; columns requested 166 177, words 167 178, ready 180.
#    Tile (0, 0): dispatch 136, step 137, result words 142 153, registers free 154, write channel free 164.
#    Tile (1, 0): dispatch 158, step 159, result words 164 175, registers free 176, write channel free 186.
#    Tile (0, 1): dispatch 180, step 181, result words 186 197, registers free 198, write channel free 208.
#    Tile (1, 1): dispatch 182, step 198, result offered 203, words taken 208 219. End 220.
BY_HAND = [
    (LINEAR, (1, 1), Memory(latency=16, cycles_per_word=1), 56),
    (replace(LINEAR, images=3), (2, 1), Memory(latency=0, cycles_per_word=1), 35),
    (replace(LINEAR, out_channels=3, images=2), (1, 1), Memory(latency=5, cycles_per_word=3), 69),
    (replace(LINEAR, out_channels=3, images=4), (1, 1), Memory(latency=0, cycles_per_word=11), 220),
]


@pytest.mark.parametrize(("layer", "bits", "memory", "cycles"), BY_HAND)
def test_cycles_are_those_counted_by_hand(tiny, layer, bits, memory, cycles):
    assert INSTRUCTION_WORDS == 9  # the count above depends on it
    assert layer_cycles(schedule(layer, *bits, tiny), memory) == cycles


layers = st.builds(
    lambda images, inputs, outputs, size, kernel: Layer(
        "x", "conv", inputs, outputs, *size, kernel=kernel, padding=(1, 1), images=images
    ),
    images=st.integers(1, 4),
    inputs=st.integers(1, 300),
    outputs=st.integers(1, 30),
    size=st.tuples(st.integers(2, 6), st.integers(2, 6)),
    kernel=st.tuples(st.integers(1, 2), st.integers(1, 2)),
)
arrays = st.fixed_dictionaries(
    {
        "dm": st.sampled_from([2, 4, 8]),
        "dn": st.integers(1, 4),
        "lhs_entries": st.integers(160, 400),
        "rhs_entries": st.integers(160, 400),
        "latency": st.integers(0, 60),
        "cycles_per_word": st.integers(1, 8),
    }
)
widths = st.tuples(st.integers(1, 8), st.integers(1, 8))


@given(layer=layers, array=arrays, bits=widths, more=st.tuples(st.integers(0, 500), st.integers(0, 20)))
def test_a_slower_memory_is_never_faster(machine, layer, array, bits, more):
    plan = schedule(layer, *bits, machine(**array))
    memory = plan.accelerator.memory
    slower = Memory(latency=memory.latency + more[0], cycles_per_word=min(64, memory.cycles_per_word + more[1]))
    assert layer_cycles(plan, slower) >= layer_cycles(plan)
    assert layer_cycles(plan, memory) == layer_cycles(plan)


@given(layer=layers, array=arrays, bits=widths, more=widths)
def test_more_bits_are_never_cheaper_under_one_loop_nest(machine, layer, array, bits, more):
    # More bits may change residency and groups, and another loop nest can happen to be the faster one.
    accelerator = machine(**array)
    wider = tuple(min(8, bit + extra - 1) for bit, extra in zip(bits, more, strict=True))
    plan, wide_plan = schedule(layer, *bits, accelerator), schedule(layer, *wider, accelerator)
    (work,), (wide,) = plan.passes, wide_plan.passes
    assume((work.lhs_resident, work.group_tiles) == (wide.lhs_resident, wide.group_tiles))
    assert layer_cycles(wide_plan) >= layer_cycles(plan)


@given(layer=layers, array=arrays, bits=widths)
def test_no_resource_is_faster_than_it_can_be(machine, layer, array, bits):
    plan = schedule(layer, *bits, machine(**array))
    (work,) = plan.passes
    interval = plan.accelerator.memory.cycles_per_word
    cycles = layer_cycles(plan)
    assert cycles > work.row_tiles * work.column_tiles * (work.steps + 1)
    assert cycles > interval * work.row_tiles * layer.pixels * work.dm // 2
    operands = work.row_tiles * work.lhs_tile_words + layer.pixels * work.column_words
    assert cycles > interval * (INSTRUCTION_WORDS + operands - 1) + 2 * plan.accelerator.memory.latency


def test_latency_is_paid_for_the_instruction_and_for_the_first_operands_only(tiny):
    plan = schedule(replace(LINEAR, images=9, in_channels=640), 4, 4, tiny)
    cycles = [layer_cycles(plan, Memory(latency=latency, cycles_per_word=1)) for latency in (0, 1, 100)]
    assert [c - cycles[0] for c in cycles] == [0, 2, 200]


def test_passes_follow_one_another(tiny):
    layer = replace(LINEAR, out_channels=7, images=5)
    widths = [2, 8, 0, 2, 8, 1, 2]
    alone = [
        layer_cycles(schedule(replace(layer, out_channels=widths.count(width)), width, 4, tiny)) for width in (8, 2, 1)
    ]
    assert layer_cycles(schedule(layer, widths, 4, tiny)) == sum(alone)
