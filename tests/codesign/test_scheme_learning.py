"""QSS on networks: the scheme that suits each layer's weights, and what the machine's price does to that."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from codesign.cli import app
from codesign.data import ImageSplit, load_data
from codesign.networks import create_network
from codesign.qag import convert
from codesign.quantizer_fit import Calibration
from codesign.scheme_learning import EVERY, ON_MACHINE, SchemeLearner, scheme_search, vertices
from codesign.tracing import trace
from codesign.training import train
from hardware.accelerator import load_accelerator
from hardware.errors import InputError
from hardware.oracle import Oracle
from policies.budget import parse_budgets
from policies.costs import Costs
from policies.hardware_loss import HardwareLoss, budget_targets
from policies.space import Space

FEATURES, KERNELS, EXAMPLES = 384, 24, 256


class Drawn(nn.Module):
    """Linear layers side by side, whose weights are drawn from distributions of unit variance."""

    def __init__(self, seed):
        super().__init__()
        rng = np.random.default_rng(seed)
        size = (KERNELS, FEATURES)
        tails = rng.choice([-1, 1], size) * np.exp(rng.standard_normal(size))
        weights = {
            "normal": rng.standard_normal(size),
            "tails": tails / tails.std(),
            "uniform": rng.uniform(-1, 1, size) * np.sqrt(3),
        }
        for name, values in weights.items():
            layer = nn.Linear(FEATURES, KERNELS)
            layer.weight = nn.Parameter(torch.from_numpy(values).float())
            layer.bias = nn.Parameter(torch.zeros(KERNELS))
            setattr(self, name, layer)

    def forward(self, x):
        return torch.cat([self.normal(x), self.tails(x), self.uniform(x)], 1)


@pytest.mark.parametrize("seed", [0, 1])
def test_it_finds_the_scheme_that_each_distribution_is_best_served_by(seed):
    """AutoQNN's table 1: clip for normal weights, pot for heavy tails, zoom or res for uniform ones.

    With levels per tensor and pot's constants as in the paper: per channel, of some hundred weights each, zoom's
    intervals follow the tails too, and pot's optimum for normal weights leads clip by little.
    """
    torch.manual_seed(seed)
    module = Drawn(seed)
    inputs = torch.randn(EXAMPLES, FEATURES, 1, 1)
    images = ImageSplit(inputs, torch.zeros(EXAMPLES).long(), 1, torch.zeros(1), torch.ones(1))
    traced = convert(module, inputs.flatten(1)[:8])
    with torch.no_grad():
        target = module(inputs.flatten(1))

    class Flat(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x.flatten(1))

    calibration = Calibration(traced, inputs.flatten(1))
    learner = SchemeLearner(
        traced,
        scheme_search(traced.layers, 3, seed, (EVERY[0], ("clip",)), machine=False, constants="paper"),
        calibration,
        images,
        seed,
        loss=lambda scores, indices: nn.functional.mse_loss(scores, target[indices]) / KERNELS,
        train_weights=False,
        per_channel=False,
    )
    learner.network = Flat(learner.network)
    for epoch in range(100):
        learner.epoch(epoch, 100)
    found = dict(zip(("normal", "tails", "uniform"), (weights for weights, _ in learner.schemes()), strict=True))
    assert found["normal"] == "clip"
    assert found["tails"] == "pot"
    assert found["uniform"] in ("zoom", "res")


@pytest.fixture(scope="module")
def lenet():
    data = load_data("digits")
    module = create_network("lenet", seed=0)
    train(module, data, epochs=6, seed=0)
    traced = trace(module, (1, 8, 8), signed_input=False)
    return traced, Calibration(traced, data.train.batch(slice(100))), data.train.take(slice(256))


def learned(lenet, budget=None, epochs=8, coarse=False, seed=0):
    traced, calibration, images = lenet
    costs = Costs(Space("lenet", traced.layers), Oracle(traced.layers, load_accelerator("bitserial-tiny")))
    hardware = HardwareLoss(budget_targets(parse_budgets(budget), costs)) if budget else None
    search = scheme_search(traced.layers, 4, seed, coarse=coarse)
    learner = SchemeLearner(traced, search, calibration, images, seed, hardware)
    for epoch in range(epochs):
        shares = learner.epoch(epoch, epochs)
    return learner, shares


def test_a_tight_budget_turns_the_choice_to_cheaper_schemes(lenet):
    """At 4 bits binary weights take one plane, ternary and quaternary ones two, fixed and clip four."""
    cheap = ("binary", "ternary", "quaternary")

    def share(shares, layer):
        return sum(shares[vertices(layer)[0]][name] for name in cheap)

    layers = lenet[0].layers
    (free, before), (tight, after) = learned(lenet), learned(lenet, "latency=0.1")
    assert (
        np.mean([share(after, layer) for layer in layers]) > np.mean([share(before, layer) for layer in layers]) + 0.1
    )
    assert all(weights in ON_MACHINE[0] and inputs in ON_MACHINE[1] for weights, inputs in tight.schemes())
    assert free.schemes() != tight.schemes()


def test_one_seed_gives_one_choice_and_a_coarse_one_is_the_same_everywhere(lenet):
    first, again, other = (learned(lenet, epochs=3, seed=seed)[1] for seed in (3, 3, 4))
    assert first == again != other
    coarse, _ = learned(lenet, epochs=3, coarse=True)
    assert len(set(coarse.schemes())) == 1


def test_from_schemes_to_bits_to_the_machine_by_the_command_line(tmp_path):
    runner, out = CliRunner(), tmp_path / "run"
    quick = "--train-epochs 3 --tune-images 128 --validation-images 100 --test-images 60 --scheme-epochs 2 --seed 1"
    arguments = ["search", "--agent", "autoqnn", "--budget", "latency=0.3", "--episodes", "2", *quick.split()]
    assert runner.invoke(app, [*arguments, "--out", str(out), "--json", str(out / "s.json")]).exit_code == 0
    found = json.loads((out / "s.json").read_text())
    assert found["budget_used"] <= 1
    schemes = json.loads((out / "schemes.json").read_text())["schemes"]
    assert found["schemes"] == schemes
    assert (out / "schemes.png").read_bytes()[:4] == b"\x89PNG"
    assert (out / "schemes.csv").read_text().startswith("epoch,vertex,scheme,share")
    policy = (out / "policy.yaml").read_text()
    assert all(f"scheme: {weights}" in policy for weights, _ in schemes)
    ran = ["simulate", "--policy", str(out / "policy.yaml"), "--weights", str(out / "quantized.pt"), "--images", "2"]
    result = runner.invoke(app, [*ran, "--test-images", "0", "--json", str(out / "r.json")])
    assert result.exit_code == 0, result.output
    report = json.loads((out / "r.json").read_text())
    assert report["mismatches"] == 0
    assert report["rtl_cycles"] == report["model_cycles"]
    # Resumed, it reads the schemes and repeats nothing.
    before = (out / "schemes.json").stat().st_mtime_ns
    assert runner.invoke(app, [*arguments, "--out", str(out), "--resume"]).exit_code == 0
    assert (out / "schemes.json").stat().st_mtime_ns == before
    other = runner.invoke(app, [*arguments, "--out", str(out), "--resume", "--scheme-bits", "4"])
    assert other.exit_code != 0
    # Killed behind the schemes, the run is there, too: it is not continued unasked.
    (out / "checkpoint.pt").unlink()
    refused = runner.invoke(app, [*arguments, "--out", str(out)])
    assert "holds a run already: pass --resume" in str(refused.exception)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--agent qpl --budget none", "against a --budget"),
        ("--agent autoqnn --group 4", "whole layers"),
        ("--agent qss --pin-ends", "leave out --pin-ends"),
        ("--agent qss --weight-scheme clip", "--weight-scheme and --activation-scheme do not go with --agent qss"),
        ("--agent haq --weight-scheme zoom", "layer 'conv1': scheme 'zoom' has an offset"),
        ("--agent haq --weight-scheme clop", "unknown scheme for weights 'clop': did you mean 'clip'"),
        ("--agent haq --weight-scheme clip --group 1", "leave out --group"),
        ("--agent qss --budget size=0.5", "budget latency or energy, not size"),
    ],
)
def test_what_does_not_go_together_is_said_in_one_sentence_and_nothing_is_written(tmp_path, options, says):
    out = tmp_path / "run"
    quick = ["--train-epochs", "1", "--tune-images", "64", "--validation-images", "50", "--episodes", "1"]
    done = CliRunner().invoke(app, ["search", *options.split(), *quick, "--out", str(out)])
    assert isinstance(done.exception, InputError)
    assert says in str(done.exception)
    assert not out.exists()
