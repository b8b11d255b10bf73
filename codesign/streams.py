"""What a layer's integers make the array and its buffers switch: the streams of bit planes, followed bit by bit.

The schedule says in which order row tiles meet column tiles, and `hardware.planes` in which order their planes do. So
the vectors at the array's inputs are known for every step, and with them what the dot-product units count and add up.
Toggles are counted from step to step as if steps followed one another without a gap: while the array waits, nothing
moves. Large layers are sampled.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from codesign.tensors import plane_words, row_tile_words
from hardware.cost import words_read
from hardware.operands import Operands
from hardware.planes import plane_pairs
from hardware.schedule import Pass, Schedule

PASSES = 2
"""Passes of a layer that are followed."""
RUNS = 6
"""Row tiles with their column tiles that are followed of a large pass ..."""
TILES = 4
"""... and column tiles of each."""


@dataclass(frozen=True, eq=False)
class Run:
    """A row tile and column tiles that it meets one after the other.

    Parameters
    ----------
    left:
        uint8, (steps, dm, dk): bits of the rows, the same for every column tile.
    right:
        uint8, (tiles, steps, dn, dk): bits of the columns.
    words:
        uint64: the row tile's and the column tiles' words as they come from memory.
    pairs:
        Planes, see `plane_pairs`, of ``chunks`` steps each.
    """

    left: np.ndarray
    right: np.ndarray
    words: np.ndarray
    pairs: np.ndarray


def layer_switching(operands: Operands, plan: Schedule, seed: int = 0, everything: bool = False) -> dict[str, float]:
    """Toggles while a layer runs.

    Parameters
    ----------
    operands:
        Fewer images than the layer has are taken again and again.
    seed:
        Draws which tiles are followed, and the constants of requantization.
    everything:
        Follow all tiles.

    Returns
    -------
    By name: ``row_bits, column_bits`` (operands), ``threes, carries, levels, counts, accumulators`` (of all units: sums
    of three products and their carries, outputs of two levels of counters, counts, accumulators), ``column_levels,
    column_accumulators`` (of the columns' own counters), ``shifts, negations`` (control bits of all units) and
    ``column_shifts, column_negations`` (of all columns), ``writes`` (bits of the words that come from memory).
    """
    rng = np.random.default_rng(seed)
    total: Counter[str] = Counter()
    matrix = [work for work in plan.passes if work.operation == "matrix"]
    if not matrix:
        return {}
    layer, planes = operands.layer, operands.activation_bits
    height, width = layer.in_height + 2 * layer.padding[0], layer.in_width + 2 * layer.padding[1]
    image = plane_words(operands.activations, planes, layer.padding)
    image = image.reshape(len(operands.activations), height, width, -1, planes)
    chosen = matrix  # parts of a grouped layer are alike
    if not everything and len(matrix) > PASSES:
        chosen = [matrix[i] for i in sorted(rng.choice(len(matrix), PASSES, replace=False))]
    for work in chosen:
        total.update(_pass_switching(operands, work, image, rng, everything))
    share = sum(map(_steps, chosen)) / max(1, sum(map(_steps, matrix)))
    return {name: count / (share or 1) for name, count in total.items()}


def _pass_switching(
    operands: Operands, work: Pass, image: np.ndarray, rng: np.random.Generator, everything: bool
) -> dict[str, float]:
    places = [
        (segment, tile, group)
        for group in range(work.groups)
        for segment, (bits, tiles) in enumerate(work.segments)
        for tile in range(tiles)
        if bits
    ]
    chosen = places
    if not everything and len(places) > RUNS:
        chosen = [places[i] for i in sorted(rng.choice(len(places), RUNS, replace=False))]
    counted: Counter[str] = Counter()
    followed = words = 0
    before: dict[str, np.ndarray] = {}
    constants = rng.integers(0, 2, size=(1, work.dm, 64 * work.lanes), dtype=np.uint8)
    constants[..., 64:] = 0
    for run in _runs(operands, work, image, chosen, everything):
        # A row tile reads its constants once, however many of its column tiles are followed.
        reads = work.output.requantized and rng.random() * min(work.group_tiles, work.column_tiles) < len(run.right)
        for number, right in enumerate(run.right):
            read = constants if number == 0 and (reads or (everything and work.output.requantized)) else None
            counted.update(_tile_switching(operands, work, run, right, before, read))
            followed += len(run.left)
        counted["writes"] += int(np.bitwise_count(run.words[1:] ^ run.words[:-1]).sum())
        words += len(run.words)
    steps = _steps(work)
    read_words = words_read(work)
    return {
        name: count * (read_words / max(1, words) if name == "writes" else steps / max(1, followed))
        for name, count in counted.items()
    }


def _steps(work: Pass) -> int:
    """Steps that multiply."""
    return sum(tiles * work.column_tiles * work.steps(bits) for bits, tiles in work.segments if bits)


def _runs(
    operands: Operands, work: Pass, image: np.ndarray, places: list[tuple[int, int, int]], everything: bool
) -> Iterator[Run]:
    layer, planes = operands.layer, operands.activation_bits
    starts = np.cumsum([0, *(tiles for _, tiles in work.segments)])
    for segment, tile, group in places:
        bits = work.segments[segment][0]
        row = (starts[segment] + tile) * work.dm
        one = replace(work, kernels=work.kernels[row : row + work.dm], segments=((bits, 1),))
        row_words = row_tile_words(operands.weights, one, layer.groups)
        rows = row_words.reshape(work.dm, -1, work.lanes)[:, : bits * work.chunks]
        rows = rows.reshape(work.dm, bits, work.chunks, work.lanes)
        pairs = plane_pairs(bits, planes)
        last = min((group + 1) * work.group_tiles, work.column_tiles)
        tiles = range(group * work.group_tiles, last if everything else min(last, group * work.group_tiles + TILES))
        windows = [_columns(image, operands, work, column_tile) for column_tile in tiles]
        right = [_bits(window[:, pairs[:, 1]]) for window in windows]
        words = [
            window[: work.columns(t)].transpose(0, 2, 3, 1).ravel() for t, window in zip(tiles, windows, strict=True)
        ]
        yield Run(_bits(rows[:, pairs[:, 0]]), np.stack(right), np.concatenate([row_words, *words]), pairs)


def _columns(image: np.ndarray, operands: Operands, work: Pass, column_tile: int) -> np.ndarray:
    """Entries of a column tile: uint64, (dn, planes, chunks, lanes); zeros in columns that are not valid."""
    layer = operands.layer
    pixels = column_tile * work.dn + np.arange(work.columns(column_tile))
    image_number, place = np.divmod(pixels, layer.out_height * layer.out_width)
    row, column = np.divmod(place, layer.out_width)
    rows = row[:, None] * layer.stride[0] + np.arange(work.kernel[0]) * layer.dilation[0]
    columns = column[:, None] * layer.stride[1] + np.arange(work.kernel[1]) * layer.dilation[1]
    taps = image[image_number[:, None, None] % len(image), rows[:, :, None], columns[:, None, :]]
    taps = taps[..., work.channel_words[0] : work.channel_words[1], :]
    words = taps.reshape(len(pixels), work.window_words, -1).transpose(0, 2, 1)
    entries = np.zeros((work.dn, words.shape[1], work.chunks * work.lanes), dtype=np.uint64)
    entries[: len(pixels), :, : work.window_words] = words
    return entries.reshape(work.dn, -1, work.chunks, work.lanes)


def _bits(words: np.ndarray) -> np.ndarray:
    """uint8, (pairs * chunks, vectors, dk), of words (vectors, pairs, chunks, lanes)."""
    steps = np.ascontiguousarray(words.transpose(1, 2, 0, 3))
    bits = np.unpackbits(steps.view(np.uint8), axis=-1, bitorder="little")
    return bits.reshape(-1, *bits.shape[2:])


def _tile_switching(
    operands: Operands,
    work: Pass,
    run: Run,
    right: np.ndarray,
    before: dict[str, np.ndarray],
    constants: np.ndarray | None,
) -> dict[str, int]:
    """Toggles of one tile's steps; ``before`` holds what was there before and is brought up to date."""
    left, pairs, chunks = run.left, run.pairs, work.chunks
    weight_sign = operands.signed_weights & (pairs[:, 0] == pairs[:, 0].max())
    activation_sign = operands.layer.signed_activations & (pairs[:, 1] == pairs[:, 1].max())
    negate, column_negate = (np.repeat(one, chunks) for one in (weight_sign ^ activation_sign, activation_sign))
    first_chunk = np.arange(len(left)) % chunks == 0
    diagonals = pairs.sum(axis=1)
    shift = np.repeat(np.concatenate([[False], diagonals[1:] != diagonals[:-1]]), chunks) & first_chunk
    counts_columns = np.repeat(pairs[:, 0] == 0, chunks)
    clear = np.arange(len(left)) == 0

    seen: dict[str, np.ndarray] = {}
    seen["row_bits"] = left if constants is None else np.concatenate([left, constants])
    seen["column_bits"] = right if constants is None else np.concatenate([right, right[-1:]])
    products = seen["row_bits"][:, :, None] & seen["column_bits"][:, None]
    third = products.shape[-1] // 3
    sums = products[..., : 3 * third].reshape(*products.shape[:-1], 3, third).sum(axis=-2, dtype=np.uint8)
    seen["threes"] = np.concatenate([sums & 1, products[..., 3 * third :]], axis=-1)
    seen["carries"] = sums >> 1
    seen |= {f"levels {i}": level for i, level in enumerate(_levels(seen["threes"]))}
    seen |= {f"column_levels {i}": level for i, level in enumerate(_levels(seen["column_bits"]))}
    counts = products[: len(left)].sum(axis=-1, dtype=np.int64)
    column_counts = right.sum(axis=-1, dtype=np.int64)
    sign = negate[:, None, None]
    seen["counts"] = np.where(sign, ~counts, counts)
    seen["accumulators"] = _accumulate(np.where(sign, -counts, counts), shift, clear, np.ones_like(clear))
    column_sums = np.where(column_negate[:, None], -column_counts, column_counts)
    seen["column_accumulators"] = _accumulate(column_sums, first_chunk, clear, counts_columns)
    units, columns = work.dm * work.dn, work.dn
    toggles: Counter[str] = Counter()
    for name, values in seen.items():
        toggles[name.split()[0]] += _toggles(values, before.get(name))
        before[name] = values[-1]
    for name, control, pins in (
        ("shifts", shift, units),
        ("negations", negate, units),
        ("column_shifts", first_chunk, columns),
        ("column_negations", column_negate, columns),
    ):
        toggles[name] = pins * int((control != np.roll(control, 1)).sum())
    return toggles


def _levels(bits: np.ndarray) -> list[np.ndarray]:
    """What two levels of counters of six bits give, see `rtl.popcount`."""
    levels = []
    for _ in range(2):
        sixth = bits.shape[-1] // 6
        counts = bits[..., : 6 * sixth].reshape(*bits.shape[:-1], 6, sixth).sum(axis=-2, dtype=np.uint8)
        bits = np.concatenate([counts & 1, counts >> 1 & 1, counts >> 2], axis=-1)
        levels.append(bits)
    return levels


def _accumulate(numbers: np.ndarray, shift: np.ndarray, clear: np.ndarray, enable: np.ndarray) -> np.ndarray:
    """The accumulators after every step: Horner's scheme."""
    values, total = np.empty_like(numbers), np.zeros_like(numbers[0])
    for step, number in enumerate(numbers):
        if clear[step]:
            total = np.zeros_like(total)
        if enable[step]:
            total = (2 * total if shift[step] else total) + number
        values[step] = total
    return values


def _toggles(values: np.ndarray, before: Any) -> int:
    """Bits that change from step to step; of integers, of their lower 32 bits."""
    changes = values[1:] ^ values[:-1]
    if before is not None:
        changes = np.concatenate([changes, (values[0] ^ before)[None]])
    if values.dtype == np.uint8:
        return int(changes.sum())
    return int(np.bitwise_count(changes & 0xFFFFFFFF).sum())
