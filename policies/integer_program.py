"""Sensitivities, and an integer program over them: the bits that lose least within the budget.

After HAWQ-V3 (Yao et al., "HAWQ-V3: Dyadic neural network quantization", ICML 2021): every layer has one binary
variable per choice of widths, exactly one of which is 1; what the choices lose adds up and is minimized, what they cost
adds up and is limited. `scipy.optimize.milp` (HiGHS) solves it to optimality.

HAWQ-V3 takes the losses from second derivatives. Here they come from measured accuracies, of policies that fit the
budget, since no others are ever evaluated:

1. The first episode asks for the widest policy, which the task backs off: the anchor. Then one layer's weights or
   activations after the other are lowered from there, the rest kept: all by one step, for at most half of the run; then
   halfway to the lowest width, then to the lowest, for as long as that takes at most a quarter.
2. The losses of all widths are fitted to everything asked so far (`policies.losses`).
3. The integer program is solved over the losses. If its optimum has been asked for, it is solved again with the losses
   of every unit multiplied by ``exp(k * DOUBT * normal)`` in the k-th attempt, until the optimum is a new policy, whose
   answer refines the losses of the next episode. If all attempts fail, as in small spaces, the policies asked before
   are cut off, one constraint each, which gives a new one as long as there is any; after that any is asked for. (Cuts
   alone enumerate policies that all but equal one another, and a proof soon takes seconds.)

What adds up is the logarithm of the accuracy: every choice takes a factor from it. Rewards that also depend on cost
(ReLeQ's) are maximized by solving for `CAPS` caps on that cost, and asking for the policy of the highest predicted
reward. In spaces finer than layers all kernels of a layer get the same width; nothing finer is asked for.
"""

import itertools
import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from scipy import optimize, sparse

from hardware.errors import InputError
from hardware.schedule import MAX_BITS
from policies.losses import fit_losses
from policies.moves import make_units
from policies.replay import ReplayAgent
from policies.task import Task

CAPS = 12
"""Levels of cost at which a reward that depends on it is looked for."""
ATTEMPTS, DOUBT = 10, 0.2
"""How often other losses are tried until the optimum is a new policy, and how much further they spread each time."""
BEST_CAPS = 3
"""Caps that are still tried after the first attempt."""
SLACK = 1e-5
"""Share of the budgets that is given up where the solver's tolerance let pass what does not fit."""

Cap = tuple[list[np.ndarray], float] | None
"""What the choices of every layer take of something, and how much there is."""


class IntegerProgramAgent(ReplayAgent):
    """Measures, fits, solves, asks; the history alone says what is next.

    Raises
    ------
    InputError
        The task's latency does not add up over the layers.
    """

    name: ClassVar[str] = "ilp"
    walks: ClassVar[bool] = False

    def __init__(self, task: Task, episodes: int, seed: int) -> None:
        if not task.costs.additive:
            raise InputError(
                "the integer program needs latencies that add up over the layers, which those of co-design do not: "
                "choose another agent."
            )
        super().__init__(task, episodes, seed)
        self._units = make_units(self.space)
        by_layer = [list(group) for _, group in itertools.groupby(self._units, key=lambda unit: unit.layer)]
        self._choices = [list(itertools.product(*(unit.widths for unit in units))) for units in by_layer]
        """Per layer, the widths of its weights, or of its weights and activations."""
        self._metrics = _metrics(task)

    def propose(self) -> np.ndarray:
        """The next policy: a measurement, or the best of the integer program."""
        if not self.answers:
            return self.space.widest
        for lowered in self._measurements():
            if self.space.text(lowered) not in self.answers:
                return lowered
        losses = fit_losses(self._units, list(self.answers.values()))
        best = max(answer.accuracy for answer in self.answers.values())
        generator = np.random.default_rng([self.seed, len(self._history)])
        caps = self._caps()
        for attempt in range(ATTEMPTS):
            doubt = np.exp(attempt * DOUBT * generator.standard_normal(len(losses)))
            doubted = [loss * factor for loss, factor in zip(losses, doubt, strict=True)]
            solved = self._solutions(doubted, caps, best)
            if solved and self.space.text(solved[0][1]) not in self.answers:
                return solved[0][1]
            caps = [cap for cap, _ in solved[:BEST_CAPS]]  # further attempts only where the reward is high
        cuts = [chosen for answer in self.answers.values() if (chosen := self._chosen(answer.vector)) is not None]
        solved = self._solutions(losses, self._caps(), best, cuts)
        return solved[0][1] if solved else next(self.ask_any(generator))

    def _solutions(
        self, losses: list[np.ndarray], caps: Sequence[Cap], best: float, cuts: Sequence[list[int]] = ()
    ) -> list[tuple[Cap, np.ndarray]]:
        """The optimum under every cap that leaves one, the highest predicted reward first."""
        by_layer = self._by_layer(losses)
        solved = [(cap, vector) for cap in caps if (vector := self._solve(by_layer, cap, cuts)) is not None]
        return sorted(solved, key=lambda pair: -self._reward(pair[1], losses, best))

    def _measurements(self) -> list[np.ndarray]:
        """The anchor, and what is measured around it."""
        first = next(iter(self.answers.values())).vector
        anchor = self._vector([int(first[unit.variables].min()) for unit in self._units])
        lowered = [anchor]
        for share in (None, 0.5, 1.0):
            for unit in self._units:
                rank = unit.widths.index(int(anchor[unit.variables[0]]))
                lower = rank - (1 if share is None else round(share * rank))
                vector = anchor.copy()
                vector[unit.variables] = unit.widths[max(lower, 0)]
                if self.task.limits.used(vector) <= 1:
                    lowered.append(vector)
        distinct = list({self.space.text(vector): vector for vector in lowered}.values())
        most = max(self.episodes // 4, min(1 + len(self._units), self.episodes // 2), 1)
        return distinct[:most]

    def _vector(self, widths: Sequence[int]) -> np.ndarray:
        """Widths of the units as a vector."""
        vector = self.space.widest.copy()
        for unit, width in zip(self._units, widths, strict=True):
            vector[unit.variables] = width
        return vector

    def _by_layer(self, losses: list[np.ndarray]) -> list[np.ndarray]:
        """Losses by unit and width as losses by layer and choice."""
        remaining = iter(losses)
        return [
            np.array([sum(parts) for parts in itertools.product(*(next(remaining) for _ in choices[0]))])
            for choices in self._choices
        ]

    def _chosen(self, vector: np.ndarray) -> list[int] | None:
        """Index of the choice of every layer; None if the kernels of a layer differ."""
        if any(np.ptp(vector[unit.variables]) for unit in self._units):
            return None
        widths = iter(int(vector[unit.variables[0]]) for unit in self._units)
        return [choices.index(tuple(next(widths) for _ in choices[0])) for choices in self._choices]

    def _prices(self, shares: Sequence[tuple[str, float]]) -> list[np.ndarray]:
        """Weighted sum of shares of the network's 8-bit costs, by layer and choice."""
        prices = [np.zeros(len(choices)) for choices in self._choices]
        for metric, share in shares:
            table, full = self.task.costs.tables[metric], self.task.costs.full[metric]
            lowest = MAX_BITS + 1 - table.shape[1]
            for price, rows, choices in zip(prices, table, self._choices, strict=True):
                # Without a choice of activation bits they are the highest, in the last column.
                price += [share * rows[weights - lowest, (*rest, MAX_BITS)[0] - 1] / full for weights, *rest in choices]
        return prices

    def _caps(self) -> list[Cap]:
        """Caps on the cost that the reward depends on, from the narrowest policy's to the widest's, or none."""
        if not self._metrics:
            return [None]
        shares = [(metric, 1 / len(self._metrics)) for metric in self._metrics]
        prices = self._prices(shares)
        low, high = sum(price.min() for price in prices), sum(price.max() for price in prices)
        return [(prices, cap) for cap in np.linspace(low, high, CAPS)]

    def _solve(self, losses: list[np.ndarray], cap: Cap, cuts: Sequence[list[int]]) -> np.ndarray | None:
        """The vector that loses least among those that fit and are not cut off."""
        limits = [(self._prices([("latency", 1.0)]), np.inf)]  # a layer that does not fit the buffers is no choice
        limits += [cap] if cap else []
        for slack in (0.0, SLACK):
            budgets = [(self._prices(one.shares), one.ratio * (1 - slack)) for one in self.task.limits.budgets]
            chosen = solve(losses, limits + budgets, cuts)
            if chosen is None:
                return None
            vector = self._choice(chosen)
            if self.task.limits.used(vector) <= 1:
                return vector
        return None

    def _choice(self, chosen: list[int]) -> np.ndarray:
        """The vector of one choice per layer."""
        return self._vector(
            [width for choices, index in zip(self._choices, chosen, strict=True) for width in choices[index]]
        )

    def _reward(self, vector: np.ndarray, losses: list[np.ndarray], best: float) -> float:
        """The predicted reward."""
        loss = sum(
            float(by_width[unit.widths.index(int(vector[unit.variables[0]]))])
            for unit, by_width in zip(self._units, losses, strict=True)
        )
        accuracy = min(best * math.exp(-loss), 1.0)
        return self.task.reward(accuracy, self.task.reference_accuracy, self.task.costs.ratios(vector))


def solve(
    losses: Sequence[np.ndarray],
    limits: Sequence[tuple[Sequence[np.ndarray], float]],
    cuts: Sequence[Sequence[int]] = (),
) -> list[int] | None:
    """One choice per layer with the least sum of losses.

    Parameters
    ----------
    losses:
        By layer, of its choices.
    limits:
        What the choices take of something, by layer, and how much there is. Infinite: not to be chosen.
    cuts:
        Selections that are not allowed.

    Returns
    -------
    The index of every layer's choice; None if no selection is allowed.
    """
    loss = np.concatenate(losses)
    owner = np.repeat(np.arange(len(losses)), [len(layer) for layer in losses])
    starts = np.searchsorted(owner, np.arange(len(losses)))
    constraints = [
        optimize.LinearConstraint(sparse.csr_array(owner == np.arange(len(losses))[:, None], dtype=float), 1, 1)
    ]
    allowed = np.ones(len(loss))
    for prices, limit in limits:
        price = np.concatenate(prices)
        allowed[np.isinf(price)] = 0
        if np.isfinite(limit):
            row = np.where(np.isinf(price), 0.0, price / limit)
            constraints.append(optimize.LinearConstraint(row[None], -np.inf, 1))
    if cuts:
        rows = np.zeros((len(cuts), len(loss)))
        np.put_along_axis(rows, starts + np.array(cuts), 1.0, axis=1)
        constraints.append(optimize.LinearConstraint(sparse.csr_array(rows), -np.inf, len(losses) - 1))
    # HiGHS stops within 1e-6 of the optimum, whatever the scale: make that small.
    scale = 1000 / max(float(np.abs(loss).max()), 1e-12)
    found = optimize.milp(
        loss * scale,
        integrality=np.ones(len(loss)),
        bounds=optimize.Bounds(0, allowed),
        constraints=constraints,
        options={"mip_rel_gap": 0.0},
    )
    return None if found.x is None else [int(part.argmax()) for part in np.split(found.x, starts[1:])]


def _metrics(task: Task) -> list[str]:
    """The metrics that the reward depends on, found by asking it."""
    full = dict.fromkeys(task.costs.tables, 1.0)
    reference = task.reference_accuracy
    reward = task.reward(reference, reference, full)
    return [metric for metric in full if task.reward(reference, reference, full | {metric: 0.5}) != reward]
