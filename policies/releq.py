"""ReLeQ's agent: proximal policy optimization with a recurrent network over the layers.

After Elthakeb et al., "ReLeQ: A Reinforcement Learning Approach for Automatic Deep Quantization of Neural Networks",
IEEE Micro 2020, arXiv 1811.01704, its public code (he-actlab/releq), and Schulman et al., arXiv 1707.06347. At every
step the policy draws one of the variable's widths, any of them ("flexible" actions); an LSTM that policy and value
share remembers the steps before. What an episode is worth is ReLeQ's asymmetric reward (`policies.rewards`), or
another.

ReLeQ runs 700 to 2000 episodes; this agent has to be done after 50 to 400. What deviations are worth was measured on
ReLeQ's own table of LeNet's accuracies (625 policies, the paper's reward): how far the best of the first 50 / 100 / 200
different policies stays behind the optimum, 0.2184, on average of 20 seeds. As below: 0.0023 / 0 / 0 with the seeds of
the tuning and 0.0079 / 0 / 0 with others, and the optimum within 400 episodes by all 40. Random search: 0.0216 / 0.0146
/ 0.0086.

1. Every episode begins with the widest bits and an empty memory, and is learned from as a whole. The code's scripts for
   small networks carry widths and memory over from the episode before and learn from one step at a time, so that their
   discount never acts; its script for all layers begins anew, as here.
2. A policy is evaluated once, when it is complete. ReLeQ evaluates after every layer in small networks
   (``every_step``), which spends evaluations on policies that nobody wants: 0.0244 / 0.0049 / 0.
3. An update learns from five episodes, not from one, and compares them with each other: rewards in deviations of the
   run's, so that their scale does not matter, and advantages less their mean over the episodes at the same step, over
   their root mean square (ReLeQ's LSTM script normalizes too). Episodes that are all alike then teach nothing. Not
   standardized: 0.0236 / 0.0137 / 0.0035 (10 seeds).
4. Adam's rate is 2e-3 instead of 1e-4, with five steps per update and a clip of 0.2. With 1e-4: 0.0204 / 0.0117 /
   0.0023 (10 seeds). With all options of the paper's preset 0.0226 / 0.0174 / 0.0066, of the code's 0.0198 / 0.0174 /
   0.0088 (5 seeds each).
5. There is no temperature; what the code's 0.5 would change here was not measured.
6. The discount is 1: with one reward at the end, a smaller one only says that the first layers matter less.
7. The value learns the estimated returns, also in the presets; the code's learns from the next step's value.
8. A variable has as many actions as widths, a pinned one a single one; activations are variables too, if the space has
   them.
"""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from hardware.errors import InputError

_FORBIDDEN = -1e9
"""Logit of a width that a variable does not have: its probability is exactly 0, and no gradient becomes nan."""


@dataclass(frozen=True)
class ReleqOptions:
    """What can be turned. The defaults are for short runs; `PRESETS` has the published ones."""

    every_step: bool = False
    """Evaluate after every layer, not only after the last; the environment must do the same (deviation 2)."""
    episodes_per_update: int = 5
    """Episodes that an update learns from (published: 1; deviation 3)."""
    epochs: int = 5
    """Gradient steps per update, each over all these episodes."""
    rate: float = 2e-3
    """Adam's learning rate (deviation 4)."""
    clip: float = 0.2
    """An action gains nothing more when its probability has changed by this share since the update began."""
    discount: float = 1.0
    """Gamma: what the next step's worth counts in this one's."""
    trace: float = 0.99
    """Lambda of the generalized advantage estimate."""
    temperature: float = 1.0
    """Divides what the policy's last layer is given: above 1 flatter, below 1 steeper."""
    entropy: float = 0.01
    """What the policy's entropy in nats counts in the objective."""
    value: float = 0.5
    """What the value's squared error counts in the loss."""
    standardize: bool = True
    """Rewards in deviations from the mean of the run, advantages in those from the step's mean (deviation 3)."""

    def __post_init__(self) -> None:
        if self.standardize and self.episodes_per_update < 2:
            raise InputError("one episode has no other to compare it with: update from 2 or more, or standardize not.")


PRESETS = {
    "short": ReleqOptions(),
    "paper": ReleqOptions(
        every_step=True,
        episodes_per_update=1,
        epochs=3,
        rate=1e-4,
        clip=0.1,
        discount=0.9,
        temperature=0.5,
        value=1.0,
        standardize=False,
    ),
    "code": ReleqOptions(
        every_step=True,
        episodes_per_update=1,
        epochs=1,
        rate=1e-4,
        clip=0.3,
        discount=0.9,
        trace=1.0,
        temperature=0.5,
        value=1.0,
        standardize=False,
    ),
}
"""By name: for short runs, the paper's (as recalled; what it does not tell is the code's), and the code's."""


class ActorCritic(nn.Module):
    """An LSTM of 128 units; from it the policy (128-128-widths) and the value (128-64-1).

    Parameters
    ----------
    observations:
        Length of an observation.
    choices:
        Number of widths at every step.
    temperature:
        See `ReleqOptions`.
    """

    allowed: torch.Tensor

    def __init__(self, observations: int, choices: Sequence[int], temperature: float) -> None:
        super().__init__()
        most = max(choices)
        self.temperature = temperature
        self.memory = nn.LSTM(observations, 128, batch_first=True)
        self.policy = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU())
        self.logits = nn.Linear(128, most)
        self.value = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 1))
        self.register_buffer("allowed", torch.arange(most) < torch.tensor(choices)[:, None], persistent=False)

    def forward(
        self, observations: torch.Tensor, first: int = 0, state: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Logarithms of the probabilities (batch, steps, widths), values (batch, steps), and the LSTM's state.

        Of observations (batch, steps, size) from step ``first`` on, with the state that the step before left.
        """
        hidden, state = self.memory(observations, state)
        logits = self.logits(self.policy(hidden) / self.temperature)
        allowed = self.allowed[first : first + observations.shape[1]]
        return logits.masked_fill(~allowed, _FORBIDDEN).log_softmax(-1), self.value(hidden)[..., 0], state


class ReleqAgent:
    """Learns from episode to episode which widths go together.

    Parameters
    ----------
    choices:
        Number of widths of every variable, in the episode's order; a pinned one has one.
    seed:
        Of the initial weights and the actions.
    options:
        See `ReleqOptions`.
    observation_size:
        Length of the observation vector.
    """

    def __init__(
        self,
        choices: Sequence[int],
        seed: int,
        options: ReleqOptions = ReleqOptions(),
        observation_size: int = 8,
    ) -> None:
        self.choices, self.options = tuple(choices), options
        self._generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):  # nn.Linear draws from the global generator
            torch.manual_seed(seed)
            self._network = ActorCritic(observation_size, self.choices, options.temperature)
        self._adam = torch.optim.Adam(self._network.parameters(), options.rate, eps=1e-5)
        self._trace: list[tuple[torch.Tensor, int]] = []
        """Observations and ranks of the widths of the episode under way."""
        self._state: tuple[torch.Tensor, torch.Tensor] | None = None
        """The LSTM's, in the episode under way."""
        self._batch: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        """Observations, ranks and rewards of the episodes since the last update."""
        self._sums = torch.zeros(3, dtype=torch.float64)
        """Number, sum and sum of squares of the rewards so far."""

    def act(self, observation: np.ndarray) -> np.ndarray:
        """The middle of the share of [0, 1] that belongs to a width drawn by the policy; float32, (1,)."""
        step, seen = len(self._trace), torch.tensor(observation, dtype=torch.float32)
        with torch.no_grad():
            logarithms, _, self._state = self._network(seen[None, None], step, self._state)
        rank = int(torch.multinomial(logarithms[0, 0].exp(), 1, generator=self._generator))
        self._trace.append((seen, rank))
        return np.array([(rank + 0.5) / self.choices[step]], dtype=np.float32)

    def finish_episode(self, rewards: Sequence[float]) -> None:
        """Keep the episode, and update the network when there are enough of them."""
        observations, ranks = zip(*self._trace, strict=True)
        self._batch.append((torch.stack(observations), torch.tensor(ranks), torch.tensor(rewards)))
        self._trace, self._state = [], None
        if len(self._batch) >= self.options.episodes_per_update:
            self._update()
            self._batch = []

    def _update(self) -> None:
        options = self.options
        observations, ranks, rewards = (torch.stack(parts) for parts in zip(*self._batch, strict=True))
        if options.standardize:
            rewards = self._standardized(rewards)
        with torch.no_grad():
            logarithms, values, _ = self._network(observations)
        before = _chosen(logarithms, ranks)
        advantages = self._advantages(rewards, values)
        returns = advantages + values
        if options.standardize:
            advantages = advantages - advantages.mean(0)
            advantages = advantages / (advantages.square().mean().sqrt() + 1e-3)
        for _ in range(options.epochs):
            logarithms, values, _ = self._network(observations)
            ratio = (_chosen(logarithms, ranks) - before).exp()
            clipped = ratio.clamp(1 - options.clip, 1 + options.clip)
            gain = torch.minimum(ratio * advantages, clipped * advantages).mean()
            entropy = -(logarithms.exp() * logarithms).sum(-1).mean()
            loss = options.value * (values - returns).square().mean() - gain - options.entropy * entropy
            self._adam.zero_grad()
            loss.backward()
            self._adam.step()

    def _standardized(self, rewards: torch.Tensor) -> torch.Tensor:
        """Rewards (episodes, steps) less the mean, over the deviation, of all so far; steps without one stay at 0."""
        given = rewards if self.options.every_step else rewards[:, -1:]
        exact = given.double()
        self._sums += torch.stack([torch.ones_like(exact).sum(), exact.sum(), exact.square().sum()])
        mean, square = self._sums[1] / self._sums[0], self._sums[2] / self._sums[0]
        scaled = ((exact - mean) / (square - mean**2).clamp(min=1e-12).sqrt()).float()
        return nn.functional.pad(scaled, (rewards.shape[1] - given.shape[1], 0))

    def _advantages(self, rewards: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Generalized advantage estimates (episodes, steps): Schulman et al., arXiv 1506.02438, eq. 16."""
        options, advantages = self.options, torch.zeros_like(rewards)
        following, future = torch.zeros(len(rewards)), torch.zeros(len(rewards))
        for step in reversed(range(rewards.shape[1])):
            error = rewards[:, step] + options.discount * future - values[:, step]
            following = error + options.discount * options.trace * following
            advantages[:, step], future = following, values[:, step]
        return advantages

    def state_dict(self) -> dict[str, Any]:
        """Network, optimizer, generator, episodes not learned from yet, and the rewards' sums; a copy."""
        return copy.deepcopy(
            {
                "options": asdict(self.options),
                "choices": list(self.choices),
                "network": self._network.state_dict(),
                "adam": self._adam.state_dict(),
                "generator": self._generator.get_state(),
                "trace": self._trace,
                "state": self._state,
                "batch": self._batch,
                "sums": self._sums,
            }
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken, bit for bit.

        Raises
        ------
        InputError
            The state is of another kind of agent, or of one with other options or other numbers of widths.
        """
        have, want = (state.get("choices"), state.get("options")), (list(self.choices), asdict(self.options))
        if have != want:
            raise InputError(
                f"expected the state of a ReLeQ agent with (widths per step, options) {want}, got {have}: "
                "resume with the network and the agent of the saved run."
            )
        self._network.load_state_dict(state["network"])
        self._adam.load_state_dict(state["adam"])
        self._generator.set_state(state["generator"])
        kept = copy.deepcopy({name: state[name] for name in ("trace", "state", "batch", "sums")})
        self._trace, self._state, self._batch, self._sums = kept.values()


def _chosen(logarithms: torch.Tensor, ranks: torch.Tensor) -> torch.Tensor:
    """The entries (episodes, steps) of the widths that were chosen."""
    return logarithms.gather(-1, ranks[..., None])[..., 0]
