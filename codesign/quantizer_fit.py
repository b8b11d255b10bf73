"""What quantizers are fitted to: the inputs and outputs of a float network's layers on some images."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

from codesign.tracing import Traced
from hardware.errors import InputError
from policies.quantizers import activation_scale

SAMPLES = 16384
"""Values of a layer's input that its scale is chosen from."""


class Calibration:
    """What the float network's layers see and give on some images; a quantized network is fitted to it.

    Parameters
    ----------
    traced:
        The float network.
    images:
        Normalised images ``(N, C, H, W)``, or whatever the network takes; about 100 are enough.
    check_signs:
        Off for a network whose weights are yet to be read.

    Attributes
    ----------
    largest_value:
        The largest magnitude anywhere in the float network, the images included; of a network that the host runs, in
        its layers.
    moments:
        Mean and standard deviation of every layer's output channels, ``(M,)`` each, by the layer's name; of layers that
        run once.
    samples:
        Random values of every layer's input, with the extremes.

    Raises
    ------
    InputError
        A layer whose inputs were said to be never negative meets one that is.
    """

    def __init__(self, traced: Traced, images: torch.Tensor, check_signs: bool = True) -> None:
        self.images, self._check_signs = images, check_signs
        self.largest_value = 0.0
        self.moments: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._signed = {layer.name: layer.signed_activations for layer in traced.layers}
        self.samples: dict[str, torch.Tensor] = {}
        self._scales: dict[tuple[str, int], float] = {}
        self._run(traced)

    def _run(self, traced: Traced) -> None:
        module = traced.graph_module
        once = {layer.name for layer in traced.layers if layer.repeats == 1}
        parts: dict[str, list[torch.Tensor]] = {name: [] for name in self._signed}

        def record(name: str, inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
            parts[name].append(_some(inputs.flatten()))
            if len(parts[name]) > 1:
                self.moments.pop(name, None)
                once.discard(name)
            self.largest_value = max(self.largest_value, float(inputs.abs().max()), float(outputs.abs().max()))
            if name in once:
                self.moments[name] = moments_of(outputs, module.get_submodule(name))
            return outputs

        with torch.no_grad(), watched(module, parts, record):
            if isinstance(module, fx.GraphModule):
                largest = _Largest(module)
                largest.run(self.images)
                self.largest_value = max(self.largest_value, largest.found)
            else:
                module(self.images)
        for name, values in parts.items():
            if not values:
                raise InputError(
                    f"layer {name!r} ran on the example that its network was converted on, but not in the calibration: "
                    "give an example that is typical."
                )
            self.samples[name] = values[0] if len(values) == 1 else _some(torch.cat(values))
            if self._check_signs and not self._signed[name] and float(self.samples[name].min()) < 0:
                raise InputError(
                    f"layer {name!r} met negative inputs, but none on the example that its network was converted on: "
                    "give an example that is typical."
                )

    def scale(self, name: str, bits: int) -> float:
        """Step of the named layer's input activations at a width."""
        key = name, bits
        if key not in self._scales:
            self._scales[key] = activation_scale(self.samples[name], bits, self._signed[name])
        return self._scales[key]


def _some(values: torch.Tensor) -> torch.Tensor:
    """Random ones of many values, always the same, with the extremes."""
    if len(values) <= SAMPLES:
        return values.clone()  # what comes later may change them in place
    chosen = torch.randint(len(values), (SAMPLES,), generator=torch.Generator().manual_seed(0))
    return torch.cat([values[chosen], values.amin()[None], values.amax()[None]])


def channels_last(outputs: torch.Tensor, module: Any) -> bool:
    """Whether outputs are several positions of a linear layer, ``(N, ..., M)``."""
    return module.weight.ndim == 2 and outputs.ndim > 2


def moments_of(outputs: torch.Tensor, module: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of every output channel, ``(M,)`` each."""
    per_channel = outputs.movedim(-1 if channels_last(outputs, module) else 1, 0).flatten(1)
    return per_channel.mean(1), per_channel.std(1, correction=0)


@contextmanager
def watched(
    module: nn.Module, names: Iterable[str], see: Callable[[str, torch.Tensor, torch.Tensor], torch.Tensor]
) -> Iterator[None]:
    """While this lasts, ``see(name, input, output)`` says what the named layers give instead of their outputs."""

    def hook(name: str) -> Any:
        return lambda _, args, kwargs, output: see(name, args[0] if args else kwargs["input"], output)

    handles = [module.get_submodule(name).register_forward_hook(hook(name), with_kwargs=True) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Largest(fx.Interpreter):
    """Finds the largest magnitude of all nodes."""

    found = 0.0

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, torch.Tensor):
            self.found = max(self.found, float(result.abs().max()))
        return result
