"""What every search agent can do, and where agents are made by name."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from hardware.errors import unknown
from policies.annealing import AnnealingAgent
from policies.autoq import AutoqAgent
from policies.baselines import RandomAgent, UniformAgent
from policies.environment import BitWidthEnv
from policies.evolution import Nsga2Agent
from policies.greedy import GreedyAgent
from policies.haq import HaqAgent
from policies.integer_program import IntegerProgramAgent
from policies.releq import ReleqAgent, ReleqOptions
from policies.task import Outcome, Task


class Agent(Protocol):
    """Searches a task, one policy per episode."""

    def episode(self) -> Outcome:
        """Choose a policy, have it evaluated, and learn from it. Returns what became of it."""
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


class StepAgent(Protocol):
    """Chooses one action per step of an episode of `policies.environment.BitWidthEnv`, and learns between episodes."""

    def act(self, observation: np.ndarray) -> np.ndarray:
        """The action for an observation: float32, (1,), in [0, 1]. Called once per step, in the episode's order."""
        ...

    def finish_episode(self, rewards: Sequence[float]) -> None:
        """Take note of the rewards of the episode's steps, and learn from them."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """As `Agent.state_dict`."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As `Agent.load_state_dict`."""
        ...


class Player:
    """An `Agent` that walks the environment step by step."""

    def __init__(self, environment: BitWidthEnv, agent: StepAgent) -> None:
        self.environment, self.agent = environment, agent

    def episode(self) -> Outcome:
        """One walk over all variables."""
        observation, _ = self.environment.reset()
        rewards: list[float] = []
        over = False
        while not over:
            observation, reward, over, _, info = self.environment.step(self.agent.act(observation))
            rewards.append(float(reward))
        self.agent.finish_episode(rewards)
        outcome: Outcome = info["outcome"]
        return outcome

    def state_dict(self) -> dict[str, Any]:
        """The step agent's."""
        return self.agent.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The step agent's."""
        self.agent.load_state_dict(state)


def _haq(task: Task, episodes: int, seed: int) -> Agent:
    environment = BitWidthEnv(task, "haq")
    return Player(environment, HaqAgent(environment.steps_per_episode, episodes, seed))


def _releq(task: Task, episodes: int, seed: int) -> Agent:
    options = ReleqOptions()
    environment = BitWidthEnv(task, "releq", options.every_step)
    choices = [len(variable.widths) for variable in task.space.variables]
    return Player(environment, ReleqAgent(choices, seed, options))


def _autoq(task: Task, episodes: int, seed: int) -> Agent:
    return Player(BitWidthEnv(task, "autoq"), AutoqAgent(task.space, episodes, seed))


_AGENTS: dict[str, Callable[[Task, int, int], Agent]] = {
    "annealing": AnnealingAgent,
    "autoq": _autoq,
    "greedy": GreedyAgent,
    "haq": _haq,
    "ilp": IntegerProgramAgent,
    "nsga2": Nsga2Agent,
    "random": lambda task, episodes, seed: RandomAgent(task, seed),
    "releq": _releq,
    "uniform": lambda task, episodes, seed: UniformAgent(task),
}


def agent_names() -> list[str]:
    """The agents that `make_agent` knows."""
    return sorted(_AGENTS)


def check_agent(name: str) -> None:
    """Raise `InputError` unless `make_agent` knows the name."""
    if name not in _AGENTS:
        raise unknown("agent", name, _AGENTS)


def make_agent(name: str, task: Task, *, episodes: int, seed: int) -> Agent:
    """A new agent for a task.

    Parameters
    ----------
    name:
        One of `agent_names`.
    episodes:
        Length of the whole run, which warm-up and exploration are fitted to.
    seed:
        Of everything random in the agent: the same seed gives the same run bit for bit.

    Raises
    ------
    InputError
        An unknown name.
    """
    check_agent(name)
    return _AGENTS[name](task, episodes, seed)
