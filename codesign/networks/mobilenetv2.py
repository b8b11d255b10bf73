"""MobileNet-V2 for ImageNet with torchvision's parameter names: 3,504,872 parameters, 0.30 billion multiplications.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018 (arXiv 1801.04381), table 2.
"""

import torch
import torch.nn.functional as F
from torch import nn

_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, output channels, blocks, and the first block's stride."""


class Block(nn.Module):
    """A pointwise convolution that expands the channels (not by 1), a depthwise 3x3, and a pointwise without ReLU.

    The input is added where it has the output's shape.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        expand = [_convolution(in_channels, inner, 1)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *expand,
            _convolution(inner, inner, 3, stride, groups=inner),
            nn.Conv2d(inner, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.adds = stride == 1 and in_channels == out_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(N, in_channels, H, W)`` to ``(N, out_channels, H / stride, W / stride)``."""
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(nn.Module):
    """A 3x3 convolution, 17 blocks, a pointwise convolution. Input ``(N, 3, 224, 224)``, output ``(N, 1000)``."""

    def __init__(self) -> None:
        super().__init__()
        features: list[nn.Module] = [_convolution(3, 32, 3, stride=2)]
        before = 32
        for expansion, channels, blocks, first_stride in _STAGES:
            for index in range(blocks):
                features.append(Block(before, channels, first_stride if index == 0 else 1, expansion))
                before = channels
        features.append(_convolution(before, 1280, 1))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scores of the classes."""
        x = F.adaptive_avg_pool2d(self.features(images), 1)
        return self.classifier(torch.flatten(x, 1))


def _convolution(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """With batch norm and ReLU6."""
    layer = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(out_channels), nn.ReLU6())
