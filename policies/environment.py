"""A task as a Gymnasium environment: one step per width, layer by layer, one policy per episode.

After Wang et al., "HAQ: Hardware-Aware Automated Quantization with Mixed Precision", CVPR 2019, sections 3.1-3.5.
Every layer gets its weight bits, then its activation bits; with a finer space every kernel gets its own. When all are
chosen, bits are taken away until the policy fits the budget, the quantized network is evaluated, and what it is worth
is the reward of the last step.

Deviations from HAQ's public code:

1. Widths are clipped to the allowed range (`policies.space.Space.width`).
2. The first layer is priced at the 8 activation bits it has; the code reads its entry at index -2, that is 7 bits.
3. The weight/activation flag is 1 for weights and 0 for activations, as the code's comment says. The code writes it one
   step late, and never resets the observations, so that an episode begins with a width of the episode before.
4. A column of the observation that is the same in all layers is 0: it tells nothing. The code leaves its raw value,
   which may lie far outside [0, 1].
5. A layer with one input channel and one group is not called depthwise.
6. The first and the last layer are searched like all others; HAQ keeps them at 8/8 bits (``pin_ends``). A bit-serial
   machine runs them at any width, and in a small network they are most of the cost: with both pinned the LeNet on
   `bitserial-tiny` cannot go below 68 % of its 8-bit cycles. Pinned layers still take their steps, as in the code,
   but the next observation shows the 8 bits they got instead of the action that was ignored.
"""

from typing import Any

import gymnasium
import numpy as np

from policies.observations import Progress, make_observation
from policies.task import Outcome, Task


class BitWidthEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """Choose the bits of one network.

    The action is one number in [0, 1], see `policies.space.Space.width`.

    Parameters
    ----------
    observation:
        A name in `policies.observations.OBSERVATIONS`.
    every_step:
        Evaluate after every step, with what is still open at its widest, and give the reward of that; ReLeQ does so in
        small networks. Otherwise only the last step has a reward. Either way the last step's policy is the episode's.
    """

    def __init__(self, task: Task, observation: str = "haq", every_step: bool = False) -> None:
        self.task, self.every_step = task, every_step
        self._observe = make_observation(observation, task)
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (self._observe.size,), np.float32)
        self.action_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float32)
        self._vector, self._accuracy = task.space.widest.copy(), 1.0
        self._step = self.steps_per_episode  # over: `reset` first

    @property
    def steps_per_episode(self) -> int:
        """Actions of one episode: the space's variables."""
        return len(self.task.space.variables)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode. Nothing here is random; the seed is only recorded, as Gymnasium asks."""
        super().reset(seed=seed)
        self._vector, self._accuracy, self._step = self.task.space.widest.copy(), 1.0, 0
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Give the next variable its width.

        Returns
        -------
        observation, reward, terminated, truncated, info. ``info`` is empty, and the reward 0, before the last step,
        unless every step is evaluated; otherwise ``info["outcome"]`` is a `policies.task.Outcome`.
        """
        if self._step >= self.steps_per_episode:
            raise gymnasium.error.ResetNeeded("the episode is over: call reset() first")
        self._vector[self._step] = self.task.space.width(self._step, float(action[0]))
        self._step += 1
        last = self._step == self.steps_per_episode
        if not (last or self.every_step):
            return self._observation(), 0.0, False, False, {}
        outcome: Outcome = self.task.evaluate(self._vector)
        self._accuracy = outcome.accuracy / self.task.reference_accuracy
        return self._observation(), outcome.reward, last, False, {"outcome": outcome}

    def _observation(self) -> np.ndarray:
        step = min(self._step, self.steps_per_episode - 1)  # after the end: the last variable once more
        return self._observe(Progress(step, self._vector, self._accuracy))
