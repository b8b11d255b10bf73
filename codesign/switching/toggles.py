"""What switches in an array while an output tile passes: toggles of its nets, from the vectors at its inputs."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hardware.passes import Pass


@dataclass(frozen=True, eq=False)
class Tile:
    """The steps of an output tile, and behind them the one that reads the row tile's constants, if there is one.

    Parameters
    ----------
    work, weight_bits, signed_weights, signed_activations:
        Whose tile it is, and what its operands mean.
    left:
        uint8, (bits of an entry, rows, steps): bits of the rows that are followed.
    right:
        The same of the columns.
    steps:
        Steps that multiply.
    """

    work: Pass
    weight_bits: int
    signed_weights: bool
    signed_activations: bool
    left: np.ndarray
    right: np.ndarray
    steps: int


@dataclass(frozen=True, eq=False)
class Nets:
    """What an array's nets hold in every step of a tile.

    Parameters
    ----------
    values:
        By name, (..., steps): bits as uint8, or integers in two's complement, of which so many bits as ``widths`` says
        are there, or 32. What is behind a blank only tells nets of one name apart. Of all units; if the name begins
        with ``row`` or ``column``, of all rows or columns.
    controls:
        Control bits by name, (steps,): of all units, or of all columns likewise.
    """

    values: dict[str, np.ndarray]
    widths: dict[str, int]
    controls: dict[str, np.ndarray]


@dataclass(frozen=True)
class ArraySwitching:
    """How vectors come to a kind of array, and what they do there.

    Parameters
    ----------
    order:
        From a pass and weight bits: which entries of a row tile and of a column tile each step takes, int64 ``(2,
        steps)``.
    nets:
        Of a tile.
    """

    order: Callable[[Pass, int], np.ndarray]
    nets: Callable[[Tile], Nets]


def tile_switching(array: ArraySwitching, tile: Tile, before: dict[str, np.ndarray]) -> Counter[str]:
    """Toggles of one tile's steps by name; ``before`` holds what was there before and is brought up to date."""
    nets = array.nets(tile)
    rows, columns = tile.left.shape[1], tile.right.shape[1]
    toggles: Counter[str] = Counter()
    for name, values in {"row_bits": tile.left, "column_bits": tile.right, **nets.values}.items():
        group = name.split()[0]
        toggles[group] += _toggles(values, before.get(name), nets.widths.get(name, 32))
        before[name] = values[..., -1]
    for name, control in nets.controls.items():
        pins = columns if name.startswith("column") else rows * columns
        toggles[name] += pins * int((control[1:] != control[:-1]).sum() + (control[0] != control[-1]))
    fans = tile.work.dm / rows, tile.work.dn / columns
    return Counter({name: _fan(name, *fans) * count for name, count in toggles.items()})


def accumulate(numbers: np.ndarray, shift: np.ndarray, enable: np.ndarray) -> np.ndarray:
    """The accumulators after every step: Horner's scheme, in which a number weighs as much as shifts follow."""
    shifts = np.cumsum(shift & enable)
    left = shifts[-1] - shifts
    return np.cumsum(np.where(enable, numbers, 0) << left, axis=-1) >> left


def _fan(name: str, rows: float, columns: float) -> float:
    """For how many toggles one stands that was followed."""
    if name.startswith("column"):
        return columns
    return rows if name.startswith("row") else rows * columns


def _toggles(values: np.ndarray, before: Any, width: int) -> int:
    """Bits that change from step to step; of integers, of their lower ``width`` bits."""
    changes = values[..., 1:] ^ values[..., :-1]
    count = int(np.count_nonzero(changes) if values.dtype == np.uint8 else _ones(changes, width))
    if before is not None:
        count += _ones(values[..., 0] ^ before, width)
    return count


def _ones(changes: np.ndarray, width: int) -> int:
    return int(np.bitwise_count(changes & ((1 << width) - 1) if changes.dtype != np.uint8 else changes).sum())
