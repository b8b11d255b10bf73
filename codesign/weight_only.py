"""Networks whose weights alone are quantized, as the papers' experiments have them; activations stay floats.

``kmeans`` is HAQ's under a size budget, ``wrpn`` and ``dorefa`` are ReLeQ's. No integer machine runs such a network as
it is: the bit-serial one needs integer activations too, see `codesign.quantize`.

Those papers keep batch norm beside the layers, which makes up for whatever scale a quantizer leaves. Here it has been
folded into the weights. So ``wrpn`` and ``dorefa`` quantize every kernel scaled to one largest magnitude, and scale it
back: to 1 for ``wrpn``, which clips there, and to 0.1 for ``dorefa``, whose tanh is nearly straight there, as it is for
the weights of convolutions beside batch norm.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from codesign.tracing import Traced
from hardware.layer import Layer
from policies.codebook import Codebook
from policies.policy import Policy
from policies.weight_quantizers import fake_dorefa, fake_wrpn

Scheme = Literal["kmeans", "wrpn", "dorefa"]
FEWEST_BITS = {"kmeans": 1, "wrpn": 2, "dorefa": 1}
"""By scheme."""
_QUANTIZERS: dict[str, tuple[Callable[[torch.Tensor, int], torch.Tensor], float]] = {
    "wrpn": (fake_wrpn, 1.0),
    "dorefa": (fake_dorefa, 0.1),
}
"""What quantizes to levels within -1 to 1, and the largest magnitude of what it is given."""


class WeightOnlyLayer(nn.Module):
    """A convolution or linear layer with quantized weights.

    Parameters
    ----------
    bits:
        One width for all kernels.
    seed:
        Of the codebook.
    """

    def __init__(self, layer: Layer, weight: torch.Tensor, bias: torch.Tensor, bits: int, scheme: Scheme, seed: int):
        super().__init__()
        self.layer, self.bits, self.scheme = layer, bits, scheme
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = nn.Parameter(bias.detach().clone())
        self.codebook = Codebook(weight, bits, seed=seed) if scheme == "kmeans" else None
        self.project()

    def project(self) -> None:
        """Put the weights back into their codebook, if there is one."""
        if self.codebook:
            with torch.no_grad():
                self.codebook.project(self.weight)

    def quantized_weight(self) -> torch.Tensor:
        """The weights that the layer multiplies by."""
        if self.codebook:
            return self.weight
        largest = self.weight.detach().abs().flatten(1).amax(1).reshape(-1, *[1] * (self.weight.ndim - 1))
        largest = torch.where(largest > 0, largest, 1.0)
        quantize, magnitude = _QUANTIZERS[self.scheme]
        return quantize(self.weight / largest * magnitude, self.bits) * largest

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's output, ``(N, M, H, W)`` or ``(N, M)``."""
        layer, weight = self.layer, self.quantized_weight()
        if layer.kind == "linear":
            return F.linear(x, weight, self.bias)
        return F.conv2d(x, weight, self.bias, layer.stride, layer.padding, layer.dilation, layer.groups)


class WeightOnlyNetwork(nn.Module):
    """The traced network with every layer's weights quantized as a policy says; its activation widths are ignored.

    Raises
    ------
    InputError
        The policy does not name the network's layers, gives widths per kernel, or one that the scheme does not have.
    """

    def __init__(self, traced: Traced, policy: Policy, scheme: Scheme, seed: int = 0) -> None:
        super().__init__()
        policy.check(policy.network, traced.layers)
        self.graph_module = deepcopy(traced.graph_module)
        self.layers: dict[str, WeightOnlyLayer] = {}
        for layer, entry in zip(traced.layers, policy.layers, strict=True):
            module: Any = traced.graph_module.get_submodule(layer.name)
            bits = entry.weights.one_width(layer.name)
            self.layers[layer.name] = WeightOnlyLayer(layer, module.weight, module.bias, bits, scheme, seed)
            parent, _, name = layer.name.rpartition(".")
            setattr(self.graph_module.get_submodule(parent), name, self.layers[layer.name])

    def project(self) -> None:
        """After every step of training: weights back into their codebooks."""
        for layer in self.layers.values():
            layer.project()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scores ``(N, classes)`` of normalised images ``(N, C, H, W)``."""
        return self.graph_module(images)
