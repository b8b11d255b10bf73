"""The schedule covers the work exactly once and keeps to the buffers."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.cycles import layer_cycles
from hardware.errors import InputError
from hardware.layer import Layer
from hardware.schedule import schedule

LINEAR = Layer("fc", "linear", in_channels=100, out_channels=5, images=7)

layers = st.builds(
    lambda images, inputs, outputs, size, kernel, stride: Layer(
        "x", "conv", inputs, outputs, *size, kernel=kernel, stride=stride, padding=(1, 0), images=images
    ),
    images=st.integers(1, 3),
    inputs=st.integers(1, 200),
    outputs=st.integers(1, 20),
    size=st.tuples(st.integers(3, 6), st.integers(3, 6)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 2)),
)
arrays = st.fixed_dictionaries(
    {
        "dm": st.sampled_from([2, 4, 6]),
        "dk": st.sampled_from([64, 128, 256]),
        "dn": st.integers(1, 5),
        "lhs_entries": st.integers(300, 900),
        "rhs_entries": st.integers(300, 900),
    }
)


def products(plan) -> Counter:
    """How often the schedule's loop nest computes each output (kernel, pixel), and at which weight width."""
    done: Counter = Counter()
    for work in plan.passes:
        for group in range(0, work.column_tiles, work.group_tiles):
            for row in range(work.row_tiles):
                for tile in range(group, min(group + work.group_tiles, work.column_tiles)):
                    for kernel in work.kernels[row * work.dm : (row + 1) * work.dm]:
                        for column in range(work.columns(tile)):
                            done[kernel, tile * work.dn + column, work.weight_bits] += 1
    return done


@given(layer=layers, array=arrays, data=st.data(), activation_bits=st.integers(1, 8))
def test_every_output_of_every_unpruned_kernel_is_computed_once_at_its_width(
    machine, layer, array, data, activation_bits
):
    bits = data.draw(st.lists(st.integers(0, 8), min_size=layer.out_channels, max_size=layer.out_channels))
    plan = schedule(layer, bits, activation_bits, machine(**array))
    wanted = {
        (kernel, pixel, bits[kernel]) for kernel in range(len(bits)) if bits[kernel] for pixel in range(layer.pixels)
    }
    done = products(plan)
    assert set(done) == wanted
    assert all(times == 1 for times in done.values())
    assert all(work.activation_bits == activation_bits for work in plan.passes)


@given(layer=layers, array=arrays, bits=st.tuples(st.integers(1, 8), st.integers(1, 8)))
def test_tiles_fill_the_rings_and_never_overflow_them(machine, layer, array, bits):
    accelerator = machine(**array)
    (work,) = schedule(layer, *bits, accelerator).passes
    lanes, taps = accelerator.array.dk // 64, layer.kernel[0] * layer.kernel[1]
    assert work.chunks * lanes >= taps * work.channel_words > (work.chunks - 1) * lanes
    assert work.channel_words * 64 >= layer.in_channels > (work.channel_words - 1) * 64
    for slots, entries, room in (
        (work.lhs_slots, work.lhs_tile_entries, accelerator.buffers.lhs_entries),
        (work.rhs_slots, work.rhs_tile_entries, accelerator.buffers.rhs_entries),
    ):
        assert slots * entries <= room < (slots + 1) * entries
    assert (work.lhs_tile_entries, work.rhs_tile_entries) == (bits[0] * work.chunks, bits[1] * work.chunks)
    assert work.steps == bits[0] * bits[1] * work.chunks
    assert work.lhs_resident == (work.row_tiles <= work.lhs_slots)
    assert 1 <= work.group_tiles <= min(work.rhs_slots, work.column_tiles)
    assert (work.row_tiles - 1) * work.dm < layer.out_channels <= work.row_tiles * work.dm
    assert 1 <= work.last_columns <= work.dn
    assert work.lhs_tile_words == accelerator.array.dm * bits[0] * work.chunks * lanes
    assert work.column_words == taps * bits[1] * work.channel_words


def test_kernels_of_one_width_share_a_pass_widest_first_in_their_order(tiny):
    plan = schedule(replace(LINEAR, out_channels=7), [2, 8, 0, 2, 8, 1, 2], 4, tiny)
    assert [(work.weight_bits, work.kernels) for work in plan.passes] == [(8, (1, 4)), (2, (0, 3, 6)), (1, (5,))]


def test_one_width_is_the_same_as_that_width_for_every_kernel(tiny):
    assert schedule(LINEAR, 3, 4, tiny) == schedule(LINEAR, [3] * 5, 4, tiny)


@pytest.mark.parametrize("bits", [0, [0] * 5])
def test_a_layer_whose_kernels_are_all_pruned_has_no_pass_and_no_cycle(tiny, bits):
    plan = schedule(LINEAR, bits, 4, tiny)
    assert plan.passes == ()
    assert layer_cycles(plan) == 0


@pytest.mark.parametrize(("lhs_entries", "resident"), [(23, False), (24, True), (25, True)])
def test_weights_that_just_fit_stay_resident(machine, lhs_entries, resident):
    # 3 row tiles of 4 bits * 2 chunks.
    (work,) = schedule(replace(LINEAR, out_channels=6), 4, 4, machine(lhs_entries=lhs_entries)).passes
    assert (work.row_tiles, work.lhs_tile_entries, work.lhs_resident) == (3, 8, resident)


def test_streamed_weights_share_half_the_ring_of_activations(machine):
    # 5 row tiles of 2 * 2 entries do not fit 16; one column tile has 4 * 2, so a ring of 48 has 6 slots.
    layer = replace(LINEAR, out_channels=10, images=40)
    (work,) = schedule(layer, 2, 4, machine(lhs_entries=16, rhs_entries=48)).passes
    assert (work.lhs_resident, work.lhs_slots, work.rhs_slots, work.group_tiles) == (False, 4, 6, 3)
    # All 5 column tiles fit: one group, no half to be refilled.
    (work,) = schedule(replace(layer, images=9), 2, 4, machine(lhs_entries=16, rhs_entries=48)).passes
    assert (work.column_tiles, work.group_tiles, work.last_columns) == (5, 5, 1)


@pytest.mark.parametrize(
    ("buffers", "message"),
    [
        (
            {"lhs_entries": 23},
            r"'fc' needs 24 entries for one weight tile at 8 bits, but the weight buffer has 23: use",
        ),
        (
            {"rhs_entries": 20},
            r"'fc' needs 21 entries for one activation tile at 7 bits, but the activation buffer has 20",
        ),
    ],
)
def test_a_dot_product_too_long_for_a_buffer_is_refused_with_the_numbers(machine, buffers, message):
    layer = replace(LINEAR, in_channels=129)  # 3 chunks
    assert schedule(layer, 8, 7, machine(lhs_entries=24, rhs_entries=21)).passes
    with pytest.raises(InputError, match=message):
        schedule(layer, 8, 7, machine(**{"lhs_entries": 24, "rhs_entries": 21} | buffers))


@pytest.mark.parametrize(
    ("layer", "bits", "message"),
    [
        (LINEAR, (9, 4), r"'fc' expects weight bits 0 to 8, .*\(5\), got 9"),
        (LINEAR, (-1, 4), r"'fc' expects weight bits 0 to 8, .*got -1"),
        (LINEAR, ([4] * 4, 4), r"'fc' expects weight bits .* one per kernel \(5\), got \[4, 4, 4, 4\]"),
        (LINEAR, (4, 0), r"'fc' expects activation bits 1 to 8, got 0"),
        (LINEAR, (4, 9), r"'fc' expects activation bits 1 to 8, got 9"),
        (Layer("dw", "conv", 4, 4, 8, 8, kernel=(3, 3), groups=4), (4, 4), r"'dw' has 4 channel groups.*leave"),
        (Layer("c", "conv", 4, 4, 2, 9, kernel=(3, 3)), (4, 4), r"'c' has no output pixels: its kernel is larger"),
    ],
)
def test_work_that_cannot_run_is_refused_with_the_layer_and_the_value(tiny, layer, bits, message):
    with pytest.raises(InputError, match=message):
        schedule(layer, *bits, tiny)


@pytest.mark.parametrize(
    ("reduction", "fits"),
    [(2**31 // (128 * 255), True), (2**31 // (128 * 255) + 1, False)],
)
def test_sums_beyond_32_bits_are_refused(machine, reduction, fits):
    wide = machine(dk=512, lhs_entries=32768, rhs_entries=32768)
    layer = Layer("long", "linear", in_channels=reduction, out_channels=2)
    if fits:
        schedule(layer, 8, 8, wide)
    else:
        with pytest.raises(InputError, match=r"'long' can sum up to [0-9]+, but the machine's results have 32 bits"):
            schedule(layer, 8, 8, wide)


def test_widths_may_be_numpy_integers(tiny):
    layer = Layer("one", "linear", in_channels=10, out_channels=3)
    assert schedule(layer, np.int64(2), np.int64(3), tiny) == schedule(layer, 2, 3, tiny)


def test_a_layer_without_size_is_refused():
    with pytest.raises(InputError, match="layer 'still' needs channels, sizes, kernel, stride"):
        Layer("still", "conv", in_channels=1, out_channels=1, stride=(0, 1))
