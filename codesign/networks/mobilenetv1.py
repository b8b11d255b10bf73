"""MobileNet-V1 for ImageNet, and for CIFAR-sized images: the same blocks, fewer of them and fewer strides.

Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications", 2017
(arXiv 1704.04861), table 1: 13 blocks bring 224x224 pixels to 7x7, with 4,231,976 parameters and 0.57 billion
multiplications. For CIFAR 7 blocks bring 32x32 to 4x4.
"""

import torch
import torch.nn.functional as F
from torch import nn

_CIFAR_BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1))
"""Output channels and stride of every block."""
_IMAGENET_BLOCKS = (*_CIFAR_BLOCKS, *((512, 1),) * 4, (1024, 2), (1024, 1))


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
    """A 3x3 convolution of 32 channels and the blocks.

    Input ``(N, 3, 32, 32)``, output ``(N, 10)``; for ImageNet ``(N, 3, 224, 224)`` and ``(N, 1000)``.

    Parameters
    ----------
    width:
        Width multiplier: every layer has this part of its channels.
    imagenet:
        The paper's network, whose first convolution has stride 2.
    """

    def __init__(self, width: float = 1.0, imagenet: bool = False) -> None:
        super().__init__()
        blocks, stride, classes = (_IMAGENET_BLOCKS, 2, 1000) if imagenet else (_CIFAR_BLOCKS, 1, 10)
        channels = [max(1, round(width * count)) for count in (32, *(block[0] for block in blocks))]
        self.conv1 = nn.Conv2d(3, channels[0], 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.blocks = nn.Sequential(
            *(
                Block(before, after, stride)
                for before, after, (_, stride) in zip(channels, channels[1:], blocks, strict=False)
            )
        )
        self.fc = nn.Linear(channels[-1], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scores of the classes."""
        x = self.blocks(F.relu(self.bn1(self.conv1(images))))
        x = torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)
        return self.fc(x)
