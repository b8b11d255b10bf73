"""Steps from one vector to the next: widths as ranks, and variables that move together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hardware.schedule import MAX_BITS
from policies.space import Space


class Ranks:
    """Vectors as ranks: the index of every width among its variable's widths.

    Attributes
    ----------
    counts: numpy.ndarray
        int, (variables,): widths of every variable.
    """

    def __init__(self, space: Space) -> None:
        self.counts = np.array([len(variable.widths) for variable in space.variables])
        self._variables = np.arange(len(self.counts))
        self._widths = np.zeros((len(self.counts), MAX_BITS + 1), dtype=int)
        self._ranks = np.zeros((len(self.counts), MAX_BITS + 1), dtype=int)
        for index, variable in enumerate(space.variables):
            self._widths[index, : len(variable.widths)] = variable.widths
            self._ranks[index, list(variable.widths)] = range(len(variable.widths))

    def of(self, vectors: np.ndarray) -> np.ndarray:
        """Ranks of vectors, int (..., variables)."""
        return self._ranks[self._variables, vectors]

    def vectors(self, ranks: np.ndarray) -> np.ndarray:
        """Vectors of ranks, int (..., variables); ranks beyond the ends are the ends."""
        return self._widths[self._variables, np.clip(ranks, 0, self.counts - 1)]


@dataclass(frozen=True)
class Unit:
    """The weights or the activations of one layer: a single variable, or one per group of kernels.

    Parameters
    ----------
    layer, operand:
        As `policies.space.Variable`.
    variables:
        int: their indices in a vector.
    widths:
        Rising; the same for all of them.
    """

    layer: int
    operand: int
    variables: np.ndarray
    widths: tuple[int, ...]


def make_units(space: Space) -> list[Unit]:
    """The units of a space, layer by layer, weights first."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, variable in enumerate(space.variables):
        groups.setdefault((variable.layer, variable.operand), []).append(index)
    return [Unit(*key, np.array(group), space.variables[group[0]].widths) for key, group in groups.items()]


def blocks(units: Sequence[Unit], size: int, count: int, generator: np.random.Generator) -> np.ndarray:
    """Variables that move together: a unit each, or a run of a unit's, of all, a half, a quarter ... of its variables.

    A single kernel of hundreds changes neither accuracy nor cost enough to tell. Pinned units do not move.

    Parameters
    ----------
    size:
        Variables of the space.
    count:
        Rows at the most; units in random order, again from the first where there are fewer and they can be divided.

    Returns
    -------
    int (blocks, variables): 1 where a variable moves. In layer-wise spaces every unit once.
    """
    movable = [unit for unit in units if len(unit.widths) > 1]
    divisible = any(len(unit.variables) > 1 for unit in movable)
    rows = np.zeros((count if divisible else min(count, len(movable)), size), dtype=int)
    order = generator.permutation(len(movable))
    for index, row in enumerate(rows):
        variables = movable[order[index % len(movable)]].variables
        length = max(1, len(variables) >> int(generator.integers(len(variables).bit_length())))
        start = int(generator.integers(len(variables) - length + 1))
        row[variables[start : start + length]] = 1
    return np.unique(rows, axis=0) if divisible else rows
