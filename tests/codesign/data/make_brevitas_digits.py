"""How ``brevitas_digits.onnx`` was made: a small residual network, trained and exported by Brevitas.

    pip install brevitas==0.13.4 onnxoptimizer onnxscript        # in an environment of their own, beside codesign
    python make_brevitas_digits.py brevitas_digits.onnx

The file in this folder comes from Brevitas 0.13.4, PyTorch 2.13.0, onnx 1.23.2 and onnxoptimizer 0.4.2; nothing was
changed but that its external data were put into the one file and the exporter's stack traces left out.
"""

import sys
from pathlib import Path

import brevitas.nn as qnn
import onnx
import torch
import torch.nn.functional as F
from brevitas.export import export_qonnx
from brevitas.quant import Int8WeightPerChannelFloat
from torch import nn

from codesign.data import load_data


class Net(nn.Module):
    """Signed 8-bit image, 4-bit ReLUs, a shortcut, weights of 4 and 3 bits, one layer's with a scale per kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.image = qnn.QuantIdentity(bit_width=8)
        self.conv1 = qnn.QuantConv2d(1, 8, 3, padding=1, bias=False, weight_bit_width=4)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu1 = qnn.QuantReLU(bit_width=4)
        self.conv2 = qnn.QuantConv2d(
            8, 8, 3, padding=1, bias=False, weight_bit_width=3, weight_quant=Int8WeightPerChannelFloat
        )
        self.bn2 = nn.BatchNorm2d(8)
        self.branch = qnn.QuantIdentity(bit_width=5)
        self.relu2 = qnn.QuantReLU(bit_width=4)
        self.fc = qnn.QuantLinear(8 * 16, 10, bias=True, weight_bit_width=4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scores ``(N, 10)`` of images ``(N, 1, 8, 8)``."""
        first = self.relu1(self.bn1(self.conv1(self.image(images))))
        second = self.branch(self.bn2(self.conv2(first)))
        pooled = F.max_pool2d(self.relu2(second + first), 2)
        return self.fc(torch.flatten(pooled, 1))


def one_file(path: str) -> None:
    """Take external data in, and the exporter's notes out."""
    model = onnx.load(path)
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
    onnx.save(model, path, save_as_external_data=False)
    Path(f"{path}.data").unlink(missing_ok=True)


def main(path: str) -> None:
    """Train, and write the file."""
    torch.manual_seed(0)
    data, net = load_data("digits"), Net()
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(15):
        for chosen in torch.randperm(len(data.train)).split(64):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(data.train.batch(chosen)), data.train.labels[chosen])
            loss.backward()
            optimizer.step()
    net.eval()
    test = data.test.batch(slice(None))
    right = (net(test).argmax(1) == data.test.labels).float().mean()
    print(f"{right:.2%} of {len(test)} test images")
    export_qonnx(net, test[:1], export_path=path)
    one_file(path)


if __name__ == "__main__":
    main(sys.argv[1])
