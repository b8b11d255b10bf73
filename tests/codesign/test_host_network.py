"""Networks whose layers alone are the machine's: exact sums, and the same numbers as the fake-quantized network."""

import json

import torch
import torch.nn.functional as F
from torch import nn
from typer.testing import CliRunner

from codesign.cli import app
from codesign.data import load_data
from codesign.host_network import HostNetwork, executable
from codesign.qag import convert
from codesign.quantize import QuantizedNetwork
from codesign.quantizer_fit import Calibration
from codesign.simulate import simulate_layers
from codesign.workload import Workload, quantized_network, save_quantized
from hardware.accelerator import load_accelerator
from hardware.errors import InputError
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


def test_the_command_line_prices_and_simulates_it_and_refuses_to_export_a_program(tmp_path, monkeypatch):
    (tmp_path / "rows_of_digits.py").write_text(
        "import torch\nfrom torch import nn\n\n\n"
        "class Rows(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.rnn, self.last = nn.LSTM(8, 10, batch_first=True), nn.Linear(10, 10)\n\n"
        "    def forward(self, x):\n"
        "        return self.last(self.rnn(x[:, 0])[0][:, -1])\n"
    )
    monkeypatch.chdir(tmp_path)
    runner, network = CliRunner(), ["--network", "rows_of_digits:Rows", "--data", "digits", "--bits", "3,4"]
    done = runner.invoke(app, ["simulate", *network, "--images", "2", "--json", "s.json"])
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "s.json").read_text())
    assert [row["name"] for row in report["layers"]] == ["rnn.ih_l0", "rnn.hh_l0", "last"]
    assert report["mismatches"] == 0
    assert report["rtl_cycles"] == report["model_cycles"]
    assert runner.invoke(app, ["cost", *network, "--json", "c.json"]).exit_code == 0
    priced = json.loads((tmp_path / "c.json").read_text())
    assert [row["name"] for row in priced["layers"]] == ["rnn.ih_l0", "rnn.hh_l0", "last"]
    assert priced["cycles"] == sum(row["cycles"] for row in priced["layers"])
    refused = runner.invoke(app, ["export", *network, "--out", "package"])
    assert isinstance(refused.exception, InputError)
    assert "only a network that is one program is exported" in str(refused.exception)
    assert not (tmp_path / "package").exists()


class Peaks(nn.Module):
    """Whether the second layer's input can be negative is up to the first one's bias."""

    def __init__(self):
        super().__init__()
        self.row = nn.Conv1d(8, 6, 3, padding=1)
        self.last = nn.Linear(6, 10)

    def forward(self, x):
        return self.last(self.row(x[:, 0]).amax(2))


def test_signs_are_saved_with_the_weights_that_decided_them(tmp_path):
    torch.manual_seed(0)
    module = Peaks()
    with torch.no_grad():
        module.row.bias.fill_(-3)
    data = load_data("digits")
    trained = convert(module, data.train.batch(slice(32)))
    assert [layer.signed_activations for layer in trained.layers] == [False, True]
    policy = Policy.uniform("peaks", trained.layers, 8, 8)
    images = data.train.batch(slice(100))
    network = QuantizedNetwork(trained, policy, Calibration(trained, images)).eval()
    save_quantized(network, tmp_path / "quantized.pt")
    other = Peaks()
    with torch.no_grad():
        other.row.bias.fill_(3)
    fresh = convert(other, images)
    assert [layer.signed_activations for layer in fresh.layers] == [False, False]
    workload = Workload("peaks", fresh, (1, 8, 8), False, data, 0)
    again = quantized_network(workload, policy, tmp_path / "quantized.pt")
    with torch.no_grad():
        assert torch.equal(again(images), network(images))


def test_positions_are_counted_per_example_wherever_their_axis_is():
    class Frames(nn.Module):
        def __init__(self):
            super().__init__()
            self.image, self.first, self.flat = nn.Conv2d(1, 2, 3), nn.Linear(8, 6), nn.Linear(6, 4)

        def forward(self, x):  # (N, frames, 4, 6): frames join the batch, then the steps come first
            y = self.image(x.reshape(-1, 1, 4, 6)).reshape(len(x), -1, 2 * 2 * 4)[..., :8]
            y = torch.tanh(self.first(y.transpose(0, 1)))
            return self.flat(y.reshape(-1, 6)).reshape(-1, len(x), 4).mean(0)

    x = torch.randn(16, 5, 4, 6)
    traced = convert(Frames(), x[:8])
    macs = {layer.name: layer.macs for layer in traced.layers}
    assert macs == {"image": 5 * 2 * 9 * 2 * 4, "first": 5 * 8 * 6, "flat": 5 * 6 * 4}
    policy = Policy.uniform("frames", traced.layers, 5, 5)
    network = QuantizedNetwork(traced, policy, Calibration(traced, x)).eval()
    run = HostNetwork(network).run(x[:2], record=True)
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(run.scores), network(x[:2]), rtol=1e-3, atol=1e-4)
    report = simulate_layers(run, list(network.layers), load_accelerator("bitserial-tiny"))
    assert report["mismatches"] == 0
    assert report["rtl_cycles"] == report["model_cycles"]
