"""The workload: a layer's shape, without its bits and without its weights."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from hardware.errors import InputError


@dataclass(frozen=True)
class Layer:
    """A convolution or a fully connected layer, as a matrix product of M x K weights by K x N activations.

    Parameters
    ----------
    name:
        The module's path in the network, for example ``layer1.0.conv1``.
    kind:
        ``conv`` or ``linear``. A linear layer is a convolution whose kernel is as large as its image: 1x1, or what was
        flattened before it.
    in_channels, out_channels:
        Channels (features) in and out. ``out_channels`` is M.
    in_height, in_width:
        Input image in pixels, without padding.
    kernel, stride, padding:
        ``(vertical, horizontal)`` pixels.
    groups:
        Channel groups; ``groups == in_channels`` is a depthwise convolution.
    images:
        Images processed by one run of the layer (the batch).
    signed_activations:
        True where the layer's input can be negative (the network's input, for example).
    dilation:
        ``(vertical, horizontal)`` pixels from one kernel tap to the next.
    repeats:
        Times it runs for one image, one run after the other: the steps of a recurrent layer, the uses of a shared one.
    """

    name: str
    kind: Literal["conv", "linear"]
    in_channels: int
    out_channels: int
    in_height: int = 1
    in_width: int = 1
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    groups: int = 1
    images: int = 1
    signed_activations: bool = False
    dilation: tuple[int, int] = (1, 1)
    repeats: int = 1

    def __post_init__(self) -> None:
        sizes = (
            self.in_channels,
            self.out_channels,
            self.in_height,
            self.in_width,
            self.groups,
            self.images,
            self.repeats,
        )
        if min(*sizes, *self.kernel, *self.stride, *self.dilation) < 1 or min(self.padding) < 0:
            raise InputError(
                f"layer {self.name!r} needs channels, sizes, kernel, stride, dilation, groups, images and "
                f"repeats of at least 1 and padding of at least 0, got {self}."
            )

    @property
    def out_height(self) -> int:
        """Output rows."""
        window = self.dilation[0] * (self.kernel[0] - 1) + 1
        return (self.in_height + 2 * self.padding[0] - window) // self.stride[0] + 1

    @property
    def out_width(self) -> int:
        """Output columns."""
        window = self.dilation[1] * (self.kernel[1] - 1) + 1
        return (self.in_width + 2 * self.padding[1] - window) // self.stride[1] + 1

    @property
    def reduction(self) -> int:
        """K: products summed for one output."""
        return self.in_channels // self.groups * self.kernel[0] * self.kernel[1]

    @cached_property
    def pixels(self) -> int:
        """N: output positions over all images."""
        return self.images * self.out_height * self.out_width

    @property
    def weight_count(self) -> int:
        """Number of weights, bias not counted."""
        return self.out_channels * self.reduction

    @property
    def macs(self) -> int:
        """Multiply-accumulates over all images and repeats."""
        return self.out_channels * self.reduction * self.pixels * self.repeats
