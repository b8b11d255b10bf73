"""QPL as an agent: an episode is an epoch of learning bits and weights, and ends in the policy that the bits stand for.

After Gong et al., "AutoQNN", JCST 39(2), 2024 (arXiv 2304.03782), section 4, with the machine's cost in the place of
mean bits. Deviations:

1. The loss that keeps the bits down is ``relu(cost / budget - 1)^2``, cost being what the oracle says of the nearest
   widths, with a weight that grows over the first half of the run. ``qpl-precision`` has the paper's: the distance of
   the element-weighted mean bits from a target, which here is the uniform width that would just use up the budget.
2. After every epoch the bits are brought into the budget exactly: ``qpl`` by `policies.repair.repair`, which knows
   what a bit costs and what the task feels of it; ``qpl-precision``, which shall not know the machine, by moving all
   bits alike until the budget is met, as FracBits does (Jin et al., AAAI 2021; recalled).
3. The policy is what is kept. Its accuracy is measured as every agent's, from the float weights: see
   `codesign.training.FineTuneEvaluator`. The weights that learn along are there for the gradients of the bits.
4. Bits begin half a bit above the widest uniform width that fits, not at 4.
"""

import copy
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from codesign.learned_network import LearnedNetwork
from codesign.training import LARGEST_GRADIENT, FineTuneEvaluator, batches, classification_loss
from hardware.errors import InputError, unknown
from policies.agent import Agent, agent_names, make_agent
from policies.hardware_loss import HardwareLoss, PrecisionLoss, budget_targets, ramp
from policies.learned_bits import LearnedBits, element_counts
from policies.repair import repair, shift
from policies.space import Space
from policies.task import Outcome, Task

QPL, PRECISION = "qpl", "qpl-precision"
AFTER_SCHEMES = {"qss": "uniform", "autoqnn": QPL}
"""Agents that begin with a search for schemes (`codesign.scheme_run`), and who then searches for bits."""
GRADIENT_AGENTS = (QPL, PRECISION, *AFTER_SCHEMES)


@dataclass(frozen=True)
class QplOptions:
    """What can be turned; all values are ours, the paper states none."""

    weight_rate: float = 1e-3
    """SGD's learning rate for the weights; momentum 0.9, as in fine-tuning."""
    bits_rate: float = 0.03
    """Adam's learning rate for the bits: steps of so many bits at first."""
    strength: float = 10.0
    """Weight of the loss that keeps the bits down, at the end of its ramp."""
    batch: int = 64


class QplAgent:
    """Learns the bits of a task by gradient descent.

    Parameters
    ----------
    evaluator:
        Gives the network, its calibration and the images to learn from.
    episodes:
        Epochs of the whole run.
    seed:
        Of the images' order.
    precision:
        Keep the mean bits down, not the cost.

    Raises
    ------
    InputError
        No budget, a space finer than layers, or weights alone quantized.
    """

    def __init__(
        self,
        task: Task,
        evaluator: FineTuneEvaluator,
        episodes: int,
        seed: int,
        precision: bool = False,
        options: QplOptions = QplOptions(),
    ) -> None:
        if evaluator.scheme:
            raise InputError("QPL learns the widths of what the machine runs: leave out --scheme.")
        self.task, self.options, self.episodes, self.precision = task, options, episodes, precision
        self._images = evaluator.train
        self._generator = torch.Generator().manual_seed(seed)
        self._targets = HardwareLoss(budget_targets(task.limits.budgets, task.costs))
        start = uniform_bits(task)
        space = task.space
        self.bits = LearnedBits(space, start + (0 if precision else 0.5))
        self._mean = PrecisionLoss(space, element_counts(space), start, start)
        self.network = LearnedNetwork(evaluator.traced, self.bits, evaluator.calibration)
        weights = [parameter for parameter in self.network.parameters() if parameter is not self.bits.bits]
        self._weights = torch.optim.SGD(weights, options.weight_rate, momentum=0.9)
        self._bits = torch.optim.Adam([self.bits.bits], options.bits_rate)
        self._steps = 0
        self._sensitivity = torch.zeros(len(space.variables))

    def episode(self) -> Outcome:
        """One epoch, and the policy that it ends in."""
        self.network.eval()  # no dropout: as in fine-tuning
        self.network.refit()
        total, count = torch.zeros_like(self._sensitivity), 0
        for indices in batches(len(self._images), self.options.batch, self._generator):
            total += self._step(indices)
            count += 1
        self._sensitivity = total / count
        return self.task.evaluate(self.vector())

    def _step(self, indices: torch.Tensor) -> torch.Tensor:
        """One step; returns the task loss's derivatives with respect to the bits."""
        scores, labels = self.network(self._images.batch(indices)), self._images.labels[indices]
        loss = classification_loss(scores, labels)
        if not torch.isfinite(loss):
            raise InputError("the learning of bits diverged, its loss is not finite: lower its learning rates.")
        self._weights.zero_grad()
        self._bits.zero_grad()
        loss.backward()
        gradient = self.bits.bits.grad
        felt = torch.zeros_like(self.bits.bits) if gradient is None else gradient.detach().clone()
        steps = self.episodes * len(batches(len(self._images), self.options.batch))
        strength = self.options.strength * ramp(self._steps / steps)
        (strength * self._kept_down()).backward()
        nn.utils.clip_grad_norm_(self._weights.param_groups[0]["params"], LARGEST_GRADIENT)
        self._weights.step()
        self._bits.step()
        self.bits.clamp_()
        self._steps += 1
        return felt

    def _kept_down(self) -> torch.Tensor:
        rounded = self.bits.rounded()
        if self.precision:
            return self._mean(rounded).sum()
        return self._targets(self._targets.used(*self.bits.layer_bits(rounded))).sum()

    def vector(self) -> np.ndarray:
        """The policy that the bits stand for now, within the budget."""
        if self.precision:
            return shift(self.bits.bits.detach().double().numpy(), self.task.limits, self.bits.widths)
        return repair(
            self.bits.vector(), self._sensitivity.double().numpy(), self.task.limits, self.bits.widths, fill=True
        )

    def _identity(self) -> list[Any]:
        return [asdict(self.options), self.precision, self.episodes, len(self.task.space.variables)]

    def state_dict(self) -> dict[str, Any]:
        """Weights, bits, optimizers, generator and counters; a copy. Between epochs."""
        return copy.deepcopy(
            {
                "qpl": self._identity(),
                "network": self.network.state_dict(),
                "optimizers": [self._weights.state_dict(), self._bits.state_dict()],
                "generator": self._generator.get_state(),
                "steps": self._steps,
                "sensitivity": self._sensitivity,
            }
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken, bit for bit.

        Raises
        ------
        InputError
            The state is of another agent, or of one with other options or another space.
        """
        if state.get("qpl") != self._identity():
            raise InputError(
                f"expected the state of QPL with (options, precision, epochs, variables) {self._identity()}, got "
                f"{state.get('qpl')}: resume with the agent of the saved run."
            )
        self.network.load_state_dict(state["network"])
        for optimizer, own in zip((self._weights, self._bits), state["optimizers"], strict=True):
            optimizer.load_state_dict(own)
        self._generator.set_state(state["generator"])
        self._steps, self._sensitivity = state["steps"], state["sensitivity"].clone()


def uniform_bits(task: Task) -> float:
    """The width of all variables that just uses up the budget: between two whole widths by what these use.

    Raises
    ------
    InputError
        There is no budget.
    """
    if not task.limits.budgets:
        raise InputError("QPL learns bits against a budget, and there is none: pass one, for example latency=0.5.")
    space = task.space
    lowest, highest = int(space.narrowest.min()), int(space.widest.max())
    used = [float(task.limits.used(_at_most(space, width))) for width in range(lowest, highest + 1)]
    fitting = [index for index, share in enumerate(used) if share <= 1]
    if not fitting or fitting[-1] == len(used) - 1:
        return float(highest if fitting else lowest)
    index = fitting[-1]
    return lowest + index + (1 - used[index]) / (used[index + 1] - used[index])


def _at_most(space: Space, width: int) -> np.ndarray:
    """Every variable's widest width up to this one, or its narrowest."""
    return np.array([max((w for w in one.widths if w <= width), default=one.widths[0]) for one in space.variables])


def check_live_agent(name: str) -> None:
    """Raise `InputError` unless `make_live_agent` knows the name."""
    if name not in (*agent_names(), *GRADIENT_AGENTS):
        raise unknown("agent", name, (*agent_names(), *GRADIENT_AGENTS))


def make_live_agent(name: str, task: Task, *, evaluator: FineTuneEvaluator, episodes: int, seed: int) -> Agent:
    """As `policies.agent.make_agent`, and the agents that learn on the network's own gradients."""
    check_live_agent(name)
    name = AFTER_SCHEMES.get(name, name)
    if name in (QPL, PRECISION):
        return QplAgent(task, evaluator, episodes, seed, precision=name == PRECISION)
    return make_agent(name, task, episodes=episodes, seed=seed)
