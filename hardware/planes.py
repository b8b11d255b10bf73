"""The order in which the machine multiplies bit planes."""

from functools import lru_cache

import numpy as np


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
