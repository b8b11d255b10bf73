"""The space of policies: vectors, policies, histograms and texts say the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware.accelerator import load_accelerator
from hardware.errors import InputError
from hardware.layer import Layer
from hardware.oracle import Oracle
from policies.costs import Costs
from policies.space import ACTIVATIONS, WEIGHTS, Space

LAYERS = (
    Layer("stem", "conv", 3, 10, 8, 8, (3, 3), (1, 1), (1, 1)),
    Layer("middle", "conv", 10, 7, 8, 8, (3, 3), (1, 1), (1, 1)),
    Layer("head", "linear", 7, 4),
)
spaces = st.builds(
    Space,
    st.just("net"),
    st.just(LAYERS),
    weight_widths=st.lists(st.integers(0, 8), min_size=1, max_size=9),
    activation_widths=st.none() | st.lists(st.integers(1, 8), min_size=1, max_size=8),
    group=st.none() | st.integers(1, 12),
    pin_ends=st.booleans(),
)


def drawn(space, seed):
    generator = np.random.default_rng(seed)
    return np.array([generator.choice(variable.widths) for variable in space.variables])


@given(spaces, st.integers(0, 99))
def test_a_vector_is_its_policy_kernel_by_kernel(space, seed):
    vector = drawn(space, seed)
    policy = space.policy(vector)
    policy.check("net", LAYERS)
    for variable, width in zip(space.variables, vector, strict=True):
        entry = policy.layers[variable.layer]
        if variable.operand == ACTIVATIONS:
            assert entry.activations.bits == width
        else:
            kernels = entry.weights.per_kernel(LAYERS[variable.layer].out_channels)
            assert {kernels[kernel] for kernel in variable.kernels} == {width}
    assert isinstance(policy.layers[0].weights.bits, int) == space.layer_wise


@given(spaces, st.integers(0, 99))
def test_histograms_count_the_policys_kernels(space, seed):
    vectors = np.stack([drawn(space, seed), drawn(space, seed + 1)])
    counts, activations = space.histograms(vectors)
    for vector, count, bits in zip(vectors, counts, activations, strict=True):
        for layer, entry in enumerate(space.policy(vector).layers):
            kernels = entry.weights.per_kernel(LAYERS[layer].out_channels)
            assert count[layer].tolist() == [kernels.count(width) for width in range(9)]
            assert bits[layer] == entry.activations.bits


@given(spaces, st.integers(0, 99))
def test_texts_are_read_back(space, seed):
    vector = drawn(space, seed)
    assert space.parse(space.text(vector)).tolist() == vector.tolist()
    assert len(space.text(vector).split(" ")) == len(LAYERS)


@given(spaces)
def test_every_kernel_has_one_variable_and_weights_come_before_activations(space):
    for index, layer in enumerate(LAYERS):
        mine = [variable for variable in space.variables if variable.layer == index]
        weights = [variable for variable in mine if variable.operand == WEIGHTS]
        assert [kernel for variable in weights for kernel in variable.kernels] == list(range(layer.out_channels))
        assert mine[: len(weights)] == weights
        assert len(mine) - len(weights) <= 1
    assert [variable.layer for variable in space.variables] == sorted(variable.layer for variable in space.variables)


@given(spaces)
def test_the_middle_of_a_widths_share_is_that_width(space):
    for index, variable in enumerate(space.variables):
        assert [space.width(index, space.action(index, width)) for width in variable.widths] == list(variable.widths)
        assert space.lower(index, variable.widths[0]) == variable.widths[0]
        steps = [space.lower(index, width) for width in variable.widths[1:]]
        assert steps == list(variable.widths[:-1])


@settings(max_examples=30, deadline=None)
@given(spaces, st.integers(0, 99))
def test_sizes_and_mean_bits_are_the_policys(space, seed):
    costs, vector = Costs(space, Oracle(LAYERS, load_accelerator("bitserial-tiny"))), drawn(space, seed)
    policy = space.policy(vector)
    kernels = [entry.weights.per_kernel(layer.out_channels) for entry, layer in zip(policy.layers, LAYERS, strict=True)]
    per_kernel = [layer.weight_count // layer.out_channels for layer in LAYERS]
    size = sum(sum(widths) * weights for widths, weights in zip(kernels, per_kernel, strict=True))
    assert costs.cost("size", vector) == pytest.approx(size)
    assert costs.cost("bits", vector) == pytest.approx(np.mean([np.mean(widths) for widths in kernels]))
    terms = [(120 * layer.weight_count + layer.macs) * np.mean(w) for layer, w in zip(LAYERS, kernels, strict=True)]
    assert costs.cost("quantization", vector) == pytest.approx(sum(terms))
    batch = np.stack([vector, space.widest])
    for metric in costs.tables:
        assert costs.ratio(metric, batch)[0] == pytest.approx(costs.ratio(metric, vector))


def test_latencies_of_layers_are_the_oracles():
    oracle = Oracle(LAYERS, load_accelerator("bitserial-tiny"))
    vector = np.array([2, 3, 4, 5, 6, 7])
    assert Costs(Space("net", LAYERS), oracle).cost("latency", vector) == oracle.cost(vector.reshape(-1, 2))
    alike = Space("net", LAYERS, group=1)
    kernels = np.array([width for layer, w, a in zip(LAYERS, (2, 4, 6), (3, 5, 7), strict=True)
                        for width in [w] * layer.out_channels + [a]])  # fmt: skip
    assert Costs(alike, oracle).cost("latency", kernels) == pytest.approx(oracle.cost(vector.reshape(-1, 2)))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"weight_widths": (2, 9)}, r"weight bits within 0 to 8, got \[2, 9\]"),
        ({"weight_widths": ()}, r"weight bits within 0 to 8, got \[\]"),
        ({"activation_widths": (0, 8)}, r"activation bits within 1 to 8, got \[0, 8\]"),
        ({"group": 0}, "at least 1 kernel per group, got 0"),
    ],
)
def test_impossible_widths_and_groups_are_refused(options, says):
    with pytest.raises(InputError, match=says):
        Space("net", LAYERS, **options)


def test_no_layers_and_other_layers_are_refused():
    with pytest.raises(InputError, match="at least one layer"):
        Space("net", ())
    with pytest.raises(InputError, match="make both from one network"):
        Costs(Space("net", LAYERS), Oracle(LAYERS[:2], load_accelerator("bitserial-tiny")))


def test_a_table_without_pruned_layers_prices_none():
    oracle = Oracle(LAYERS, load_accelerator("bitserial-tiny"), np.ones((3, 8, 8)))
    with pytest.raises(InputError, match="cannot price 0 weight bits"):
        Costs(Space("net", LAYERS, weight_widths=range(9)), oracle)
