"""Agents that remember exactly what they asked for and what they were told, and resume by being told it again.

A search that is deterministic under its seed needs no other state: its policies and their accuracies are enough to
walk it again to where it was, without evaluating anything.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from hardware.errors import InputError
from policies.baselines import random_vector
from policies.moves import Ranks
from policies.task import Outcome, Task


@dataclass(frozen=True)
class Answer:
    """What an agent remembers of an `policies.task.Outcome`.

    Parameters
    ----------
    vector:
        int, (variables,): as evaluated.
    accuracy:
        Fraction.
    reward:
        By the task's reward.
    """

    vector: np.ndarray
    accuracy: float
    reward: float


Search = Generator[np.ndarray, Answer, None]
"""Yields the vectors to evaluate, and is sent their answers; never ends."""


class ReplayAgent:
    """An `policies.agent.Agent` whose state is its history.

    Subclasses write `search`; those that compute every proposal from the history alone replace `propose` instead, and
    set ``walks = False``: they resume without walking.

    Parameters
    ----------
    episodes:
        Length of the run.
    seed:
        Of everything random.

    Attributes
    ----------
    answers: dict[str, Answer]
        By `policies.space.Space.text` of the evaluated vector, in the order in which they were first asked for.
    """

    name: ClassVar[str]
    walks: ClassVar[bool] = True

    def __init__(self, task: Task, episodes: int, seed: int) -> None:
        self.task, self.space, self.ranks = task, task.space, Ranks(task.space)
        self._search: Search | None = None
        self._begin(episodes, seed)

    def search(self, generator: np.random.Generator) -> Search:
        """The walk: yield vectors, receive answers."""
        raise NotImplementedError

    def propose(self) -> np.ndarray:
        """The next vector to evaluate."""
        if self._search is None or self._last is None:
            self._search = self.search(np.random.default_rng(self.seed))
            return next(self._search)
        return self._search.send(self._last)

    def ask(self, vector: np.ndarray) -> Generator[np.ndarray, Answer, Answer]:
        """The answer for a vector; takes an episode only if it is not known. For ``yield from`` in a `search`."""
        return self.answers.get(self.space.text(vector)) or (yield vector)

    def ask_any(self, generator: np.random.Generator, tries: int = 100) -> Generator[np.ndarray, Answer, Answer]:
        """A random vector for which no answer is known; after some tries, as in an exhausted space, any."""
        for _ in range(tries):
            vector = self.task.limits.back_off(random_vector(self.task, generator))
            if self.space.text(vector) not in self.answers:
                break
        return (yield vector)

    def episode(self) -> Outcome:
        """Evaluate the next proposal."""
        vector = self.propose()
        outcome = self.task.evaluate(vector)
        self._note(self.space.text(vector), Answer(outcome.vector, outcome.accuracy, outcome.reward))
        return outcome

    def state_dict(self) -> dict[str, Any]:
        """The name, the problem, the seed and the history, all plain numbers and text."""
        return {
            "agent": self.name,
            "problem": self._problem(),
            "episodes": self.episodes,
            "seed": self.seed,
            "history": [list(entry) for entry in self._history],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken, by the seed of the saved run. Evaluates nothing.

        Raises
        ------
        InputError
            The state is of another agent, of another space or other budgets, or of a search that walked another way.
        """
        have, want = (state.get("agent"), state.get("problem")), (self.name, self._problem())
        if have != want:
            raise InputError(
                f"expected the state of agent {want[0]!r} for {want[1]}, got {have[0]!r} for {have[1]}: "
                "resume with the network, the budget and the agent of the saved run."
            )
        self._begin(state["episodes"], state["seed"])
        for asked, evaluated, accuracy, reward in state["history"]:
            if self.walks and self.space.text(self.propose()) != asked:
                raise InputError(
                    f"the saved run of agent {self.name!r} asked for other policies than this one: resume with the "
                    "accelerator, the reward and the library versions of the saved run."
                )
            self._note(asked, Answer(self.space.parse(evaluated), accuracy, reward))

    def _begin(self, episodes: int, seed: int) -> None:
        self.episodes, self.seed = episodes, seed
        self.answers: dict[str, Answer] = {}
        self._history: list[tuple[str, str, float, float]] = []
        self._last: Answer | None = None
        self._search = None

    def _note(self, asked: str, answer: Answer) -> None:
        evaluated = self.space.text(answer.vector)
        self._history.append((asked, evaluated, answer.accuracy, answer.reward))
        self.answers.setdefault(evaluated, answer)
        self._last = answer

    def _problem(self) -> str:
        """What a state must agree with."""
        budgets = ", ".join(map(str, self.task.limits.budgets)) or "none"
        widths = "".join(f"{variable.widths[0]}{variable.widths[-1]}" for variable in self.space.variables)
        if len(widths) > 80:  # of kernel-wise spaces; enough for a message
            widths = f"{widths[:80]}... ({len(self.ranks.counts)} variables)"
        return f"{self.space.network}, budgets {budgets}, widths {widths}"
