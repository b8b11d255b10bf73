"""VGG-11 for ImageNet with torchvision's parameter names: 132,863,336 parameters, 7.61 billion multiplications.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015
(arXiv 1409.1556), table 1, column A; without batch norm.
"""

import torch
from torch import nn

_STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))
"""Output channels of the 3x3 convolutions; every stage ends with a pool that halves the image."""


class VGG11(nn.Module):
    """Eight convolutions, three fully connected layers. Input ``(N, 3, 224, 224)``, output ``(N, 1000)``."""

    def __init__(self) -> None:
        super().__init__()
        features: list[nn.Module] = []
        before = 3
        for stage in _STAGES:
            for channels in stage:
                features += [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU()]
                before = channels
            features.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(7)  # 7x7 pixels are what 224x224 leave: it is for other sizes
        self.classifier = nn.Sequential(
            *(nn.Linear(512 * 7 * 7, 4096), nn.ReLU(), nn.Dropout()),
            *(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout()),
            nn.Linear(4096, 1000),
        )
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scores of the classes."""
        return self.classifier(torch.flatten(self.avgpool(self.features(images)), 1))
