"""What a learning agent must beat at the least: chance, and the same width everywhere."""

import json
from typing import Any

import numpy as np

from policies.task import Outcome, Task


class RandomAgent:
    """Uniform random widths. The task's back-off makes every policy fit the budget.

    Parameters
    ----------
    seed:
        Of the widths.
    """

    def __init__(self, task: Task, seed: int) -> None:
        self._task = task
        self._generator = np.random.default_rng(seed)

    def episode(self) -> Outcome:
        """One random policy."""
        return self._task.evaluate(random_vector(self._task, self._generator))

    def state_dict(self) -> dict[str, Any]:
        """The random generator's state as JSON."""
        return {"generator": json.dumps(self._generator.bit_generator.state)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self._generator.bit_generator.state = json.loads(state["generator"])


def random_vector(task: Task, generator: np.random.Generator) -> np.ndarray:
    """Every variable at one of its widths, all alike likely: int, (variables,)."""
    actions = generator.random(len(task.space.variables))
    return np.array(
        [
            variable.widths[int(action * len(variable.widths))]
            for variable, action in zip(task.space.variables, actions.tolist(), strict=True)
        ]
    )


class UniformAgent:
    """The same rank of width for all variables: the widest in the first episode, then the next lower, and so on.

    After the lowest it starts again, which the task answers from its cache. Widths over the budget are backed off, and
    those below it leave budget unused, so a few episodes tell all that uniform widths can do.
    """

    def __init__(self, task: Task) -> None:
        self._task, self._episode = task, 0

    def episode(self) -> Outcome:
        """The next uniform policy."""
        variables = self._task.space.variables
        ranks = max(len(variable.widths) for variable in variables)
        share = 1 - (self._episode % ranks + 0.5) / ranks
        self._episode += 1
        return self._task.evaluate(np.array([one.widths[int(share * len(one.widths))] for one in variables]))

    def state_dict(self) -> dict[str, Any]:
        """The number of finished episodes."""
        return {"episode": self._episode}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self._episode = state["episode"]
