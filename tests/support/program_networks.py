"""Networks in all forms that the lowering knows, and some that it must refuse or get right, for tests of programs."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn


class Residual(nn.Module):
    """Padded max pool, residual, average pool over a part, linear layer over several pixels."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 10, 3, padding=1)
        self.second = nn.Conv2d(10, 10, 3, padding=1)
        self.last = nn.Linear(10 * 2 * 1, 5)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.first(x)), 3, 2, padding=1)
        x = F.relu(self.second(x) + x)
        return self.last(F.avg_pool2d(x, (2, 3), (2, 3)).flatten(1))


class Separable(nn.Module):
    """Depthwise and pointwise layers; with more than 64 channels the depthwise one is split."""

    def __init__(self, channels=12, dilation=1):
        super().__init__()
        self.first = nn.Conv2d(3, channels, (3, 1), padding=(1, 0))
        self.depth = nn.Conv2d(channels, channels, 3, 2, padding=dilation, groups=channels, dilation=dilation)
        self.point = nn.Conv2d(channels, 9, 1)
        self.last = nn.Linear(9, 4)

    def forward(self, x):
        x = F.relu(self.depth(F.relu(self.first(x))))
        return self.last(F.adaptive_avg_pool2d(F.relu(self.point(x)), 1).flatten(1))


class Grouped(nn.Module):
    """Channel groups that are no single channels, and that begin amidst a word."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 80, 1)
        self.grouped = nn.Conv2d(80, 80, (2, 3), groups=8, padding=(0, 1))
        self.last = nn.Linear(80 * 2 * 2, 3)

    def forward(self, x):
        return self.last(F.avg_pool2d(F.relu(self.grouped(F.relu(self.first(x)))), 3).flatten(1))


class OptionA(nn.Module):
    """The shortcut of ResNet for CIFAR: every other pixel, zeros for the channels that are missing."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.last = nn.Linear(16 * 4 * 3, 5)

    def forward(self, x):
        x = F.relu(self.first(x))
        return self.last(F.relu(self.down(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))).flatten(1))


class Readers(nn.Module):
    """One value read by three layers, of which two can share planes, by an addition, and by a pool."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 1)
        self.one, self.two, self.three = (nn.Conv2d(6, 6, k, padding=k // 2) for k in (1, 3, 5))
        self.last = nn.Linear(6, 3)

    def forward(self, x):
        x = F.relu(self.first(x))
        y = self.one(x) + x + (self.two(x) + self.three(x))
        return self.last(F.adaptive_avg_pool2d(y, 1).flatten(1))


class Image(nn.Module):
    """Two layers read the image, with borders and steps of their own; scores added to themselves and rectified."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(3, 5, 5, padding=2)
        self.last = nn.Linear(5 * 7 * 6, 4)

    def forward(self, x):
        x = self.last((self.one(x) + self.two(x)).flatten(1))
        return F.relu(x + x)


class Flat(nn.Module):
    """Linear layers only."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(126, 70), nn.ReLU(), nn.Linear(70, 20), nn.ReLU(), nn.Linear(20, 6)
        )

    def forward(self, x):
        return self.layers(x)


class Chain(nn.Module):
    """Two convolutions and a linear layer."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 9, 3), nn.Conv2d(9, 7, 2, stride=2)
        self.last = nn.Linear(7 * 2 * 2, 5)

    def forward(self, x):
        return self.last(F.relu(self.second(F.relu(self.first(x)))).flatten(1))


class Broad(nn.Module):
    """More than 64 channels everywhere: planes of several words, values that go in several passes through a buffer."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 150, 2), nn.Conv2d(150, 150, 1)
        self.last = nn.Linear(150 * 2, 5)

    def forward(self, x):
        x = F.relu(self.first(x))
        x = F.max_pool2d(F.relu(self.second(x)) + x, (4, 2), 1)
        return self.last(F.avg_pool2d(x, (3, 2)).flatten(1))


class Widths(nn.Module):
    """So many kernels that every width from 0 to 8 bits has row tiles of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 36, 2), nn.Linear(36, 5)

    def forward(self, x):
        return self.last(F.adaptive_avg_pool2d(F.relu(self.first(x)), 1).flatten(1))


class NegativePool(nn.Module):
    """A padded pool of values below 0: what lies outside the image must not win."""

    def __init__(self, channels=8):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Linear(channels * 42, 5)
        nn.init.constant_(self.first.bias, -4.0)

    def values(self, x):
        return self.first(x)

    def forward(self, x):
        return self.last(F.max_pool2d(self.values(x), 3, 1, padding=1).flatten(1))


class Moves(nn.Module):
    """A slice that does not begin at 0, padding before and behind, pooling that rectifies, a ReLU of its own."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.one, self.two, self.three = (nn.Conv2d(8, 5, k) for k in (2, 2, 1))

    def forward(self, x):
        x = self.first(x)
        y = self.one(F.pad(F.relu(x[:, :, 1::2, ::3]), (1, 2, 2, 1)))
        z = self.two(F.relu(F.max_pool2d(x, (2, 3), (1, 2))))
        w = self.three(F.relu(x) + x)
        return sum(
            (F.adaptive_avg_pool2d(each, 1).flatten(1) for each in (z, w)), F.adaptive_avg_pool2d(y, 1).flatten(1)
        )


NETWORKS: dict[str, tuple] = {
    "residual": (Residual, 4, 4),
    "separable": (Separable, 5, 3),
    "separable, dilated, split": (lambda: Separable(96, 2), 3, 4),
    "grouped": (Grouped, 4, 4),
    "option A": (OptionA, 4, 5, {"pad": (4, 0, 0)}),
    "moves": (Moves, 4, 5, {"pad": (0, 2, 1)}),
    "two widths of one value": (Readers, 4, [8, 4, 4, 6, 5]),
    "one width of one value": (Readers, 4, 4),
    "two layers on the image": (Image, 3, [2, 7, 4]),
    "negative pool": (NegativePool, 4, 4),
    "linear only": (Flat, 6, 4),
    "broad": (Broad, 3, 3),
    "kernel-wise": (Residual, [[4, 0, 2, 8, 1, 0, 3, 5, 7, 6], [0, 3, 3, 1, 0, 2, 4, 4, 0, 5], 4], 4),
    "kernel-wise chain": (Chain, [[4, 0, 2, 8, 1, 0, 3, 5, 7], [0, 3, 3, 1, 0, 2, 4], [2, 0, 5, 1, 3]], [8, 4, 2]),
    "kernel-wise before groups": (Separable, [[4, 1, 0, 2, 8, 1, 0, 3, 5, 2, 6, 7], [3, 0, 2, 4] * 3, 4, 4], 4),
    "every width in one layer": (Widths, [[bits for bits in range(9) for _ in range(4)], 4], 4),
    "a pruned layer": (Chain, [4, [0] * 7, 4], 4),
}
"""Module, weight bits, activation bits, and what padding nodes have before what is moved into them."""


class Row(nn.Module):
    """A pool of windows of so many pixels, two apart, in a row."""

    def __init__(self, channels: int, window: int):
        super().__init__()
        self.window, self.first, self.last = window, nn.Conv2d(1, channels, 1), nn.Linear(channels, 3)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.first(x)), (1, self.window), (1, 2))
        return self.last(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Around(nn.Module):
    """A convolution, what is done to its output, and a linear layer over what is left."""

    def __init__(self, between: Callable[[torch.Tensor], torch.Tensor], features: int):
        super().__init__()
        self.between, self.first, self.last = between, nn.Conv2d(3, 8, 3, padding=1), nn.Linear(features, 5)

    def forward(self, x):
        return self.last(self.between(self.first(x)).flatten(1))


class FlatReaders(nn.Module):
    """Flattened twice; only one of them is rectified."""

    def __init__(self):
        super().__init__()
        self.first, self.one, self.two = nn.Conv2d(3, 4, 3), nn.Linear(80, 5), nn.Linear(80, 5)

    def forward(self, x):
        x = self.first(x)
        return self.one(F.relu(x.flatten(1))) + self.two(x.flatten(1))


class FlatScores(nn.Module):
    """Scores that lie in several pixels."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 5, 5)

    def forward(self, x):
        return self.first(x).flatten(1)


class FlatAddition(nn.Module):
    """Adds four values of two pixels to four of one."""

    def __init__(self):
        super().__init__()
        self.first, self.one, self.last = nn.Conv2d(3, 2, (6, 6)), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        x = self.first(x).flatten(1)
        return self.last(x + self.one(x))


class Widened(nn.Module):
    """Channels of zeros behind the others, which an addition reads."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 12, 1), nn.Linear(12 * 42, 5)

    def forward(self, x):
        return self.last((F.pad(self.one(x), (0, 0, 0, 0, 0, 4)) + self.two(x)).flatten(1))


class NegativePaddedPool(NegativePool):
    """The same of values that were padded themselves, with channels."""

    def __init__(self):
        super().__init__(16)

    def values(self, x):
        return F.pad(super().values(x), (0, 0, 0, 0, 4, 4))


UNUSUAL: dict[str, Callable[[], nn.Module]] = {  # and what would go wrong if these were lowered like the usual ones
    "a slice's end": lambda: Around(lambda x: x[:, :, :4, 1:4], 8 * 12),  # it is ignored
    "padding behind": lambda: Around(lambda x: F.pad(x, (0, 1, 0, 1)), 8 * 56),  # the zeros are never written
    "channels behind": Widened,  # the zeros are never written
    "pool of padding": NegativePaddedPool,  # the border is 0, not the lowest value, and wins over negative values
    "padding of flat values": lambda: Around(lambda x: F.pad(x.flatten(1), (4, 0)), 8 * 42 + 4),  # taken for columns
    "ReLU of one of two": FlatReaders,  # goes into the layer, though another node reads it without
    "scores of several pixels": FlatScores,  # only the first pixel's channels are read
    "flat addition": FlatAddition,  # values of another order are added
}
