"""The policy file: how many bits every layer's weights and activations get."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import Field

from hardware.errors import InputError
from hardware.files import write_text
from hardware.layer import Layer
from hardware.specification import Specification, read_yaml

Bits = Annotated[int, Field(ge=0, le=8)]
PositiveBits = Annotated[int, Field(ge=1, le=8)]


class WeightChoice(Specification):
    """Weights of a layer: one width, or one width per kernel (0 prunes the kernel)."""

    bits: Bits | Annotated[tuple[Bits, ...], Field(min_length=1)]
    scheme: Literal["symmetric"] = "symmetric"

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
    """Input activations of a layer: one width for the whole tensor."""

    bits: PositiveBits
    scheme: Literal["uniform"] = "uniform"


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
