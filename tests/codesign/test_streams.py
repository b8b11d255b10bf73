"""Streams of operands against the same thing done with Python's integers, one number at a time."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from codesign.energy import typical_operands
from codesign.switching.streams import SWITCHING, layer_switching
from codesign.switching.toggles import accumulate
from hardware.layer import Layer
from hardware.operands import Operands
from hardware.passes import Output
from hardware.planes import plane_pairs
from hardware.schedule import Schedule, schedule, vector_passes
from policies.quantizers import levels, quantize_weights, weight_scales

BY_KIND = dict(SWITCHING)
LAYERS = {
    "linear": Layer("fc", "linear", 150, 5, images=5),
    "conv": Layer("conv", "conv", 70, 4, 4, 3, kernel=(3, 2), stride=(1, 2), padding=(1, 1)),
    "dilated": Layer("conv", "conv", 20, 2, 6, 6, kernel=(2, 2), dilation=(2, 3)),
    "groups": Layer("dw", "conv", 6, 6, 4, 4, kernel=(2, 2), groups=3),
}


def test_planes_are_taken_by_falling_diagonals():
    assert plane_pairs(2, 3).tolist() == [[1, 2], [1, 1], [0, 2], [1, 0], [0, 1], [0, 0]]
    for w, a in ((1, 1), (8, 3), (5, 8)):
        pairs = [tuple(pair) for pair in plane_pairs(w, a)]
        assert sorted(pairs) == [(i, j) for i in range(w) for j in range(a)]
        assert [i + j for i, j in pairs] == sorted((i + j for i, j in pairs), reverse=True)


def by_hand(operands: Operands, plan: Schedule) -> tuple[int, int, int]:
    """Toggles of rows' bits, of columns' bits and of accumulators, from lists of integers."""
    layer, (work,) = operands.layer, plan.passes
    groups_of = layer.out_channels // layer.groups
    inputs = layer.in_channels // layer.groups
    words, dk = -(-layer.in_channels // 64), 64 * work.lanes

    def vector(numbers: dict[tuple[int, int], int], plane: int, chunk: int) -> int:
        """Bits of the numbers (by tap and channel) of one plane that lie in a chunk, as one integer."""
        value = 0
        for (tap, channel), number in numbers.items():
            place = tap * words * 64 + channel
            if place // dk == chunk:
                value |= (number >> plane & 1) << place % dk
        return value

    taps = [(y, x) for y in range(layer.kernel[0]) for x in range(layer.kernel[1])]
    rows = []
    for kernel in work.kernels:
        first = kernel // groups_of * inputs
        rows.append(
            {
                (tap, first + c): int(operands.weights[kernel, c, y, x])
                for tap, (y, x) in enumerate(taps)
                for c in range(inputs)
            }
        )
    columns = []
    for image in range(layer.images):
        for out_y in range(layer.out_height):
            for out_x in range(layer.out_width):
                column = {}
                for tap, (y, x) in enumerate(taps):
                    row = out_y * layer.stride[0] + y * layer.dilation[0] - layer.padding[0]
                    place = out_x * layer.stride[1] + x * layer.dilation[1] - layer.padding[1]
                    if 0 <= row < layer.in_height and 0 <= place < layer.in_width:
                        column |= {
                            (tap, c): int(operands.activations[image, c, row, place]) for c in range(layer.in_channels)
                        }
                columns.append(column)
    rows += [{}] * (-len(rows) % work.dm)
    columns += [{}] * (-len(columns) % work.dn)
    bits, planes = max(operands.weight_bits), operands.activation_bits
    left, right, sums = [], [], []
    for group in range(0, work.column_tiles, work.group_tiles):
        for row in range(0, len(rows), work.dm):
            for tile in range(group, min(group + work.group_tiles, work.column_tiles)):
                mine, theirs = rows[row : row + work.dm], columns[tile * work.dn : (tile + 1) * work.dn]
                totals, diagonal = [0] * (work.dm * work.dn), bits + planes - 2
                for i, j in plane_pairs(bits, planes).tolist():
                    sign = (operands.signed_weights and i == bits - 1) != (layer.signed_activations and j == planes - 1)
                    for chunk in range(work.chunks):
                        if i + j < diagonal:
                            totals, diagonal = [2 * total for total in totals], i + j
                        left.append([vector(one, i, chunk) for one in mine])
                        right.append([vector(one, j, chunk) for one in theirs])
                        products = [(a & b).bit_count() for a in left[-1] for b in right[-1]]
                        totals = [t + (-p if sign else p) for t, p in zip(totals, products, strict=True)]
                        sums.append([total & 0xFFFFFFFF for total in totals])

    def toggles(stream: list[list[int]]) -> int:
        return sum((a ^ b).bit_count() for one, other in pairwise(stream) for a, b in zip(one, other, strict=True))

    return toggles(left), toggles(right), toggles(sums)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("signed", [True, False])
def test_toggles_are_those_counted_one_number_at_a_time(tiny, integers, name, signed):
    layer, rng = LAYERS[name], np.random.default_rng(3)
    layer = replace(layer, signed_activations=not signed)
    operands = Operands(
        layer,
        integers(rng, (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel), 3, signed),
        integers(rng, (layer.images, layer.in_channels, layer.in_height, layer.in_width), 2, not signed),
        (3,) * layer.out_channels,
        2,
        signed_weights=signed,
    )
    plan = schedule(layer, 3, 2, tiny, signed_weights=signed)
    found = layer_switching(operands, plan, everything=True)
    assert (found["row_bits"], found["column_bits"], found["accumulators"]) == by_hand(operands, plan)


def test_accumulators_end_with_the_dot_product():
    rng = np.random.default_rng(0)
    w, a = rng.integers(0, 8, 64), rng.integers(0, 4, 64)
    pairs = plane_pairs(3, 2)
    counts = np.array([((w >> i & 1) & (a >> j & 1)).sum() for i, j in pairs])
    diagonals = pairs.sum(axis=1)
    shift = np.concatenate([[False], diagonals[1:] != diagonals[:-1]])
    assert accumulate(counts, shift, np.ones_like(shift))[-1] == w @ a


def other_kinds(machine):
    return [machine(kind="serial_weight"), machine(kind="bit_fusion"), machine(kind="bit_fusion", dk=128)]


def drawn(integers, name: str, signed: bool, w: int, a: int) -> Operands:
    """Signed weights and unsigned activations, or the other way round."""
    layer, rng = replace(LAYERS[name], signed_activations=not signed), np.random.default_rng(w + a)
    weights = integers(rng, (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel), w, signed)
    shape = (layer.images, layer.in_channels, layer.in_height, layer.in_width)
    return Operands(
        layer, weights, integers(rng, shape, a, not signed), (w,) * layer.out_channels, a, signed_weights=signed
    )


def layer_sums(operands: Operands) -> np.ndarray:
    """(kernels, pixels) dot products, by PyTorch."""
    layer = operands.layer
    numbers = (torch.from_numpy(np.asarray(one)).double() for one in (operands.activations, operands.weights))
    sums = torch.nn.functional.conv2d(
        *numbers, stride=layer.stride, padding=layer.padding, dilation=layer.dilation, groups=layer.groups
    )
    return sums.transpose(0, 1).flatten(1).long().numpy()


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(("w", "a"), [(3, 2), (2, 2), (8, 3), (4, 8), (8, 8), (2, 4), (1, 7)])
@pytest.mark.parametrize("signed", [True, False])
def test_other_arrays_end_every_tile_with_its_dot_products(machine, integers, monkeypatch, name, signed, w, a):
    operands = drawn(integers, name, signed, w, a)
    for accelerator in other_kinds(machine):
        ends = []
        array = BY_KIND[accelerator.kind]

        def nets(tile, array=array, ends=ends):
            found = array.nets(tile)
            ends.append(found.values["accumulators"][0, ..., -1])
            return found

        monkeypatch.setitem(SWITCHING, accelerator.kind, replace(array, nets=nets))
        plan = schedule(operands.layer, w, a, accelerator, signed_weights=signed)
        layer_switching(operands, plan, everything=True)
        (work,) = plan.passes
        sums = np.zeros((work.row_tiles * work.dm, work.column_tiles * work.dn), dtype=np.int64)
        expected = layer_sums(operands)
        order = [
            (row, tile)
            for group in range(0, work.column_tiles, work.group_tiles)
            for row in range(work.row_tiles)
            for tile in range(group, min(group + work.group_tiles, work.column_tiles))
        ]
        for (row, tile), end in zip(order, ends, strict=True):
            sums[row * work.dm : (row + 1) * work.dm, tile * work.dn : (tile + 1) * work.dn] = end
        assert (sums[: len(expected), : expected.shape[1]] == expected[list(work.kernels)]).all()
        assert not sums[len(expected) :].any()


def test_words_from_memory_toggle_one_after_the_other(tiny):
    layer, rng = Layer("fc", "linear", 64, 2), np.random.default_rng(0)
    weights, activations = rng.integers(0, 8, (2, 64, 1, 1)), rng.integers(0, 4, (1, 64, 1, 1))
    operands = Operands(layer, weights, activations, (3, 3), 2, signed_weights=False)
    planes = [
        sum((int(one) >> plane & 1) << i for i, one in enumerate(row.ravel())) for row in weights for plane in range(3)
    ]
    planes += [sum((int(one) >> plane & 1) << i for i, one in enumerate(activations.ravel())) for plane in range(2)]
    toggles = [(one ^ other).bit_count() for one, other in pairwise(planes)]
    found = layer_switching(operands, schedule(layer, 3, 2, tiny, signed_weights=False), everything=True)
    assert (found["writes"], found["column_writes"]) == (sum(toggles), sum(toggles[-2:]))


def test_a_sample_of_the_tiles_says_nearly_the_same(machine):
    layer = Layer("conv", "conv", 96, 64, 14, 14, kernel=(3, 3), padding=(1, 1))
    accelerator = machine(dm=4, dn=4, dk=128)
    plan = schedule(layer, 4, 4, accelerator, output=Output(plane_bits=4))
    operands = typical_operands(layer, (4,) * 64, 4)
    some, everything = (layer_switching(operands, plan, everything=every) for every in (False, True))
    assert some == layer_switching(operands, plan)
    assert some != layer_switching(operands, plan, seed=1)
    for name, count in everything.items():
        assert some[name] == pytest.approx(count, rel=0.08), name


def test_pruned_kernels_and_vector_passes_switch_nothing(tiny):
    layer = Layer("fc", "linear", 64, 4, images=3)
    pruned = schedule(layer, 0, 2, tiny, output=Output(values=True))
    assert not layer_switching(typical_operands(layer, (0,) * 4, 2), pruned)
    pool = Schedule(layer, tiny, vector_passes("sum", layer, tiny, Output(values=True)))
    assert layer_switching(typical_operands(layer, (2,) * 4, 2), pool) == {}


@pytest.mark.parametrize(("bits", "signed"), [(8, True), (4, True), (2, True), (1, True), (8, False), (3, False)])
def test_typical_integers_fit_their_width_and_use_it(bits, signed):
    layer = Layer("fc", "linear", 3000, 40, images=200, signed_activations=signed)
    operands = typical_operands(layer, (bits, 0) * 20, bits)
    low, high = levels(bits, signed)
    assert len(operands.activations) == 1  # stands for all images
    for integers, (least, most) in ((operands.activations, (low, high)), (operands.weights, levels(bits, True))):
        assert least <= integers.min() <= 0.7 * least
        assert 0.7 * most <= integers.max() <= most
    assert not operands.weights[1::2].any()
    again = typical_operands(layer, (bits, 0) * 20, bits)
    assert (again.weights == operands.weights).all()


def test_typical_integers_are_what_the_quantizer_makes_of_normal_weights():
    layer = Layer("fc", "linear", 2000, 8)
    drawn = torch.from_numpy(np.random.default_rng(9).standard_normal((8, 2000, 1, 1)))
    for bits in (1, 2, 3, 4, 8):
        widths = (bits,) * 8
        quantized = quantize_weights(drawn, weight_scales(drawn, widths), widths)
        typical = typical_operands(layer, widths, 4).weights
        zeros = [float((np.asarray(one) == 0).mean()) for one in (quantized, typical)]
        assert zeros[1] == pytest.approx(zeros[0], abs=0.06), bits


def test_one_image_stands_for_all(tiny):
    layer = Layer("conv", "conv", 40, 4, 6, 6, kernel=(3, 3))
    two = replace(layer, images=2)
    one, both = (
        layer_switching(typical_operands(each, (3,) * 4, 2), schedule(each, 3, 2, tiny), everything=True)
        for each in (layer, two)
    )
    assert both["column_bits"] == pytest.approx(2 * one["column_bits"], rel=0.05)
