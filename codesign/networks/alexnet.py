"""AlexNet for ImageNet with torchvision's parameter names: 61,100,840 parameters, 0.71 billion multiplications.

Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014 (arXiv 1404.5997), section 2: the
network of 2012 on one column, without channel groups and normalization.
"""

import torch
from torch import nn


class AlexNet(nn.Module):
    """Five convolutions, three fully connected layers. Input ``(N, 3, 224, 224)``, output ``(N, 1000)``."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(6)  # 6x6 pixels are what 224x224 leave: it is for other sizes
        self.classifier = nn.Sequential(
            *(nn.Dropout(), nn.Linear(256 * 6 * 6, 4096), nn.ReLU()),
            *(nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU()),
            nn.Linear(4096, 1000),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scores of the classes."""
        return self.classifier(torch.flatten(self.avgpool(self.features(images)), 1))
