"""What a layer's integers make the array and its buffers switch: the streams of operands, followed bit by bit.

The schedule says in which order row tiles meet column tiles, and `SWITCHING` in which order their entries do. So the
vectors at the array's inputs are known for every step, and with them what the array makes of them. Toggles are counted
from step to step as if steps followed one another without a gap: while the array waits, nothing moves. Large layers are
sampled.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from codesign.switching.bit_fusion import BIT_FUSION
from codesign.switching.bit_serial import BIT_SERIAL
from codesign.switching.serial_weight import SERIAL_WEIGHT
from codesign.switching.toggles import Tile, tile_switching
from codesign.tensors import activation_words, row_tile_words
from hardware.cost import column_words, words_read
from hardware.kinds import KINDS, Kind
from hardware.operands import Operands
from hardware.passes import Pass
from hardware.schedule import Schedule

SWITCHING = {"bit_serial": BIT_SERIAL, "serial_weight": SERIAL_WEIGHT, "bit_fusion": BIT_FUSION}
"""By kind of array."""

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
    weight_bits:
        Of the row tile.
    left:
        uint8, (bits of an entry, rows, steps): bits of the rows that are followed, the same for every column tile.
    right:
        The same of the columns, of every column tile.
    earlier:
        Of the column tile before the first one, if it is to say from what the first one's first step toggles.
    words, row_words:
        uint64: the row tile's and the column tiles' words as they come from memory; how many are the row tile's.
    """

    weight_bits: int
    left: np.ndarray
    right: list[np.ndarray]
    earlier: np.ndarray | None
    words: np.ndarray
    row_words: int


def image_words(operands: Operands, traits: Kind) -> np.ndarray:
    """The activations in memory: uint64, (images, padded height, padded width, words, planes or words of values)."""
    layer, planes = operands.layer, traits.padded(operands.activation_bits)
    height, width = layer.in_height + 2 * layer.padding[0], layer.in_width + 2 * layer.padding[1]
    words = activation_words(operands.activations, planes, layer.padding, traits)
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
    By name: ``row_bits, column_bits`` (operands), ``writes`` (bits of the words that come from memory),
    ``column_writes`` (of those that are activations), and the nets and control bits of the array that `SWITCHING`
    follows.
    """
    rng = np.random.default_rng(seed)
    total: Counter[str] = Counter()
    matrix = [work for work in plan.passes if work.operation == "matrix"]
    if not matrix:
        return {}
    image = image_words(operands, plan.accelerator.traits) if image is None else image
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
    array = SWITCHING[work.kind]
    counted: Counter[str] = Counter()
    followed = words = column_words_seen = 0
    before: dict[str, np.ndarray] = {}
    constants = rng.integers(0, 2, size=(1, work.dm, 64 * work.lanes), dtype=np.uint8).transpose(2, 1, 0)
    constants[64:] = 0
    for run in _runs(operands, work, image, chosen, rng, sample):
        # A row tile comes, and reads its constants, once, however many of its column tiles are followed.
        begins = rng.random() * min(work.group_tiles, work.column_tiles) < len(run.right) or not sample
        if not begins and run.earlier is not None:
            tile_switching(array, _tile(operands, work, run, run.earlier, None), before)
        for number, right in enumerate(run.right):
            read = constants if number == 0 and begins and work.output.requantized else None
            counted.update(tile_switching(array, _tile(operands, work, run, right, read), before))
            followed += run.left.shape[-1]
        written = np.bitwise_count(run.words[1:] ^ run.words[:-1])
        counted.update(writes=int(written.sum()), column_writes=int(written[run.row_words - 1 :].sum()))
        words += len(run.words)
        column_words_seen += len(run.words) - run.row_words
    shares = {
        "writes": words_read(work) / max(1, words),
        "column_writes": column_words(work) / max(1, column_words_seen),
    }
    return {name: count * shares.get(name, _steps(work) / max(1, followed)) for name, count in counted.items()}


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
    starts, signed = np.cumsum([0, *(tiles for _, tiles in work.segments)]), operands.layer.signed_activations
    for (segment, tile), tiles in places:
        bits = work.segments[segment][0]
        row = (starts[segment] + tile) * work.dm
        one = replace(work, kernels=work.kernels[row : row + work.dm], segments=((bits, 1),))
        row_words = row_tile_words(operands.weights, one, operands.layer.groups)
        rows = row_words.reshape(work.dm, -1, work.lanes)
        order = SWITCHING[work.kind].order(work, bits)
        columns = _some(work.dn, sample.columns if sample else None, rng)
        earlier = None
        if sample:
            rows = rows[_some(work.dm, sample.rows, rng)]
            if sample.evenly and work.steps(bits) < SHORT:
                window = _columns(image, operands, work, (tiles[0] - 1) % work.column_tiles)
                earlier = _bits(_entries(window, work, signed)[columns], order[1])
        windows = [_columns(image, operands, work, column_tile) for column_tile in tiles]
        right = [_bits(_entries(window, work, signed)[columns], order[1]) for window in windows]
        words = [window[: work.columns(t)].transpose(0, 2, 1).ravel() for t, window in zip(tiles, windows, strict=True)]
        yield Run(bits, _bits(rows, order[0]), right, earlier, np.concatenate([row_words, *words]), len(row_words))


def _tile(operands: Operands, work: Pass, run: Run, right: np.ndarray, constants: np.ndarray | None) -> Tile:
    """A tile of a run, and behind it the step that reads ``constants``."""
    left, steps = run.left, run.left.shape[-1]
    if constants is not None:
        left = np.concatenate([left, constants[:, : left.shape[1]]], axis=-1)
        right = np.concatenate([right, right[..., -1:]], axis=-1)
    signs = operands.signed_weights, operands.layer.signed_activations
    return Tile(work, run.weight_bits, *signs, left, right, steps)


def _some(count: int, followed: int | None, rng: np.random.Generator) -> list[int] | slice:
    """So many of the rows or columns."""
    return slice(None) if followed is None or followed >= count else _spread(count, followed, rng)


def _spread(count: int, chosen: int, rng: np.random.Generator) -> list[int]:
    """So many of the indices below ``count``, evenly, from a random start."""
    return [int(place) for place in (rng.random() + np.arange(chosen)) * count / chosen]


def _columns(image: np.ndarray, operands: Operands, work: Pass, column_tile: int) -> np.ndarray:
    """Words of a column tile's windows, up to whole entries: uint64, (dn, planes, words), of packed operands one plane;
    zeros in columns that are not valid."""
    layer = operands.layer
    pixels = column_tile * work.dn + np.arange(work.columns(column_tile))
    image_number, place = np.divmod(pixels, layer.out_height * layer.out_width)
    row, column = np.divmod(place, layer.out_width)
    rows = row[:, None] * layer.stride[0] + np.arange(work.kernel[0]) * layer.dilation[0]
    columns = column[:, None] * layer.stride[1] + np.arange(work.kernel[1]) * layer.dilation[1]
    taps = image[image_number[:, None, None] % len(image), rows[:, :, None], columns[:, None, :]]
    taps = taps[..., work.channel_words[0] : work.channel_words[1], :]
    planes = 1 if KINDS[work.kind].packed else taps.shape[-1]
    words = taps.reshape(len(pixels), -1, planes).transpose(0, 2, 1)
    padded = np.zeros((work.dn, planes, work.chunks * work.lanes), dtype=np.uint64)
    padded[: len(pixels), :, : words.shape[-1]] = words
    return padded


def _entries(windows: np.ndarray, work: Pass, signed: bool) -> np.ndarray:
    """Entries of the activation buffer, (dn, entries, words of one), of `_columns`."""
    side_by_side = KINDS[work.kind].planes
    dn, planes, _ = windows.shape
    if missing := -planes % side_by_side:  # of signed activations the planes that lack are those of the sign
        more = np.repeat(windows[:, -1:] if signed else np.zeros_like(windows[:, -1:]), missing, axis=1)
        windows = np.concatenate([windows, more], axis=1)
    groups = windows.reshape(dn, -1, side_by_side, work.chunks, work.lanes).swapaxes(2, 3)
    return groups.reshape(dn, -1, side_by_side * work.lanes)


def _bits(entries: np.ndarray, order: np.ndarray) -> np.ndarray:
    """uint8, (bits of an entry, vectors, steps), of entries (vectors, entries, words), in the order of the steps."""
    bits = np.unpackbits(np.ascontiguousarray(entries).view(np.uint8), axis=-1, bitorder="little")
    return np.ascontiguousarray(bits.transpose(2, 0, 1))[:, :, order]
