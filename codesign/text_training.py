"""Training recurrent networks on texts, classifiers and language models alike; perplexity, and baselines.

`codesign.training.train` is for images: one label each, a learning rate with a peak, gradients that are not clipped.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from codesign.data import Data, Split
from hardware.errors import InputError

LARGEST_GRADIENT = 1.0
"""Norm that gradients are clipped to: those of a recurrence grow with the text's length."""
PRIORS = (1, 3, 10, 30, 100, 300, 1000)
"""Counts that a bigram's prior may weigh as much as; the one with the best validation perplexity is taken."""


def train(
    module: nn.Module,
    data: Data,
    *,
    epochs: int,
    seed: int,
    learning_rate: float = 1e-3,
    batch: int = 32,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Train a float network in place: Adam, constant learning rate, clipped gradients.

    Parameters
    ----------
    module:
        Takes int64 ``(N, T)`` and returns ``(N, classes)``, or ``(N, T, vocabulary)``, as the labels are.
    seed:
        Seed of the shuffling, and of what the network itself draws. The global random state is kept.
    progress:
        Called with the number of finished epochs.

    Raises
    ------
    InputError
        No epoch, or the loss is not finite any more.
    """
    if epochs < 1:
        raise InputError(f"expected at least 1 epoch, got {epochs}: raise it.")
    optimizer = torch.optim.Adam(module.parameters(), learning_rate)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for epoch in range(epochs):
            module.train()
            for indices in torch.randperm(len(data.train), generator=generator).split(batch):
                loss = _loss(module, data.train, indices, "mean")
                if not torch.isfinite(loss):
                    raise InputError("the training diverged, its loss is not finite: lower the learning rate.")
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(module.parameters(), LARGEST_GRADIENT)
                optimizer.step()
            module.eval()
            if progress:
                progress(epoch + 1)


def perplexity(module: nn.Module, split: Split, batch: int = 64) -> float:
    """Exponential of the mean negative log-likelihood of the labels, in evaluation mode; 1 is perfect.

    Every text is scored from a state of zeros, so that the first words of each have little to go by.
    """
    loss = _total(module, split, batch, lambda indices: float(_loss(module, split, indices, "sum")))
    return math.exp(loss / split.labels.numel())


def _loss(module: nn.Module, split: Split, indices: torch.Tensor | slice, reduction: str) -> torch.Tensor:
    scores = module(split.batch(indices))
    return F.cross_entropy(scores.flatten(0, -2), split.labels[indices].flatten(), reduction=reduction)


def _total(module: nn.Module, split: Split, batch: int, of: Callable[[slice], float]) -> float:
    training = module.training
    module.eval()
    with torch.no_grad():
        total = sum(of(slice(start, start + batch)) for start in range(0, len(split), batch))
    module.train(training)
    return total


def unigram_perplexity(data: Data) -> float:
    """Test perplexity of the words' frequencies in training, each raised by one: a language model without context."""
    frequencies = _frequencies(data)
    return math.exp(-float(frequencies[data.test.labels.flatten()].log().mean()))


def bigram_perplexity(data: Data) -> float:
    """Test perplexity of pairs of words, smoothed by the words' own frequencies with a weight from `PRIORS`.

    p(w after v) = (count(v, w) + k p(w)) / (count(v) + k): add-k that spreads its k as the unigrams are, not evenly.
    """
    frequencies, size = _frequencies(data), len(data.classes)
    pairs = torch.bincount(data.train.batch().flatten() * size + data.train.labels.flatten(), minlength=size * size)
    first = pairs.reshape(size, size).sum(1)

    def loss(split: Split, prior: int) -> float:
        before, word = split.batch().flatten(), split.labels.flatten()
        chance = (pairs[before * size + word] + prior * frequencies[word]) / (first[before] + prior)
        return -float(chance.log().mean())

    best = min(PRIORS, key=lambda prior: loss(data.validation, prior))
    return math.exp(loss(data.test, best))


def _frequencies(data: Data) -> torch.Tensor:
    """How often every word follows in training, each count raised by one, float64, ``(vocabulary,)``."""
    counts = torch.bincount(data.train.labels.flatten(), minlength=len(data.classes)).double() + 1
    return counts / counts.sum()
