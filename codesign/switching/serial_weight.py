"""What switches in the serial-weight array (`rtl.serial_weight`): sums of the values whose weight bit is set."""

import numpy as np

from codesign.switching.toggles import ArraySwitching, Nets, Tile, accumulate
from hardware.kinds import KINDS
from hardware.passes import Pass

PLANES = KINDS["serial_weight"].planes


def _order(work: Pass, weight_bits: int) -> np.ndarray:
    weights = np.arange(weight_bits * work.chunks).reshape(weight_bits, work.chunks)[::-1].ravel()
    return np.stack([weights, np.tile(np.arange(work.chunks), weight_bits)])


def _nets(tile: Tile) -> Nets:
    """``column_pairs`` (sums of neighbours), ``chosen`` (none, one or both of them), ``levels`` (of adders),
    ``accumulators``, ``results`` (these at the end of a tile), and the columns' own; ``shifts, negations``: control
    bits."""
    steps, chunks = tile.steps, tile.work.chunks
    plane = np.repeat(np.arange(tile.weight_bits)[::-1], chunks)
    negate = tile.signed_weights & (plane == tile.weight_bits - 1)
    shift = np.concatenate([[False], plane[1:] != plane[:-1]])
    right = tile.right.reshape(PLANES, -1, *tile.right.shape[1:])  # plane, position, column, step
    weights = np.array([1 << bit for bit in range(PLANES)], dtype=np.int16)
    weights[-1] *= -1 if tile.signed_activations else 1
    integers = np.tensordot(weights, right.astype(np.int16), axes=1)
    first, second = integers[::2], integers[1::2]
    pairs = first + second
    masks = tile.left.astype(np.int16)
    chosen = masks[::2, :, None] * first[:, None] + masks[1::2, :, None] * second[:, None]

    values, widths = {"column_pairs": pairs, "chosen": chosen}, {"column_pairs": PLANES + 2, "chosen": PLANES + 2}
    totals = []
    for name, numbers in (("levels", chosen), ("column_levels", pairs)):
        bits, level = PLANES + 2, 0
        total = numbers.astype(np.int32)
        while len(total) > 1:
            total, bits, level = total[::2] + total[1::2], bits + 1, level + 1
            values[f"{name} {level}"], widths[f"{name} {level}"] = total, bits
        totals.append(total[0][..., :steps].astype(np.int64))
    sums, column_sums = totals
    everywhere = np.ones_like(shift)
    values["accumulators"] = accumulate(np.where(negate, -sums, sums), shift, everywhere)[None]
    values["results"] = values["accumulators"][..., -1:]
    counts_columns = plane == 0
    values["column_accumulators"] = accumulate(column_sums, np.zeros_like(shift), counts_columns)[None]
    return Nets(values, widths, {"shifts": shift, "negations": negate})


SERIAL_WEIGHT = ArraySwitching(_order, _nets)
