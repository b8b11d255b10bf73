"""Deep deterministic policy gradient: the networks and the update that HAQ's agent and AutoQ's controllers share.

After Lillicrap et al., "Continuous control with deep reinforcement learning", ICLR 2016: an actor maps an observation
to actions in [0, 1], a critic says what actions are worth, and slow copies of both give the targets. What is
remembered, and what it is worth, is the agents' affair.
"""

import copy
from typing import Any

import torch
from torch import nn


class Critic(nn.Module):
    """What actions are worth: layers for observation and actions, summed, then two more."""

    def __init__(self, observations: int, hidden: int, actions: int = 1) -> None:
        super().__init__()
        self.observation = nn.Linear(observations, hidden)
        self.action = nn.Linear(actions, hidden)
        self.hidden = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, 1)

    def forward(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Value, (batch, 1), of actions (batch, actions) at observations (batch, size)."""
        joined = torch.relu(self.observation(observation) + self.action(action))
        return self.value(torch.relu(self.hidden(joined)))


def make_actor(observations: int, hidden: int, actions: int = 1) -> nn.Sequential:
    """Observation to actions: two hidden layers, then a sigmoid."""
    return nn.Sequential(
        nn.Linear(observations, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, actions),
        nn.Sigmoid(),
    )


def truncated_normal(mean: float, sigma: float, generator: torch.Generator) -> float:
    """One draw from the normal distribution around ``mean`` in [0, 1], cut to [0, 1].

    By the inverse of the distribution function: one uniform number per draw, unlike HAQ's resampling.
    """
    edges = torch.special.ndtr((torch.tensor([0.0, 1.0], dtype=torch.float64) - mean) / sigma)
    level = torch.lerp(edges[0], edges[1], torch.rand((), generator=generator, dtype=torch.float64))
    return min(max(mean + sigma * float(torch.special.ndtri(level)), 0.0), 1.0)


class ActorCritic:
    """Actor, critic, their slow copies and their optimizers.

    Parameters
    ----------
    observations, actions:
        Lengths of an observation and of an action.
    hidden:
        Units in each of the two hidden layers of actor and critic.
    actor_rate, critic_rate:
        Adam's learning rates.
    soft_update:
        Tau: share of the trained weights mixed into the slow copies at every update.
    seed:
        Of the initial weights; the global generator is left as it is.
    """

    def __init__(
        self,
        observations: int,
        actions: int,
        hidden: int,
        *,
        actor_rate: float,
        critic_rate: float,
        soft_update: float,
        seed: int,
    ) -> None:
        with torch.random.fork_rng(devices=[]):  # nn.Linear draws from the global generator
            torch.manual_seed(seed)
            self._actor = make_actor(observations, hidden, actions)
            self._critic = Critic(observations, hidden, actions)
        self._target_actor, self._target_critic = copy.deepcopy(self._actor), copy.deepcopy(self._critic)
        self._actor_adam = torch.optim.Adam(self._actor.parameters(), actor_rate)
        self._critic_adam = torch.optim.Adam(self._critic.parameters(), critic_rate)
        self._soft_update = soft_update

    def act(self, observation: torch.Tensor) -> list[float]:
        """The actor's actions at an observation (size,)."""
        with torch.no_grad():
            actions: list[float] = self._actor(observation).tolist()
        return actions

    def update(
        self,
        observation: torch.Tensor,
        action: torch.Tensor,
        reward: torch.Tensor,
        following: torch.Tensor,
        last: torch.Tensor,
        discount: float,
        disturbance: torch.Tensor | None = None,
    ) -> None:
        """One step of the critic towards the rewards, and one of the actor towards what the critic thinks better.

        Parameters
        ----------
        observation, following:
            (batch, size): where the action was taken, and what came next.
        action:
            (batch, actions).
        reward:
            (batch, 1).
        last:
            bool, (batch,): nothing follows the action.
        discount:
            Gamma; with 0 an action is worth its own reward only, and ``following`` does not matter.
        disturbance:
            (batch, actions): the actor follows the critic's slope so far beside its own action, which over many updates
            is the slope of a smoothed critic, by inverting gradients (Hausknecht and Stone, "Deep reinforcement
            learning in parameterized action space", ICLR 2016): the slope counts by the distance to the end of [0, 1]
            that it points to. An actor that a young critic drove to one end comes back from there; by None, the plain
            gradient, it does not, because the slope of a sigmoid is next to nothing at its ends.
        """
        target = reward
        if discount:
            with torch.no_grad():
                future = self._target_critic(following, self._target_actor(following))
                future[last] = 0.0
                target = reward + discount * future
        critic_loss = nn.functional.mse_loss(self._critic(observation, action), target)
        self._critic_adam.zero_grad()
        critic_loss.backward()
        self._critic_adam.step()

        weights = list(self._actor.parameters())
        if disturbance is None:
            loss = -self._critic(observation, self._actor(observation)).mean()
            gradients = torch.autograd.grad(loss, weights)
        else:
            gradients = self._disturbed(observation, weights, disturbance)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        self._actor_adam.step()

        with torch.no_grad():
            for slow, fast in ((self._target_actor, self._actor), (self._target_critic, self._critic)):
                torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), self._soft_update)

    def _disturbed(
        self, observation: torch.Tensor, weights: list[nn.Parameter], disturbance: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        logits = self._actor[:-1](observation)
        action = logits.detach().sigmoid()
        near = (action + disturbance).clamp(0.0, 1.0).requires_grad_()
        (pull,) = torch.autograd.grad(self._critic(observation, near).mean(), near)
        return torch.autograd.grad(logits, weights, -pull * torch.where(pull > 0, 1 - action, action))

    @property
    def _parts(self) -> dict[str, Any]:
        return {
            "actor": self._actor,
            "critic": self._critic,
            "target_actor": self._target_actor,
            "target_critic": self._target_critic,
            "actor_adam": self._actor_adam,
            "critic_adam": self._critic_adam,
        }

    def state_dict(self) -> dict[str, Any]:
        """States of networks and optimizers by their names; not a copy."""
        return {name: part.state_dict() for name, part in self._parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the networks and optimizers of a `state_dict`."""
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
