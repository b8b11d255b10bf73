"""QAG: what 8 bits change in networks that were converted as they are, others' modules among them."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from common import markdown, write_report
from torch import nn

from codesign import text_training
from codesign.data import TEXTS, Data, load_data
from codesign.networks import create_network, load_weights
from codesign.networks.lstm_classifier import LSTMClassifier
from codesign.qag import convert
from codesign.quantize import QuantizedNetwork
from codesign.quantizer_fit import Calibration
from codesign.training import accuracy, train
from policies.policy import Policy

CALIBRATION = 128


class Inception(nn.Module):
    """Four ways side by side, one of them factorized (Szegedy et al., CVPR 2016), with batch norm; CIFAR-10."""

    def __init__(self) -> None:
        super().__init__()

        def conv(before: int, after: int, size: int | tuple[int, int], stride: int = 1) -> nn.Module:
            sizes = (size, size) if isinstance(size, int) else size
            padding = (sizes[0] // 2, sizes[1] // 2)
            layer = nn.Conv2d(before, after, sizes, stride, padding, bias=False)
            return nn.Sequential(layer, nn.BatchNorm2d(after), nn.ReLU())

        self.stem = conv(3, 32, 3, stride=2)
        self.one = conv(32, 24, 1)
        self.three = nn.Sequential(conv(32, 24, 1), conv(24, 32, (1, 3)), conv(32, 32, (3, 1)))
        self.five = nn.Sequential(conv(32, 16, 1), conv(16, 24, 3), conv(24, 24, 3))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(32, 16, 1))
        self.last = nn.Linear(96, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores."""
        x = self.stem(x)
        return self.last(torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1).mean((2, 3)))


class TwoLayers(LSTMClassifier):
    """The classifier with two recurrent layers."""

    def __init__(self, cell: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn = cell(64, 64, num_layers=2, batch_first=True)


NETWORKS: list[tuple[str, Callable[[], nn.Module], str, int]] = [
    ("lenet", lambda: create_network("lenet", 0), "digits", 20),
    ("vgg-like", lambda: create_network("vgg-like", 0), "cifar10", 2),
    ("mobilenetv2", lambda: create_network("mobilenetv2", 0), "cifar10", 2),
    ("inception block", Inception, "cifar10", 3),
    ("lstm, two layers", lambda: TwoLayers(nn.LSTM), "python-topics", 4),
    ("gru, two layers", lambda: TwoLayers(nn.GRU), "python-topics", 4),
]
"""Name, what makes it, its data, epochs of training."""


def row(name: str, module: nn.Module, data: Data, tests: int, trained: str) -> dict[str, object]:
    """What conversion and 8 bits change."""
    calibration = data.train.batch(slice(CALIBRATION))
    traced = convert(module, calibration[:8])
    policy = Policy.uniform(name, traced.layers, 8, 8)
    quantized = QuantizedNetwork(traced, policy, Calibration(traced, calibration)).eval()
    test = data.test.take(slice(tests))
    before, after = accuracy(module, test), accuracy(quantized, test)
    same = 0
    with torch.no_grad():
        for start in range(0, len(test), 100):
            images = test.batch(slice(start, start + 100))
            same += int((module.eval()(images).argmax(-1) == quantized(images).argmax(-1)).sum())
    return {
        "network": name,
        "trained on": trained,
        "layers": len(traced.layers),
        "top-1": f"{before:.2%}",
        "at 8 bits": f"{after:.2%}",
        "change, points": f"{100 * (after - before):+.2f}",
        "same top-1": f"{same / test.labels.numel():.2%}",
        "not converted": "; ".join(traced.unconverted[:2]) + ("; ..." if len(traced.unconverted) > 2 else "")
        or "nothing",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="Of resnet20.")
    parser.add_argument("--others", nargs="*", default=[], help="package.module:callable of networks for CIFAR-10.")
    parser.add_argument("--epochs", type=int, default=2, help="Of the others' training.")
    parser.add_argument("--train-images", type=int, default=4000)
    parser.add_argument("--test-images", type=int, default=2000)
    options = parser.parse_args()

    cifar = load_data("cifar10")
    resnet = create_network("resnet20", 0)
    load_weights(resnet, options.weights)
    rows = [row("resnet20", resnet.eval(), cifar, options.test_images, "given weights")]
    others = [(name, lambda name=name: create_network(name, 0), "cifar10", options.epochs) for name in options.others]
    for name, make, data_name, epochs in [*NETWORKS, *others]:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            module = make()
        data = cifar if data_name == "cifar10" else load_data(data_name)
        small = replace(data, train=data.train.take(slice(options.train_images)))
        start = text_training.train if data_name in TEXTS else train
        start(module, small, epochs=epochs, seed=0)
        seen = f"{len(small.train):,} of {data_name}, {epochs} epochs"
        rows.append(row(name, module.eval(), small, options.test_images, seen))
        print(rows[-1], flush=True)
    write_report(
        "qag",
        "Networks converted as they are",
        [
            f"Top-1 on the first {options.test_images:,} test images or texts (or all there are), before and after "
            f"conversion to 8-bit weights and activations, calibrated on {CALIBRATION} training examples, not "
            "fine-tuned. Training is short, just so that scores mean something.",
            markdown(pd.DataFrame(rows)),
        ],
    )


if __name__ == "__main__":
    main()
