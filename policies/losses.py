"""What every width loses of the accuracy, fitted to the accuracies of whole policies.

The logarithm of a policy's accuracy is taken to be a sum over units, the weights or the activations of one layer, and
every unit's loss to rise from each width to the next lower one, by any non-negative amount. Few of these rises have
been measured on their own; the others are expected to follow a unit's sensitivity by a factor of `NOISE` per bit, as
the power of quantization noise does. Non-negative least squares (Lawson and Hanson, 1974) finds the rises, in two
passes: sensitivities alone, then rises that agree with the answers and stay near what the sensitivities say.
"""

from collections.abc import Sequence

import numpy as np
from scipy import optimize

from policies.moves import Unit
from policies.replay import Answer

NOISE = 4.0
"""How much of the noise, and so of the loss, one bit takes away."""
FLOOR = 0.01
"""Loss below which all losses are fitted alike; above it, the relative deviation counts."""
TRUST = 10.0
"""How many times more the deviation from an answer counts than one from the expected shape."""
LEAST = 0.01
"""Least sensitivity, of the mean: no bit is free."""
CHANCE = 1e-3
"""Accuracies below count as this one, whose logarithm is finite."""


def fit_losses(units: Sequence[Unit], answers: Sequence[Answer]) -> list[np.ndarray]:
    """Losses of the logarithm of the accuracy, by unit and by width, the widest at 0; falling and not negative."""
    vectors = np.stack([answer.vector for answer in answers])
    accuracies = np.maximum([answer.accuracy for answer in answers], CHANCE)
    loss = np.log(accuracies.max() / accuracies)
    # Which rises a policy has taken: the share of the unit's variables that lie below the width.
    taken = np.concatenate(
        [(vectors[:, unit.variables, None] < unit.widths[1:]).mean(axis=1) for unit in units], axis=1
    )
    owner = np.repeat(np.arange(len(units)), [len(unit.widths) - 1 for unit in units])
    shape = np.concatenate([-np.diff(NOISE ** -np.array(unit.widths, dtype=float)) for unit in units])
    by_unit = (owner[:, None] == np.arange(len(units))) * shape[:, None]  # (rises, units)

    # The best answer is not lossless either: the last unknown is what it loses.
    offset = np.full((len(answers), 1), -1.0)
    weight = TRUST / (FLOOR + loss)
    sensitivity = _solve(np.hstack([taken @ by_unit, offset]), loss, weight)[:-1]
    seen = np.ptp(taken, axis=0) > 0
    seen = np.array([seen[owner == index].any() for index in range(len(units))], dtype=bool)
    mean = sensitivity[seen].mean() if seen.any() else 1.0
    sensitivity = np.where(seen, np.maximum(sensitivity, LEAST * mean), mean)

    expected = by_unit @ sensitivity
    rises = _solve(
        np.vstack([np.hstack([taken, offset]), np.eye(len(expected), len(expected) + 1)]),
        np.concatenate([loss, expected]),
        np.concatenate([weight, 1 / (FLOOR + expected)]),
    )[:-1]
    rises = np.maximum(rises, LEAST * mean * shape)
    return [np.append(rises[owner == index][::-1].cumsum()[::-1], 0.0) for index in range(len(units))]


def _solve(matrix: np.ndarray, right: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted non-negative least squares, of columns scaled alike."""
    matrix, right = matrix * weight[:, None], right * weight
    scale = np.maximum(np.linalg.norm(matrix, axis=0), 1e-12)
    solution, _ = optimize.nnls(matrix / scale, right)
    return solution / scale
