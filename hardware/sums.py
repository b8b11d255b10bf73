"""Sums over tables (layers, weight bits, activation bits) for thousands of policies in one call.

They are loops that Numba compiles at their first call, and keeps on disk for the next process: one policy is priced
sooner so than NumPy starts a few calls.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit

from hardware.errors import InputError
from hardware.kernel_wise import WIDTHS, as_integers
from hardware.schedule import MAX_BITS


def total_cost(policies: np.ndarray, table: np.ndarray) -> Any:
    """What a layer-wise policy costs, or many in one call.

    Parameters
    ----------
    policies:
        int, (layers, 2) for one policy or (policies, layers, 2): weight bits, activation bits (1 to 8).
    table:
        float64 cycles or joules, (layers, 8, 8) for weight bits 1 to 8 or (layers, 9, 8) for 0 to 8.

    Returns
    -------
    float64: one number, or (policies,). Infinite where a layer does not fit the buffers.

    Raises
    ------
    InputError
        Another shape, or a width that the table does not hold, which would silently read another entry (HAQ's code
        prices its first layer so).
    """
    policies = as_integers(policies)
    if policies.shape[-2:] != (len(table), 2) or policies.ndim > 3:
        raise InputError(
            f"expected policies of shape (policies, {len(table)}, 2), got {policies.shape}: give every layer its "
            "weight and activation bits."
        )
    costs = np.empty(len(policies) if policies.ndim == 3 else 1)
    if not _sum_layers(policies if policies.ndim == 3 else policies[None], table, costs):
        lowest = MAX_BITS + 1 - table.shape[1]
        weights, activations = policies[..., 0], policies[..., 1]
        raise InputError(
            f"the cost table holds widths {lowest} to {MAX_BITS} of weights and 1 to {MAX_BITS} of activations, got "
            f"{weights.min()} to {weights.max()} and {activations.min()} to {activations.max()}: "
            "price pruned kernels from their schedule instead."
        )
    return costs if policies.ndim == 3 else costs[0]


def mean_cost(counts: np.ndarray, activation_bits: np.ndarray, table: np.ndarray, kernels: Sequence[int]) -> Any:
    """What kernel-wise policies cost, if every layer costs the mean over its kernels of the entries at their widths.

    Parameters
    ----------
    counts:
        int, (layers, 9) for one policy or (policies, layers, 9): kernels at each width 0 to 8.
    activation_bits:
        int, (layers,) or (policies, layers); 1 to 8.
    table:
        As of `total_cost`.
    kernels:
        Of each layer.

    Returns
    -------
    float64: one number, or (policies,).

    Raises
    ------
    InputError
        Other shapes, activation bits out of range, counts that are not the layer's kernels, or a width that the table
        does not hold.
    """
    counts, activation_bits = as_integers(counts), as_integers(activation_bits)
    if counts.shape[-2:] != (len(table), WIDTHS) or activation_bits.shape != counts.shape[:-1] or counts.ndim > 3:
        raise InputError(
            f"expected counts of shape (policies, {len(table)}, {WIDTHS}) and activation bits of shape "
            f"(policies, {len(table)}), got {counts.shape} and {activation_bits.shape}: make them from these layers."
        )
    batch = counts.reshape(-1, len(table), WIDTHS), activation_bits.reshape(-1, len(table))
    costs = np.empty(len(batch[0]))
    if not _sum_kernels(*batch, table, as_integers(kernels), costs):
        raise InputError(
            f"expected activation bits of 1 to {MAX_BITS} and every kernel of every layer counted once, none with less "
            f"than {MAX_BITS + 1 - table.shape[1]} bits, got other bits or numbers: make the counts with `histogram`."
        )
    return costs if counts.ndim == 3 else costs[0]


@njit(cache=True)
def _sum_layers(policies: np.ndarray, table: np.ndarray, costs: np.ndarray) -> bool:  # pragma: no cover - compiled
    """Sum each policy's entries; False at a width that the table does not hold."""
    rows = table.shape[1]
    first = MAX_BITS + 1 - rows
    for policy in range(len(policies)):
        cost = 0.0
        for layer in range(len(table)):
            w, a = policies[policy, layer, 0] - first, policies[policy, layer, 1] - 1
            if w < 0 or w >= rows or a < 0 or a >= MAX_BITS:
                return False
            cost += table[layer, w, a]
        costs[policy] = cost
    return True


@njit(cache=True)
def _sum_kernels(  # pragma: no cover - compiled
    counts: np.ndarray, activation_bits: np.ndarray, table: np.ndarray, kernels: np.ndarray, costs: np.ndarray
) -> bool:
    """Sum each policy's means; False at wrong activation bits, widths or numbers of kernels."""
    first = MAX_BITS + 1 - table.shape[1]
    for policy in range(len(counts)):
        cost = 0.0
        for layer in range(len(table)):
            a = activation_bits[policy, layer] - 1
            if a < 0 or a >= MAX_BITS:
                return False
            done, total = 0, 0.0
            for width in range(WIDTHS):
                count = counts[policy, layer, width]
                if count < 0 or count > kernels[layer] - done or (count and width < first):
                    return False
                if count:  # none of infinitely many joules is nothing
                    done += count
                    total += count * table[layer, width - first, a]
            if done != kernels[layer]:
                return False
            cost += total / done
        costs[policy] = cost
    return True
