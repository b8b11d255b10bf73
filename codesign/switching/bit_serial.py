"""What switches in the bit-serial array (`rtl.array`): products of two planes, popcounts, accumulators."""

import numpy as np

from codesign.switching.toggles import ArraySwitching, Nets, Tile, accumulate
from hardware.passes import Pass
from hardware.planes import plane_pairs


def _order(work: Pass, weight_bits: int) -> np.ndarray:
    planes = plane_pairs(weight_bits, work.activation_bits).T
    return (planes[:, :, None] * work.chunks + np.arange(work.chunks)).reshape(2, -1)


def _nets(tile: Tile) -> Nets:
    """``threes, carries`` (sums of three products and their carries), ``levels`` (outputs of two levels of counters),
    ``counts, accumulators``, and the columns' counters'; ``shifts, negations``: control bits."""
    steps, chunks = tile.steps, tile.work.chunks
    pairs = plane_pairs(tile.weight_bits, tile.work.activation_bits)
    weight_sign = tile.signed_weights & (pairs[:, 0] == pairs[:, 0].max())
    activation_sign = tile.signed_activations & (pairs[:, 1] == pairs[:, 1].max())
    negate, column_negate = (np.repeat(one, chunks) for one in (weight_sign ^ activation_sign, activation_sign))
    first_chunk = np.arange(steps) % chunks == 0
    diagonals = pairs.sum(axis=1)
    shift = np.repeat(np.concatenate([[False], diagonals[1:] != diagonals[:-1]]), chunks) & first_chunk
    counts_columns = np.repeat(pairs[:, 0] == 0, chunks)

    # Bits come first, steps last: so all that is done to bits is done to long rows of numbers.
    values: dict[str, np.ndarray] = {}
    products = tile.left[:, :, None] & tile.right[:, None]
    third = len(products) // 3
    sums = products[:third] + products[third : 2 * third] + products[2 * third : 3 * third]
    values["threes"] = np.concatenate([sums & 1, products[3 * third :]])
    values["carries"] = sums >> 1
    values |= {f"levels {i}": level for i, level in enumerate(_levels(values["threes"]))}
    values |= {f"column_levels {i}": level for i, level in enumerate(_levels(tile.right))}
    counts, column_counts = _count(products)[..., :steps], _count(tile.right[..., :steps])
    values["counts"] = np.where(negate, ~counts, counts)[None]
    values["accumulators"] = accumulate(np.where(negate, -counts, counts), shift, np.ones_like(shift))[None]
    column_sums = np.where(column_negate, -column_counts, column_counts)
    values["column_accumulators"] = accumulate(column_sums, first_chunk, counts_columns)[None]
    controls = {"shifts": shift, "negations": negate}
    return Nets(values, {}, controls | {"column_shifts": first_chunk, "column_negations": column_negate})


def _count(bits: np.ndarray) -> np.ndarray:
    """int64: ones among the bits, at most 512, which are counted in bytes first."""
    return bits.reshape(4, -1, *bits.shape[1:]).sum(axis=1, dtype=np.uint8).sum(axis=0, dtype=np.int64)


def _levels(bits: np.ndarray) -> list[np.ndarray]:
    """What two levels of counters of six bits give, see `rtl.popcount`."""
    levels = []
    for _ in range(2):
        sixth = len(bits) // 6
        counts = bits[: 6 * sixth].reshape(6, sixth, *bits.shape[1:]).sum(axis=0, dtype=np.uint8)
        bits = np.concatenate([counts & 1, counts >> 1 & 1, counts >> 2])
        levels.append(bits)
    return levels


BIT_SERIAL = ArraySwitching(_order, _nets)
