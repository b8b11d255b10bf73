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

from codesign.tensors import activation_words, row_tile_words
from hardware.cost import words_read
from hardware.kinds import KINDS
from hardware.operands import Operands
from hardware.planes import plane_pairs
from hardware.schedule import Pass, Schedule

SHORT = 100
"""Tiles of fewer steps are followed from the one before, if tiles are spread evenly: where they come from matters."""


@dataclass(frozen=True)
class Sample:
    """How much of a large layer is followed.

    Parameters
    ----------
    passes:
        Passes of a layer.
    runs, tiles:
        Row tiles of a pass, and column tiles of each.
    rows, columns:
        Of the array, others for every row tile; they stand for all. None: all of them.
    evenly:
        Spread over the layer from random starts, even if that takes a row tile twice: so an image's border has its
        share. Otherwise row tiles are drawn, with the first column tiles of a group.
    """

    passes: int = 2
    runs: int = 6
    tiles: int = 4
    rows: int | None = None
    columns: int | None = None
    evenly: bool = False


@dataclass(frozen=True, eq=False)
class Run:
    """A row tile and column tiles that it meets one after the other.

    Parameters
    ----------
    left:
        uint8, (dk, rows, steps): bits of the rows that are followed, the same for every column tile.
    right:
        The same of the columns, of every column tile.
    earlier:
        Of the column tile before the first one, if it is to say from what the first one's first step toggles.
    words:
        uint64: the row tile's and the column tiles' words as they come from memory.
    pairs:
        Planes, see `plane_pairs`, of ``chunks`` steps each.
    """

    left: np.ndarray
    right: list[np.ndarray]
    earlier: np.ndarray | None
    words: np.ndarray
    pairs: np.ndarray


def image_words(operands: Operands) -> np.ndarray:
    """Bit planes of the activations in memory: uint64, (images, padded height, padded width, words, planes)."""
    layer, planes = operands.layer, operands.activation_bits
    height, width = layer.in_height + 2 * layer.padding[0], layer.in_width + 2 * layer.padding[1]
    words = activation_words(operands.activations, planes, layer.padding, KINDS["bit_serial"])
    return words.reshape(len(operands.activations), height, width, -1, planes)


def layer_switching(
    operands: Operands,
    plan: Schedule,
    seed: int = 0,
    everything: bool = False,
    sample: Sample = Sample(),
    image: np.ndarray | None = None,
) -> dict[str, float]:
    """Toggles while a layer runs.

    Parameters
    ----------
    operands:
        Fewer images than the layer has are taken again and again.
    seed:
        Draws which tiles are followed, and the constants of requantization.
    everything:
        Follow all tiles of the whole array, whatever ``sample`` says.
    image:
        Words to use instead of `image_words` of the operands.

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
    image = image_words(operands) if image is None else image
    chosen = matrix  # parts of a grouped layer are alike
    if not everything and len(matrix) > sample.passes:
        chosen = [matrix[i] for i in sorted(rng.choice(len(matrix), sample.passes, replace=False))]
    for work in chosen:
        total.update(_pass_switching(operands, work, image, rng, None if everything else sample))
    share = sum(map(_steps, chosen)) / max(1, sum(map(_steps, matrix)))
    return {name: count / (share or 1) for name, count in total.items()}


def _pass_switching(
    operands: Operands, work: Pass, image: np.ndarray, rng: np.random.Generator, sample: Sample | None
) -> dict[str, float]:
    """Toggles of one pass; without a sample every tile is followed."""
    row_tiles = [
        (segment, tile) for segment, (bits, tiles) in enumerate(work.segments) for tile in range(tiles) if bits
    ]
    if sample and sample.evenly and row_tiles:
        count, runs = work.column_tiles, sample.runs
        if count <= 2 * runs:  # every column tile equally often
            runs = count * -(-runs // count)
        chosen = [
            (row_tiles[i], [(first + j) % count for j in range(min(sample.tiles, count))])
            for i, first in zip(_spread(len(row_tiles), runs, rng), _spread(count, runs, rng), strict=True)
        ]
    else:
        places = [(row_tile, group * work.group_tiles) for group in range(work.groups) for row_tile in row_tiles]
        if sample and len(places) > sample.runs:
            places = [places[i] for i in sorted(rng.choice(len(places), sample.runs, replace=False))]
        most = min(work.group_tiles, sample.tiles) if sample else work.group_tiles
        chosen = [(row_tile, list(range(first, min(first + most, work.column_tiles)))) for row_tile, first in places]
    counted: Counter[str] = Counter()
    followed = words = 0
    before: dict[str, np.ndarray] = {}
    constants = rng.integers(0, 2, size=(1, work.dm, 64 * work.lanes), dtype=np.uint8).transpose(2, 1, 0)
    constants[64:] = 0
    for run in _runs(operands, work, image, chosen, rng, sample):
        # A row tile comes, and reads its constants, once, however many of its column tiles are followed.
        begins = rng.random() * min(work.group_tiles, work.column_tiles) < len(run.right) or not sample
        if not begins and run.earlier is not None:
            _tile_switching(operands, work, run, run.earlier, before, None)
        for number, right in enumerate(run.right):
            read = constants if number == 0 and begins and work.output.requantized else None
            counted.update(_tile_switching(operands, work, run, right, before, read))
            followed += run.left.shape[-1]
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
    operands: Operands,
    work: Pass,
    image: np.ndarray,
    places: list[tuple[tuple[int, int], list[int]]],
    rng: np.random.Generator,
    sample: Sample | None,
) -> Iterator[Run]:
    layer, planes = operands.layer, operands.activation_bits
    starts = np.cumsum([0, *(tiles for _, tiles in work.segments)])
    for (segment, tile), tiles in places:
        bits = work.segments[segment][0]
        row = (starts[segment] + tile) * work.dm
        one = replace(work, kernels=work.kernels[row : row + work.dm], segments=((bits, 1),))
        row_words = row_tile_words(operands.weights, one, layer.groups)
        rows = row_words.reshape(work.dm, -1, work.lanes)[:, : bits * work.chunks]
        rows = rows.reshape(work.dm, bits, work.chunks, work.lanes)
        pairs = plane_pairs(bits, planes)
        columns = _some(work.dn, sample.columns if sample else None, rng)
        earlier = None
        if sample:
            rows = rows[_some(work.dm, sample.rows, rng)]
            if sample.evenly and work.steps(bits) < SHORT:
                window = _columns(image, operands, work, (tiles[0] - 1) % work.column_tiles)
                earlier = _bits(window[columns], pairs[:, 1])
        windows = [_columns(image, operands, work, column_tile) for column_tile in tiles]
        right = [_bits(window[columns], pairs[:, 1]) for window in windows]
        words = [
            window[: work.columns(t)].transpose(0, 2, 3, 1).ravel() for t, window in zip(tiles, windows, strict=True)
        ]
        yield Run(_bits(rows, pairs[:, 0]), right, earlier, np.concatenate([row_words, *words]), pairs)


def _some(count: int, followed: int | None, rng: np.random.Generator) -> list[int] | slice:
    """So many of the rows or columns."""
    return slice(None) if followed is None or followed >= count else _spread(count, followed, rng)


def _spread(count: int, chosen: int, rng: np.random.Generator) -> list[int]:
    """So many of the indices below ``count``, evenly, from a random start."""
    return [int(place) for place in (rng.random() + np.arange(chosen)) * count / chosen]


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


def _bits(words: np.ndarray, planes: np.ndarray) -> np.ndarray:
    """uint8, (dk, vectors, planes * chunks), of words (vectors, planes, chunks, lanes); planes in another order."""
    steps = np.ascontiguousarray(words.transpose(1, 2, 0, 3))
    bits = np.unpackbits(steps.view(np.uint8), axis=-1, bitorder="little")
    bits = np.ascontiguousarray(bits.transpose(3, 2, 0, 1))[:, :, planes]
    return bits.reshape(*bits.shape[:2], -1)


def _tile_switching(
    operands: Operands,
    work: Pass,
    run: Run,
    right: np.ndarray,
    before: dict[str, np.ndarray],
    constants: np.ndarray | None,
) -> dict[str, float]:
    """Toggles of one tile's steps; ``before`` holds what was there before and is brought up to date."""
    left, pairs, chunks = run.left, run.pairs, work.chunks
    weight_sign = operands.signed_weights & (pairs[:, 0] == pairs[:, 0].max())
    activation_sign = operands.layer.signed_activations & (pairs[:, 1] == pairs[:, 1].max())
    negate, column_negate = (np.repeat(one, chunks) for one in (weight_sign ^ activation_sign, activation_sign))
    rows, columns, steps = left.shape[1], right.shape[1], left.shape[2]
    first_chunk = np.arange(steps) % chunks == 0
    diagonals = pairs.sum(axis=1)
    shift = np.repeat(np.concatenate([[False], diagonals[1:] != diagonals[:-1]]), chunks) & first_chunk
    counts_columns = np.repeat(pairs[:, 0] == 0, chunks)

    # Bits come first, steps last: so all that is done to bits is done to long rows of numbers.
    seen: dict[str, np.ndarray] = {}
    seen["row_bits"] = left if constants is None else np.concatenate([left, constants[:, :rows]], axis=-1)
    seen["column_bits"] = right if constants is None else np.concatenate([right, right[..., -1:]], axis=-1)
    products = seen["row_bits"][:, :, None] & seen["column_bits"][:, None]
    third = len(products) // 3
    sums = products[:third] + products[third : 2 * third] + products[2 * third : 3 * third]
    seen["threes"] = np.concatenate([sums & 1, products[3 * third :]])
    seen["carries"] = sums >> 1
    seen |= {f"levels {i}": level for i, level in enumerate(_levels(seen["threes"]))}
    seen |= {f"column_levels {i}": level for i, level in enumerate(_levels(seen["column_bits"]))}
    counts, column_counts = _count(products)[..., :steps], _count(right)
    seen["counts"] = np.where(negate, ~counts, counts)[None]
    seen["accumulators"] = _accumulate(np.where(negate, -counts, counts), shift, np.ones_like(shift))[None]
    column_sums = np.where(column_negate, -column_counts, column_counts)
    seen["column_accumulators"] = _accumulate(column_sums, first_chunk, counts_columns)[None]
    toggles: Counter[str] = Counter()
    for name, values in seen.items():
        toggles[name.split()[0]] += _toggles(values, before.get(name))
        before[name] = values[..., -1]
    units = rows * columns
    for name, control, pins in (
        ("shifts", shift, units),
        ("negations", negate, units),
        ("column_shifts", first_chunk, columns),
        ("column_negations", column_negate, columns),
    ):
        toggles[name] = pins * int((control[1:] != control[:-1]).sum() + (control[0] != control[-1]))
    return {name: _fans(name, work.dm / rows, work.dn / columns) * count for name, count in toggles.items()}


def _fans(name: str, rows: float, columns: float) -> float:
    """For how many toggles one stands that was followed."""
    if name.startswith("column"):
        return columns
    return rows if name == "row_bits" else rows * columns


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


def _accumulate(numbers: np.ndarray, shift: np.ndarray, enable: np.ndarray) -> np.ndarray:
    """The accumulators after every step: Horner's scheme, in which a number weighs as much as shifts follow."""
    shifts = np.cumsum(shift & enable)
    left = shifts[-1] - shifts
    return np.cumsum(np.where(enable, numbers, 0) << left, axis=-1) >> left


def _toggles(values: np.ndarray, before: Any) -> int:
    """Bits that change from step to step; of integers, of their lower 32 bits."""
    changes = values[..., 1:] ^ values[..., :-1]
    count = int(np.count_nonzero(changes) if values.dtype == np.uint8 else _ones(changes))
    if before is not None:
        count += _ones(values[..., 0] ^ before)
    return count


def _ones(changes: np.ndarray) -> int:
    return int(np.bitwise_count(changes & 0xFFFFFFFF if changes.dtype != np.uint8 else changes).sum())
