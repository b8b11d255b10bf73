"""What the runs of a comparison found: the best policy after so many evaluations, and how far it is from the best."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.task import Outcome, Task

EPISODES = 3
"""Episodes that a run may take per evaluation."""
EQUAL = 1e-9
"""Rewards that differ by less are equal."""


@dataclass(frozen=True)
class Run:
    """What one agent with one seed asked for.

    Parameters
    ----------
    policies:
        Distinct, as `policies.space.Space.text`, in the order in which they were first asked for.
    at_episode:
        Episode, from 1, in which each was.
    at_second:
        Seconds of the run until each, without those of the evaluator.
    episodes:
        Episodes begun.
    """

    agent: str
    seed: int
    policies: list[str]
    at_episode: list[int]
    at_second: list[float]
    episodes: int

    def asked(self, evaluations: int) -> int:
        """How many policies it asked for within so many evaluations, and the episodes that go with them."""
        return min(evaluations, bisect_right(self.at_episode, EPISODES * evaluations))

    def episodes_for(self, evaluations: int) -> int:
        """Episodes until it had asked for so many policies, or until it ended."""
        if self.asked(evaluations) == evaluations:
            return self.at_episode[evaluations - 1]
        return min(self.episodes, EPISODES * evaluations)


@dataclass(frozen=True)
class Comparison:
    """All runs, and what their policies are worth.

    Parameters
    ----------
    seconds:
        What evaluating each policy took.
    outcomes:
        By `policies.space.Space.text`, of every policy asked for in these runs.
    best:
        The policy that regret is measured against ...
    against:
        ... and how it was found.
    """

    task: Task
    runs: list[Run]
    seconds: Mapping[str, float]
    outcomes: dict[str, Outcome]
    best: Outcome
    against: str

    def row(self, run: Run, evaluations: int) -> dict[str, Any]:
        """What a run had found after so many evaluations.

        Returns
        -------
        ``agent, seed, evaluations, asked`` (fewer than evaluations if it ended before), ``episodes``; of its best
        policy ``reward, regret, found_best, accuracy``, the ratios of `policies.task.Outcome.row`, ``weight_bits,
        activation_bits`` (means over the layers), ``budget_used, bits``; and ``agent_s, evaluator_s``: seconds of the
        agent itself, pricing included, and of the evaluations it asked for, whoever of the runs asked first.
        """
        asked = run.policies[: run.asked(evaluations)]
        bits = min(asked, key=lambda text: _rank(self.outcomes[text]))  # of equals the earliest
        outcome, space = self.outcomes[bits], self.task.space
        counts, activations = space.histograms(outcome.vector)
        return {
            "agent": run.agent,
            "seed": run.seed,
            "evaluations": evaluations,
            "asked": len(asked),
            "episodes": run.episodes_for(evaluations),
            "reward": outcome.reward,
            "regret": self.best.reward - outcome.reward,
            "found_best": self.best.reward - outcome.reward < EQUAL,
            "accuracy": outcome.accuracy,
            **{f"{metric}_ratio": ratio for metric, ratio in outcome.ratios.items()},
            "weight_bits": float((counts @ np.arange(counts.shape[1]) / counts.sum(1)).mean()),
            "activation_bits": float(activations.mean()),
            "budget_used": outcome.budget_used,
            "bits": bits,
            "agent_s": run.at_second[len(asked) - 1],
            "evaluator_s": round(sum(self.seconds[text] for text in asked), 6),
        }

    def regrets(self, agent: str, evaluations: int) -> np.ndarray:
        """Regret of an agent's runs after 1, 2, ... evaluations: float, (seeds, evaluations)."""
        curves = []
        for run in (run for run in self.runs if run.agent == agent):
            rewards = np.maximum.accumulate([self.outcomes[text].reward for text in run.policies])
            curves.append([self.best.reward - rewards[run.asked(count + 1) - 1] for count in range(evaluations)])
        return np.array(curves)

    def points(self, agent: str) -> list[tuple[float, float]]:
        """Latency ratio and accuracy of every policy that an agent asked for."""
        texts = dict.fromkeys(text for run in self.runs if run.agent == agent for text in run.policies)
        return [(self.outcomes[text].ratios["latency"], self.outcomes[text].accuracy) for text in texts]

    def best_of(self, agent: str) -> Outcome:
        """The best that an agent found in all its runs."""
        return min((self.outcomes[text] for run in self.runs if run.agent == agent for text in run.policies), key=_rank)

    def summary(self, agent: str, evaluations: int) -> dict[str, Any]:
        """Means over an agent's seeds; ``reward_error`` and ``regret_error`` are standard errors, None of one seed."""
        rows = [self.row(run, evaluations) for run in self.runs if run.agent == agent]
        names = ["accuracy", *(f"{metric}_ratio" for metric in self.task.costs.tables), "weight_bits"]
        names += ["activation_bits", "episodes", "agent_s", "evaluator_s"]
        means = {name: float(np.mean([row[name] for row in rows])) for name in names}
        errors: dict[str, float | None] = {}
        for name in ("reward", "regret"):
            values = np.array([row[name] for row in rows])
            errors[name] = float(values.mean())
            errors[f"{name}_error"] = float(values.std(ddof=1) / np.sqrt(len(rows))) if len(rows) > 1 else None
        found = sum(row["found_best"] for row in rows)
        return {"agent": agent, "evaluations": evaluations, "seeds": len(rows), "found_best": found} | errors | means


def judge(
    task: Task,
    runs: list[Run],
    known: dict[str, float],
    seconds: Mapping[str, float],
    vectors: np.ndarray | None = None,
) -> Comparison:
    """What the policies of some runs are worth, and the best that there is.

    Parameters
    ----------
    known, seconds:
        Accuracy of every policy asked for, and what its evaluation took.
    vectors:
        Every policy of the space: regret is then against the best of those that fit the budget, else against the best
        that any run found.
    """
    plain = _fresh(task)
    plain.evaluations = known
    asked = dict.fromkeys(text for run in runs for text in run.policies)
    outcomes = {text: plain.evaluate(plain.space.parse(text)) for text in asked}
    if vectors is None:
        best = min(outcomes.values(), key=_rank)
        return Comparison(task, runs, seconds, outcomes, best, "the best policy that any run found")
    best, fitting = brute_force(task, vectors)
    against = f"brute force over the {fitting:,} of {len(vectors):,} policies that fit the budget"
    return Comparison(task, runs, seconds, outcomes, best, against)


def brute_force(task: Task, vectors: np.ndarray) -> tuple[Outcome, int]:
    """The best of the policies (policies, variables) that fit the budget, and how many do."""
    fitting = vectors[task.limits.used(vectors) <= 1]
    apart = _fresh(task)  # what nobody asked for stays out of the task's evaluations
    return min((apart.evaluate(vector) for vector in fitting), key=_rank), len(fitting)


def _fresh(task: Task) -> Task:
    """The same task, never asked for anything."""
    return Task(task.costs, task.evaluator, task.limits.budgets, task.reward)


def _rank(outcome: Outcome) -> tuple[float, float]:
    """Best first: of equal rewards, what costs least."""
    return -outcome.reward, outcome.cost
