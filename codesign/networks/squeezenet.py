"""SqueezeNet 1.1 for ImageNet with torchvision's parameter names: 1,235,496 parameters, 0.35 billion multiplications.

Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size", 2016
(arXiv 1602.07360); 1.1 is the authors' later version with earlier pools and a 3x3 first layer.
"""

import torch
import torch.nn.functional as F
from torch import nn


class Fire(nn.Module):
    """A 1x1 convolution to few channels, then a 1x1 and a 3x3 one of them, side by side; ReLU after each.

    Parameters
    ----------
    expand:
        Output channels of each of the two.
    """

    def __init__(self, in_channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(N, in_channels, H, W)`` to ``(N, 2 * expand, H, W)``."""
        x = F.relu(self.squeeze(x))
        return torch.cat((F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))), 1)


class SqueezeNet(nn.Module):
    """A 3x3 convolution, eight fire modules, a 1x1 convolution. Input ``(N, 3, 224, 224)``, output ``(N, 1000)``."""

    def __init__(self) -> None:
        super().__init__()
        # torchvision rounds the pools' sizes up, which changes nothing here: 111 pixels, 55, 27, 13.
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 64, 3, stride=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(Fire(64, 16, 64), Fire(128, 16, 64), nn.MaxPool2d(3, 2)),
            *(Fire(128, 32, 128), Fire(256, 32, 128), nn.MaxPool2d(3, 2)),
            *(Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Conv2d(512, 1000, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scores of the classes."""
        return self.classifier(self.features(images))
