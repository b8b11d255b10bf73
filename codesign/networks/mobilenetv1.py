"""MobileNet-V1 for CIFAR-sized images: the paper's blocks, fewer of them and fewer strides.

Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017
(arXiv 1704.04861), table 1. There 13 blocks bring 224x224 pixels to 7x7, here 7 bring 32x32 to 4x4.
"""

import torch
import torch.nn.functional as F
from torch import nn

_BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1))
"""Output channels and stride of every block."""


class Block(nn.Module):
    """A depthwise 3x3 convolution, then a pointwise one that mixes the channels; batch norm and ReLU after both."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, stride, padding=1, groups=in_channels, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(N, in_channels, H, W)`` to ``(N, out_channels, H / stride, W / stride)``."""
        x = F.relu(self.bn1(self.depthwise(x)))
        return F.relu(self.bn2(self.pointwise(x)))


class MobileNetV1(nn.Module):
    """A 3x3 convolution of 32 channels and seven blocks. Input ``(N, 3, 32, 32)``, output ``(N, 10)``.

    Parameters
    ----------
    width:
        Width multiplier: every layer has this part of its channels.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        channels = [max(1, round(width * count)) for count in (32, *(block[0] for block in _BLOCKS))]
        self.conv1 = nn.Conv2d(3, channels[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.blocks = nn.Sequential(
            *(
                Block(before, after, stride)
                for before, after, (_, stride) in zip(channels, channels[1:], _BLOCKS, strict=False)
            )
        )
        self.fc = nn.Linear(channels[-1], 10)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scores of the classes."""
        x = self.blocks(F.relu(self.bn1(self.conv1(images))))
        x = torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)
        return self.fc(x)
