"""Spaces of AutoQNN's schemes: the widths that a layer can have in them, and what these cost on the machine."""

import numpy as np
import pytest

from hardware.accelerator import load_accelerator
from hardware.errors import InputError
from hardware.layer import Layer
from hardware.oracle import Oracle
from policies.costs import Costs
from policies.space import Space, machine_planes

DENSE = Layer("dense", "conv", 20, 12, 5, 5, kernel=(3, 3), padding=(1, 1))
DEPTHWISE = Layer("depthwise", "conv", 12, 12, 5, 5, kernel=(3, 3), groups=12)
LAYERS = [DENSE, DEPTHWISE]


@pytest.fixture(scope="module")
def oracle():
    return Oracle(LAYERS, load_accelerator("bitserial-tiny"))


def test_a_variable_has_the_widths_that_scheme_machine_and_search_share():
    space = Space("n", LAYERS, schemes=[("clip", "uniform")] * 2)
    assert [variable.widths for variable in space.variables] == [
        *((2, 3, 4, 5, 6, 7, 8), (2, 3, 4, 5, 6, 7, 8)),
        *((2, 3, 4, 5, 6, 7), (2, 3, 4, 5, 6, 7, 8)),  # a bipolar weight of a depthwise layer takes a bit more
    ]
    space = Space("n", LAYERS, schemes=[("binary", "fixed"), ("pot", "uniform")])
    assert [variable.widths for variable in space.variables][::2] == [(1,), (2, 3)]
    assert space.policy(space.widest).layers[1].weights.scheme == "pot"


def test_a_policy_costs_what_its_planes_cost_and_ratios_are_to_plain_integers(oracle):
    plain = Costs(Space("n", LAYERS), oracle)
    space = Space("n", LAYERS, schemes=[("pot", "uniform"), ("clip", "uniform")])
    costs = Costs(space, oracle)
    assert costs.full == plain.full
    vector = np.array([3, 4, 5, 2])
    planes = [
        (choice.weights.machine_bits(layer)[0], choice.activations.bits)
        for choice, layer in zip(space.policy(vector).layers, LAYERS, strict=True)
    ]
    assert planes == [(6, 4), (6, 2)]
    assert (
        costs.cost("latency", vector)
        == oracle.exact(*zip(*planes, strict=True))
        == plain.cost("latency", np.array([6, 4, 6, 2]))
    )
    assert costs.cost("size", vector) == 3 * DENSE.weight_count + 5 * DEPTHWISE.weight_count


def test_what_no_machine_has_is_refused_by_the_layers_name():
    assert machine_planes("pot", 0, DENSE) == {2: 4, 3: 6}
    for schemes, message in (
        ([("zoom", "uniform")] * 2, "layer 'dense': scheme 'zoom' has an offset"),
        ([("symmetric", "res")] * 2, "the input of layer 'dense': scheme 'res'"),
        ([("clip", "uniform")], "schemes of 2 layers, got 1"),
    ):
        with pytest.raises(InputError, match=message):
            Space("n", LAYERS, schemes=schemes)
    with pytest.raises(InputError, match="leave out --group"):
        Space("n", LAYERS, schemes=[("clip", "uniform")] * 2, group=1)
    with pytest.raises(InputError, match="at 2 to 3 bits, but not at any of"):
        Space("n", LAYERS, schemes=[("pot", "uniform")] * 2, weight_widths=range(5, 9))
