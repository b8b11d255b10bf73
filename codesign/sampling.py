"""Random layers with random integers: the inputs of calibration and of property tests."""

from dataclasses import dataclass, replace

import numpy as np

from hardware.accelerator import Accelerator
from hardware.errors import InputError
from hardware.layer import Layer
from hardware.operands import Operands
from hardware.schedule import schedule


@dataclass(frozen=True)
class Numbers:
    """Widths and kinds of a layer's integers, see `hardware.operands.Operands`."""

    weight_bits: int
    activation_bits: int
    signed_weights: bool
    signed_activations: bool
    bipolar: bool


def random_operands(
    rng: np.random.Generator, accelerator: Accelerator, number: int, numbers: Numbers | None = None
) -> Operands:
    """One random layer that fits the accelerator, with uniformly random integers.

    Half are convolutions (kernel 1 to 5, stride 1 to 3, padding 0 to 2, dilation 1 to 3, one or two images, a third of
    them in channel groups), half are fully connected, and half of those have dot products so long that the weights do
    not stay in their buffer. M, K and N fall anywhere, so most are no multiples of the array. Bits are 1 to 8 for each
    operand, signed or unsigned, weights bipolar in one of four layers; in another of four every kernel has a width of
    its own, 0 (pruned) among them. A draw that the machine cannot hold is drawn again.

    Parameters
    ----------
    numbers:
        What shall not be random. Then at least one kernel has the full width, and one in four layers without channel
        groups has whole words of 64 channels.
    """
    while True:
        weight_bits, activation_bits = (int(b) for b in rng.integers(1, 9, size=2))
        if numbers is not None:
            weight_bits, activation_bits = numbers.weight_bits, numbers.activation_bits
        layer = _random_layer(rng, accelerator, f"sample{number}", weight_bits)
        signed_weights, special = bool(rng.integers(2)), rng.integers(4)
        bipolar, kernel_wise = special == 0, special == 1
        if numbers is not None:
            layer = replace(layer, signed_activations=numbers.signed_activations)
            signed_weights, bipolar = numbers.signed_weights, numbers.bipolar
            kernel_wise = kernel_wise and not bipolar  # no bipolar weight is 0
            if rng.integers(4) == 0 and layer.groups == 1:
                layer = replace(layer, in_channels=-(-layer.in_channels // 64) * 64)
        widths = np.full(layer.out_channels, weight_bits)
        if kernel_wise:
            widths = rng.integers(0, weight_bits + 1, size=layer.out_channels)
            if numbers is not None:
                widths[-1] = weight_bits
        try:
            passes = schedule(
                layer, tuple(map(int, widths)), activation_bits, accelerator, signed_weights, bool(bipolar)
            ).passes
        except InputError:
            continue
        if not passes:
            continue
        shape = (layer.in_channels // layer.groups, *layer.kernel)
        return Operands(
            layer=layer,
            weights=np.stack([_integers(rng, shape, int(bits), signed_weights) for bits in widths]),
            activations=_integers(
                rng,
                (layer.images, layer.in_channels, layer.in_height, layer.in_width),
                activation_bits,
                layer.signed_activations,
            ),
            weight_bits=tuple(map(int, widths)),
            activation_bits=activation_bits,
            signed_weights=signed_weights,
            bipolar=bool(bipolar),
        )


def _random_layer(rng: np.random.Generator, accelerator: Accelerator, name: str, weight_bits: int) -> Layer:
    array = accelerator.array
    out_channels = int(rng.integers(1, 5 * array.dm + 2))
    signed = bool(rng.integers(2))
    kind = rng.integers(4)
    if kind == 0:
        slots = int(rng.integers(1, 5))  # row tiles that the weight buffer can hold, fewer than the layer has
        longest = accelerator.buffers.lhs_entries // (weight_bits * slots) * array.dk
        return Layer(
            name,
            "linear",
            in_channels=max(1, longest - int(rng.integers(0, array.dk))),
            out_channels=array.dm * slots + int(rng.integers(1, 3 * array.dm)),
            images=int(rng.integers(1, 6 * array.dn + 2)),
            signed_activations=signed,
        )
    if kind == 1:
        return Layer(
            name,
            "linear",
            in_channels=int(rng.integers(1, 12 * array.dk)),
            out_channels=out_channels,
            images=int(rng.integers(1, 6 * array.dn + 2)),
            signed_activations=signed,
        )
    while True:
        height, width, rows, columns = (int(v) for v in (*rng.integers(2, 11, size=2), *rng.integers(1, 6, size=2)))
        padding = (int(rng.integers(0, 3)), int(rng.integers(0, 3)))
        dilation = (int(rng.integers(1, 4)), int(rng.integers(1, 4))) if rng.integers(4) == 0 else (1, 1)
        spans = dilation[0] * (rows - 1) + 1, dilation[1] * (columns - 1) + 1
        if spans[0] <= height + 2 * padding[0] and spans[1] <= width + 2 * padding[1]:
            in_channels = int(rng.integers(1, 2 * array.dk + 40))
            groups = int(rng.integers(1, in_channels + 1)) if rng.integers(3) == 0 else 1
            if groups > 1:  # so many channels and kernels per group that both fit
                in_channels = max(1, in_channels // groups) * groups
                out_channels = int(rng.integers(1, 3)) * groups
            return Layer(
                name,
                "conv",
                in_channels=in_channels,
                out_channels=out_channels,
                in_height=height,
                in_width=width,
                kernel=(rows, columns),
                stride=(int(rng.integers(1, 4)), int(rng.integers(1, 4))),
                padding=padding,
                groups=groups,
                images=int(rng.integers(1, 3)),
                signed_activations=signed,
                dilation=dilation,
            )


def _integers(rng: np.random.Generator, shape: tuple[int, ...], bits: int, signed: bool) -> np.ndarray:
    if bits == 0:
        return np.zeros(shape, dtype=np.int64)
    low, high = (-(1 << (bits - 1)), 1 << (bits - 1)) if signed else (0, 1 << bits)
    return rng.integers(low, high, size=shape, dtype=np.int64)
