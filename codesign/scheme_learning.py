"""QSS on a network: which of AutoQNN's schemes every layer's weights and input get, learned along with the weights.

After Gong et al., "AutoQNN", JCST 39(2), 2024 (arXiv 2304.03782), section 3, see `policies.scheme_search`. Every
quantizer is a mixture of its candidates, all at the same bits where they have them. What a candidate costs on the
machine is its planes, and the mixture's expected cost enters the loss as QPL's does. Deviations: weights' levels are
per channel, as on the machine, and candidates that a machine does not have can be left out.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from codesign.data import Split
from codesign.quantize import exchange
from codesign.quantized_layer import product
from codesign.quantizer_fit import Calibration
from codesign.tracing import Traced
from codesign.training import LARGEST_GRADIENT, batches, classification_loss
from hardware.errors import InputError
from hardware.layer import Layer
from policies.hardware_loss import HardwareLoss, ramp
from policies.scheme_base import Scheme
from policies.scheme_constants import Constants
from policies.scheme_search import Candidate, SchemeSearch, candidates, temperature
from policies.schemes import ACTIVATION_SCHEMES, WEIGHT_SCHEMES, activation_scheme, weight_scheme
from policies.space import ACTIVATIONS, WEIGHTS, Schemes, machine_planes

WEIGHT_RATE, SCHEME_RATE = 1e-3, 0.05
"""Learning rates of SGD for the weights and of Adam for the schemes' states; ours, the paper states none."""
STRENGTH = 10.0
"""Weight of the hardware loss at the end of its ramp, as of QPL."""
ON_MACHINE = ("binary", "ternary", "quaternary", "fixed", "clip", "pot"), ("fixed", "clip")
"""Schemes of weights, and of activations that are not negative, that the machine runs within a program."""
EVERY = WEIGHT_SCHEMES, ACTIVATION_SCHEMES
"""All of them, of which some can only be trained."""

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Of what the network gives for some of the examples, and their indices."""


class MixedLayer(nn.Module):
    """A convolution or linear layer whose weights and input are mixtures of schemes."""

    def __init__(
        self, layer: Layer, source: Any, search: SchemeSearch, calibration: Calibration, per_channel: bool = True
    ) -> None:
        super().__init__()
        self.layer, self._search, self._per_channel = layer, search, per_channel
        self.weight = nn.Parameter(source.weight.detach().clone())
        self.bias = nn.Parameter(source.bias.detach().clone())
        self._vertices = vertices(layer)
        offered = search.candidates(self._vertices[ACTIVATIONS])
        samples = calibration.samples[layer.name]
        self._input_parameters = [scheme.fit(samples, bits) for scheme, bits in offered]

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The layer's output, as that of the module in whose place it is."""
        x = self._search.mix(self._vertices[ACTIVATIONS], input, self._input_parameters)
        offered = self._search.candidates(self._vertices[WEIGHTS])
        fitted = [scheme.fit(self.weight, bits, self._per_channel) for scheme, bits in offered]
        return product(x, self._search.mix(self._vertices[WEIGHTS], self.weight, fitted), self.bias, self.layer)


def vertices(layer: Layer) -> tuple[str, str]:
    """Names of the two quantizing vertices of a layer: its weights and its input."""
    return f"{layer.name}.weight", f"{layer.name}.input"


def scheme_search(
    layers: Sequence[Layer],
    bits: int,
    seed: int,
    offered: tuple[Sequence[str], Sequence[str]] = ON_MACHINE,
    machine: bool = True,
    coarse: bool = False,
    constants: Constants = "optimal",
) -> SchemeSearch:
    """The mixtures of a network's layers.

    Parameters
    ----------
    bits:
        Of every scheme that has them; the others have their widest below.
    offered:
        Names of schemes for weights and for activations.
    machine:
        Offer only what the machine runs within a program: of signed activations that is ``fixed``.
    coarse:
        All weights share one choice, and all inputs, as far as they are offered the same.
    constants:
        Of pot.
    """
    found: dict[str, Sequence[Candidate]] = {}
    groups: dict[str, str] = {}
    for layer in layers:
        signed = layer.signed_activations
        inputs = ("fixed",) if signed and machine else offered[ACTIVATIONS]
        schemes = (
            [weight_scheme(name, constants) for name in offered[WEIGHTS]],
            [activation_scheme(name, signed) for name in inputs],
        )
        for operand, vertex in enumerate(vertices(layer)):
            own = candidates(schemes[operand], bits)
            if machine:
                own = tuple((one, _widest(one, width, operand, layer)) for one, width in own)
            found[vertex] = own
            groups[vertex] = f"{operand}: {[(one.name, one.signed, width) for one, width in own]}"
    return SchemeSearch(found, groups if coarse else None, seed=seed)


def _widest(scheme: Scheme, bits: int, operand: int, layer: Layer) -> int:
    """The scheme's widest width up to ``bits`` that the machine has."""
    return max(width for width in machine_planes(scheme.name, operand, layer) if width <= bits)


class SchemeLearner:
    """Trains a network's mixtures of schemes.

    Parameters
    ----------
    traced:
        The float network; it is left as it is.
    images:
        To learn from.
    seed:
        Of the images' order.
    hardware:
        Keeps the expected cost within a budget; None lets the task alone decide.
    loss:
        Instead of the labels' cross entropy.
    train_weights:
        Whether the weights learn along.
    per_channel:
        Fit the weights' levels to every output channel, as on the machine, or to the whole tensor, as in the paper.
    """

    def __init__(
        self,
        traced: Traced,
        search: SchemeSearch,
        calibration: Calibration,
        images: Split,
        seed: int,
        hardware: HardwareLoss | None = None,
        loss: Loss | None = None,
        train_weights: bool = True,
        per_channel: bool = True,
    ) -> None:
        self.search, self._images, self._hardware = search, images, hardware
        self._loss = loss or (lambda scores, indices: classification_loss(scores, images.labels[indices]))
        self._layers = traced.layers
        self.network = deepcopy(traced.graph_module)
        for layer in traced.layers:
            source = self.network.get_submodule(layer.name)
            exchange(self.network, source, MixedLayer(layer, source, search, calibration, per_channel))
        self._generator = torch.Generator().manual_seed(seed)
        self._weights = [*self.network.parameters()] if train_weights else []
        rates = [{"params": self._weights, "lr": WEIGHT_RATE}] if train_weights else []
        self._sgd = torch.optim.SGD(rates, WEIGHT_RATE, momentum=0.9) if rates else None
        self._adam = torch.optim.Adam(search.parameters(), SCHEME_RATE)

    def epoch(
        self, number: int, epochs: int, batch: int = 64, first: float = 1.0, gamma: float = 1.0
    ) -> dict[str, Any]:
        """One epoch of ``epochs``, counted from 0.

        Parameters
        ----------
        first, gamma:
            Of the temperature's schedule, see `policies.scheme_search.temperature`.

        Returns
        -------
        Probabilities of the schemes by vertex and name.
        """
        self.network.eval()  # no dropout: as in fine-tuning
        parts = batches(len(self._images), batch, self._generator)
        for index, indices in enumerate(parts):
            now = number + index / len(parts)
            self.search.draw(temperature(now, epochs, first, gamma))
            loss = self._loss(self.network(self._images.batch(indices)), indices).double()
            if self._hardware:
                loss = loss + STRENGTH * ramp(now / epochs) * self._hardware(self._used(self._hardware)).sum()
            if not torch.isfinite(loss):
                raise InputError("the learning of schemes diverged, its loss is not finite: raise --scheme-bits.")
            self._adam.zero_grad()
            if self._sgd:
                self._sgd.zero_grad()
            loss.backward()
            if self._sgd:
                nn.utils.clip_grad_norm_(self._weights, LARGEST_GRADIENT)
                self._sgd.step()
            self._adam.step()
        return self.probabilities()

    def _used(self, hardware: HardwareLoss) -> torch.Tensor:
        """Share of each budget that the mixtures use on average."""
        planes, shares = [], []
        for operand in (WEIGHTS, ACTIVATIONS):
            rows, parts = [], []
            for layer in self._layers:
                vertex = vertices(layer)[operand]
                offered = self.search.candidates(vertex)
                rows.append([machine_planes(scheme.name, operand, layer)[bits] for scheme, bits in offered])
                parts.append(self.search.shares(vertex))
            most = max(map(len, rows))  # signed inputs have fewer candidates: the rest has no share
            planes.append(torch.tensor([[*row, *[row[-1]] * (most - len(row))] for row in rows], dtype=torch.float64))
            shares.append(torch.stack([nn.functional.pad(part, (0, most - len(part))) for part in parts]))
        return hardware.used(*planes, *shares)

    def probabilities(self) -> dict[str, dict[str, float]]:
        """softmax(theta) by vertex and scheme."""
        found = {}
        for layer in self._layers:
            for vertex in vertices(layer):
                names = [scheme.name for scheme, _ in self.search.candidates(vertex)]
                found[vertex] = dict(zip(names, self.search.probabilities(vertex).tolist(), strict=True))
        return found

    def schemes(self) -> list[Schemes]:
        """The likeliest schemes of every layer's weights and input."""
        return [
            (self.search.choice(own)[0].name, self.search.choice(entering)[0].name)
            for own, entering in map(vertices, self._layers)
        ]
