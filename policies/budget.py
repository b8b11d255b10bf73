"""The latency budget: what a policy costs, and how bits are taken away until it fits.

Inside a search a policy is an int array ``bits`` of shape (layers, 2): weight bits, activation bits. ``table`` is the
(layers, 8, 8) array of `hardware.cost.cost_table`, indexed ``[layer, weight bits - 1, activation bits - 1]``, and
`hardware.oracle.total_cost` prices by it; an infinite entry means that the buffers are too small, and is over every
target.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from hardware.errors import InputError, unknown
from hardware.oracle import total_cost
from hardware.schedule import MAX_BITS

Metric = Literal["latency"]
WEIGHTS, ACTIVATIONS = 0, 1
"""Columns of ``bits``."""


@dataclass(frozen=True)
class Budget:
    """At most ``ratio`` of what the network costs with 8 bits everywhere.

    Parameters
    ----------
    metric:
        What is counted. ``latency``: cycles.
    ratio:
        Share of the cost at 8/8 bits, in (0, 1].

    Raises
    ------
    InputError
        An unknown metric, or a ratio outside (0, 1].
    """

    metric: Metric
    ratio: float

    def __post_init__(self) -> None:
        if self.metric not in get_args(Metric):
            raise unknown("budget metric", self.metric, get_args(Metric))
        if not 0 < self.ratio <= 1:  # also refuses nan
            raise InputError(
                f"a {self.metric} budget is a share of the 8-bit cost, above 0 and at most 1, got {self.ratio:g}: "
                f"write for example {self.metric}=0.6."
            )

    def __str__(self) -> str:
        return f"{self.metric}={self.ratio:g}"


def parse_budget(text: str) -> Budget:
    """The budget that a user wrote as ``metric=ratio``.

    >>> parse_budget("latency=0.6")
    Budget(metric='latency', ratio=0.6)

    Raises
    ------
    InputError
        Not of this form, an unknown metric, not a number, or a ratio outside (0, 1].
    """
    metric, equals, number = (part.strip() for part in text.partition("="))
    if not equals:
        raise InputError(f"expected a budget as metric=ratio, got {text!r}: write for example latency=0.6.")
    if metric not in get_args(Metric):
        raise unknown("budget metric", metric, get_args(Metric))
    try:
        ratio = float(number)
    except ValueError:
        raise InputError(
            f"expected a number after '{metric}=', got {number!r}: write for example {metric}=0.6."
        ) from None
    return Budget(metric, ratio)  # type: ignore[arg-type]  # checked above


def check_budget(budget: Budget, table: np.ndarray, lowest: int, pinned: np.ndarray) -> float:
    """The largest cost in cycles that the budget allows.

    Parameters
    ----------
    lowest:
        Fewest bits a free layer may get.
    pinned:
        bool, (layers,): layers that keep 8/8 bits.

    Raises
    ------
    InputError
        The machine cannot run the network at 8/8 bits, or that costs nothing, so there is nothing to take a share of;
        a layer cannot run at ``lowest`` bits; or the budget is below the cost with every free layer at ``lowest`` bits.
        That message names the lowest budget that works.
    """
    full = float(total_cost(np.full((len(table), 2), MAX_BITS), table))
    if math.isinf(full):
        raise InputError(
            f"budget {budget} is a share of the cost at {MAX_BITS} bits, but the buffers are too small for "
            f"{MAX_BITS} bits in some layer: choose an accelerator with larger buffers."
        )
    if full <= 0:
        raise InputError(
            f"budget {budget} is a share of the cost at {MAX_BITS} bits, which is {full:g}: give a table of real costs."
        )
    least = float(total_cost(np.where(pinned[:, None], MAX_BITS, np.full((1, 2), lowest)), table))
    if math.isinf(least):
        raise InputError(
            f"budget {budget} cannot be reached: some layer has no finite cost at {lowest} bits; raise the lowest bits."
        )
    if budget.ratio * full >= least:
        return budget.ratio * full
    thousandths = math.ceil(1000 * least / full)
    if thousandths / 1000 * full < least:  # the product may round below what the quotient promised
        thousandths += 1
    raise InputError(
        f"budget {budget} cannot be reached: the lowest reachable is {budget.metric}={thousandths / 1000:g} "
        f"(all free layers at {lowest} bits, pinned ones at {MAX_BITS}); ask for that or more."
    )


def back_off(bits: np.ndarray, table: np.ndarray, target: float, lowest: int, pinned: np.ndarray) -> np.ndarray:
    """Take bits away until the policy costs at most ``target``: HAQ's sweep (section 3.3).

    While the cost is over the target: from the last layer to the first, one activation bit, then one weight bit,
    stopping as soon as the target is met. The sweep ends with all free layers at ``lowest`` at the latest, so a target
    that passed `check_budget` is always met, also by a table in which fewer bits sometimes cost more.

    Parameters
    ----------
    bits:
        int, (layers, 2); not changed.
    target:
        Cycles.
    lowest:
        No width goes below this.
    pinned:
        bool, (layers,): layers that never move.

    Returns
    -------
    int, (layers, 2), nowhere wider than ``bits``; ``bits`` itself (a copy) if it already fits.
    """
    bits = bits.copy()
    free = np.flatnonzero(~pinned)[::-1]
    while total_cost(bits, table) > target and (bits[free] > lowest).any():
        for layer in free:
            for operand in (ACTIVATIONS, WEIGHTS):
                if bits[layer, operand] > lowest:
                    bits[layer, operand] -= 1
                    if total_cost(bits, table) <= target:
                        return bits
    return bits
