"""AutoQ's agent: a controller of layers sets goals for a controller of kernels.

After Lou et al., "AutoQ: Automated Kernel-Wise Neural Network Quantization", ICLR 2020 (arXiv 1902.05690), and Nachum
et al., "Data-Efficient Hierarchical Reinforcement Learning" (HIRO), NeurIPS 2018. When a layer's first variable comes,
the high-level controller chooses the layer's activation bits and a goal, the mean of its kernels' bits. The low-level
controller then gives every kernel its bits, knowing the goal. Both are deterministic policy gradients
(`policies.ddpg`). The high one is rewarded for the policy, the low one for keeping to the goal and, more and more, for
the policy too. What the high one remembers as its goal is what the low one made of it. A space whose variables are
whole layers has one kernel per layer: the layer-wise reduction.

There is no public code. Learning rates, batch, replay and the two phases of the noise are the paper's, from summaries
of it; tau, the form of the intrinsic reward and zeta are recalled, with low confidence; hidden units, last noise, reach
and numbers of updates are ours. The deviations follow; what they are worth is said where it was measured.

1. Goals and actions are ranks among a variable's widths, as shares of [0, 1], so that any list of widths will do; with
   0 to 8 bits a ninth is a bit. The intrinsic reward is divided by the number of kernels.
2. The low controller's action is a distance to the goal, 0.5 for none: untrained, it does what the goal says. Learning
   that first would take most of a short run.
3. Goals are relabeled once, when an episode is remembered, by the mean of what the kernels got. HIRO searches at every
   update for the goal that explains the actions best to the low controller of the moment.
4. Rewards of a policy are ranks among the remembered episodes, scaled to a standard deviation of 1: one episode of
   ruined accuracy, or the cliff of ReLeQ's reward, would drown all other differences.
5. Each action is worth its own reward: gamma is 0. Rewards come at the end of an episode, and all of an episode's
   actions, or of a layer's, share one.
6. The high controller's noise has a standard deviation of 0.5 in the first quarter of the run, then falls to 0.05. From
   then on about four decisions of an episode explore: with all of them disturbed the reward says little about any.
7. The low controller's noise is one random tilt per episode, along the deviations of the kernels' weights: independent
   noise of hundreds of kernels averages out, and the reward says nothing about any. Where the deviations are not known,
   and in a layer of one width, there is none.
8. An episode that repeats a policy teaches nothing: it is not learned from, and the noise doubles. Every new policy
   halves it again, down to what deviation 6 says. A small space would else be asked for the same again and again.
9. The first episode asks for the widest bits everywhere and is not learned from, as in `policies.haq`.
10. Updates begin after the first quarter, a fixed number per episode for each controller, not one per kernel. On six
    synthetic kernel-wise tasks (5 layers, 100 episodes, not kept) the best policy was 20 points of accuracy behind full
    precision, with 16 updates of the high controller instead of 32 26 points, by uniform widths 46, by random ones 99;
    the best that is known for whole layers was 20, for kernels 11.
11. The state has one number more: how the kernel's weights deviate, see `policies.observations.AutoqObservation`. The
    low controller sees it in bits, -4 to 4: with a reward that only counts bits along it, 30 episodes give actions of
    a correlation of 0.9 with it (two seeds), on its scale of 0 to 1 of 0.3.
12. Actors follow a smoothed critic by inverting gradients, see `policies.ddpg`: the plain gradient left the actor of a
    trivial task of two layers at the wrong end of [0, 1] in three of four runs, whatever the critic had learned since.
13. The replay's 2,000 transitions are the high controller's; the low one remembers the kernels of the same episodes.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from hardware.errors import InputError
from hardware.schedule import MAX_BITS
from policies.ddpg import ActorCritic, truncated_normal
from policies.observations import AutoqObservation
from policies.space import ACTIVATIONS, WEIGHTS, Space


@dataclass(frozen=True)
class AutoqOptions:
    """What can be turned. See the module for where values are from."""

    hidden: int = 64
    """Units in each of the two hidden layers of actors and critics (ours; recalled: 300)."""
    actor_rate: float = 1e-4
    """Adam's learning rate for the actors."""
    critic_rate: float = 1e-3
    """Adam's learning rate for the critics."""
    soft_update: float = 0.01
    """Tau, recalled."""
    batch: int = 64
    """Transitions per update."""
    memory: int = 2000
    """Transitions of the high controller in the replay memory (deviation 13)."""
    discount: float = 0.0
    """Gamma of both controllers (deviation 5)."""
    high_updates: int = 32
    """Updates of the high controller per episode (deviation 10)."""
    low_updates: int = 16
    """Updates of the low controller per episode (deviation 10)."""
    constant_noise: float = 0.25
    """Share of the run in which the noise stays at its first strength."""
    first_sigma: float = 0.5
    """Standard deviation of the noise in that share."""
    last_sigma: float = 0.05
    """The same in the last episode (ours)."""
    noisy_decisions: int = 4
    """Decisions of the high controller that explore per episode, on average, after that share (deviation 6)."""
    first_zeta: float = 0.1
    """Weight of the policy's reward in the low controller's at the start, recalled; the goal's is 1 less this."""
    last_zeta: float = 0.8
    """The same in the last episode, recalled."""
    reach: float = 0.5
    """How far kernels can be from the goal, as a share of the widths (ours, deviation 2)."""


class AutoqAgent:
    """Learns from episode to episode which layers, and which kernels in them, need their bits.

    Parameters
    ----------
    space:
        Whose variables the episodes walk.
    episodes:
        Length of the run; noise and zeta are fitted to it.
    seed:
        Of the initial weights, the noise and the batches.
    options:
        See `AutoqOptions`.
    """

    def __init__(self, space: Space, episodes: int, seed: int, options: AutoqOptions = AutoqOptions()) -> None:
        self.space, self.episodes, self.options = space, episodes, options
        low = [variable for variable in space.variables if variable.operand == WEIGHTS]
        self._layer = torch.tensor([variable.layer for variable in low])
        self._share = torch.tensor([len(one.kernels) / space.layers[one.layer].out_channels for one in low])
        self._low_last = torch.tensor([*(self._layer.diff() > 0).tolist(), True])
        self._kinds = 2 if len(low) < len(space.variables) else 1
        layers, observation = len(space.layers), AutoqObservation.size
        rates = {name: getattr(options, name) for name in ("actor_rate", "critic_rate", "soft_update")}
        self._high, self._low = (
            ActorCritic(size, actions, options.hidden, seed=own_seed, **rates)
            for size, actions, own_seed in ((observation, self._kinds, seed), (observation + 1, 1, seed + 1))
        )
        self._generator = torch.Generator().manual_seed(seed)
        self._episode = self._stored = self._repeats = 0
        self._seen: set[str] = set()
        slots = max(1, min(options.memory // layers, episodes))
        self._memory = {
            "high": torch.zeros(slots, layers, observation),
            "high_actions": torch.zeros(slots, layers, self._kinds),
            "low": torch.zeros(slots, len(low), observation + 1),
            "low_actions": torch.zeros(slots, len(low), 1),
            "gaps": torch.zeros(slots, layers),
            "rewards": torch.zeros(slots, dtype=torch.float64),
        }
        self._begin()

    def _begin(self) -> None:
        """Forget the episode under way."""
        self._actions: list[float] = []
        self._decisions: list[tuple[torch.Tensor, list[float]]] = []
        self._choices: list[tuple[torch.Tensor, float]] = []

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise in this episode: constant, then falling geometrically (deviations 6, 8)."""
        options, constant = self.options, self.options.constant_noise * self.episodes
        progress = min(max((self._episode - constant) / max(1, self.episodes - 1 - constant), 0.0), 1.0)
        sigma = options.first_sigma * (options.last_sigma / options.first_sigma) ** progress
        return min(sigma * 2.0**self._repeats, options.first_sigma)

    @property
    def zeta(self) -> float:
        """Weight of the policy's reward in what the low controller learns now: rises over the run."""
        progress = min(self._episode / max(1, self.episodes - 1), 1.0)
        return self.options.first_zeta + (self.options.last_zeta - self.options.first_zeta) * progress

    @property
    def _exploring(self) -> bool:
        return self._episode < self.options.constant_noise * self.episodes

    def act(self, observation: np.ndarray) -> np.ndarray:
        """The action of the next variable; float32, (1,). A layer's first one has the high controller decide."""
        variables, step = self.space.variables, len(self._actions)
        seen = torch.from_numpy(observation.copy())
        if step == 0:
            self._tilt = self.sigma * float(torch.randn((), generator=self._generator))
        if step == 0 or variables[step].layer != variables[step - 1].layer:
            self._decisions.append((seen, self._decide(seen)))
        decision = self._decisions[-1][1]
        action = decision[1] if variables[step].operand == ACTIVATIONS else self._choose(seen, decision[0])
        self._actions.append(action)
        return np.array([action], dtype=np.float32)

    def _decide(self, observation: torch.Tensor) -> list[float]:
        """Goal and, if there is a choice, activation action of a layer."""
        if self._episode == 0:
            return [1.0] * self._kinds  # the widest bits
        share = 1.0 if self._exploring else self.options.noisy_decisions / (len(self.space.layers) * self._kinds)
        return [
            truncated_normal(mean, self.sigma, self._generator)
            if float(torch.rand((), generator=self._generator)) < share
            else mean
            for mean in self._high.act(observation)
        ]

    def _choose(self, observation: torch.Tensor, goal: float) -> float:
        """The action of one kernel, or group of kernels."""
        beyond = 2 * float(observation[AutoqObservation.DEVIATION]) - 1
        state = torch.cat([observation, torch.tensor([goal])])
        state[AutoqObservation.DEVIATION] = MAX_BITS / 2 * beyond  # in bits: kernels differ by a few
        distance = min(max(self._low.act(state)[0] + self._tilt * beyond, 0.0), 1.0)
        self._choices.append((state, distance))
        if self._episode == 0:
            return 1.0
        return min(max(goal + self.options.reach * (2 * distance - 1), 0.0), 1.0)

    def finish_episode(self, rewards: Sequence[float]) -> None:
        """Remember the episode by its last reward, unless it is the first or a repetition, and learn."""
        widths = [self.space.width(step, action) for step, action in enumerate(self._actions)]
        text = self.space.text(np.array(widths))
        new = text not in self._seen
        self._seen.add(text)
        if new:
            self._repeats = max(self._repeats - 1, 0)
        elif self.sigma < self.options.first_sigma:
            self._repeats += 1
        if new and self._episode > 0:
            self._store(widths, rewards[-1])
        self._begin()
        self._episode += 1
        if new and self._stored > 1 and not self._exploring:
            self._learn()

    def _store(self, widths: list[int], reward: float) -> None:
        memory, slot = self._memory, self._stored % len(self._memory["rewards"])
        goals = torch.tensor([decision[0] for _, decision in self._decisions])
        memory["high"][slot] = torch.stack([seen for seen, _ in self._decisions])
        memory["high_actions"][slot] = torch.tensor([decision for _, decision in self._decisions])
        memory["high_actions"][slot, :, 0] = achieved = self.achieved(widths)
        memory["low"][slot] = torch.stack([state for state, _ in self._choices])
        memory["low_actions"][slot, :, 0] = torch.tensor([distance for _, distance in self._choices])
        memory["gaps"][slot] = (goals - achieved).abs()
        memory["rewards"][slot] = reward
        self._stored += 1

    def achieved(self, widths: Sequence[int]) -> torch.Tensor:
        """The goals that were reached: mean ranks of the layers' kernels, float32, (layers,), of all variables' widths.

        A width's rank is the middle of its share of [0, 1], see `policies.space.Space.action`.
        """
        ranks = torch.tensor(
            [
                self.space.action(step, width)
                for step, width in enumerate(widths)
                if self.space.variables[step].operand == WEIGHTS
            ]
        )
        return torch.zeros(len(self.space.layers)).index_add(0, self._layer, ranks * self._share)

    def _learn(self) -> None:
        options, filled = self.options, min(self._stored, len(self._memory["rewards"]))
        memory = {name: tensor[:filled] for name, tensor in self._memory.items()}
        worth = ranks(memory["rewards"])
        layers, kernels = len(self.space.layers), len(self._layer)
        for _ in range(options.high_updates):
            episode, step = self._sample(filled, layers)
            seen, following = memory["high"][episode, step], memory["high"][episode, (step + 1) % layers]
            last, reward = step == layers - 1, worth[episode, None]
            self._high.update(
                seen,
                memory["high_actions"][episode, step],
                reward,
                following,
                last,
                options.discount,
                self._disturbance(self._kinds),
            )
        for _ in range(options.low_updates):
            episode, step = self._sample(filled, kernels)
            seen, following = memory["low"][episode, step], memory["low"][episode, (step + 1) % kernels]
            gap = memory["gaps"][episode, self._layer[step]]
            reward = ((1 - self.zeta) * -gap + self.zeta * worth[episode])[:, None]
            self._low.update(
                seen,
                memory["low_actions"][episode, step],
                reward,
                following,
                self._low_last[step],
                options.discount,
                self._disturbance(1),
            )

    def _disturbance(self, actions: int) -> torch.Tensor:
        return self.sigma * torch.randn(self.options.batch, actions, generator=self._generator)

    def _sample(self, episodes: int, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
        index = torch.randint(episodes * steps, (self.options.batch,), generator=self._generator)
        return index // steps, index % steps

    @property
    def _shape(self) -> list[int]:
        return [len(self.space.layers), len(self.space.variables), len(self._layer), self.episodes]

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimizers, replay memory, generator and counters; a copy. Between episodes."""
        filled = min(self._stored, len(self._memory["rewards"]))
        return copy.deepcopy(
            {
                "autoq": asdict(self.options),
                "shape": self._shape,
                "high": self._high.state_dict(),
                "low": self._low.state_dict(),
                "memory": {name: tensor[:filled].clone() for name, tensor in self._memory.items()},
                "generator": self._generator.get_state(),
                "counters": [self._episode, self._stored, self._repeats],
                "seen": sorted(self._seen),
            }
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken, bit for bit, with a new episode.

        Raises
        ------
        InputError
            The state is of another kind of agent, or of one with other options, another space or another length of run.
        """
        have, want = (state.get("shape"), state.get("autoq")), (self._shape, asdict(self.options))
        if have != want:
            raise InputError(
                f"expected the state of an AutoQ agent with ((layers, variables, kernels, episodes), options) {want}, "
                f"got {have}: resume with the network and the agent of the saved run."
            )
        self._high.load_state_dict(state["high"])
        self._low.load_state_dict(state["low"])
        self._generator.set_state(state["generator"])
        self._episode, self._stored, self._repeats = state["counters"]
        self._seen = set(state["seen"])
        for name, tensor in self._memory.items():
            tensor[: len(state["memory"][name])] = state["memory"][name]
        self._begin()


def ranks(rewards: torch.Tensor) -> torch.Tensor:
    """Ranks of rewards (episodes,), equal ones alike, at a mean of 0 and, if all differ, a deviation of about 1."""
    below = (rewards[None] < rewards[:, None]).sum(1)
    above = (rewards[None] > rewards[:, None]).sum(1)
    return math.sqrt(3) * (below - above).float() / max(len(rewards) - 1, 1)
