"""What an agent is told before each step, after the papers; every observation is a float32 vector in [0, 1]."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hardware.errors import unknown
from hardware.layer import Layer
from hardware.schedule import MAX_BITS
from policies.space import WEIGHTS
from policies.task import Task


@dataclass(frozen=True)
class Progress:
    """How far an episode is.

    Parameters
    ----------
    step:
        Index of the variable to be chosen next.
    vector:
        int, (variables,): chosen widths, and the widest ones for what is still open.
    accuracy:
        Accuracy of the last evaluation over the reference; 1 before the first.
    """

    step: int
    vector: np.ndarray
    accuracy: float


class Observation(Protocol):
    """Makes the observations of one task."""

    size: int
    """Length of the vector."""

    def __call__(self, progress: Progress) -> np.ndarray:
        """float32, (size,)."""
        ...


class HaqObservation:
    """HAQ's ten numbers, in the order of its code.

    Depthwise (0 or 1), input channels, output channels, stride (linear layers: 0), kernel (linear layers: 1), number of
    weights, input pixels, layer index, bits of the step before / 8, weight step (1) or activation step (0). The first
    eight are min-max normalized over the layers, see `layer_features`.
    """

    size = 10

    def __init__(self, task: Task) -> None:
        self._variables = task.space.variables
        self._features = layer_features(task.space.layers)

    def __call__(self, progress: Progress) -> np.ndarray:
        """float32, (10,)."""
        variable, step = self._variables[progress.step], progress.step
        observation = np.empty(self.size, dtype=np.float32)
        observation[:8] = self._features[variable.layer]
        observation[8] = progress.vector[step - 1] / MAX_BITS if step else 1.0
        observation[9] = variable.operand == WEIGHTS
        return observation


class ReleqObservation:
    """ReLeQ's eight numbers, in the order of its code.

    Step / number of steps (with one width per layer its index / number of layers), bits / 8 of the variable, state of
    quantization (mean weight bits / 8), relative accuracy, output channels n, input channels c, kernel k (linear
    layers: 0), standard deviation of the layer's weights.

    What is still open counts with its widest bits. The accuracy is that of the last evaluation, 1 before the first,
    and cut to 1. n, c and k are min-max normalized over the layers; the deviation, which the code leaves as it is, is
    divided by the largest one, and 0 where the task does not know any.
    """

    size = 8

    def __init__(self, task: Task) -> None:
        self._variables, self._costs = task.space.variables, task.costs
        shapes = [
            (layer.out_channels, layer.reduction, 0)
            if layer.kind == "linear"
            else (layer.out_channels, layer.in_channels, layer.kernel[0])
            for layer in task.space.layers
        ]
        largest = task.weight_deviation.max()
        deviation = task.weight_deviation / (largest if largest > 0 else 1.0)
        self._features = np.column_stack([normalized(np.array(shapes, dtype=np.float64)), deviation])

    def __call__(self, progress: Progress) -> np.ndarray:
        """float32, (8,)."""
        observation = np.empty(self.size, dtype=np.float32)
        observation[0] = progress.step / len(self._variables)
        observation[1] = progress.vector[progress.step] / MAX_BITS
        observation[2] = self._costs.ratio("bits", progress.vector)
        observation[3] = min(progress.accuracy, 1.0)
        observation[4:] = self._features[self._variables[progress.step].layer]
        return observation


class AutoqObservation:
    """What AutoQ's controllers are told of one kernel, or group of kernels, or of a layer's activations.

    Layer index, kernel, input channels, output channels, kernel size, stride, feature size, depthwise, weight step (1)
    or activation step (0), bits of the step before / 8 (Lou et al., ICLR 2020, section 3; the list is recalled), and
    how the kernel's weights deviate (ours, see `relative_deviation`). The goal is appended by the agent. The kernel is
    the place of its middle in the layer, so 0.5 where a layer has one width. Columns of layers are those of
    `layer_features`.
    """

    size = 11
    KERNEL, DEVIATION = 1, 10
    """Columns in which a layer's kernels differ."""

    def __init__(self, task: Task) -> None:
        self._variables = variables = task.space.variables
        features = layer_features(task.space.layers)[:, [7, 0, 1, 2, 4, 3, 6, 0, 0, 0, 0]]
        self._fixed = features[[variable.layer for variable in variables]].astype(np.float32)
        deviations = [relative_deviation(layer) for layer in task.kernel_deviations]
        for row, variable in zip(self._fixed, variables, strict=True):
            kernels, count = variable.kernels, task.space.layers[variable.layer].out_channels
            row[self.KERNEL] = (kernels.start + kernels.stop) / 2 / count
            row[7] = features[variable.layer, 1]
            row[8] = variable.operand == WEIGHTS
            row[self.DEVIATION] = deviations[variable.layer][kernels.start : kernels.stop].mean()

    def __call__(self, progress: Progress) -> np.ndarray:
        """float32, (11,)."""
        observation = self._fixed[progress.step].copy()
        observation[9] = progress.vector[progress.step - 1] / MAX_BITS if progress.step else 1.0
        return observation


def relative_deviation(deviations: np.ndarray) -> np.ndarray:
    """How kernels' weights deviate beside those of their layer: float64, (kernels,), in [0, 1].

    0.5 for the geometric mean of the layer's kernels, an eighth more for every doubling: at the same step of their
    quantizers that is one bit more out of eight. Kernels of zeros are at 0, and not part of the mean.
    """
    logarithms = np.full(len(deviations), -np.inf)
    alive = deviations > 0
    logarithms[alive] = np.log2(deviations[alive])
    mean = logarithms[alive].mean() if alive.any() else 0.0
    if not alive.any():
        return np.full(len(deviations), 0.5)
    return np.clip(0.5 + (logarithms - mean) / MAX_BITS, 0.0, 1.0)


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
    return normalized(raw)


def normalized(columns: np.ndarray) -> np.ndarray:
    """Every column min-max normalized to [0, 1]; 0 where it is constant."""
    low, span = columns.min(axis=0), np.ptp(columns, axis=0)
    return (columns - low) / np.where(span > 0, span, 1.0)


OBSERVATIONS: dict[str, Callable[[Task], Observation]] = {
    "autoq": AutoqObservation,
    "haq": HaqObservation,
    "releq": ReleqObservation,
}
"""By name."""


def make_observation(name: str, task: Task) -> Observation:
    """The observation of a name in `OBSERVATIONS`, for a task.

    Raises
    ------
    InputError
        An unknown name.
    """
    if name not in OBSERVATIONS:
        raise unknown("observation", name, OBSERVATIONS)
    return OBSERVATIONS[name](task)
