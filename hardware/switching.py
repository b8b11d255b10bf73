"""How much an array and its operand buffers switch while a pass runs, expected from the density of the bit planes.

A plane's density is the share of ones among the bits of real numbers; what fills up words and chunks is counted apart,
as zeros. Bits are taken as independent of one another and, unless they are the same bits, from step to step: with
densities p and p' a bit toggles between two steps with probability p (1 - p') + p' (1 - p). What a dot-product unit
makes of its products (sums of three, carries, the count) is followed by the same rule.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from hardware.layer import Layer
from hardware.schedule import Pass

NAMES = ("steps", "tiles", "lhs", "rhs", "ones", "carries", "counts")
"""Of `Switching.features`."""


@dataclass(frozen=True)
class Densities:
    """Share of ones in every bit plane, least significant first.

    Parameters
    ----------
    weights:
        float64 ``(bits,)`` for every width that kernels have.
    activations:
        float64 ``(bits,)``.
    """

    weights: Mapping[int, np.ndarray]
    activations: np.ndarray


@lru_cache(maxsize=64)
def plane_pairs(weight_bits: int, activation_bits: int) -> np.ndarray:
    """Planes in the order in which the machine multiplies them: int64, (pairs, 2), weights first.

    Anti-diagonals from the most significant pair down; within one the weight plane falls, the activation plane rises.
    """
    pairs = []
    for diagonal in range(weight_bits + activation_bits - 2, -1, -1):
        for lhs in range(min(weight_bits - 1, diagonal), max(0, diagonal - activation_bits + 1) - 1, -1):
            pairs.append((lhs, diagonal - lhs))
    return np.array(pairs, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Filling:
    """Which bits of a vector are operands, chunk by chunk; the others are zeros.

    Parameters
    ----------
    both, first, second:
        (chunk to chunk, last chunk to first): bits that are operands before and after, only before, only after.
    threes:
        int64, (2, 4, 4): of the groups of three products, how many have k operands before and l after.
    numbers:
        (2, steps, 2): operands of the vector before and after.
    """

    both: np.ndarray
    first: np.ndarray
    second: np.ndarray
    threes: np.ndarray
    numbers: tuple[np.ndarray, np.ndarray]


@lru_cache(maxsize=256)
def filling(channels: int, pixel_words: int, taps: int, chunks: int, dk: int) -> Filling:
    """Of windows whose pixels have ``channels`` operands in ``pixel_words`` words."""
    bits = np.zeros(chunks * dk, dtype=bool)
    bits[: taps * pixel_words * 64] = np.tile(np.arange(pixel_words * 64) < channels, taps)
    mask = bits.reshape(chunks, dk)
    third = dk // 3
    groups = mask[:, : 3 * third].reshape(chunks, 3, third).sum(axis=1)
    groups = np.concatenate([groups, mask[:, 3 * third :]], axis=1)
    steps = (slice(None, -1), slice(1, None)), (slice(-1, None), slice(None, 1))
    threes = np.zeros((2, 4, 4), dtype=np.int64)
    for kind, (before, after) in enumerate(steps):
        np.add.at(threes[kind], (groups[before].ravel(), groups[after].ravel()), 1)
    pairs = [(mask[before], mask[after]) for before, after in steps]
    return Filling(
        both=np.array([(one & other).sum() for one, other in pairs]),
        first=np.array([(one & ~other).sum() for one, other in pairs]),
        second=np.array([(other & ~one).sum() for one, other in pairs]),
        threes=threes,
        numbers=(
            np.stack([mask[:-1].sum(axis=1), mask[1:].sum(axis=1)], axis=1),
            np.array([[mask[-1].sum(), mask[0].sum()]]),
        ),
    )


def switching(work: Pass, layer: Layer, densities: Densities) -> np.ndarray:
    """Expected switching of a pass's array and buffers.

    Returns
    -------
    float64, by `NAMES`: array steps, tiles (runs of steps that give a sum), toggles of the operand bits of all rows and
    of all columns, and of all units' sums of three products, their carries and the bits of their counts. Vector passes
    have none: their operands are values.
    """
    total = np.zeros(len(NAMES))
    if work.operation != "matrix":
        return total
    shape = work.pixel_words, work.taps, work.chunks, 64 * work.lanes
    of_weights = filling(layer.in_channels // layer.groups, *shape)
    of_activations = filling(min(layer.in_channels, 64 * work.pixel_words), *shape)
    inside, start = _inside(layer), 0
    for bits, row_tiles in work.segments:
        rows = max(0, min(len(work.kernels) - start, row_tiles * work.dm))
        start += row_tiles * work.dm
        if not bits:
            continue
        tile = _tile(densities.weights[bits], densities.activations, work.chunks, inside, of_weights, of_activations)
        units = rows * layer.pixels
        tiles = row_tiles * work.column_tiles
        scale = (tiles, tiles, rows * work.column_tiles, row_tiles * layer.pixels, units, units, units)
        total += np.array(scale) * (work.steps(bits), 1, *tile)
    return total


@lru_cache(maxsize=256)
def _inside(layer: Layer) -> float:
    """Share of the windows' pixels that lie in the image, not in its padding."""
    share = 1.0
    for size, kernel, stride, padding, dilation, out in zip(
        (layer.in_height, layer.in_width),
        layer.kernel,
        layer.stride,
        layer.padding,
        layer.dilation,
        (layer.out_height, layer.out_width),
        strict=True,
    ):
        places = np.arange(out)[:, None] * stride - padding + np.arange(kernel) * dilation
        share *= float(((places >= 0) & (places < size)).mean())
    return share


def _tile(
    weights: np.ndarray,
    activations: np.ndarray,
    chunks: int,
    inside: float,
    of_weights: Filling,
    of_activations: Filling,
) -> tuple[float, float, float, float, float]:
    """Toggles over a tile's steps, of a row, of a column, and of a unit's sums of three, carries and counts."""
    pairs = plane_pairs(len(weights), len(activations))
    following = np.roll(pairs, -1, axis=0)
    p, p_next = weights[pairs[:, 0]], weights[following[:, 0]]
    r, r_next = (inside * activations[planes[:, 1]] for planes in (pairs, following))
    q, q_next = p * r, p_next * r_next
    lhs, rhs, product = _toggles(p, p_next), _toggles(r, r_next), _toggles(q, q_next)
    share = np.ones_like(product)
    if chunks == 1:  # a plane that is taken twice running is the same bits; the next tile has the same row tile
        lhs_stays, rhs_stays = pairs[:, 0] == following[:, 0], pairs[:, 1] == following[:, 1]
        rhs_stays[-1] = False
        independent = np.maximum(product, 1e-12)
        product = np.where(lhs_stays, p * rhs, np.where(rhs_stays, r * lhs, product))
        share = product / independent
        lhs, rhs = np.where(lhs_stays, 0, lhs), np.where(rhs_stays, 0, rhs)

    def operand(fill: Filling, before: np.ndarray, after: np.ndarray, changes: np.ndarray) -> float:
        within = fill.both[0] * _toggles(before, before) + (fill.first[0] + fill.second[0]) * before
        return float((within + fill.both[1] * changes + fill.first[1] * before + fill.second[1] * after).sum())

    ones = carries = 0.0
    for k, m in np.argwhere(of_weights.threes.any(axis=0)):
        within, across = of_weights.threes[:, k, m]
        if chunks == 1:  # a sum of three toggles if an odd number of its products do
            ones += across * float(_odd(product, k).sum())
        else:
            ones += float(
                (within * _toggles(_odd(q, k), _odd(q, m)) + across * _toggles(_odd(q, k), _odd(q_next, m))).sum()
            )
        within_carries = within * _toggles(_majority(q, k), _majority(q, m))
        carries += float((within_carries + across * share * _toggles(_majority(q, k), _majority(q_next, m))).sum())
    counts = 0.0
    for numbers, after, seen in zip(
        of_weights.numbers, (q, q_next), (np.ones_like(share), np.sqrt(share)), strict=True
    ):
        for (n, n_next), times in zip(*np.unique(numbers, axis=0, return_counts=True), strict=True):
            changes = _toggles(_count_bits(q, int(n)), _count_bits(after, int(n_next))).sum(axis=1)
            counts += float(times * (seen * changes).sum())
    return operand(of_weights, p, p_next, lhs), operand(of_activations, r, r_next, rhs), ones, carries, counts


def _toggles(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Probability that two independent bits of these densities differ."""
    return np.asarray(before * (1 - after) + after * (1 - before))


def _odd(density: np.ndarray, bits: int) -> np.ndarray:
    """Probability that an odd number of bits is set."""
    return np.asarray((1 - (1 - 2 * density) ** bits) / 2)


def _majority(density: np.ndarray, bits: int) -> np.ndarray:
    """Probability that two or more of up to three bits are set."""
    if bits < 2:
        return np.zeros_like(density)
    return np.asarray(density**2 if bits == 2 else 3 * density**2 - 2 * density**3)


def _count_bits(density: np.ndarray, products: int) -> np.ndarray:
    """Density of every bit of a count of bits of a density: float64, (densities, 10), by the binomial law."""
    numbers = np.arange(products + 1)
    logs = np.cumsum(np.log(np.maximum(numbers, 1)))
    choose = logs[products] - logs - logs[::-1]
    inside = np.clip(density, 1e-9, 1 - 1e-9)[:, None]
    law = np.exp(choose + numbers * np.log(inside) + (products - numbers) * np.log(1 - inside))
    bits = numbers[:, None] >> np.arange(10) & 1  # 512 products at most
    return np.asarray(law @ bits)
