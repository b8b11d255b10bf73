"""Random layers with random integers: the inputs of calibration and of property tests."""

import numpy as np

from hardware.accelerator import Accelerator
from hardware.errors import InputError
from hardware.layer import Layer
from hardware.operands import Operands
from hardware.schedule import schedule


def random_operands(rng: np.random.Generator, accelerator: Accelerator, number: int) -> Operands:
    """One random layer that fits the accelerator, with uniformly random integers.

    Half are convolutions (kernel 1 to 5, stride 1 to 3, padding 0 to 2, one or two images), half are fully
    connected, and half of those have dot products so long that the weights do not stay in their buffer. M, K and N
    fall anywhere, so most are no multiples of the array. Bits are 1 to 8 for each operand, signed or unsigned. A
    draw that the buffers cannot hold is drawn again.
    """
    while True:
        weight_bits, activation_bits = (int(b) for b in rng.integers(1, 9, size=2))
        layer = _random_layer(rng, accelerator, f"sample{number}", weight_bits)
        signed_weights = bool(rng.integers(2))
        try:
            schedule(layer, weight_bits, activation_bits, accelerator)
        except InputError:
            continue
        return Operands(
            layer=layer,
            weights=_integers(rng, (layer.out_channels, layer.in_channels, *layer.kernel), weight_bits, signed_weights),
            activations=_integers(
                rng,
                (layer.images, layer.in_channels, layer.in_height, layer.in_width),
                activation_bits,
                layer.signed_activations,
            ),
            weight_bits=(weight_bits,) * layer.out_channels,
            activation_bits=activation_bits,
            signed_weights=signed_weights,
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
        if rows <= height + 2 * padding[0] and columns <= width + 2 * padding[1]:
            return Layer(
                name,
                "conv",
                in_channels=int(rng.integers(1, 2 * array.dk + 40)),
                out_channels=out_channels,
                in_height=height,
                in_width=width,
                kernel=(rows, columns),
                stride=(int(rng.integers(1, 4)), int(rng.integers(1, 4))),
                padding=padding,
                images=int(rng.integers(1, 3)),
                signed_activations=signed,
            )


def _integers(rng: np.random.Generator, shape: tuple[int, ...], bits: int, signed: bool) -> np.ndarray:
    low, high = (-(1 << (bits - 1)), 1 << (bits - 1)) if signed else (0, 1 << bits)
    return rng.integers(low, high, size=shape, dtype=np.int64)
