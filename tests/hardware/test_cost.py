"""The cost table against the cycle model, and event counts against a walk through the loop nest."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.cost import Events, cost_table, count_events
from hardware.cycles import layer_cycles
from hardware.errors import InputError
from hardware.instruction import INSTRUCTION_WORDS
from hardware.layer import Layer
from hardware.schedule import schedule

LINEAR = Layer("fc", "linear", in_channels=300, out_channels=10, images=6)
CONV = Layer("conv", "conv", in_channels=70, out_channels=5, in_height=4, in_width=5, kernel=(3, 2), padding=(1, 0))


def test_the_table_holds_the_cycles_of_every_pair_of_widths(tiny):
    table = cost_table([LINEAR, CONV], tiny)
    assert table.shape == (2, 8, 8)
    assert table.dtype == np.float64
    for index, layer in enumerate([LINEAR, CONV]):
        for w in range(1, 9):
            for a in range(1, 9):
                assert table[index, w - 1, a - 1] == layer_cycles(schedule(layer, w, a, tiny))


def test_layers_of_one_shape_cost_the_same_and_no_layer_has_no_row(tiny):
    other = replace(LINEAR, images=7)
    table = cost_table([LINEAR, other, replace(LINEAR, name="again")], tiny)
    assert (table[0] == table[2]).all()
    assert (table[0] < table[1]).all()
    assert cost_table([], tiny).shape == (0, 8, 8)


def test_what_the_buffers_cannot_hold_costs_infinitely_much(machine):
    # 300 inputs are 5 chunks: 5 * w entries for weights, 5 * a for activations.
    table = cost_table([LINEAR], machine(lhs_entries=32, rhs_entries=16))[0]
    w, a = np.indices((8, 8)) + 1
    assert (np.isinf(table) == ((5 * w > 32) | (5 * a > 16))).all()
    assert np.isfinite(table).sum() == 6 * 3


def test_a_layer_that_fits_at_no_width_is_refused_by_name(machine):
    with pytest.raises(InputError, match=r"'wide' needs .* buffer has 16"):
        cost_table([LINEAR, replace(LINEAR, name="wide", in_channels=64 * 17)], machine(lhs_entries=16, rhs_entries=16))
    with pytest.raises(InputError, match="'dw' has 4 channel groups"):
        cost_table([Layer("dw", "conv", 4, 4, 8, 8, kernel=(3, 3), groups=4)], machine())


def walk(plan) -> Events:
    """Events one by one, in plain loops over what every step, fetch and write touches."""
    array, lanes = plan.accelerator.array, plan.accelerator.lanes
    steps = reads = read_words = written_words = buffer_words = 0
    for work in plan.passes:
        read_words += INSTRUCTION_WORDS
        for group in range(0, work.column_tiles, work.group_tiles):
            tiles = range(group, min(group + work.group_tiles, work.column_tiles))
            for row in range(work.row_tiles):
                if group == 0 or not work.lhs_resident:
                    buffer_words += array.dm * work.weight_bits * work.chunks * lanes
                for tile in tiles:
                    columns = work.columns(tile)
                    if row == 0:
                        words_per_bit = work.kernel_rows * work.kernel_columns * work.channel_words
                        buffer_words += columns * words_per_bit * work.activation_bits
                    for _ in range(work.weight_bits * work.activation_bits):
                        for _ in range(work.chunks):
                            steps += 1
                            reads += array.dm + array.dn
                    written_words += columns * array.dm // 2
    macs = steps * array.dm * array.dk * array.dn
    return Events(macs, steps, read_words + buffer_words, written_words, reads, buffer_words)


@given(
    layer=st.builds(
        lambda images, inputs, outputs, kernel: Layer(
            "x", "conv", inputs, outputs, 3, 4, kernel=kernel, padding=(1, 0), images=images
        ),
        images=st.integers(1, 3),
        inputs=st.integers(1, 200),
        outputs=st.integers(1, 12),
        kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    ),
    array=st.fixed_dictionaries(
        {
            "dm": st.sampled_from([2, 4]),
            "dk": st.sampled_from([64, 128]),
            "dn": st.integers(1, 4),
            "lhs_entries": st.integers(300, 500),
            "rhs_entries": st.integers(300, 500),
        }
    ),
    data=st.data(),
)
def test_events_are_those_of_a_walk_through_the_loop_nest(machine, layer, array, data):
    bits = data.draw(st.lists(st.integers(0, 8), min_size=layer.out_channels, max_size=layer.out_channels))
    plan = schedule(layer, bits, data.draw(st.integers(1, 8)), machine(**array))
    assert count_events(plan) == walk(plan)


def test_events_of_a_full_tile_are_counted_by_hand(tiny):
    # 64 -> 4, two images, 3x2 bits on 2x64x2: two row tiles, one column tile, 6 steps each.
    events = count_events(schedule(replace(LINEAR, in_channels=64, out_channels=4, images=2), 3, 2, tiny))
    assert events == Events(
        plane_products=4 * 64 * 2 * 3 * 2,  # M * K * N * w * a: nothing is padding here
        array_steps=12,
        words_read=9 + 4 * 3 + 2 * 2,
        words_written=4,  # 4 * 2 sums, two in a word
        buffer_reads=12 * (2 + 2),
        buffer_writes=4 * 3 + 2 * 2,
    )


def test_events_add_up_field_by_field_and_a_pruned_layer_has_none(tiny):
    assert Events(1, 2, 3, 4, 5, 6) + Events(10, 20, 30, 40, 50, 60) == Events(11, 22, 33, 44, 55, 66)
    assert count_events(schedule(LINEAR, 0, 4, tiny)) == Events(0, 0, 0, 0, 0, 0)
