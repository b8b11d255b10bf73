"""The way from learned bits into the budgets: take bits away where the task feels it least for what it saves.

A loss is a wish; a budget is met exactly only by whole bits. While one is exceeded, the variable is taken a step down
whose expected loss is least, per saving. The loss of a step is the task's gradient with respect to the bits times the
bits taken away, and grows by `NOISE` with every bit taken since the gradient was measured, as the power of quantization
noise does. The saving is the real difference of the machine's costs, as far as it is needed: a machine may save nothing
by a bit, or even need longer. Where training has converged against a penalty, all these ratios are alike, and the order
says little; but then few steps are missing.

Beside the optima of 100 random machines of three layers whose costs rise with every bit, from 8 bits to 40 % of the
latency, with losses that are ``sensitivity * 4 ** -bits``: 1.7 % above the least loss on average, 19 % at most (HAQ's
sweep: 2.9 times the least loss). Of machines whose costs are in no order: 7.6 %, and twice the least loss at most.
"""

from collections.abc import Sequence

import numpy as np

from hardware.errors import InputError
from hardware.schedule import MAX_BITS
from policies.budget import Limits

NOISE = 4.0
"""How much a bit's loss grows with every bit taken away."""


def repair(
    vector: np.ndarray,
    sensitivity: np.ndarray,
    limits: Limits,
    widths: Sequence[Sequence[int]] | None = None,
    fill: bool = False,
) -> np.ndarray:
    """Take bits away until all budgets are met; then give back what fits after all, the most for its costs first.

    One variable goes one step down, if that saves anything in any exceeded budget; if no such step does, to any
    narrower width that does; and if nothing saves, where going on is cheapest. So no move is to a higher cost while a
    cheaper choice is there, and it ends at the narrowest widths at the latest.

    Parameters
    ----------
    vector:
        int, (variables,); not changed.
    sensitivity:
        (variables,): the task loss's derivatives with respect to the bits, at ``vector``; their magnitudes count.
    limits:
        Budgets over the costs of a space.
    widths:
        Rising widths per variable, as of `LearnedBits.widths`; None for the space's own. A variable with a single one
        is never touched.
    fill:
        Spend what is left of the budgets on bits beyond ``vector``. A one-sided loss stops anywhere below a budget, and
        steps are coarse, so without this a part of the budget is wasted.

    Returns
    -------
    int, (variables,); nowhere wider than ``vector`` unless ``fill``, and a copy of it if it already fits.

    Raises
    ------
    InputError
        Other shapes, sensitivities that are not finite, bits that are none of the widths, or budgets that even the
        narrowest widths exceed.
    """
    choices = [variable.widths for variable in limits.costs.space.variables] if widths is None else list(widths)
    _check(vector, sensitivity, choices)
    _check_reachable(limits, choices)
    here, loss = vector.copy(), np.abs(sensitivity)
    while limits.used(here) > 1:
        here = _step_down(here, vector, loss, limits, choices)
    highest = np.array([some[-1] for some in choices]) if fill else vector
    while (wider := _step_up(here, vector, loss, limits, choices, highest)) is not None:
        here = wider
    return here


def shift(bits: np.ndarray, limits: Limits, widths: Sequence[Sequence[int]]) -> np.ndarray:
    """Move real-valued bits all alike, as far up as the budgets let them: what somebody does who knows no machine.

    Parameters
    ----------
    bits:
        float, (variables,).
    limits, widths:
        As of `repair`.

    Returns
    -------
    int, (variables,): the widths nearest to ``bits + offset`` of the largest offset found by bisection.

    Raises
    ------
    InputError
        Budgets that even the narrowest widths exceed.
    """

    def at(offset: float) -> np.ndarray:
        moved = bits + offset
        return np.array([min(some, key=lambda w: (abs(w - one), -w)) for some, one in zip(widths, moved, strict=True)])

    _check_reachable(limits, widths)
    low, high = -float(MAX_BITS), float(MAX_BITS)
    if limits.used(at(high)) <= 1:
        return at(high)
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if limits.used(at(middle)) <= 1 else (low, middle)
    return at(low)


def _check_reachable(limits: Limits, widths: Sequence[Sequence[int]]) -> None:
    narrowest = float(limits.used(np.array([some[0] for some in widths])))
    if narrowest > 1:
        raise InputError(
            f"even the narrowest bits use {narrowest:.4g} times their budget ({', '.join(map(str, limits.budgets))}): "
            "ask for a larger budget, or give pinned layers fewer bits."
        )


def _step_down(
    here: np.ndarray, start: np.ndarray, loss: np.ndarray, limits: Limits, choices: Sequence[Sequence[int]]
) -> np.ndarray:
    """The best policy with fewer bits in one variable."""
    moves = [(i, width) for i, some in enumerate(choices) for width in some if width < here[i]]
    index, candidates = _moved(here, moves)
    next_to = np.append(index[1:] != index[:-1], True)  # widths rise: a variable's last is one step down
    with np.errstate(invalid="ignore"):  # where neither fits the buffers
        saving = np.nan_to_num(_excess(limits, here) - _excess(limits, candidates), nan=0.0)
    for chosen in (next_to & (saving > 0), saving > 0, next_to & (saving == saving[next_to].max())):
        if chosen.any():
            break
    lost = (_loss(candidates, start, loss) - _loss(here, start, loss))[chosen]
    price = lost / np.where(saving > 0, saving, 1.0)[chosen]
    return candidates[chosen][np.lexsort((-saving[chosen], lost, price))[0]]


def _step_up(
    here: np.ndarray,
    start: np.ndarray,
    loss: np.ndarray,
    limits: Limits,
    choices: Sequence[Sequence[int]],
    highest: np.ndarray,
) -> np.ndarray | None:
    """The best policy that fits with more bits in one variable; None if no such fits."""
    moves = [(i, width) for i, some in enumerate(choices) for width in some if here[i] < width <= highest[i]]
    if not moves:
        return None
    _, candidates = _moved(here, moves)
    candidates = candidates[limits.used(candidates) <= 1]
    if not len(candidates):
        return None
    gain = _loss(here, start, loss) - _loss(candidates, start, loss)
    needs = limits.each(candidates).sum(-1) - limits.each(here).sum(-1)
    free = needs <= 0
    return candidates[np.lexsort((-gain, np.where(free, -np.inf, -gain / np.where(free, 1.0, needs))))[0]]


def _moved(here: np.ndarray, moves: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Which variable each move changes, (moves,), and what comes of it, (moves, variables)."""
    index, width = np.array(moves).T
    candidates = np.tile(here, (len(moves), 1))
    candidates[np.arange(len(moves)), index] = width
    return index, candidates


def _loss(vectors: np.ndarray, start: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Expected loss of vectors (..., variables) against ``start``: its derivative for the first bit, then growing."""
    return ((NOISE ** (start - vectors) - 1) / (NOISE - 1)) @ loss


def _excess(limits: Limits, vectors: np.ndarray) -> np.ndarray:
    """By how much vectors (..., variables) exceed their budgets, added up."""
    return np.maximum(limits.each(vectors) - 1, 0).sum(-1)


def _check(vector: np.ndarray, sensitivity: np.ndarray, choices: Sequence[Sequence[int]]) -> None:
    if vector.shape != (len(choices),) or sensitivity.shape != vector.shape or not np.isfinite(sensitivity).all():
        raise InputError(
            f"expected bits and finite sensitivities of {len(choices)} variables, got shapes {vector.shape} and "
            f"{sensitivity.shape}: give every variable one of each."
        )
    for index, some in enumerate(choices):
        if vector[index] not in some:
            raise InputError(f"variable {index} has {vector[index]} bits, expected one of {list(some)}: round it.")
