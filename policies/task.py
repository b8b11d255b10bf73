"""What every agent works on: a space of policies, what they cost, what they are worth, and the budget they keep."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

from hardware.errors import InputError
from policies.budget import Budget, Limits
from policies.costs import Costs
from policies.policy import Policy
from policies.rewards import Reward, haq
from policies.space import Space


class Evaluator(Protocol):
    """Who says how good a policy is. Both figures are fractions in [0, 1]."""

    @property
    def reference_accuracy(self) -> float:
        """Accuracy of the network before quantization."""
        ...

    def accuracy(self, policy: Policy) -> float:
        """Accuracy of the network under ``policy``; the same policy always gives the same figure."""
        ...


@dataclass(frozen=True)
class Outcome:
    """What became of one candidate.

    Parameters
    ----------
    vector:
        int, (variables,): as evaluated, within the budget.
    accuracy:
        Fraction.
    reward:
        By the task's reward.
    cost:
        Latency in cycles.
    ratios:
        By metric, the cost over that at 8/8 bits.
    budget_used:
        Share of the tightest budget, at most 1.
    cached:
        The policy had been evaluated before.
    """

    vector: np.ndarray = field(repr=False)
    accuracy: float
    reward: float
    cost: float
    ratios: dict[str, float]
    budget_used: float
    cached: bool

    def row(self, space: Space) -> dict[str, Any]:
        """One row of a results table."""
        values = asdict(self)
        vector, ratios = values.pop("vector"), values.pop("ratios")
        return values | {f"{metric}_ratio": ratio for metric, ratio in ratios.items()} | {"bits": space.text(vector)}


class Task:
    """One search problem. Agents differ only in which candidates they ask it to `evaluate`.

    Parameters
    ----------
    costs:
        Of the space's policies.
    evaluator:
        Judges the policies; each is evaluated once, see `evaluations`.
    budgets:
        What a policy may cost; every evaluated policy fits them all.
    reward:
        What is maximized.
    weight_deviation:
        float, (layers,): standard deviation of each layer's weights, which ReLeQ's agent is told; zeros if not known.
    kernel_deviations:
        For every layer float, (kernels,): the same of every kernel's weights, which AutoQ's agent is told; zeros if
        not known.

    Attributes
    ----------
    evaluations: dict[str, float]
        Accuracy of every policy evaluated so far, by its `Space.text`. Assign a saved dictionary to answer from it
        after a resume, or one dictionary to several tasks that differ in budget and agent only.
    asked: set[str]
        Policies that this task was asked for: ``len(task.asked)`` is what a search has cost.

    Raises
    ------
    InputError
        A budget that cannot be reached, or deviations that are not one per kernel.
    """

    def __init__(
        self,
        costs: Costs,
        evaluator: Evaluator,
        budgets: tuple[Budget, ...] = (),
        reward: Reward = haq,
        weight_deviation: np.ndarray | None = None,
        kernel_deviations: Sequence[np.ndarray] | None = None,
    ) -> None:
        self.space, self.costs, self.limits = costs.space, costs, Limits(budgets, costs)
        self.evaluator, self.reward = evaluator, reward
        self.reference_accuracy = evaluator.reference_accuracy
        layers = len(self.space.layers)
        self.weight_deviation = np.zeros(layers) if weight_deviation is None else np.asarray(weight_deviation)
        kernels = [layer.out_channels for layer in self.space.layers]
        given = [np.zeros(count) for count in kernels] if kernel_deviations is None else kernel_deviations
        self.kernel_deviations = [np.asarray(deviations, dtype=float) for deviations in given]
        if [deviations.shape for deviations in self.kernel_deviations] != [(count,) for count in kernels]:
            raise InputError(
                f"expected deviations of the kernels of {layers} layers, one per kernel, got shapes "
                f"{[deviations.shape for deviations in self.kernel_deviations]}: make them from this network."
            )
        self.evaluations: dict[str, float] = {}
        self.asked: set[str] = set()

    def evaluate(self, vector: np.ndarray) -> Outcome:
        """Back the candidate off into the budget, and find out what it is worth.

        Parameters
        ----------
        vector:
            int, (variables,); not changed.

        Raises
        ------
        InputError
            The evaluator's accuracy is not a fraction.
        """
        vector = self.limits.back_off(vector)
        key = self.space.text(vector)
        cached = key in self.asked
        if key not in self.evaluations:
            self.evaluations[key] = self._accuracy(self.space.policy(vector))
        self.asked.add(key)
        accuracy, ratios = self.evaluations[key], self.costs.ratios(vector)
        return Outcome(
            vector=vector,
            accuracy=accuracy,
            reward=float(self.reward(accuracy, self.reference_accuracy, ratios)),
            cost=float(self.costs.cost("latency", vector)),
            ratios=ratios,
            budget_used=float(self.limits.used(vector)),
            cached=cached,
        )

    def _accuracy(self, policy: Policy) -> float:
        accuracy = self.evaluator.accuracy(policy)
        if not 0 <= accuracy <= 1:
            raise InputError(
                f"expected the evaluator's accuracy as a fraction in [0, 1], got {accuracy:g}: divide percentages "
                "by 100."
            )
        return accuracy
