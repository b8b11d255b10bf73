"""HAQ's agent: deep deterministic policy gradient over the layers of a network.

After Wang et al., "HAQ: Hardware-Aware Automated Quantization with Mixed Precision", CVPR 2019, section 3.4, and
Lillicrap et al., "Continuous control with deep reinforcement learning", ICLR 2016. The actor maps an observation to an
action in [0, 1]; the critic says what an action is worth. The reward of an episode is written to every transition of
it, less a moving average over the batches (the baseline), and is not discounted.

HAQ runs 600 episodes on 53 layers, this agent 30 to 200 on 5 to 20. The deviations follow. Their worth was measured
once, with a prototype that ran many seeds at a time and is not kept (what is kept: `benchmarks/agents.py`), on
six synthetic tasks of 10 to 40 steps, 16 seeds each: the points of accuracy that the best policy of 100 (200) episodes
stays behind the optimum, with a standard error of about 0.15. As below: 2.1 (1.7). Random search: 4.0 (3.5).

1. 64 hidden units instead of 300: no difference to be seen, in a quarter of the time.
2. Ten steps of an episode explore, on average; the others take the actor's action. With all layers of a deep network
   disturbed at once, the reward says little about any of them: 2.4 (2.0).
3. The noise falls to a sigma of 0.05 by the last episode, however long the run. HAQ's factor of 0.99 per episode would
   leave 0.22 after 100: the best policy is as good (2.3), but the last ten are 13 points behind on average, not 8.
   Deviations 2 and 3 both undone: 2.7 (2.1).
4. The warm-up takes at most a fifth of the run. Its first episode asks for the widest bits everywhere, which the
   back-off makes a nearly uniform policy that fits: a search never ends below that. This episode is not learned from:
   as an example it drives the actor into saturation (2.6).
5. The updates, one per transition as in HAQ, are made when the episode is over, not between its steps; the first ones
   after the last episode of the warm-up.
6. The last transition of an episode is known by its step; HAQ stores a dummy after it.
"""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from hardware.errors import InputError
from policies.ddpg import ActorCritic, truncated_normal
from policies.ddpg import Critic as Critic  # part of this module to those who look into an agent's state


@dataclass(frozen=True)
class HaqOptions:
    """What can be turned. Values without a remark are HAQ's."""

    hidden: int = 64
    """Units in each of the two hidden layers of actor and critic (HAQ: 300; deviation 1)."""
    actor_rate: float = 1e-4
    """Adam's learning rate for the actor."""
    critic_rate: float = 1e-3
    """Adam's learning rate for the critic."""
    soft_update: float = 0.01
    """Tau: share of the trained weights mixed into the target networks at every update."""
    discount: float = 1.0
    """Gamma: an action is worth all rewards that follow."""
    batch: int = 64
    """Transitions per update."""
    memory_episodes: int = 64
    """Episodes in the replay memory: 128 transitions per layer, two per episode."""
    updates_per_step: int = 1
    """Updates per stored transition."""
    baseline_rate: float = 0.5
    """How fast the baseline follows the mean reward of the batches."""
    warm_up: int = 20
    """Episodes before the actor acts: one with the widest bits, then random ones (deviation 4)."""
    first_sigma: float = 0.5
    """Standard deviation of the exploration noise in the first episode after the warm-up."""
    last_sigma: float = 0.05
    """The same in the last episode (deviation 3)."""
    noisy_steps: int = 10
    """Steps of an episode that explore after the warm-up, on average (HAQ: all; deviation 2)."""


class HaqAgent:
    """Learns from episode to episode which layers need their bits.

    Parameters
    ----------
    steps_per_episode:
        Actions per episode.
    episodes:
        Length of the run; warm-up and noise are fitted to it.
    seed:
        Of the initial weights, the noise and the batches.
    options:
        See `HaqOptions`.
    observation_size:
        Length of the observation vector.
    """

    def __init__(
        self,
        steps_per_episode: int,
        episodes: int,
        seed: int,
        options: HaqOptions = HaqOptions(),
        observation_size: int = 10,
    ) -> None:
        self.steps, self.episodes, self.options = steps_per_episode, episodes, options
        self._generator = torch.Generator().manual_seed(seed)
        self._learner = ActorCritic(
            observation_size,
            1,
            options.hidden,
            actor_rate=options.actor_rate,
            critic_rate=options.critic_rate,
            soft_update=options.soft_update,
            seed=seed,
        )
        self._episode = 0
        self._baseline: float | None = None
        self._trace: list[tuple[np.ndarray, float]] = []
        """Observations and actions of the episode under way."""
        self._stored = 0
        self._observations = torch.zeros(options.memory_episodes, steps_per_episode, observation_size)
        self._actions = torch.zeros(options.memory_episodes, steps_per_episode)
        self._rewards = torch.zeros(options.memory_episodes)

    @property
    def warm_up(self) -> int:
        """Episodes before the actor acts."""
        return max(1, min(self.options.warm_up, self.episodes // 5))

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise in this episode: falls geometrically from first to last."""
        progress = (self._episode - self.warm_up) / max(1, self.episodes - 1 - self.warm_up)
        return self.options.first_sigma * (self.options.last_sigma / self.options.first_sigma) ** progress

    def act(self, observation: np.ndarray) -> np.ndarray:
        """The actor's action, at some steps with noise; float32, (1,)."""
        action = self._choose(torch.from_numpy(observation))
        self._trace.append((observation.copy(), action))
        return np.array([action], dtype=np.float32)

    def _choose(self, observation: torch.Tensor) -> float:
        if self._episode == 0:
            return 1.0  # the widest bits
        if self._episode < self.warm_up:
            return float(torch.rand((), generator=self._generator))
        mean = self._learner.act(observation)[0]
        if float(torch.rand((), generator=self._generator)) * self.steps >= self.options.noisy_steps:
            return mean
        return truncated_normal(mean, self.sigma, self._generator)

    def finish_episode(self, rewards: Sequence[float]) -> None:
        """Store the episode with its last reward on every transition, then update both networks."""
        if self._episode > 0:  # deviation 4
            self._store(rewards[-1])
        self._trace = []
        self._episode += 1
        if self._stored and self._episode >= self.warm_up:
            for _ in range(self.options.updates_per_step * self.steps):
                self._update()

    def _store(self, reward: float) -> None:
        slot = self._stored % self.options.memory_episodes
        self._observations[slot] = torch.from_numpy(np.stack([observation for observation, _ in self._trace]))
        self._actions[slot] = torch.tensor([action for _, action in self._trace])
        self._rewards[slot] = reward
        self._stored += 1

    def _update(self) -> None:
        options = self.options
        filled = min(self._stored, options.memory_episodes)
        index = torch.randint(filled * self.steps, (options.batch,), generator=self._generator)
        episode, step = index // self.steps, index % self.steps
        observation, action = self._observations[episode, step], self._actions[episode, step, None]
        reward = self._rewards[episode, None]

        mean = float(reward.mean())
        old = mean if self._baseline is None else self._baseline
        self._baseline = old + options.baseline_rate * (mean - old)
        following = self._observations[episode, (step + 1) % self.steps]
        last = step == self.steps - 1
        self._learner.update(observation, action, reward - self._baseline, following, last, options.discount)

    @property
    def _memory(self) -> dict[str, torch.Tensor]:
        return {"observations": self._observations, "actions": self._actions, "rewards": self._rewards}

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimizers, replay memory, generator and counters; a copy."""
        return copy.deepcopy(
            {
                "options": asdict(self.options),
                "steps": self.steps,
                **self._learner.state_dict(),
                **self._memory,
                "generator": self._generator.get_state(),
                "episode": self._episode,
                "baseline": self._baseline,
                "stored": self._stored,
                "trace": [(observation.tolist(), action) for observation, action in self._trace],
            }
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken, bit for bit.

        Raises
        ------
        InputError
            The state is of another kind of agent, or of one with other options or another number of steps.
        """
        have, want = (state.get("steps"), state.get("options")), (self.steps, asdict(self.options))
        if have != want:
            raise InputError(
                f"expected the state of a HAQ agent with (steps, options) {want}, got {have}: "
                "resume with the network and the agent of the saved run."
            )
        self._learner.load_state_dict(state)
        self._generator.set_state(state["generator"])
        self._episode, self._baseline, self._stored = state["episode"], state["baseline"], state["stored"]
        self._trace = [(np.array(o, dtype=np.float32), action) for o, action in state["trace"]]
        for name, tensor in self._memory.items():
            tensor.copy_(state[name])
