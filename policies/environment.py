"""HAQ's episode as a Gymnasium environment: two steps per layer, one policy, one reward.

After Wang et al., "HAQ: Hardware-Aware Automated Quantization with Mixed Precision", CVPR 2019, sections 3.1-3.5.
Every layer gets two actions, weight bits then activation bits. When all are chosen, bits are taken away until the
policy fits the budget, the quantized network is evaluated, and the change of accuracy is the reward.

Deviations from the paper's public code:

1. Widths are clipped to the allowed range. HAQ's rounding (half to even) gives 0 bits for a lowest width of 1 at
   action 0, and one bit too many for an odd highest width at action 1.
2. The first layer is priced at the 8 activation bits it has; the code reads its entry at index -2, that is 7 bits.
3. The weight/activation flag is 1 for weights and 0 for activations, as the code's comment says. The code writes it one
   step late, and never resets the observations, so that an episode begins with a width of the episode before.
4. A column of the observation that is the same in all layers is 0: it tells nothing. The code leaves its raw value,
   which may lie far outside [0, 1].
5. A layer with one input channel and one group is not called depthwise.
6. The first and the last layer are searched like all others; HAQ keeps them at 8/8 bits (``pin_ends``). A bit-serial
   machine runs them at any width, and in a small network they are most of the cost: with both pinned the LeNet on
   `bitserial-tiny` cannot go below 68 % of its 8-bit cycles. Pinned layers still take their two steps, as in the code,
   but the next observation shows the 8 bits they got instead of the action that was ignored.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import gymnasium
import numpy as np

from hardware.errors import InputError
from hardware.layer import Layer
from hardware.oracle import total_cost
from hardware.schedule import MAX_BITS
from policies.budget import Budget, back_off, check_budget
from policies.policy import Policy

OBSERVATION_SIZE = 10
PREVIOUS_BITS, WEIGHT_STEP = 8, 9
"""Dimensions of the observation that change within a layer; the first eight describe the layer."""


class Evaluator(Protocol):
    """Who says how good a policy is. Both figures are fractions in [0, 1]."""

    @property
    def reference_accuracy(self) -> float:
        """Accuracy of the network before quantization."""
        ...

    def accuracy(self, policy: Policy) -> float:
        """Accuracy of the network under ``policy``; the same policy always gives the same figure."""
        ...


class BitWidthEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """Choose the bits of one network under one budget.

    The observation is a float32 vector of ten numbers in [0, 1], in the order of HAQ's code: depthwise (0 or 1), input
    channels, output channels, stride (linear layers: 0), kernel (linear layers: 1), number of weights, input pixels,
    layer index, bits of the step before / 8, weight step (1) or activation step (0). The first eight are min-max
    normalized over the layers. The action is one number in [0, 1], see `width`.

    Parameters
    ----------
    network:
        Name written into the policies.
    layers:
        The layers in the network's order.
    costs:
        Cycles, (layers, 8, 8), from `hardware.cost.cost_table`.
    budget:
        What a policy may cost; every evaluated policy fits it.
    evaluator:
        Judges the policies. Each policy is evaluated once, see `evaluations`.
    lowest_bits, highest_bits:
        Range of the widths, within 1-8.
    pin_ends:
        Keep the first and the last layer at 8/8 bits, as HAQ does (deviation 6).

    Attributes
    ----------
    evaluations: dict[str, float]
        Accuracy of every policy evaluated so far. A key is one digit pair per layer, weight bits then activation bits:
        ``"88 43 88"``. Assign a saved dictionary to answer from it after a resume.
    new_evaluations, repeated_policies: int
        Episodes of this object that called the evaluator, and that were answered from `evaluations`.

    Raises
    ------
    InputError
        No layers, a table of another shape, an impossible range of widths, or a budget that cannot be reached.
    """

    def __init__(
        self,
        network: str,
        layers: Sequence[Layer],
        costs: np.ndarray,
        budget: Budget,
        evaluator: Evaluator,
        *,
        lowest_bits: int = 2,
        highest_bits: int = MAX_BITS,
        pin_ends: bool = False,
    ) -> None:
        if not layers or costs.shape != (len(layers), MAX_BITS, MAX_BITS):
            raise InputError(
                f"expected at least one layer and costs of shape (layers, {MAX_BITS}, {MAX_BITS}), got {len(layers)} "
                f"layers and costs of shape {costs.shape}: make the table from the same layers."
            )
        if not 1 <= lowest_bits <= highest_bits <= MAX_BITS:
            raise InputError(
                f"expected 1 <= lowest bits <= highest bits <= {MAX_BITS}, got {lowest_bits} and {highest_bits}: "
                "choose a range within that, for example 2 to 8."
            )
        self.network, self.layers, self.costs = network, tuple(layers), costs
        self.lowest_bits, self.highest_bits = lowest_bits, highest_bits
        self.pinned = pinned_layers(len(layers), pin_ends)
        self.target = check_budget(budget, costs, lowest_bits, self.pinned)
        self.full_cost = float(total_cost(np.full((len(layers), 2), MAX_BITS), costs))
        self.evaluator, self.reference_accuracy = evaluator, evaluator.reference_accuracy
        self.evaluations: dict[str, float] = {}
        self.new_evaluations = self.repeated_policies = 0

        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (OBSERVATION_SIZE,), np.float32)
        self.action_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
        self._features = layer_features(layers)
        self._bits = np.full((len(layers), 2), MAX_BITS)
        self._step = self.steps_per_episode  # over: `reset` first

    @property
    def steps_per_episode(self) -> int:
        """Actions of one episode: two per layer."""
        return 2 * len(self.layers)

    def width(self, action: float) -> int:
        """Bits of an action in [0, 1]: equal shares of the range per width (HAQ's formula, clipped)."""
        choices = self.highest_bits - self.lowest_bits + 1
        return int(np.clip(np.round(self.lowest_bits - 0.5 + action * choices), self.lowest_bits, self.highest_bits))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode. Nothing here is random; the seed is only recorded, as Gymnasium asks."""
        super().reset(seed=seed)
        self._bits = np.full((len(self.layers), 2), MAX_BITS)
        self._step = 0
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Give the current layer's weights or activations their bits.

        Returns
        -------
        observation, reward, terminated, truncated, info. Reward is 0 and ``info`` empty before the last step. There the
        reward is ``0.1 * (accuracy - reference accuracy)`` in percentage points, and ``info`` holds ``policy``,
        ``accuracy`` (fraction), ``cost`` (cycles), ``cost_ratio`` (of the cost at 8/8 bits), ``budget_used`` (of the
        allowed cost) and ``cached`` (the policy had been evaluated before).
        """
        if self._step >= self.steps_per_episode:
            raise gymnasium.error.ResetNeeded("the episode is over: call reset() first")
        layer, operand = divmod(self._step, 2)
        if not self.pinned[layer]:
            self._bits[layer, operand] = self.width(float(action[0]))
        self._step += 1
        if self._step < self.steps_per_episode:
            return self._observation(), 0.0, False, False, {}
        self._bits = back_off(self._bits, self.costs, self.target, self.lowest_bits, self.pinned)
        info = self._evaluate()
        reward = 0.1 * 100 * (info["accuracy"] - self.reference_accuracy)
        return self._observation(), reward, True, False, info

    def _evaluate(self) -> dict[str, Any]:
        policy = Policy.from_bits(self.network, self.layers, [(int(w), int(a)) for w, a in self._bits])
        key = " ".join(f"{w}{a}" for w, a in self._bits)
        cached = key in self.evaluations
        if cached:
            self.repeated_policies += 1
        else:
            self.new_evaluations += 1
            self.evaluations[key] = self._accuracy(policy)
        cost = float(total_cost(self._bits, self.costs))
        return {
            "policy": policy,
            "accuracy": self.evaluations[key],
            "cost": cost,
            "cost_ratio": cost / self.full_cost,
            "budget_used": cost / self.target,
            "cached": cached,
        }

    def _accuracy(self, policy: Policy) -> float:
        accuracy = self.evaluator.accuracy(policy)
        if not 0 <= accuracy <= 1:
            raise InputError(
                f"expected the evaluator's accuracy as a fraction in [0, 1], got {accuracy:g}: divide percentages "
                "by 100."
            )
        return accuracy

    def _observation(self) -> np.ndarray:
        step = min(self._step, self.steps_per_episode - 1)  # after the end: the last layer once more
        observation = np.empty(OBSERVATION_SIZE, dtype=np.float32)
        observation[:PREVIOUS_BITS] = self._features[step // 2]
        observation[PREVIOUS_BITS] = self._bits.flat[self._step - 1] / MAX_BITS if self._step else 1.0
        observation[WEIGHT_STEP] = 1 - step % 2
        return observation


def pinned_layers(count: int, pin_ends: bool) -> np.ndarray:
    """Which of ``count`` layers keep 8/8 bits: bool, (count,)."""
    pinned = np.zeros(count, dtype=bool)
    pinned[[0, -1]] = pin_ends
    return pinned


def layer_features(layers: Sequence[Layer]) -> np.ndarray:
    """What an agent is told about each layer: float64, (layers, 8), every column min-max normalized.

    A column that is the same in all layers is 0.
    """
    raw = np.array(
        [
            (
                layer.groups == layer.in_channels > 1,
                layer.reduction if layer.kind == "linear" else layer.in_channels,  # features, flattened or not
                layer.out_channels,
                0 if layer.kind == "linear" else layer.stride[0],
                1 if layer.kind == "linear" else layer.kernel[0],
                layer.weight_count,
                1 if layer.kind == "linear" else layer.in_height * layer.in_width,
                index,
            )
            for index, layer in enumerate(layers)
        ],
        dtype=np.float64,
    )
    low, span = raw.min(axis=0), np.ptp(raw, axis=0)
    return (raw - low) / np.where(span > 0, span, 1.0)
