"""The policy file: what is written is read back, and every mistake is named."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hardware.errors import InputError
from hardware.layer import Layer
from policies.policy import ActivationChoice, LayerPolicy, Policy, WeightChoice

LAYERS = (Layer("conv1", "conv", 1, 4, 8, 8, (3, 3)), Layer("fc", "linear", 144, 10))
ENTRY = {"name": "conv1", "weights": {"bits": 4}, "activations": {"bits": 3}}


def write(path, **changes):
    """A valid policy file for `LAYERS` with some top-level keys replaced."""
    content = {"version": 1, "network": "net", "layers": [ENTRY, ENTRY | {"name": "fc"}]} | changes
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def message(path, network="net"):
    with pytest.raises(InputError) as caught:
        Policy.load(path, network, LAYERS)
    return str(caught.value)


def test_a_saved_policy_is_read_back(tmp_path):
    policy = Policy.from_bits("net", LAYERS, [(8, 3), (0, 1)])
    policy.save(tmp_path / "new" / "policy.yaml")
    assert Policy.load(tmp_path / "new" / "policy.yaml", "net", LAYERS) == policy


@given(
    st.lists(st.integers(0, 8), min_size=4, max_size=4),
    st.integers(0, 8),
    st.lists(st.integers(1, 8), min_size=2, max_size=2),
)
def test_any_policy_survives_its_text(kernels, weight_bits, activation_bits):
    entries = zip(LAYERS, (tuple(kernels), weight_bits), activation_bits, strict=True)
    policy = Policy(
        network="net",
        layers=tuple(
            LayerPolicy(name=layer.name, weights=WeightChoice(bits=w), activations=ActivationChoice(bits=a))
            for layer, w, a in entries
        ),
    )
    assert Policy.from_mapping(yaml.safe_load(policy.as_yaml()), "text") == policy


def test_the_file_has_one_readable_line_per_layer(tmp_path):
    Policy.from_bits("net", LAYERS, [(8, 3), (2, 1)]).save(tmp_path / "policy.yaml")
    assert (tmp_path / "policy.yaml").read_text(encoding="utf-8").splitlines() == [
        "version: 1",
        "network: net",
        "layers:",
        "  - {name: conv1, weights: {bits: 8, scheme: symmetric}, activations: {bits: 3, scheme: uniform}}",
        "  - {name: fc, weights: {bits: 2, scheme: symmetric}, activations: {bits: 1, scheme: uniform}}",
    ]


def test_uniform_gives_every_layer_the_same_bits():
    assert Policy.uniform("net", LAYERS, 4, 3) == Policy.from_bits("net", LAYERS, [(4, 3), (4, 3)])


def test_widths_per_kernel_are_kept_and_one_width_is_repeated(tmp_path):
    per_kernel = ENTRY | {"weights": {"bits": [4, 0, 3, 8]}}
    path = write(tmp_path / "p.yaml", layers=[per_kernel, ENTRY | {"name": "fc"}])
    first, second = Policy.load(path, "net", LAYERS).layers
    assert first.weights.per_kernel(4) == (4, 0, 3, 8)
    assert second.weights.per_kernel(10) == (4,) * 10


@pytest.mark.parametrize(
    ("weights", "activations", "field", "got"),
    [
        (9, 4, "layers.0.weights.bits", "9"),
        (-1, 4, "layers.0.weights.bits", "-1"),
        ([4, 4, 9, 4], 4, "layers.0.weights.bits", "9"),
        ([], 4, "layers.0.weights.bits", r"\[\]"),
        (4, 0, "layers.0.activations.bits", "0"),
        (4, 9, "layers.0.activations.bits", "9"),
        (4, 2.5, "layers.0.activations.bits", "2.5"),
        (4, [4, 4], "layers.0.activations.bits", r"\[4, 4\]"),
    ],
)
def test_bits_out_of_range_are_named_with_field_and_value(tmp_path, weights, activations, field, got):
    entry = {"name": "conv1", "weights": {"bits": weights}, "activations": {"bits": activations}}
    path = write(tmp_path / "p.yaml", layers=[entry, ENTRY | {"name": "fc"}])
    with pytest.raises(InputError, match=rf"p\.yaml is not a valid Policy: .*{field}.*\(got {got}\)"):
        Policy.load(path, "net", LAYERS)


def test_the_wrong_number_of_kernel_widths_is_named(tmp_path):
    entry = ENTRY | {"weights": {"bits": [4, 4, 4]}}
    path = write(tmp_path / "p.yaml", layers=[entry, ENTRY | {"name": "fc"}])
    assert "layer 'conv1' has 4 kernels but the policy gives 3 widths" in message(path)


def test_another_networks_policy_is_refused(tmp_path):
    assert "the policy is for network 'net', not for 'other'" in message(write(tmp_path / "p.yaml"), "other")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["conv1"], "got 1 (missing ['fc'], unknown [])"),
        (["conv1", "fc", "fc2"], "got 3 (missing [], unknown ['fc2'])"),
        (["conv1", "fz"], "got 2 (missing ['fc'], unknown ['fz'])"),
        (["fc", "conv1"], "expected 2 layers in network order"),
    ],
)
def test_layers_that_do_not_fit_the_network_are_named(tmp_path, names, said):
    path = write(tmp_path / "p.yaml", layers=[ENTRY | {"name": name} for name in names])
    assert said in message(path)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"colour": "red"}, "colour"),
        ({"version": 2}, "version"),
        ({"network": None}, "network"),
        ({"layers": [ENTRY | {"bits": 3}]}, "layers.0.bits"),
        ({"layers": [ENTRY | {"weights": {"bits": 3, "scheme": "clop"}}]}, "layers.0.weights.scheme"),
        ({"layers": [{"name": "conv1", "weights": {"bits": 3}}]}, "layers.0.activations"),
        ({"layers": 7}, "layers"),
    ],
)
def test_a_wrong_field_is_named_by_its_path(tmp_path, changes, field):
    text = message(write(tmp_path / "p.yaml", **changes))
    assert text.startswith(str(tmp_path / "p.yaml"))
    assert f" {field}: " in text


def test_a_file_that_is_missing_or_not_yaml_or_empty_is_named(tmp_path):
    assert "cannot read" in message(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("layers: [", encoding="utf-8")
    assert "broken.yaml is not YAML" in message(tmp_path / "broken.yaml")
    (tmp_path / "empty.yaml").write_text("", encoding="utf-8")
    assert "empty.yaml is not a valid Policy" in message(tmp_path / "empty.yaml")


def test_the_number_of_bit_pairs_must_be_the_number_of_layers():
    with pytest.raises(ValueError, match="zip"):
        Policy.from_bits("net", LAYERS, [(8, 8)])
