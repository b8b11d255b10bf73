"""Training floats, and the accuracy of a policy: calibrate, fine-tune, validate."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from codesign.data import Data, Split, stratified
from codesign.quantize import Calibration, QuantizedNetwork
from codesign.tracing import Traced
from hardware.errors import InputError
from policies.policy import Policy

CALIBRATION_IMAGES = 128


def accuracy(module: nn.Module, split: Split, batch: int = 250) -> float:
    """Part of the images whose highest score is their label's, in evaluation mode."""
    training = module.training
    module.eval()
    correct = 0
    with torch.no_grad():
        for start in range(0, len(split), batch):
            part = slice(start, start + batch)
            correct += int((module(split.batch(part)).argmax(1) == split.labels[part]).sum())
    module.train(training)
    return correct / len(split)


def _batches(count: int, batch: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Shuffled indices; the last batch joins the one before if it is a single image, which batch norm cannot take."""
    order = torch.randperm(count, generator=generator)
    cuts = list(range(batch, count, batch))
    if cuts and count - cuts[-1] == 1:
        cuts.pop()
    yield from torch.tensor_split(order, cuts)


def _steps(count: int, batch: int) -> int:
    return sum(1 for _ in _batches(count, batch, torch.Generator()))


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
        raise InputError(f"expected at least 1 epoch, got {epochs}.")
    _fit(module, data.train, epochs, learning_rate, batch, seed, progress)


def _fit(
    module: nn.Module,
    split: Split,
    epochs: int,
    learning_rate: float,
    batch: int,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(module.parameters(), learning_rate)
    steps = epochs * _steps(len(split), batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module.train()
        for epoch in range(epochs):
            for indices in _batches(len(split), batch, generator):
                loss = F.cross_entropy(module(split.batch(indices)), split.labels[indices])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            if progress:
                progress(epoch + 1)
        module.eval()


@dataclass(frozen=True)
class FineTune:
    """How a policy's network is fine-tuned before its accuracy counts.

    Parameters
    ----------
    epochs:
        Passes over the images; 0 measures the accuracy after calibration alone.
    images, validation_images:
        How many training and validation images are used, each class by its share; None for all.
    """

    epochs: int = 1
    learning_rate: float = 1e-3
    batch: int = 64
    images: int | None = None
    validation_images: int | None = None


class FineTuneEvaluator:
    def __init__(self, traced: Traced, data: Data, options: FineTune, seed: int) -> None:
        self._traced = traced
        self._options, self._seed = options, seed
        rng = np.random.default_rng(seed)
        self._train = _subset(data.train, options.images, rng)
        self._validation = _subset(data.validation, options.validation_images, rng)
        self._calibration = Calibration(traced, _subset(data.train, CALIBRATION_IMAGES, rng).batch())
        self.reference_accuracy = accuracy(traced.graph_module, self._validation)

    def accuracy(self, policy: Policy) -> float:
        return accuracy(self.quantized(policy), self._validation)

    def quantized(self, policy: Policy) -> QuantizedNetwork:
        network = QuantizedNetwork(self._traced, policy, self._calibration)
        options = self._options
        if options.epochs:
            _fit(network, self._train, options.epochs, options.learning_rate, options.batch, self._seed)
        return network.eval()


def _subset(split: Split, count: int | None, rng: np.random.Generator) -> Split:
    if count is None or count >= len(split):
        return split
    chosen, _ = stratified(split.labels.numpy(), count, rng)
    return split.take(torch.from_numpy(chosen))
