"""The cost table against the cycle model, and event counts against a walk through the loop nest."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.cost import Events, cost_table, count_events, pass_events
from hardware.cycles import layer_cycles
from hardware.errors import InputError
from hardware.instruction import INSTRUCTION_WORDS
from hardware.layer import Layer
from hardware.passes import Output, Pass
from hardware.schedule import schedule, vector_passes

PRICED = Output(plane_bits=8)  # what the documentation says a priced layer writes
LINEAR = Layer("fc", "linear", in_channels=300, out_channels=10, images=6)
CONV = Layer("conv", "conv", in_channels=70, out_channels=5, in_height=4, in_width=5, kernel=(3, 2), padding=(1, 0))


def test_the_table_holds_the_cycles_of_every_pair_of_widths(tiny):
    table = cost_table([LINEAR, CONV], tiny)
    assert table.shape == (2, 8, 8)
    assert table.dtype == np.float64
    for index, layer in enumerate([LINEAR, CONV]):
        for w in range(1, 9):
            for a in range(1, 9):
                assert table[index, w - 1, a - 1] == layer_cycles(schedule(layer, w, a, tiny, output=PRICED))


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


def test_a_depthwise_layer_has_its_cycles_too(tiny):
    layer = Layer("dw", "conv", 6, 6, 5, 5, kernel=(3, 3), groups=6)
    assert cost_table([layer], tiny)[0, 2, 4] == layer_cycles(schedule(layer, 3, 5, tiny, output=PRICED))


def matrix_walk(work: Pass, layer: Layer, count: Counter) -> None:
    """Counts step by step, in plain loops over the loop nest in `hardware.schedule`'s documentation."""
    widths = [bits for bits, tiles in work.segments for _ in range(tiles)]
    for group in range(0, work.column_tiles, work.group_tiles):
        tiles = range(group, min(group + work.group_tiles, work.column_tiles))
        for row, bits in enumerate(widths):
            if group == 0 or not work.lhs_resident:
                count["fetched"] += work.dm * work.lhs_tile_entries(bits) * work.lanes
            for tile in tiles:
                columns = work.last_columns if tile == work.column_tiles - 1 else work.dn
                if row == 0:
                    for port in range(work.ports):
                        own = len(range(port, columns, work.ports)) or 1
                        count["column_words"] += own * work.window_words * work.activation_bits
                side_by_side = {"bit_serial": 1, "serial_weight": 8, "bit_fusion": 2}[work.kind]
                for _ in range(work.steps(bits)):
                    count["array_steps"] += 1
                    count["plane_products"] += work.dm * work.dn * 64 * work.lanes * side_by_side
                    count["buffer_reads"] += work.dm + work.dn
                if not work.output.sums and tile == tiles[0]:
                    count["idle_steps"] += 1
                    count["buffer_reads"] += work.dm
                elif bits == 0:
                    count["idle_steps"] += 1
                kernels = work.kernels[row * work.dm : (row + 1) * work.dm]
                count["useful_products"] += len(kernels) * bits * work.activation_bits * layer.reduction * columns
                count["requantized"] += 0 if work.output.sums else columns
                if work.output.sums:
                    count["words_written"] += columns * work.dm // 2
                if work.output.values:
                    count["words_written"] += columns * -(-work.dm // 4)
                if row == len(widths) - 1:
                    count["words_written"] += columns * -(-len(widths) * work.dm // 64) * work.output.plane_bits


def as_events(count: Counter, passes: int) -> Events:
    fetched = count.pop("fetched") + count["column_words"]
    return Events(**count, words_read=fetched + passes * INSTRUCTION_WORDS, buffer_writes=fetched)


@given(
    layer=st.builds(
        lambda images, inputs, outputs, kernel, groups: Layer(
            *("x", "conv", inputs * groups, outputs * groups, 3, 4),
            kernel=kernel,
            padding=(1, 0),
            images=images,
            groups=groups,
        ),
        images=st.integers(1, 3),
        inputs=st.integers(1, 70),
        outputs=st.integers(1, 12),
        kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
        groups=st.sampled_from([1, 1, 3]),
    ),
    array=st.sampled_from([(2, 64, 2, 1), (2, 64, 3, 1), (4, 128, 4, 2), (4, 64, 4, 4), (8, 256, 1, 1)]),
    output=st.sampled_from([Output(sums=True), Output(values=True), Output(plane_bits=3), Output(False, True, 8)]),
    lhs_entries=st.sampled_from([512, 1024, 4096]),
    kind=st.sampled_from(["bit_serial", "serial_weight", "bit_fusion"]),
    data=st.data(),
)
def test_events_are_those_of_a_walk_through_the_loop_nest(machine, layer, array, output, lhs_entries, kind, data):
    dm, dk, dn, ports = array
    accelerator = machine(kind=kind, dm=dm, dk=dk, dn=dn, ports=ports, lhs_entries=lhs_entries, plane_words=64)
    bits = data.draw(st.lists(st.integers(0, 8), min_size=layer.out_channels, max_size=layer.out_channels))
    plan = schedule(layer, bits, data.draw(st.integers(1, 8)), accelerator, output=output)
    count: Counter = Counter(fetched=0)
    for work in plan.passes:
        matrix_walk(work, layer, count)
    assert count_events(plan) == as_events(count, len(plan.passes))


def test_events_of_a_full_tile_are_counted_by_hand(tiny):
    # 64 -> 4, two images, 3x2 bits on 2x64x2: two row tiles, one column tile, 6 steps each.
    layer = replace(LINEAR, in_channels=64, out_channels=4, images=2)
    events = Events(
        plane_products=4 * 64 * 2 * 3 * 2,  # M * K * N * w * a: nothing is padding here
        useful_products=4 * 64 * 2 * 3 * 2,
        array_steps=12,
        words_read=INSTRUCTION_WORDS + 4 * 3 + 2 * 2,
        column_words=2 * 2,
        words_written=4,  # 4 * 2 sums, two in a word
        buffer_reads=12 * (2 + 2),
        buffer_writes=4 * 3 + 2 * 2,
    )
    assert count_events(schedule(layer, 3, 2, tiny)) == events
    both = count_events(schedule(layer, 3, 2, tiny, output=Output(values=True, plane_bits=5)))
    assert both == replace(
        events,
        idle_steps=2,  # each row tile's constants
        words_read=events.words_read + 4,
        words_written=4 + 2 * 5,  # two of four values in a word; one word of each plane per pixel
        buffer_reads=events.buffer_reads + 2 * 2,
        buffer_writes=events.buffer_writes + 4,
        requantized=4,
    )


def test_every_row_tile_has_its_own_width(tiny):
    # Widths 8 3 | 2 2 | 0 0: tiles of 8, 2 and 0 bits. Two column tiles in one group, four pixels.
    layer = replace(LINEAR, in_channels=64, out_channels=6, images=4)
    events = count_events(schedule(layer, [0, 2, 8, 2, 0, 3], 1, tiny, output=Output(values=True)))
    assert events.array_steps == 2 * (8 + 2)
    assert events.idle_steps == 3 + 1  # constants of three row tiles; the pruned tile's second column tile
    assert events.useful_products == 64 * 4 * (2 * 8 + 2 * 2)
    assert events.words_read == INSTRUCTION_WORDS + 2 * (8 + 1 + 2 + 1 + 0 + 1) + 4


@pytest.mark.parametrize(("ports", "columns"), [(1, 1), (2, 2), (4, 4)])
def test_ports_without_a_column_read_one_nevertheless(machine, ports, columns):
    layer = replace(LINEAR, in_channels=64, out_channels=4, images=5)  # the second tile has one column
    events = count_events(schedule(layer, 1, 1, machine(dm=4, dn=4, ports=ports)))
    assert events.words_read == INSTRUCTION_WORDS + 4 + 4 + columns


def test_events_of_a_pool_are_counted_by_hand(machine):
    # 6 channels in 2 words (8 values), windows of 2x3 over 5x7 pixels in steps of 2x3: 2 * 2 pixels in two tiles.
    pool = Layer("pool", "conv", 6, 6, 5, 7, kernel=(2, 3), stride=(2, 3))
    (work,) = vector_passes("sum", pool, machine(dn=3), Output(values=True, plane_bits=4))
    assert pass_events(work, pool) == Events(
        vector_steps=4 * 3 * 6,  # pixels, pairs of channels, taps
        words_read=INSTRUCTION_WORDS + 4 * 6 * 2,
        column_words=4 * 6 * 2,
        words_written=4 * (3 + 4),  # a word per pair of channels, and one of each plane
        buffer_reads=4 * 3 * 6 * 3,
        buffer_writes=4 * 6 * 2,
        requantized=4 * 3,
    )


def test_events_add_up_field_by_field_and_a_pruned_layer_has_none(tiny):
    assert Events(*range(1, 12)) + Events(*range(10, 120, 10)) == Events(*range(11, 130, 11))
    assert count_events(schedule(LINEAR, 0, 4, tiny)) == Events()
