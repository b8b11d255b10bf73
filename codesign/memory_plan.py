"""Where the tensors of a program lie when those that are never needed together share memory.

A border is written once, with the program, and stands for every image after it. So a tensor with a border shares its
place with such tensors alone whose border is the same words; all others are written whole before they are read, and
share theirs with whatever is not needed meanwhile.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass


@dataclass
class Lifetime:
    """A tensor's size in words, and the steps of the program from its first write to its last read.

    ``shape`` is equal for tensors that hold the same words around what the program writes; None: nothing is around.
    """

    words: int
    first: int
    last: int
    shape: Hashable = None

    def meets(self, other: "Lifetime") -> bool:
        """Whether there is a step in which both are needed."""
        return self.first <= other.last and other.first <= self.last


def plan_memory(tensors: Sequence[Lifetime]) -> tuple[list[int], int]:
    """Word address of every tensor, from 0, and the words that they take together.

    The largest tensor gets its place first, and every one the lowest that is free while it is needed: greedy, as
    finding the smallest memory is NP-hard.
    """
    bases, end = [0] * len(tensors), 0
    for places in _shared(tensors):
        words = tensors[places[0]].words
        for number in places:
            bases[number] = end
        end += words
    placed: list[int] = []
    total = end
    for number in sorted(
        (number for number, one in enumerate(tensors) if one.shape is None), key=lambda number: -tensors[number].words
    ):
        base = end
        for other in sorted((one for one in placed if tensors[one].meets(tensors[number])), key=lambda one: bases[one]):
            if base + tensors[number].words <= bases[other]:
                break
            base = max(base, bases[other] + tensors[other].words)
        bases[number] = base
        placed.append(number)
        total = max(total, base + tensors[number].words)
    return bases, total


def _shared(tensors: Sequence[Lifetime]) -> list[list[int]]:
    """Tensors with borders in groups of which each has one place."""
    groups: list[list[int]] = []
    for number, tensor in enumerate(tensors):
        if tensor.shape is None:
            continue
        for group in groups:
            if tensors[group[0]].shape == tensor.shape and not any(tensors[one].meets(tensor) for one in group):
                group.append(number)
                break
        else:
            groups.append([number])
    return groups
