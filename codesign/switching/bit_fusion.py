"""What switches in the array of fusion units (`rtl.fusion_array`): digits, products of bricks, sums of units."""

import numpy as np

from codesign.switching.toggles import ArraySwitching, Nets, Tile, accumulate
from hardware.passes import Pass
from rtl.fusion_routing import FIFTH, FOURTH, QUADS, SIXTH, SUM_BITS, WORD_BITS, brick_digits, fusion_control


def _order(work: Pass, weight_bits: int) -> np.ndarray:
    """A step takes ``2 / bits`` of the other operand's entry."""
    steps = np.arange(work.steps(weight_bits))
    return np.stack([2 * steps // work.activation_bits, 2 * steps // weight_bits])


def _nets(tile: Tile) -> Nets:
    """``row_words, column_words`` (what units get of the vectors), ``row_digits, column_digits`` (what bricks get of
    these), ``products``, ``quads`` (sums of bricks of one place), ``sums`` (of units and of all units of a dot
    product), ``accumulators``."""
    weight_bits, activation_bits = tile.weight_bits, tile.work.activation_bits
    numbers = np.arange(tile.left.shape[-1])
    digits = brick_digits(weight_bits, activation_bits)
    control = fusion_control(weight_bits, activation_bits, tile.signed_weights, tile.signed_activations)
    is_signed = np.array([int(control["row"]["signed"]) >> brick & 1 for brick in range(len(digits))], dtype=bool)
    left = _parts(tile.left, numbers % (activation_bits // 2), activation_bits)
    right = _parts(tile.right, numbers % (weight_bits // 2), weight_bits)
    inverted = right.copy()
    if tile.signed_activations:
        inverted[activation_bits - 1 :: activation_bits] ^= 1
    weights, activations = (
        np.stack([(word[2 * d] + 2 * word[2 * d + 1]).astype(np.int16) for d in range(WORD_BITS // 2)])
        for word in (left, inverted)
    )  # digit, unit, vector, step
    values = {"row_words": left, "column_words": right}
    values["row_digits"] = np.stack([np.zeros_like(weights[0]) if d is None else weights[d[0]] for d in digits])
    # The activations of a brick that does not work stay as its control bits say, which changes nothing here.
    values["column_digits"] = np.stack(
        [np.zeros_like(activations[0]) if d is None else activations[d[1]] for d in digits]
    )

    signs = is_signed[:, None, None, None]
    factors = np.where(signs & (values["row_digits"] > 1), values["row_digits"] - 4, values["row_digits"])
    products = factors[:, :, :, None] * values["column_digits"][:, :, None] + 6 * signs[..., None]
    values["products"] = products
    values |= {
        f"quads {number}": products[list(bricks)].sum(axis=0, dtype=np.int16)
        for number, bricks in enumerate((*QUADS, FOURTH, FIFTH, SIXTH))
    }
    widths = {"row_digits": 2, "column_digits": 2, "products": 4} | {f"quads {number}": 6 for number in range(7)}
    places = np.array([0 if d is None else d[0] % (weight_bits // 2) + d[1] % (activation_bits // 2) for d in digits])
    too_much = np.array([6 * is_signed[b] << 2 * places[b] for b in range(len(digits))]).sum()
    sums = np.tensordot(4**places, products.astype(np.int64), axes=1) - too_much
    if tile.signed_activations:  # inverting a sign bit adds so much to its value
        half = 1 << activation_bits - 1
        sums -= half * _values(left, weight_bits, activation_bits, tile.signed_weights)[:, :, None]
    values["sums unit"], widths["sums unit"] = sums, SUM_BITS
    level = 0
    while len(sums) > 1:
        sums, level = sums[::2] + sums[1::2], level + 1
        values[f"sums {level}"], widths[f"sums {level}"] = sums, SUM_BITS + level
    sums = sums[0][..., : tile.steps]
    everywhere = np.ones(tile.steps, dtype=bool)
    values["accumulators"] = accumulate(sums, ~everywhere, everywhere)[None]
    return Nets(values, widths, {})


def _parts(vectors: np.ndarray, part: np.ndarray, other_bits: int) -> np.ndarray:
    """uint8, (32, units, vectors, steps): the bits that a unit gets of entries, of which each step takes a part."""
    bits = 2 * WORD_BITS // other_bits
    units = len(vectors) // WORD_BITS
    pieces = vectors.reshape(-1, units, bits, *vectors.shape[1:])  # part, unit, bit, vector, step
    chosen = np.take_along_axis(pieces, part[None, None, None, None], axis=0)[0].swapaxes(0, 1)
    return np.concatenate([chosen, np.zeros((WORD_BITS - bits, *chosen.shape[1:]), dtype=np.uint8)])


def _values(words: np.ndarray, bits: int, other_bits: int, is_signed: bool) -> np.ndarray:
    """int64, (units, vectors, steps): sums of the values in units' words that meet values of the other operand."""
    used = words[: 2 * WORD_BITS // other_bits].astype(np.int64)
    weights = np.array([1 << bit for bit in range(bits)], dtype=np.int64)
    weights[-1] *= -1 if is_signed else 1
    return np.tensordot(np.tile(weights, len(used) // bits), used, axes=1)


BIT_FUSION = ArraySwitching(_order, _nets)
