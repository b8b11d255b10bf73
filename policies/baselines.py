"""What a learning agent must beat: chance, and the same width everywhere."""

import json
from typing import Any

import numpy as np

CHOICES = 7
"""Widths of the usual range, 2 to 8 bits."""


class RandomAgent:
    """Uniform random actions. The environment's back-off makes every policy fit the budget.

    Parameters
    ----------
    seed:
        Of the actions.
    """

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def act(self, observation: np.ndarray) -> np.ndarray:
        """A uniform random action, whatever the observation."""
        return self._generator.random(1, dtype=np.float32)

    def finish_episode(self, reward: float) -> None:
        """Nothing to learn."""

    def state_dict(self) -> dict[str, Any]:
        """The random generator's state as JSON."""
        return {"generator": json.dumps(self._generator.bit_generator.state)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self._generator.bit_generator.state = json.loads(state["generator"])


class UniformAgent:
    """One action for all steps of an episode: 8 bits in the first episode, then 7, ..., 2, then 8 again.

    Widths over the budget are backed off, and those below it leave budget unused, so a few episodes tell all that
    uniform widths can do: the eighth repeats the first and is answered from the environment's cache. With another range
    of widths than 2 to 8 the seven actions are spread evenly over it.
    """

    def __init__(self) -> None:
        self._episode = 0

    def act(self, observation: np.ndarray) -> np.ndarray:
        """The middle of this episode's width, whatever the observation."""
        rank = CHOICES - 1 - self._episode % CHOICES
        return np.array([(rank + 0.5) / CHOICES], dtype=np.float32)

    def finish_episode(self, reward: float) -> None:
        """On to the next width."""
        self._episode += 1

    def state_dict(self) -> dict[str, Any]:
        """The number of finished episodes."""
        return {"episode": self._episode}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self._episode = state["episode"]
