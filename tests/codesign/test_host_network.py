"""Networks whose layers alone are the machine's: exact sums, and the same numbers as the fake-quantized network."""

import torch
import torch.nn.functional as F
from torch import nn

from codesign.host_network import HostNetwork, executable
from codesign.qag import convert
from codesign.quantize import Calibration, QuantizedNetwork
from codesign.simulate import simulate_layers
from hardware.accelerator import load_accelerator
from policies.policy import Policy


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.row = nn.Conv1d(3, 6, 3, stride=2, padding=1)
        self.state = nn.GRU(6, 5, batch_first=True)
        self.image = nn.Conv2d(1, 4, 2)
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        x = torch.sigmoid(self.row(x)).transpose(1, 2)
        x, _ = self.state(x)
        return self.last(F.gelu(self.image(x[:, None])).mean((2, 3)))


def quantized(bits=(4, 5)):
    torch.manual_seed(0)
    module, x = Network(), torch.randn(40, 3, 12)
    traced = convert(module, x)
    return QuantizedNetwork(traced, Policy.uniform("n", traced.layers, *bits), Calibration(traced, x)).eval(), x


def test_it_computes_what_the_fake_quantized_network_does():
    network, x = quantized()
    host = executable(network)
    assert isinstance(host, HostNetwork)
    run = host.run(x, record=True)
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(run.scores), network(x), rtol=1e-3, atol=1e-4)
    names = [layer.operands.layer.name for layer in run.layers]
    assert names == ["row", "state.ih_l0", "state.hh_l0", "image", "last"]
    assert [len(layer.sums) for layer in run.layers] == [40, 40, 6 * 40, 40, 40]


def test_the_layers_run_on_the_machine_bit_for_bit_and_the_model_counts_every_step():
    network, x = quantized((3, 2))
    run = HostNetwork(network).run(x[:2], record=True)
    report = simulate_layers(run, list(network.layers), load_accelerator("bitserial-tiny"))
    assert report["mismatches"] == 0
    assert report["rtl_cycles"] == report["model_cycles"] > 0
    rows = {row["name"]: row for row in report["layers"]}
    assert rows["state.hh_l0"]["outputs"] == 2 * 6 * 15
    assert rows["state.hh_l0"]["rtl_cycles"] % 6 == 0
