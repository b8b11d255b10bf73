import sys
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import nn

from codesign.networks import create_network, default_data, load_weights, network_names
from codesign.networks.mobilenetv1 import MobileNetV1
from codesign.tracing import trace
from hardware.accelerator import load_accelerator
from hardware.cost import PRICED_OUTPUT
from hardware.errors import InputError
from hardware.schedule import schedule


@pytest.mark.parametrize(
    ("name", "shape", "classes", "parameters"),
    [
        ("lenet", (2, 1, 8, 8), 10, 6_266),
        ("mobilenetv1-cifar", (2, 3, 32, 32), 10, 543_050),
        ("resnet20", (2, 3, 32, 32), 10, 269_722),
        ("vgg-like", (2, 3, 32, 32), 10, 5_354_826),
        # As torchvision publishes, but for MobileNet-V1, which it does not have.
        ("alexnet", (2, 3, 64, 64), 1000, 61_100_840),
        ("mobilenetv1", (2, 3, 64, 64), 1000, 4_231_976),
        ("mobilenetv2", (2, 3, 64, 64), 1000, 3_504_872),
        ("resnet18", (2, 3, 64, 64), 1000, 11_689_512),
        ("resnet50", (2, 3, 64, 64), 1000, 25_557_032),
        ("squeezenet1_1", (2, 3, 64, 64), 1000, 1_235_496),
        ("vgg11", (2, 3, 64, 64), 1000, 132_863_336),
    ],
)
def test_built_in_network_scores_its_classes(name, shape, classes, parameters):
    network = create_network(name, seed=0).eval()
    assert network(torch.zeros(shape)).shape == (2, classes)
    assert sum(p.numel() for p in network.parameters()) == parameters


NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def with_bias(*names):
    return {f"{name}.{part}" for name in names for part in ("weight", "bias")}


def normed(*pairs):
    """Keys of convolutions without bias and of the batch norms behind them."""
    return {f"{layer}.weight" for layer, _ in pairs} | {f"{norm}.{part}" for _, norm in pairs for part in NORM}


def resnet_keys(convolutions, depths, projected_stages):
    expected = normed(("conv1", "bn1")) | with_bias("fc")
    for stage, depth in enumerate(depths, start=1):
        for block in range(depth):
            here = f"layer{stage}.{block}"
            expected |= normed(*((f"{here}.conv{n}", f"{here}.bn{n}") for n in range(1, convolutions + 1)))
            if stage in projected_stages and block == 0:
                expected |= normed((f"{here}.downsample.0", f"{here}.downsample.1"))
    return expected


def mobilenetv2_keys():
    expected = normed(("features.0.0", "features.0.1"), ("features.18.0", "features.18.1"))
    expected |= normed(("features.1.conv.0.0", "features.1.conv.0.1"), ("features.1.conv.1", "features.1.conv.2"))
    for block in range(2, 18):
        here = f"features.{block}.conv"
        expected |= normed((f"{here}.0.0", f"{here}.0.1"), (f"{here}.1.0", f"{here}.1.1"), (f"{here}.2", f"{here}.3"))
    return expected | with_bias("classifier.1")


def squeezenet_keys():
    fires = product((3, 4, 6, 7, 9, 10, 11, 12), ("squeeze", "expand1x1", "expand3x3"))
    return with_bias("features.0", "classifier.1", *(f"features.{number}.{part}" for number, part in fires))


def plain_keys(features, classifier):
    """Of a network of two sequences without batch norm, from the places of their layers."""
    return with_bias(*(f"features.{i}" for i in features), *(f"classifier.{i}" for i in classifier))


@pytest.mark.parametrize(
    ("name", "expected", "shapes"),
    [
        (
            "alexnet",
            plain_keys((0, 3, 6, 8, 10), (1, 4, 6)),
            {
                "features.0.weight": (64, 3, 11, 11),
                "classifier.1.weight": (4096, 9216),
            },
        ),
        (
            "vgg11",
            with_bias(
                *(f"features.{i}" for i in (0, 3, 6, 8, 11, 13, 16, 18)), *(f"classifier.{i}" for i in (0, 3, 6))
            ),
            {"features.8.weight": (256, 256, 3, 3), "classifier.0.weight": (4096, 25088)},
        ),
        ("resnet18", resnet_keys(2, (2, 2, 2, 2), (2, 3, 4)), {"layer2.0.downsample.0.weight": (128, 64, 1, 1)}),
        (
            "resnet50",
            resnet_keys(3, (3, 4, 6, 3), (1, 2, 3, 4)),
            {"layer1.0.downsample.0.weight": (256, 64, 1, 1), "layer4.2.conv3.weight": (2048, 512, 1, 1)},
        ),
        (
            "squeezenet1_1",
            squeezenet_keys(),
            {"features.12.squeeze.weight": (64, 512, 1, 1), "features.9.expand3x3.weight": (192, 48, 3, 3)},
        ),
        (
            "mobilenetv2",
            mobilenetv2_keys(),
            {"features.2.conv.1.0.weight": (96, 1, 3, 3), "features.17.conv.2.weight": (320, 960, 1, 1)},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_parameters_have_torchvisions_names_and_shapes(name, expected, shapes):
    state = create_network(name, seed=0).state_dict()
    assert set(state) == expected
    assert {key: tuple(state[key].shape) for key in shapes} == shapes


@pytest.mark.parametrize(
    ("name", "count", "macs", "published"),  # billions: torchvision's tables, MobileNet-V1's paper
    [
        ("alexnet", 8, 714_188_480, 0.714),
        ("mobilenetv1", 28, 568_740_352, 0.569),
        ("mobilenetv2", 53, 300_774_272, 0.301),
        ("resnet18", 21, 1_814_073_344, 1.814),
        ("resnet50", 54, 4_089_184_256, 4.089),
        ("squeezenet1_1", 26, 349_151_936, 0.349),
        ("vgg11", 11, 7_609_090_048, 7.609),
    ],
)
def test_imagenet_networks_have_the_published_layers_and_multiplications(name, count, macs, published):
    traced = trace(create_network(name, seed=0), (3, 224, 224))
    layers = traced.layers
    assert (len(layers), sum(layer.macs for layer in layers)) == (count, macs)
    assert round(macs / 1e9, 3) == published
    assert (layers[0].in_channels, layers[-1].out_channels) == (3, 1000)
    assert layers[0].signed_activations
    last_images = {"alexnet": 13, "squeezenet1_1": 13, "vgg11": 14}.get(name, 7)
    assert [layer.out_height for layer in layers if layer.kind == "conv"][-1] == last_images
    if name == "alexnet":
        assert [(layer.in_channels, layer.kernel) for layer in layers[-3:-1]] == [(256, (6, 6)), (4096, (1, 1))]
    if name.startswith("mobilenet"):
        assert sum(layer.groups == layer.in_channels for layer in layers) == (13 if name == "mobilenetv1" else 17)
    for hardware, batch in (("bitserial-edge", 1), ("bitserial-cloud", 16)):  # at 8 bits every layer fits
        for layer in layers:
            assert schedule(replace(layer, images=batch), 8, 8, load_accelerator(hardware), output=PRICED_OUTPUT).passes


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
    imagenet = ["alexnet", "mobilenetv1", "mobilenetv2", "resnet18", "resnet50", "squeezenet1_1", "vgg11"]
    recurrent = {"lstm-classifier": "python-topics", "lstm-lm": "python-text", "lstm-lm-ptb": "ptb"}
    assert network_names() == sorted(["lenet", "mobilenetv1-cifar", "resnet20", "vgg-like", *recurrent, *imagenet])
    assert default_data("lenet") == "digits"
    assert default_data("resnet20") == default_data("mobilenetv1-cifar") == default_data("vgg-like") == "cifar10"
    assert {name: default_data(name) for name in recurrent} == recurrent
    assert {default_data(name) for name in imagenet} == {"imagenet"}
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
