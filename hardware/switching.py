"""How much an array and its operand buffers switch while a pass runs, expected from the density of the bit planes.

A plane's density is the share of ones among the bits of real numbers (padding is counted apart, as zeros). Bits are
taken as independent of one another and from step to step: with densities p and p' a bit toggles between two steps with
probability p (1 - p') + p' (1 - p). What a dot-product unit makes of its products (sums of three, carries, the count)
is followed by the same rule.
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
    dk, taps = 64 * work.lanes, work.taps * work.pixel_words * 64
    filled = layer.reduction / (work.chunks * dk)  # bits of a row's entries that are weights
    read = min(1.0, layer.in_channels / layer.groups / (64 * work.pixel_words) if layer.groups == 1 else 1.0)
    read *= taps / (work.chunks * dk) * _inside(layer)  # bits of a column's entries that are activations
    kernels, start = len(work.kernels), 0
    for bits, row_tiles in work.segments:
        rows = max(0, min(kernels - start, row_tiles * work.dm))
        start += row_tiles * work.dm
        if not bits:
            continue
        tiles = row_tiles * work.column_tiles
        units = rows * layer.pixels  # dot products
        products = max(1, round(filled * _inside(layer) * dk))  # of a step that are of a weight and an activation
        per_tile = _tile(densities.weights[bits], densities.activations, work.chunks, products)
        steps, lhs, rhs, ones, carries, counts = per_tile
        scale = np.array(
            [
                tiles * steps,
                tiles,
                rows * work.column_tiles * filled * dk * lhs,
                row_tiles * layer.pixels * read * dk * rhs,
                units * products * ones,
                units * products * carries,
                units * counts,
            ]
        )
        total += scale
    return total


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


def _tile(weights: np.ndarray, activations: np.ndarray, chunks: int, products: int) -> tuple[float, ...]:
    """Steps of a tile, and over them the sums of the toggles of a bit of a row, of a column, of a product's share of
    sums and carries of three, and of the bits of a unit's count."""
    pairs = plane_pairs(len(weights), len(activations))
    p, r = weights[pairs[:, 0]], activations[pairs[:, 1]]
    q = p * r
    ones = q**3 + 3 * q * (1 - q) ** 2
    carries = 3 * q**2 - 2 * q**3
    counts = _count_bits(q, products)
    features = []
    for density in (p, r, ones, carries, counts):
        after = np.roll(density, -1, axis=0)
        stays = 2 * density * (1 - density)
        changes = density * (1 - after) + after * (1 - density)
        toggles = (chunks - 1) * stays + changes
        features.append(float(toggles.sum()))
    lhs, rhs, of_ones, of_carries, of_counts = features
    return float(len(pairs) * chunks), lhs, rhs, of_ones / 3, of_carries / 3, of_counts


def _count_bits(density: np.ndarray, products: int) -> np.ndarray:
    """Density of every bit of a count of bits of a density: float64, (densities, bits), by the binomial law."""
    numbers = np.arange(products + 1)
    logs = np.cumsum(np.log(np.maximum(numbers, 1)))
    choose = logs[products] - logs - logs[::-1]
    inside = np.clip(density, 1e-9, 1 - 1e-9)[:, None]
    law = np.exp(choose + numbers * np.log(inside) + (products - numbers) * np.log(1 - inside))
    bits = numbers[:, None] >> np.arange(products.bit_length()) & 1
    return law @ bits
