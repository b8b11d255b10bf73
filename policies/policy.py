"""The policy file: how many bits every layer's weights and activations get."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import Field, model_validator

from hardware.errors import InputError
from hardware.files import write_text
from hardware.layer import Layer
from hardware.specification import Specification, read_yaml
from policies.scheme_base import Scheme
from policies.schemes import activation_scheme, weight_scheme

SYMMETRIC, UNIFORM = "symmetric", "uniform"
"""The schemes of policies that name none."""
Bits = Annotated[int, Field(ge=0, le=8)]
PositiveBits = Annotated[int, Field(ge=1, le=8)]


class WeightChoice(Specification):
    """Weights of a layer: one width, or one width per kernel (0 prunes the kernel).

    The scheme is ``symmetric``, see `policies.quantizers`, or one of `policies.schemes`, which take one width for all.
    """

    bits: Bits | Annotated[tuple[Bits, ...], Field(min_length=1)]
    scheme: Literal["symmetric", "binary", "ternary", "quaternary", "fixed", "res", "zoom", "clip", "pot"] = "symmetric"

    @model_validator(mode="after")
    def _has_its_width(self) -> Self:
        if self.scheme != SYMMETRIC:
            _check_width(weight_scheme(self.scheme), self.bits)
        return self

    def machine_bits(self, layer: Layer) -> tuple[int, ...]:
        """Bit planes of each kernel on the bit-serial machine: the widths, unless the scheme takes others.

        Raises
        ------
        InputError
            The machine has no such weights; the message names the layer.
        """
        if self.scheme == SYMMETRIC:
            return self.per_kernel(layer.out_channels)
        try:
            planes = weight_scheme(self.scheme).machine_bits(self.one_width(layer.name), layer.groups > 1)
        except InputError as error:
            raise InputError(f"layer {layer.name!r}: {error}") from None
        return (planes,) * layer.out_channels

    def per_kernel(self, kernels: int) -> tuple[int, ...]:
        """The width of each of ``kernels`` output channels."""
        return self.bits if isinstance(self.bits, tuple) else (self.bits,) * kernels

    def one_width(self, layer: str) -> int:
        """The width of all kernels; `InputError`, which names the layer, if they differ."""
        if isinstance(self.bits, int):
            return self.bits
        if len(set(self.bits)) > 1:
            raise InputError(f"layer {layer!r} has kernels of different widths: give it one width for all.")
        return self.bits[0]


class ActivationChoice(Specification):
    """Input activations of a layer: one width for the whole tensor.

    The scheme is ``uniform``, see `policies.quantizers`, or one of `policies.schemes`.
    """

    bits: PositiveBits
    scheme: Literal["uniform", "fixed", "res", "zoom", "clip", "pot"] = "uniform"

    @model_validator(mode="after")
    def _has_its_width(self) -> Self:
        if self.scheme != UNIFORM:
            _check_width(activation_scheme(self.scheme, signed=True), self.bits)
        return self

    def machine_bits(self, layer: Layer) -> int:
        """Bit planes on the bit-serial machine, as of weights; of two's complement where activations are signed."""
        if self.scheme == UNIFORM:
            return self.bits
        try:
            return activation_scheme(self.scheme, layer.signed_activations).machine_bits(self.bits, grouped=True)
        except InputError as error:
            raise InputError(f"the input of layer {layer.name!r}: {error}") from None


def _check_width(scheme: Scheme, bits: int | tuple[int, ...]) -> None:
    """Raise ValueError, which pydantic gives a place in the file, unless the scheme has this width."""
    if bits not in scheme.widths:
        known = " or ".join(map(str, scheme.widths))
        raise ValueError(f"scheme {scheme.name!r} has {known} bits, one width for all kernels, got {bits}")


class LayerPolicy(Specification):
    """What one layer gets."""

    name: str
    weights: WeightChoice
    activations: ActivationChoice


class Policy(Specification):
    """Bits for every layer of one network, in the network's order."""

    version: Literal[1] = 1
    network: str
    layers: tuple[LayerPolicy, ...]

    @classmethod
    def from_bits(cls, network: str, layers: Sequence[Layer], bits: Sequence[tuple[int, int]]) -> Self:
        """A layer-wise policy from ``(weight bits, activation bits)`` per layer."""
        return cls(
            network=network,
            layers=tuple(
                LayerPolicy(name=layer.name, weights=WeightChoice(bits=w), activations=ActivationChoice(bits=a))
                for layer, (w, a) in zip(layers, bits, strict=True)
            ),
        )

    @classmethod
    def uniform(cls, network: str, layers: Sequence[Layer], weight_bits: int, activation_bits: int) -> Self:
        """The same bits for every layer."""
        return cls.from_bits(network, layers, [(weight_bits, activation_bits)] * len(layers))

    @classmethod
    def load(cls, path: Path, network: str, layers: Sequence[Layer]) -> Self:
        """Read a policy file and check that it is one for these layers."""
        policy = cls.from_mapping(read_yaml(path), str(path))
        policy.check(network, layers)
        return policy

    def check(self, network: str, layers: Sequence[Layer]) -> None:
        """Raise `InputError` unless the policy names exactly these layers, in order."""
        if self.network != network:
            raise InputError(f"the policy is for network {self.network!r}, not for {network!r}: pass its own network.")
        have, want = [entry.name for entry in self.layers], [layer.name for layer in layers]
        if have != want:
            missing, extra = [n for n in want if n not in have], [n for n in have if n not in want]
            raise InputError(
                f"the policy's layers do not fit network {network!r}: expected {len(want)} layers in network order, "
                f"got {len(have)} (missing {missing}, unknown {extra}): write one entry per layer."
            )
        for entry, layer in zip(self.layers, layers, strict=True):
            if isinstance(entry.weights.bits, tuple) and len(entry.weights.bits) != layer.out_channels:
                raise InputError(
                    f"layer {layer.name!r} has {layer.out_channels} kernels but the policy gives "
                    f"{len(entry.weights.bits)} widths: give one per kernel, or a single number."
                )

    def as_yaml(self) -> str:
        """The policy file's text, one line per layer."""
        lines = [f"version: {self.version}", f"network: {self.network}", "layers:"]
        for entry in self.layers:
            flow = yaml.safe_dump(entry.model_dump(mode="json"), default_flow_style=True, sort_keys=False, width=10**6)
            lines.append(f"  - {flow.strip()}")
        return "\n".join(lines) + "\n"

    def save(self, path: Path) -> None:
        """Write the policy file."""
        write_text(path, self.as_yaml())
