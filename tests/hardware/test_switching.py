"""Expected switching against random bits that are multiplied and counted."""

import numpy as np
import pytest

from hardware.layer import Layer
from hardware.schedule import Output, schedule, vector_passes
from hardware.switching import NAMES, Densities, plane_pairs, switching


def test_planes_are_taken_by_falling_diagonals():
    assert plane_pairs(2, 3).tolist() == [[1, 2], [1, 1], [0, 2], [1, 0], [0, 1], [0, 0]]
    for w, a in ((1, 1), (8, 3), (5, 8)):
        pairs = [tuple(pair) for pair in plane_pairs(w, a)]
        assert sorted(pairs) == [(i, j) for i in range(w) for j in range(a)]
        assert [i + j for i, j in pairs] == sorted((i + j for i, j in pairs), reverse=True)


@pytest.mark.parametrize(
    ("inputs", "rows", "images", "density"),
    [(192, 8, 12, 0.5), (64, 2, 40, 0.2), (150, 6, 15, 0.35)],
    ids=["three chunks", "one chunk, sparse", "a tail"],
)
def test_switching_is_that_of_random_bits(tiny, inputs, rows, images, density):
    rng = np.random.default_rng(1)
    layer = Layer("fc", "linear", inputs, rows, images=images)
    weights = {2: np.array([density, 0.6])}
    activations = np.array([0.5, density, 0.3])
    (work,) = schedule(layer, 2, 3, tiny).passes
    expected = dict(zip(NAMES, switching(work, layer, Densities(weights, activations)), strict=True))

    dk, chunks = 64, work.chunks
    counted = dict.fromkeys(NAMES, 0.0)
    repeats = 40
    for _ in range(repeats):
        w = np.zeros((rows, 2, chunks * dk), dtype=int)
        a = np.zeros((images, 3, chunks * dk), dtype=int)
        w[..., :inputs] = rng.random((rows, 2, inputs)) < weights[2][:, None]
        a[..., :inputs] = rng.random((images, 3, inputs)) < activations[:, None]
        order = [(i, j, c) for i, j in plane_pairs(2, 3) for c in range(chunks)]
        left = np.stack([w[:, i, c * dk : (c + 1) * dk] for i, _, c in order])
        right = np.stack([a[:, j, c * dk : (c + 1) * dk] for _, j, c in order])
        products = left[:, :, None] & right[:, None]
        count = products.sum(axis=-1)[..., None] >> np.arange(7) & 1
        thirds = products[..., :63].reshape(*products.shape[:-1], 3, 21).sum(axis=-2)
        thirds = np.concatenate([thirds, products[..., 63:]], axis=-1)
        units = {"ones": thirds % 2, "carries": thirds // 2, "counts": count}
        counted["lhs"] += work.column_tiles * _toggles(left, axis=1)  # the next tile has the same rows ...
        counted["rhs"] += work.row_tiles * _toggles(right, axis=1, roll=1)  # ... and other columns
        for name, values in units.items():
            counted[name] += _toggles(values, axis=2, roll=1)
    assert expected["steps"] == work.row_tiles * work.column_tiles * work.steps(2)
    assert expected["tiles"] == work.row_tiles * work.column_tiles
    for name in NAMES[2:]:
        assert expected[name] == pytest.approx(counted[name] / repeats, rel=0.05), name


def _toggles(values: np.ndarray, axis: int, roll: int = 0) -> int:
    """Toggles from step to step, and from the last step to the first one of the tile ``roll`` places on."""
    following = np.roll(values, -1, axis=0)
    following[-1] = np.roll(values[0], -roll, axis=axis - 1)
    return int((values != following).sum())


def test_pruned_kernels_and_vector_passes_switch_nothing(tiny):
    layer = Layer("fc", "linear", 64, 4, images=3)
    known = Densities({3: np.full(3, 0.5)}, np.full(2, 0.5))
    whole, half = (
        switching(schedule(layer, bits, 2, tiny).passes[0], layer, known) for bits in ((3, 3, 3, 3), (3, 3, 0, 0))
    )
    np.testing.assert_allclose(half, whole / 2)
    (work,) = vector_passes("sum", layer, tiny, Output(values=True))
    assert not switching(work, layer, known).any()


def test_padding_does_not_switch(tiny):
    known = Densities({3: np.full(3, 0.5)}, np.full(2, 0.5))
    inside, padded = (
        Layer("conv", "conv", 64, 2, size, size, kernel=(3, 3), padding=(pad, pad)) for size, pad in ((6, 0), (4, 1))
    )
    full, less = (
        dict(zip(NAMES, switching(schedule(one, 3, 2, tiny).passes[0], one, known), strict=True))
        for one in (inside, padded)
    )
    assert less["lhs"] == full["lhs"]
    assert less["steps"] == full["steps"]
    assert less["rhs"] < full["rhs"]
    assert less["ones"] < full["ones"]
