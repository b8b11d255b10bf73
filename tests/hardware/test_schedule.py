"""The schedule covers the work exactly once and keeps to the buffers."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hardware.cycles import layer_cycles
from hardware.errors import InputError
from hardware.instruction import SEGMENTS
from hardware.layer import Layer
from hardware.passes import Output, Pass
from hardware.schedule import RESIDENT_GROUP, passes_of_widths, schedule, value_words, vector_passes

LINEAR = Layer("fc", "linear", in_channels=100, out_channels=5, images=7)
DEPTHWISE = Layer("dw", "conv", 140, 140, 5, 4, kernel=(3, 2), groups=140)
SUMS, VALUES, PLANES, BOTH = Output(sums=True), Output(values=True), Output(plane_bits=4), Output(False, True, 8)

layers = st.builds(
    lambda images, inputs, outputs, groups, size, kernel, stride, dilation: Layer(
        *("x", "conv", inputs * groups, outputs * groups, *size),
        kernel=kernel,
        stride=stride,
        padding=(1, 0),
        dilation=(1, dilation),
        groups=groups,
        images=images,
    ),
    images=st.integers(1, 3),
    inputs=st.integers(1, 80),
    outputs=st.integers(1, 20),
    groups=st.sampled_from([1, 1, 1, 3, 9]),
    size=st.tuples(st.integers(3, 6), st.integers(5, 6)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    dilation=st.integers(1, 2),
)
machines = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["bit_serial", "serial_weight", "bit_fusion"]),
        "dm": st.sampled_from([2, 4, 16]),
        "dk": st.sampled_from([64, 128, 256]),
        "dn": st.integers(1, 5),
        "lhs_entries": st.sampled_from([512, 1024]),
        "rhs_entries": st.sampled_from([512, 1024]),
        "plane_words": st.sampled_from([16, 32, 512]),
    }
)
outputs = st.sampled_from([SUMS, VALUES, PLANES, BOTH])


def stored(bits: int, kind: str) -> int:
    """The width that operands have on a kind of array."""
    return next(width for width in (0, 2, 4, 8) if width >= bits) if kind == "bit_fusion" else bits


def row_tiles(work: Pass) -> list[tuple[tuple[int, ...], int]]:
    """Kernels and width of every row tile."""
    widths = [bits for bits, tiles in work.segments for _ in range(tiles)]
    return [(work.kernels[row * work.dm : (row + 1) * work.dm], bits) for row, bits in enumerate(widths)]


def products(passes) -> Counter:
    """How often the schedule's loop nest computes each output (kernel, pixel)."""
    done: Counter = Counter()
    for work in passes:
        for group in range(0, work.column_tiles, work.group_tiles):
            for kernels, _ in row_tiles(work):
                for tile in range(group, min(group + work.group_tiles, work.column_tiles)):
                    done.update((kernel, tile * work.dn + c) for kernel in kernels for c in range(work.columns(tile)))
    return done


@given(layer=layers, array=machines, output=outputs, shrink=st.sampled_from([1, 8]))
def test_passes_of_many_widths_are_those_of_the_schedule_but_for_the_channels(machine, layer, array, output, shrink):
    accelerator = machine(**array | {"lhs_entries": array["lhs_entries"] // shrink})
    widths = [(w, a) for w in (0, 1, 3, 8) for a in (1, 5, 8)]
    for (w, a), passes in zip(widths, passes_of_widths(layer, widths, accelerator, output), strict=True):
        if isinstance(passes, InputError):
            with pytest.raises(InputError) as caught:
                schedule(layer, w, a, accelerator, output=output)
            assert str(caught.value) == str(passes)
            continue
        plan = schedule(layer, w, a, accelerator, output=output)
        assert len(passes) == len(plan.passes)
        for mine, its in zip(passes, plan.passes, strict=True):
            assert len(mine.kernels) == len(its.kernels)
            assert mine.pixel_words == its.pixel_words
            assert replace(mine, kernels=its.kernels, channel_words=its.channel_words) == its


@given(layer=layers, array=machines, output=outputs, data=st.data(), activation_bits=st.integers(1, 8))
def test_every_output_is_computed_once_and_wide_enough(machine, layer, array, output, data, activation_bits):
    assume(not output.plane_bits or array["plane_words"] >= 3 * array["dn"])
    bits = data.draw(st.lists(st.integers(0, 8), min_size=layer.out_channels, max_size=layer.out_channels))
    plan = schedule(layer, bits, activation_bits, machine(**array), output=output)
    wanted = {k for k in range(len(bits)) if bits[k] or not output.sums}  # a pruned kernel has a bias, but no sum
    done = products(plan.passes)
    assert set(done) == {(kernel, pixel) for kernel in wanted for pixel in range(layer.pixels)}
    assert set(done.values()) <= {1}
    for work in plan.passes:
        tiles = row_tiles(work)
        assert 1 <= len(work.segments) <= SEGMENTS
        if array["kind"] == "bit_fusion":  # set to one width
            assert {width for _, width in tiles} == {stored(max(bits), "bit_fusion")}
        else:
            assert all(kernels and width == max(bits[k] for k in kernels) for kernels, width in tiles)
        assert [width for _, width in tiles] == sorted((width for _, width in tiles), reverse=True)
        assert work.activation_bits == stored(activation_bits, array["kind"])
        # Two passes never write bits of one word.
        assert work is plan.passes[-1] or not output.plane_bits or len(work.kernels) % 64 == 0


@given(layer=layers, array=machines, output=outputs, bits=st.tuples(st.integers(1, 8), st.integers(1, 8)))
def test_buffers_hold_what_must_lie_in_them_together(machine, layer, array, output, bits):
    assume(not output.plane_bits or array["plane_words"] >= 3 * array["dn"])
    accelerator = machine(**array)
    lanes, taps = accelerator.array.dk // 64, layer.kernel[0] * layer.kernel[1]
    for work in schedule(layer, *bits, accelerator, output=output).passes:
        first, behind = work.channel_words
        inputs, per_group = layer.in_channels // layer.groups, layer.out_channels // layer.groups
        assert first * 64 <= min(work.kernels) // per_group * inputs
        assert behind * 64 >= (max(work.kernels) // per_group + 1) * inputs
        assert behind <= -(-layer.in_channels // 64)
        w, a = (stored(width, array["kind"]) for width in bits)
        words = taps * (behind - first)
        if array["kind"] == "bit_fusion":
            sizes = -(-words * w // lanes), -(-words * a // lanes)
            products = 64 * words * w * a  # of bits; a step takes 64 on each of 2 * lanes fusion units
            assert work.steps(w) * 128 * lanes >= products > (work.steps(w) - max(w, a) // 2) * 128 * lanes
        else:
            chunks, planes = -(-words // lanes), 1 if array["kind"] == "serial_weight" else a
            sizes = w * chunks, planes * chunks
            assert work.steps(w) == w * planes * chunks
        entries = sizes[0] + (not output.sums)
        assert work.lhs_tile_entries(w) == entries <= accelerator.buffers.lhs_entries
        assert work.lhs_resident == (entries * work.row_tiles <= accelerator.buffers.lhs_entries)
        assert work.rhs_tile_entries == sizes[1]
        assert 1 <= work.group_tiles <= work.column_tiles
        assert work.group_tiles * work.rhs_tile_entries <= accelerator.buffers.rhs_entries
        if output.plane_bits:  # the planes of a group, and of two tiles of the one before that are still being written
            pixels = (work.group_tiles + (2 if work.group_tiles < work.column_tiles else 0)) * work.dn
            assert pixels * work.plane_words <= accelerator.buffers.plane_words
        assert (work.row_tiles - 1) * work.dm < len(work.kernels) <= work.row_tiles * work.dm
        assert 1 <= work.last_columns <= work.dn
        assert (work.column_tiles - 1) * work.dn + work.last_columns == layer.pixels
        assert work.lhs_tile_words(w) == accelerator.array.dm * entries * lanes
        assert work.column_words == taps * a * (behind - first)
        assert work.row_runs * work.run_words == layer.kernel[1] * a * (behind - first)


def test_kernels_are_sorted_by_width_and_equal_ones_share_tiles(tiny):
    (work,) = schedule(replace(LINEAR, out_channels=7), [2, 8, 0, 2, 8, 1, 2], 4, tiny).passes
    assert work.kernels == (1, 4, 0, 3, 6, 5)
    assert work.segments == ((8, 1), (2, 2))  # kernel 5 shares a tile with kernel 6
    (work,) = schedule(replace(LINEAR, out_channels=7), [2, 8, 0, 2, 8, 1, 2], 4, tiny, output=VALUES).passes
    assert (work.kernels, work.segments) == ((1, 4, 0, 3, 6, 5, 2), ((8, 1), (2, 2), (0, 1)))


def test_where_passes_read_channels_of_their_own_kernels_are_sorted_within_each(tiny):
    widths = [k % 3 for k in range(140)]
    plan = schedule(DEPTHWISE, widths, 4, tiny, output=PLANES)
    starts = [(0, 64), (64, 128), (128, 140)]
    assert [sorted(work.kernels) for work in plan.passes] == [list(range(*span)) for span in starts]
    assert [work.channel_words for work in plan.passes] == [(0, 1), (1, 2), (2, 3)]  # not all words in every pass
    for work in plan.passes:
        assert [widths[kernel] for kernel in work.kernels] == sorted((widths[k] for k in work.kernels), reverse=True)
        assert len(work.segments) == 3
    left = schedule(DEPTHWISE, widths, 4, tiny).passes  # pruned kernels have no sums
    assert [len(work.kernels) for work in left] == [64, 29]
    assert all(work.segments[0][0] == 2 and len(work.segments) == 2 for work in left)


def test_all_widths_at_once_fill_the_segments(tiny):
    layer = replace(LINEAR, out_channels=18)
    (work,) = schedule(layer, [k // 2 for k in range(18)], 4, tiny, output=VALUES).passes
    assert work.segments == tuple((bits, 1) for bits in range(8, -1, -1))


def test_an_order_is_kept_and_if_it_changes_widths_too_often_all_tiles_are_wide(tiny):
    layer = replace(LINEAR, out_channels=20)
    order = [*range(10, 20), *range(10)]
    (work,) = schedule(layer, [2] * 10 + [5] * 10, 4, tiny, output=VALUES, order=order).passes
    assert (work.kernels, work.segments) == (tuple(order), ((5, 5), (2, 5)))
    alternating = [1 + 2 * (k // 2 % 2) for k in range(20)]
    (work,) = schedule(layer, alternating, 4, tiny, output=VALUES, order=range(20)).passes
    assert (work.kernels, work.segments) == (tuple(range(20)), ((3, 10),))
    (work,) = schedule(replace(layer, out_channels=18), alternating[:18], 4, tiny, order=range(18)).passes
    assert len(work.segments) == SEGMENTS


def test_one_width_is_the_same_as_that_width_for_every_kernel(tiny):
    assert schedule(LINEAR, 3, 4, tiny) == schedule(LINEAR, [3] * 5, 4, tiny)


@pytest.mark.parametrize("bits", [0, [0] * 5])
def test_a_layer_whose_kernels_are_all_pruned_has_no_pass_and_no_cycle_unless_it_has_biases(tiny, bits):
    plan = schedule(LINEAR, bits, 4, tiny)
    assert plan.passes == ()
    assert layer_cycles(plan) == 0
    (work,) = schedule(LINEAR, bits, 4, tiny, output=VALUES).passes
    assert work.segments == ((0, 3),)
    assert work.lhs_tile_words(0) == 2  # a word of constants per row


@pytest.mark.parametrize(("kernels", "output", "resident"), [(8, SUMS, True), (9, SUMS, False), (8, VALUES, False)])
def test_weights_that_just_fit_stay_resident(machine, kernels, output, resident):
    # 4 bits * 2 chunks for each of four or five row tiles, and an entry for constants where there are some.
    plan = schedule(replace(LINEAR, out_channels=kernels), 4, 4, machine(lhs_entries=32), output=output)
    assert plan.passes[0].lhs_resident == resident


def test_widths_count_tile_by_tile_for_residency(machine):
    layer = replace(LINEAR, out_channels=8)
    assert schedule(layer, [8, 8, 4, 4, 3, 3, 1, 1], 4, machine(lhs_entries=32)).passes[0].lhs_resident
    assert not schedule(layer, [8, 8, 4, 4, 4, 3, 1, 1], 4, machine(lhs_entries=32)).passes[0].lhs_resident


@pytest.mark.parametrize(("images", "tiles", "group"), [(40, 20, 4), (17, 9, 4), (16, 8, 8), (3, 2, 2)])
def test_streamed_weights_meet_half_the_ring_of_activations_or_all_of_them(machine, images, tiles, group):
    # 5 row tiles of 2 * 2 entries do not fit 16; one column tile has 4 * 2, so 64 entries hold eight.
    layer = replace(LINEAR, out_channels=10, images=images)
    (work,) = schedule(layer, 2, 4, machine(lhs_entries=16, rhs_entries=64)).passes
    assert (work.lhs_resident, work.column_tiles, work.group_tiles) == (False, tiles, group)


def test_resident_weights_need_groups_only_for_their_constants(machine):
    layer = replace(LINEAR, images=400)
    assert schedule(layer, 4, 4, machine(rhs_entries=1024)).passes[0].group_tiles == 1
    for output in (VALUES, PLANES, BOTH):
        (work,) = schedule(layer, 4, 4, machine(rhs_entries=1024), output=output).passes
        assert work.group_tiles == RESIDENT_GROUP == 8
        (work,) = schedule(layer, 4, 4, machine(rhs_entries=64), output=output).passes
        assert work.group_tiles == 4  # half of the ring's eight


@pytest.mark.parametrize(
    ("plane_words", "parts"),
    [
        (512, [(200, 4, 8)]),  # kernels, words of a plane of a pixel, group
        (64, [(200, 4, 6)]),  # 2 columns * 4 words leave room for eight tiles, two of which lie behind the group
        (32, [(200, 4, 2)]),
        (16, [(128, 2, 2), (72, 2, 2)]),  # three tiles at least: two words each
    ],
)
def test_the_plane_buffer_limits_groups_and_passes(machine, plane_words, parts):
    layer = replace(LINEAR, out_channels=200, images=40)
    plan = schedule(layer, 1, 1, machine(plane_words=plane_words), output=PLANES)
    assert [(len(work.kernels), work.plane_words, work.group_tiles) for work in plan.passes] == parts
    assert len(schedule(layer, 1, 1, machine(plane_words=plane_words), output=VALUES).passes) == 1


def test_channel_groups_read_only_the_words_of_their_inputs(tiny):
    plan = schedule(DEPTHWISE, 4, 4, tiny)
    assert [(len(work.kernels), work.channel_words, work.dense_rows) for work in plan.passes] == [
        (64, (0, 1), False),
        (64, (1, 2), False),
        (12, (2, 3), False),
    ]
    pairs = schedule(replace(DEPTHWISE, out_channels=70, groups=70), 4, 4, tiny).passes
    assert [(work.kernels[0], work.channel_words) for work in pairs] == [(0, (0, 2)), (64, (2, 3))]
    (few,) = schedule(replace(DEPTHWISE, in_channels=64, out_channels=192, groups=64), 4, 4, tiny).passes
    assert (few.channel_words, few.dense_rows) == ((0, 1), True)


def test_dilated_windows_are_fetched_pixel_by_pixel(tiny):
    layer = Layer("c", "conv", 70, 2, 9, 9, kernel=(3, 3))
    for dilation, dense in (((1, 1), True), ((2, 1), True), ((1, 2), False)):
        (work,) = schedule(replace(layer, dilation=dilation), 1, 3, tiny).passes
        assert (work.dense_rows, work.row_runs, work.run_words) == ((True, 1, 18) if dense else (False, 3, 6))


POOL = Layer("pool", "conv", 30, 30, 9, 9, kernel=(3, 3), stride=(2, 2))


@pytest.mark.parametrize(
    ("dm", "output", "words"),
    [
        (2, VALUES, [(0, 3), (3, 6), (6, 8)]),  # half of 64 entries holds 3 words of all 9 pixels
        (16, VALUES, [(0, 4), (4, 8)]),  # 16 channels at least, though they need more than half
    ],
)
def test_a_vector_pass_takes_as_many_channels_as_half_the_ring_holds(machine, dm, output, words):
    passes = vector_passes("sum", POOL, machine(dm=dm, rhs_entries=64), output)
    assert [work.channel_words for work in passes] == words
    assert [work.kernels for work in passes] == [tuple(range(4 * a, min(4 * b, 30))) for a, b in words]
    assert not any(work.dense_rows for work in passes)
    assert all(work.segments == ((0, -(-len(work.kernels) // dm)),) for work in passes)
    assert all(work.steps(0) == 9 * max(1, dm // 4) for work in passes)  # a word at a time
    (whole,) = vector_passes("maximum", POOL, machine(dm=dm, rhs_entries=256), output)
    assert (whole.channel_words, whole.dense_rows, whole.operation) == ((0, 8), True, "maximum")
    assert whole.group_tiles == 1


def test_bit_planes_keep_64_channels_of_a_vector_pass_together(machine):
    layer = replace(POOL, in_channels=150, out_channels=150)
    passes = vector_passes("sum", layer, machine(rhs_entries=512, plane_words=16), PLANES)
    assert [work.channel_words for work in passes] == [(0, 16), (16, 32), (32, 38)]
    passes = vector_passes("sum", layer, machine(rhs_entries=1024, plane_words=16), PLANES)
    assert [work.channel_words for work in passes] == [(0, 32), (32, 38)]  # two words in the plane buffer
    with pytest.raises(InputError, match=r"'pool' needs 144 entries for one activation tile, but .* has 128"):
        vector_passes("sum", layer, machine(rhs_entries=128), PLANES)


@given(
    channels=st.integers(1, 300),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    array=machines,
    output=st.sampled_from([VALUES, PLANES, BOTH]),
)
def test_every_value_of_a_vector_operation_is_made_once(machine, channels, kernel, array, output):
    assume(not output.plane_bits or array["plane_words"] >= 3 * array["dn"])
    accelerator = machine(**array)
    layer = Layer("pool", "conv", channels, channels, 5, 6, kernel=kernel)
    passes = vector_passes("sum", layer, accelerator, output)
    assert products(passes) == Counter({(c, pixel): 1 for c in range(channels) for pixel in range(layer.pixels)})
    assert [work.channel_words[0] for work in passes] == [0, *(work.channel_words[1] for work in passes[:-1])]
    for work in passes:
        assert work.rhs_tile_entries <= accelerator.buffers.rhs_entries
        assert work.channel_words[0] == work.kernels[0] / 4
        assert not output.plane_bits or work.kernels[0] % 64 == 0
        assert not output.plane_bits or 3 * work.dn * work.plane_words <= array["plane_words"]


@pytest.mark.parametrize(
    ("dm", "channels", "words"), [(2, 1, 1), (2, 4, 1), (2, 5, 2), (4, 5, 2), (8, 5, 2), (8, 9, 4), (64, 65, 32)]
)
def test_a_pixel_has_room_for_whole_row_tiles_of_values(machine, dm, channels, words):
    assert value_words(channels, machine(dm=dm)) == words


def test_a_window_whose_sum_can_leave_the_vector_units_totals_is_refused(machine):
    layer = Layer("pool", "conv", 4, 4, 33, 32, kernel=(33, 32))
    with pytest.raises(InputError, match="windows of 1056 pixels, but the machine adds up at most 1024 values"):
        vector_passes("sum", layer, machine(rhs_entries=4096), VALUES)


@pytest.mark.parametrize(
    ("inputs", "buffers", "message"),
    [
        (257, {}, r"'fc' needs 40 entries for one weight tile, but the weight buffer has 32: use fewer bits"),
        (257, {"lhs_entries": 64}, r"'fc' needs 35 entries for one activation tile, but the activation buffer has 32"),
    ],
)
def test_a_dot_product_too_long_for_a_buffer_is_refused_with_the_numbers(machine, inputs, buffers, message):
    small = {"lhs_entries": 32, "rhs_entries": 32} | buffers
    assert schedule(replace(LINEAR, in_channels=256), 8, 7, machine(**small)).passes
    with pytest.raises(InputError, match=message):
        schedule(replace(LINEAR, in_channels=inputs), 8, 7, machine(**small))


def test_constants_need_an_entry_too(machine):
    layer, small = replace(LINEAR, in_channels=256), machine(lhs_entries=32)
    assert schedule(layer, 8, 4, small).passes
    with pytest.raises(InputError, match=r"'fc' needs 33 entries for one weight tile, but the weight buffer has 32"):
        schedule(layer, 8, 4, small, output=VALUES)


def test_a_plane_buffer_without_room_for_three_column_tiles_is_refused(machine):
    assert schedule(LINEAR, 4, 4, machine(dn=5, plane_words=16), output=PLANES).passes
    with pytest.raises(InputError, match=r"'fc' needs 18 plane_words for 6 columns, but variant has 16: give it more"):
        schedule(LINEAR, 4, 4, machine(dn=6, plane_words=16), output=PLANES)
    assert schedule(LINEAR, 4, 4, machine(dn=6, plane_words=16), output=VALUES).passes


@pytest.mark.parametrize(
    ("layer", "bits", "message"),
    [
        (LINEAR, (9, 4), r"'fc' expects weight bits 0 to 8, .*\(5\), got 9"),
        (LINEAR, (-1, 4), r"'fc' expects weight bits 0 to 8, .*got -1"),
        (LINEAR, ([4] * 4, 4), r"'fc' expects weight bits .* one per kernel \(5\), got \[4, 4, 4, 4\]"),
        (LINEAR, (4, 0), r"'fc' expects activation bits 1 to 8, got 0"),
        (LINEAR, (4, 9), r"'fc' expects activation bits 1 to 8, got 9"),
        (Layer("c", "conv", 4, 4, 2, 9, kernel=(3, 3)), (4, 4), r"'c' has no output pixels: its kernel is larger"),
        (Layer("d", "conv", 4, 4, 4, 9, kernel=(3, 3), dilation=(2, 1)), (4, 4), r"'d' has no output pixels"),
    ],
)
def test_work_that_cannot_run_is_refused_with_the_layer_and_the_value(tiny, layer, bits, message):
    with pytest.raises(InputError, match=message):
        schedule(layer, *bits, tiny)


def test_bipolar_weights_in_channel_groups_are_refused(tiny):
    assert schedule(replace(DEPTHWISE, groups=1), 1, 4, tiny, bipolar=True).passes[0].bipolar
    with pytest.raises(
        InputError, match=r"'dw' has 140 channel groups and bipolar weights, .*: give its weights one more"
    ):
        schedule(DEPTHWISE, 1, 4, tiny, bipolar=True)


@pytest.mark.parametrize(
    ("weight_bits", "kind", "largest_weight"),
    [
        (8, {}, 128),
        (8, {"signed_weights": False}, 255),
        (8, {"bipolar": True}, 257),  # 2 * -128 + 1 has the magnitude 255, but the bound is of |2 w| + 1
    ],
)
def test_sums_beyond_32_bits_are_refused(machine, weight_bits, kind, largest_weight):
    wide = machine(dk=512, lhs_entries=32768, rhs_entries=32768)
    reduction = (2**31 - 1) // (largest_weight * 255)
    layer = Layer("long", "linear", in_channels=reduction, out_channels=2)
    assert schedule(layer, weight_bits, 8, wide, **kind).passes
    with pytest.raises(InputError, match=r"'long' can sum up to [0-9]+, but the machine's results have 32 bits"):
        schedule(replace(layer, in_channels=reduction + 1), weight_bits, 8, wide, **kind)


def test_widths_may_be_numpy_integers(tiny):
    layer = Layer("one", "linear", in_channels=10, out_channels=3)
    assert schedule(layer, np.int64(2), np.int64(3), tiny) == schedule(layer, 2, 3, tiny)
    assert schedule(layer, np.array([2, 0, 3]), 3, tiny) == schedule(layer, [2, 0, 3], 3, tiny)


def test_a_layer_without_size_is_refused():
    with pytest.raises(InputError, match="layer 'still' needs channels, sizes, kernel, stride"):
        Layer("still", "conv", in_channels=1, out_channels=1, stride=(0, 1))
