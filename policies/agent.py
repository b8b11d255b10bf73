"""What every search agent can do, and where agents are made by name."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from hardware.errors import unknown
from policies.baselines import RandomAgent, UniformAgent
from policies.haq import HaqAgent


class Agent(Protocol):
    """Chooses one action per step of an episode of `policies.environment.BitWidthEnv` and learns between episodes."""

    def act(self, observation: np.ndarray) -> np.ndarray:
        """The action for an observation: float32, (1,), in [0, 1]. Called once per step, in the episode's order."""
        ...

    def finish_episode(self, reward: float) -> None:
        """Take note of the reward of the episode that has just ended, and learn from it."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that the agent is: networks, memory, optimizers, random generators.

        Only tensors, numbers, strings, lists and dictionaries, so that ``torch.load(..., weights_only=True)`` reads it.
        A copy: the agent's further learning does not change it.
        """
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the agent of a `state_dict`; what follows equals the uninterrupted run bit for bit.

        Raises
        ------
        InputError
            The state is of an agent for another network or with other options.
        """
        ...


_AGENTS: dict[str, Callable[[int, int, int], Agent]] = {
    "haq": HaqAgent,
    "random": lambda steps, episodes, seed: RandomAgent(seed),
    "uniform": lambda steps, episodes, seed: UniformAgent(),
}


def agent_names() -> list[str]:
    """The agents that `make_agent` knows."""
    return sorted(_AGENTS)


def make_agent(name: str, *, steps_per_episode: int, episodes: int, seed: int) -> Agent:
    """A new agent.

    Parameters
    ----------
    name:
        One of `agent_names`.
    steps_per_episode:
        Actions per episode, ``BitWidthEnv.steps_per_episode``.
    episodes:
        Length of the whole run, which warm-up and exploration are fitted to.
    seed:
        Of everything random in the agent: the same seed gives the same run bit for bit.

    Raises
    ------
    InputError
        An unknown name.
    """
    if name not in _AGENTS:
        raise unknown("agent", name, _AGENTS)
    return _AGENTS[name](steps_per_episode, episodes, seed)
