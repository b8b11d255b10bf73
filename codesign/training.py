"""Training floats, and the accuracy of a policy: calibrate, fine-tune, validate."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from codesign.data import Data, Split, stratified
from codesign.quantize import QuantizedNetwork
from codesign.quantizer_fit import Calibration
from codesign.tracing import Traced
from codesign.weight_only import Scheme, WeightOnlyNetwork
from hardware.errors import InputError
from policies.policy import Policy

CALIBRATION_IMAGES = 128
LARGEST_GRADIENT = 1.0
"""Norm that fine-tuning clips gradients to: at 2 bits a few steps without it can ruin a network."""


def accuracy(module: nn.Module, split: Split, batch: int = 250) -> float:
    """Part of the labels, one per image or one per word, that have the highest score, in evaluation mode."""
    training = module.training
    module.eval()
    correct = 0
    with torch.no_grad():
        for start in range(0, len(split), batch):
            part = slice(start, start + batch)
            correct += int((module(split.batch(part)).argmax(-1) == split.labels[part]).sum())
    module.train(training)
    return correct / split.labels.numel()


def train(
    module: nn.Module,
    data: Data,
    *,
    epochs: int,
    seed: int,
    learning_rate: float = 0.01,
    batch: int = 64,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Train a float network in place: Adam, one-cycle learning rate, no augmentation.

    Parameters
    ----------
    seed:
        Seed of the shuffling, and of what the network itself draws (dropout). The global random state is kept.
    learning_rate:
        Its peak.
    progress:
        Called with the number of finished epochs.
    """
    if epochs < 1:
        raise InputError(f"expected at least 1 epoch, got {epochs}: raise it.")
    optimizer = torch.optim.Adam(module.parameters(), learning_rate)
    steps = epochs * len(_cuts(len(data.train), batch))
    schedule = OneCycleLR(optimizer, learning_rate, total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module.train()
        for epoch in range(epochs):
            _epoch(module, data.train, batch, optimizer, schedule, generator, torch.inf)
            if progress:
                progress(epoch + 1)
        module.eval()


def batches(count: int, batch: int, generator: torch.Generator | None = None) -> list[torch.Tensor]:
    """Indices of the batches of an epoch, in random order if there is a generator."""
    order = torch.arange(count) if generator is None else torch.randperm(count, generator=generator)
    return list(torch.tensor_split(order, _cuts(count, batch)[:-1]))


def _cuts(count: int, batch: int) -> list[int]:
    """Where the batches of ``count`` images end; a single image left over joins the last (batch norm needs two)."""
    ends = list(range(batch, count, batch))
    if ends and count - ends[-1] == 1:
        ends.pop()
    return [*ends, count]


def _epoch(
    module: nn.Module,
    split: Split,
    batch: int,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    generator: torch.Generator,
    largest_gradient: float,
) -> None:
    for indices in batches(len(split), batch, generator):
        loss = classification_loss(module(split.batch(indices)), split.labels[indices])
        if not torch.isfinite(loss):
            raise InputError("the training diverged, its loss is not finite: lower the learning rate.")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), largest_gradient)
        optimizer.step()
        schedule.step()
        if isinstance(module, WeightOnlyNetwork):
            module.project()


def classification_loss(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of scores ``(N, classes)``, or ``(N, T, classes)`` where every position has a label."""
    return F.cross_entropy(scores.flatten(0, -2), labels.flatten())


@dataclass(frozen=True)
class FineTune:
    """How a policy's network is fine-tuned before its accuracy counts.

    Parameters
    ----------
    epochs:
        Passes over the images; 0 leaves it at the calibration.
    learning_rate:
        At the start; it falls to 0 along a cosine.
    images, validation_images:
        How many training and validation images are used, each class by its share; None for all.
    """

    epochs: int = 1
    learning_rate: float = 1e-3
    batch: int = 64
    images: int | None = None
    validation_images: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("epochs", 0), ("batch", 2), ("images", 1), ("validation_images", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"fine-tuning: {name} should be {least} or more, got {value}: raise it.")
        if not 0 < self.learning_rate < torch.inf:
            raise InputError(f"fine-tuning: learning_rate should be positive, got {self.learning_rate}.")


def calibrate(traced: Traced, data: Data, check_signs: bool = True) -> Calibration:
    """What scales are chosen from: always the same training images, each class by its share."""
    return Calibration(traced, _subset(data.train, CALIBRATION_IMAGES, np.random.default_rng(0)).batch(), check_signs)


def weight_deviation(traced: Traced) -> np.ndarray:
    """Standard deviation of every layer's weights, float64, (layers,): part of what ReLeQ's agent is told."""
    return np.array([float(weight.std()) for weight in _weights(traced)])


def kernel_deviations(traced: Traced) -> list[np.ndarray]:
    """Standard deviation of every kernel's weights, for each layer float64, (kernels,): part of what AutoQ is told."""
    return [weight.flatten(1).std(1, correction=0).double().numpy() for weight in _weights(traced)]


def _weights(traced: Traced) -> list[torch.Tensor]:
    modules: list[Any] = [traced.graph_module.get_submodule(layer.name) for layer in traced.layers]
    return [module.weight.detach() for module in modules]


class FineTuneEvaluator:
    """Accuracy of policies, as an agent's environment asks for it.

    Every policy starts from the same float weights and sees the same images in the same order, so an accuracy does
    not depend on what was evaluated before. Fine-tuning is SGD with momentum 0.9, as HAQ's (Wang et al., CVPR 2019).

    Parameters
    ----------
    traced:
        The trained float network.
    data:
        Fine-tuned on ``train``, judged on ``validation``; ``test`` is not touched.
    seed:
        Chooses the subsets and the order of images.
    scheme:
        None: weights and activations as integers, which the machine runs. Or a way to quantize weights alone.

    Attributes
    ----------
    traced, scheme:
        As given.
    train:
        The images that it fine-tunes on.
    calibration:
        What scales are chosen from.
    """

    def __init__(self, traced: Traced, data: Data, options: FineTune, seed: int, scheme: Scheme | None = None) -> None:
        self.traced, self._options, self._seed, self.scheme = traced, options, seed, scheme
        rng = np.random.default_rng(seed)
        self.train = _subset(data.train, options.images, rng)
        self._validation = _subset(data.validation, options.validation_images, rng)
        self.calibration = calibrate(traced, data)
        self._reference = accuracy(traced.graph_module, self._validation)

    @property
    def reference_accuracy(self) -> float:
        """The float network's validation accuracy, 0 to 1."""
        return self._reference

    def accuracy(self, policy: Policy) -> float:
        """Validation accuracy of the policy's network after fine-tuning, 0 to 1."""
        return accuracy(self.tuned(policy), self._validation)

    def quantized(self, policy: Policy) -> QuantizedNetwork:
        """The policy's fine-tuned network: equal bit for bit every time, as long as the number of threads is.

        Raises
        ------
        InputError
            Weights alone are quantized, so that there are no integers to run: ask for `tuned`.
        """
        network = self.tuned(policy)
        if not isinstance(network, QuantizedNetwork):
            raise InputError(f"a network of {self.scheme} weights has no integer activations: use another scheme.")
        return network

    def tuned(self, policy: Policy) -> QuantizedNetwork | WeightOnlyNetwork:
        """The same, whatever the scheme."""
        network: QuantizedNetwork | WeightOnlyNetwork
        if self.scheme is None:
            network = QuantizedNetwork(self.traced, policy, self.calibration)
        else:
            network = WeightOnlyNetwork(self.traced, policy, self.scheme, self._seed)
        options = self._options
        if options.epochs:
            optimizer = torch.optim.SGD(network.parameters(), options.learning_rate, momentum=0.9)
            schedule = CosineAnnealingLR(optimizer, options.epochs * len(_cuts(len(self.train), options.batch)))
            generator = torch.Generator().manual_seed(self._seed)
            for _ in range(options.epochs):
                _epoch(network, self.train, options.batch, optimizer, schedule, generator, LARGEST_GRADIENT)
        return network.eval()


def _subset(split: Split, count: int | None, rng: np.random.Generator) -> Split:
    if count is None or count >= len(split):
        return split
    if split.labels.ndim > 1:  # texts with a label per word have no class of their own
        return split.take(torch.from_numpy(np.sort(rng.choice(len(split), count, replace=False))))
    chosen, _ = stratified(split.labels.numpy(), count, rng)
    return split.take(torch.from_numpy(chosen))
