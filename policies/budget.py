"""Budgets: shares of what 8 bits everywhere cost, and how bits are taken away until a policy fits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hardware.errors import InputError, unknown
from hardware.schedule import MAX_BITS
from policies.costs import METRICS, Costs

NONE = "none"
"""What a user writes for no budget at all."""


@dataclass(frozen=True)
class Budget:
    """At most ``ratio`` of what the network costs with 8 bits everywhere.

    Parameters
    ----------
    shares:
        Metrics and how much each counts; of several, the weighted sum of their ratios is limited.
    ratio:
        Share of the cost at 8/8 bits, in (0, 1].

    Raises
    ------
    InputError
        An unknown metric, a share that is not positive, or a ratio outside (0, 1].
    """

    shares: tuple[tuple[str, float], ...]
    ratio: float

    def __post_init__(self) -> None:
        for metric, share in self.shares:
            if metric not in METRICS:
                raise unknown("budget metric", metric, METRICS)
            if not 0 < share < math.inf:
                raise InputError(f"the share of {metric} in a budget is above 0, got {share:g}: write 0.5*{metric}.")
        if not 0 < self.ratio <= 1:  # also refuses nan
            raise InputError(
                f"a {self.mix} budget is a share of the 8-bit cost, above 0 and at most 1, got {self.ratio:g}: "
                f"write for example {self.mix}=0.6."
            )

    @property
    def mix(self) -> str:
        """The metrics as a user writes them."""
        return "+".join(metric if share == 1 else f"{share:g}*{metric}" for metric, share in self.shares)

    def __str__(self) -> str:
        return f"{self.mix}={self.ratio:g}"


def parse_budgets(text: str) -> tuple[Budget, ...]:
    """The budgets that a user wrote: ``metric=ratio``, mixed metrics, several with commas, or ``none``.

    >>> [str(budget) for budget in parse_budgets("latency=0.6, 0.5*size+0.5*energy=0.4")]
    ['latency=0.6', '0.5*size+0.5*energy=0.4']

    A mix whose shares do not add up to 1 is taken as it is: ``latency+energy=0.8`` limits the sum of both ratios.

    Raises
    ------
    InputError
        Not of this form, an unknown metric, not a number, or a ratio outside (0, 1].
    """
    return () if text.strip() == NONE else tuple(_parse(part.strip()) for part in text.split(","))


def _parse(text: str) -> Budget:
    mix, equals, number = (part.strip() for part in text.partition("="))
    if not equals:
        raise InputError(f"expected a budget as metric=ratio, got {text!r}: write for example latency=0.6.")
    shares = []
    for term in mix.split("+"):
        share, star, metric = (part.strip() for part in term.rpartition("*"))
        shares.append((metric, _number(share, metric) if star else 1.0))
        if metric not in METRICS:
            raise unknown("budget metric", metric, METRICS)
    return Budget(tuple(shares), _number(number, mix))


def _number(text: str, what: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"expected a number for {what!r}, got {text!r}: write for example {what}=0.6.") from None


class Limits:
    """Budgets over the costs of one space: how much of them a policy uses, and the way back into them.

    Raises
    ------
    InputError
        The machine cannot run the network at 8/8 bits, or that costs nothing, so there is nothing to take a share of;
        a layer cannot run at its lowest widths; or a budget is below the cost of the lowest widths. That message names
        the lowest budget that works.
    """

    def __init__(self, budgets: Sequence[Budget], costs: Costs) -> None:
        self.budgets, self.costs = tuple(budgets), costs
        for budget in budgets:
            self._check(budget)

    def used(self, vectors: np.ndarray) -> Any:
        """Share of the tightest budget that vectors (..., variables) use: one number, or (policies,); 0 without any.

        A policy fits if this is at most 1. Infinite where a layer does not fit the buffers.
        """
        used = self.each(vectors).max(axis=-1, initial=0.0)
        if not self.budgets:  # what does not fit the buffers fits no search
            used = np.where(np.isinf(self.costs.cost("latency", vectors)), np.inf, used)
        return used[()]

    def each(self, vectors: np.ndarray) -> np.ndarray:
        """Share of every budget that vectors (..., variables) use: float64, (..., budgets)."""
        each = np.zeros((*vectors.shape[:-1], len(self.budgets)))
        for index, budget in enumerate(self.budgets):
            each[..., index] = self._spent(budget, vectors) / budget.ratio
        return each

    def back_off(self, vector: np.ndarray) -> np.ndarray:
        """Take bits away until the policy fits: HAQ's sweep (Wang et al., CVPR 2019, section 3.3).

        While a budget is exceeded: from the last variable to the first (in a layer: activations, then weights), one
        step down, stopping as soon as all is met. The sweep ends with all variables at their lowest at the latest, so
        budgets that passed the check are always met, also where fewer bits sometimes cost more.

        Returns
        -------
        int, (variables,), nowhere wider than ``vector``; a copy if it already fits.
        """
        vector, space = vector.copy(), self.costs.space
        while self.used(vector) > 1 and (vector > space.narrowest).any():
            for index in reversed(range(len(vector))):
                lower = space.lower(index, int(vector[index]))
                if lower < vector[index]:
                    vector[index] = lower
                    if self.used(vector) <= 1:
                        return vector
        return vector

    def _spent(self, budget: Budget, vectors: np.ndarray) -> Any:
        return sum(share * self.costs.ratio(metric, vectors) for metric, share in budget.shares)

    def _check(self, budget: Budget) -> None:
        for metric, _ in budget.shares:
            self.costs.check(metric)
            full = self.costs.full[metric]
            if math.isinf(full):
                raise InputError(
                    f"budget {budget} is a share of the cost at {MAX_BITS} bits, but the buffers are too small for "
                    f"{MAX_BITS} bits in some layer: choose an accelerator with larger buffers."
                )
            if full <= 0:
                raise InputError(
                    f"budget {budget} is a share of the cost at {MAX_BITS} bits, which is {full:g}: "
                    "give a table of real costs."
                )
        least = float(self._spent(budget, self.costs.space.narrowest))
        if math.isinf(least):
            raise InputError(
                f"budget {budget} cannot be reached: some layer has no finite cost at its lowest bits; raise them."
            )
        if least <= budget.ratio:
            return
        lowest = f"{budget.mix}={math.ceil(1000 * least) / 1000:g}"
        raise InputError(
            f"budget {budget} cannot be reached: the lowest reachable is {lowest} "
            "(every variable at its lowest bits, pinned layers at 8); ask for that or more."
        )
