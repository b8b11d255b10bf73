"""The VGG-like network of AutoQNN's and VecQ's experiments: 5,354,826 parameters, 157 million multiplications.

Gong et al., "AutoQNN: An End-to-End Framework for Automatically Quantizing Neural Networks", JCST 39(2), 2024
(arXiv 2304.03782). Their layers are convolution, ReLU, batch norm: the norm's scale and shift then lie between the
quantized activations and the next convolution, where a machine of integers would have to apply them once more. Here
the norm comes before the ReLU, so that it folds into its convolution; shapes, weights and multiplications are equal.
"""

import torch
from torch import nn

_STAGES = ((64, 64), (128, 128), (256, 256))
"""Output channels of the 3x3 convolutions; every stage ends with a pool that halves the image."""
_EPSILON, _MOMENTUM = 1e-3, 0.01
"""Of batch norm, as published: Keras' 0.99 is the share of the old statistics, PyTorch's the new ones'."""


class VGGLike(nn.Module):
    """Six convolutions, two fully connected layers. Input ``(N, 3, 32, 32)``, output ``(N, 10)``."""

    def __init__(self) -> None:
        super().__init__()
        features: list[nn.Module] = []
        before = 3
        for stage in _STAGES:
            for channels in stage:
                norm = nn.BatchNorm2d(channels, _EPSILON, _MOMENTUM)
                features += [nn.Conv2d(before, channels, 3, padding=1), norm, nn.ReLU()]
                before = channels
            features.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(
            *(nn.Linear(256 * 4 * 4, 1024), nn.BatchNorm1d(1024, _EPSILON, _MOMENTUM), nn.ReLU(), nn.Dropout()),
            nn.Linear(1024, 10),
        )
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scores of the classes."""
        return self.classifier(torch.flatten(self.features(images), 1))
