import sys
from itertools import product

import pytest
import torch
from torch import nn

from codesign.networks import create_network, default_data, load_weights, network_names
from codesign.networks.mobilenetv1 import MobileNetV1
from codesign.tracing import trace
from hardware.errors import InputError


@pytest.mark.parametrize(
    ("name", "shape", "classes", "parameters"),
    [
        ("lenet", (2, 1, 8, 8), 10, 6_266),
        ("mobilenetv1-cifar", (2, 3, 32, 32), 10, 543_050),
        ("resnet18", (2, 3, 64, 64), 1000, 11_689_512),  # as torchvision publishes
        ("resnet20", (2, 3, 32, 32), 10, 269_722),
    ],
)
def test_built_in_network_scores_its_classes(name, shape, classes, parameters):
    network = create_network(name, seed=0).eval()
    assert network(torch.zeros(shape)).shape == (2, classes)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_resnet18_has_torchvisions_keys_and_multiplications():
    network = create_network("resnet18", seed=0)
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"conv1.weight", "fc.weight", "fc.bias", *(f"bn1.{k}" for k in norm)}
    for stage, block in product((1, 2, 3, 4), (0, 1)):
        here = f"layer{stage}.{block}"
        for number in (1, 2):
            expected |= {f"{here}.conv{number}.weight", *(f"{here}.bn{number}.{k}" for k in norm)}
        if stage > 1 and block == 0:
            expected |= {f"{here}.downsample.0.weight", *(f"{here}.downsample.1.{k}" for k in norm)}
    assert set(network.state_dict()) == expected
    layers = trace(network, (3, 224, 224)).layers
    assert sum(layer.macs for layer in layers) == 1_814_073_344  # 1.81 billion, as torchvision publishes
    assert (layers[0].out_height, layers[1].in_height, layers[-2].out_height) == (112, 56, 7)


def test_mobilenet_alternates_depthwise_and_pointwise_and_has_a_width():
    layers = trace(create_network("mobilenetv1-cifar", seed=0), (3, 32, 32)).layers
    assert 15e6 < sum(layer.macs for layer in layers) < 25e6
    for depthwise, pointwise in zip(layers[1:-1:2], layers[2:-1:2], strict=True):
        assert depthwise.groups == depthwise.in_channels == depthwise.out_channels == pointwise.in_channels
        assert (depthwise.kernel, pointwise.kernel, pointwise.groups) == ((3, 3), (1, 1), 1)
    assert (layers[-2].out_channels, layers[-2].out_height) == (512, 4)
    half = trace(MobileNetV1(width=0.5), (3, 32, 32)).layers
    assert [layer.out_channels for layer in half[:-1]] == [layer.out_channels // 2 for layer in layers[:-1]]


def test_resnet20_has_the_keys_of_published_checkpoints():
    keys = set(create_network("resnet20", seed=0).state_dict())
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"conv1.weight", "linear.weight", "linear.bias", *(f"bn1.{k}" for k in norm)}
    for stage in (1, 2, 3):
        for block in (0, 1, 2):
            for number in (1, 2):
                expected.add(f"layer{stage}.{block}.conv{number}.weight")
                expected |= {f"layer{stage}.{block}.bn{number}.{k}" for k in norm}
    assert keys == expected


def test_option_a_shortcut_subsamples_and_pads_zero_channels():
    block = create_network("resnet20", seed=0).eval().layer2[0]
    for convolution in (block.conv1, block.conv2):
        nn.init.zeros_(convolution.weight)  # only the shortcut is left
    x = torch.rand(1, 16, 8, 8)
    out = block(x)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert not out[:, :8].any()
    assert not out[:, 24:].any()


def test_seed_gives_the_weights_and_leaves_the_global_state():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second, other = (create_network("lenet", seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_names_and_default_data():
    assert network_names() == ["lenet", "mobilenetv1-cifar", "resnet18", "resnet20"]
    assert default_data("lenet") == "digits"
    assert default_data("resnet20") == default_data("mobilenetv1-cifar") == "cifar10"
    assert default_data("resnet18") == "imagenet"
    assert default_data("torch.nn:Identity") is None


def test_anybodys_network_is_found_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "my_tiny_network.py").write_text(
        "from torch import nn\nclass Made:\n    @staticmethod\n    def net():\n        return nn.Linear(3, 2)\n"
        "def broken():\n    raise RuntimeError('no luck')\nnumber = 3\n"
    )
    (tmp_path / "my_broken_module.py").write_text("import a_module_that_is_nowhere\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert isinstance(create_network("my_tiny_network:Made.net", seed=0), nn.Linear)
    for name, message in [
        ("my_tiny_network:broken", "RuntimeError: no luck"),
        ("my_tiny_network:absent", "has no 'absent'"),
        ("my_tiny_network:number", "expected a callable"),
        ("my_broken_module:net", "a_module_that_is_nowhere"),
        ("collections:OrderedDict", "expected a torch.nn.Module"),
        ("a_module_that_is_nowhere:net", "cannot import"),
        ("my_tiny_network:", "package.module:callable"),
        ("../file.py:net", "package.module:callable"),
        ("lenett", "did you mean 'lenet'"),
    ]:
        with pytest.raises(InputError, match=message):
            create_network(name, seed=0)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_load_from_plain_wrapped_and_parallel_checkpoints(tmp_path, wrap, prefix):
    state = create_network("resnet20", seed=3).state_dict()
    saved = {prefix + key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    torch.save(wrap(saved), tmp_path / "weights.pt")
    network = create_network("resnet20", seed=4)
    load_weights(network, tmp_path / "weights.pt")
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_wrong_weights_are_refused_and_change_nothing(tmp_path):
    network = create_network("lenet", seed=0)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    path = tmp_path / "weights.pt"

    def refuses(match):
        with pytest.raises(InputError, match=match):
            load_weights(network, path)

    refuses("no weights file")
    torch.save(before, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refuses("cannot read weights")
    path.write_bytes(b"")
    refuses("cannot read weights")
    path.write_text("not weights at all")
    refuses("cannot read weights")
    torch.save([1, 2], path)
    refuses("expected a state dict")
    torch.save(nn.Linear(2, 2), path)  # a pickled object: its class would have to be imported
    refuses("cannot read weights")
    torch.save({key: value for key, value in before.items() if "fc" not in key}, path)
    refuses(r"6 missing \(fc1.weight, fc1.bias, fc2.weight, ...\)")
    torch.save({**before, "fc1.weight": torch.zeros(48, 65), "more": torch.zeros(1)}, path)
    refuses(r"1 unknown \(more\); 1 of another shape \(fc1.weight \(48, 65\) for \(48, 64\)\)")
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
