"""The list of operations: what is fused, what is read by whom, and what is refused."""

import operator

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from codesign.integers import IntegerNetwork
from codesign.operations import Operation, Operations, list_operations
from codesign.quantize import QuantizedNetwork
from codesign.quantizer_fit import Calibration
from codesign.tracing import trace
from hardware.errors import InputError
from policies.policy import Policy

SHAPE = (3, 6, 8)


class Net(nn.Module):
    """``between`` makes, of the network and the image, what a linear layer reads."""

    def __init__(self, between, features):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.next, self.last = nn.Conv2d(4, 4, 1), nn.Linear(features, 2)
        self.pool, self.average = nn.MaxPool2d((2, 3), stride=(1, 2), padding=1), nn.AvgPool2d(2, stride=(2, 1))
        self.between = between

    def forward(self, x):
        return self.last(self.between(self, x).flatten(1))


def operations_of(between, features=4 * 6 * 8, bits=None) -> Operations:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        traced = trace(Net(between, features).eval(), SHAPE)
        images = torch.randn(3, *SHAPE)
    activations = bits or [4] * len(traced.layers)
    policy = Policy.from_bits("net", traced.layers, [(4, a) for a in activations])
    network = IntegerNetwork(QuantizedNetwork(traced, policy, Calibration(traced, images)).eval())
    return list_operations(network, SHAPE)


def kinds(listed: Operations) -> list[str]:
    return [one.layer.layer.name if one.layer else one.kind for one in listed.operations]


def only(listed: Operations, kind: str) -> Operation:
    (one,) = [one for one in listed.operations if one.kind == kind]
    return one


def test_a_relu_goes_into_the_layer_before_it():
    listed = operations_of(lambda net, x: F.relu(net.one(x)))
    assert kinds(listed) == ["one", "last"]
    first, last = listed.operations
    assert (first.relu, last.relu) == (True, False)
    assert last.inputs == [first.output]
    assert first.output.readers == [last.layer]
    assert not first.output.read_as_values
    assert last.output is listed.scores
    assert listed.scores.read_as_values
    assert listed.image.readers == [first.layer]


@pytest.mark.parametrize(
    ("between", "features", "kind"),
    [
        (lambda net, x: F.relu(net.one(x) + net.two(x)), 192, "add"),
        (lambda net, x: F.relu(F.max_pool2d(net.one(x), 2)), 48, "maximum"),
        (lambda net, x: F.relu(F.avg_pool2d(net.one(x), 2)), 48, "average"),
    ],
)
def test_a_relu_goes_into_vector_operations_too(between, features, kind):
    assert only(operations_of(between, features), kind).relu


def test_a_relu_of_a_value_that_others_read_without_is_a_move_of_its_own():
    listed = operations_of(lambda net, x: _twice(net.one(x)))
    assert kinds(listed) == ["one", "move", "add", "last"]
    first, move, add, _ = listed.operations
    assert (first.relu, move.relu, add.relu) == (False, True, False)
    assert (move.kernel, move.stride, move.start, move.before) == ((1, 1), (1, 1), (0, 0), (0, 0, 0))
    assert add.inputs == [move.output, first.output]


def _twice(x):
    return F.relu(x) + x


def test_a_relu_of_what_was_moved_is_a_move_of_its_own():
    listed = operations_of(lambda net, x: F.relu(net.one(x)[:, :, ::2]), 4 * 3 * 8)
    assert [(one.kind, one.relu) for one in listed.operations] == [
        ("layer", False),
        ("move", False),
        ("move", True),
        ("layer", False),
    ]


def test_flattening_is_nothing_and_keeps_the_shape():
    listed = operations_of(lambda net, x: net.one(x).flatten(1))
    assert kinds(listed) == ["one", "last"]
    assert listed.operations[1].inputs[0].shape == (4, 6, 8)
    image = operations_of(lambda net, x: x.flatten(1), 144)
    assert kinds(image) == ["last"]
    assert image.operations[0].inputs == [image.image]
    assert image.image.readers == [image.operations[0].layer]


def test_a_slice_and_the_padding_behind_it_are_one_move():
    listed = operations_of(lambda net, x: F.pad(net.one(x)[:, :, 1::2, ::3], (0, 0, 0, 0, 4, 4)), 12 * 3 * 3)
    assert kinds(listed) == ["one", "move", "last"]
    move = only(listed, "move")
    assert (move.start, move.stride, move.before) == ((1, 0), (2, 3), (4, 0, 0))
    assert move.output.shape == (12, 3, 3)
    assert move.inputs[0].shape == (4, 6, 8)
    assert move.output.readers == [listed.operations[2].layer]


def test_padding_alone_and_padding_of_a_slice_that_others_read_are_moves_of_their_own():
    listed = operations_of(lambda net, x: F.pad(net.one(x), (2, 1, 1, 0)), 4 * 7 * 11)
    move = only(listed, "move")
    assert (move.before, move.stride, move.output.shape) == ((0, 1, 2), (1, 1), (4, 7, 11))

    def between(net, x):
        x = net.one(x)[:, :, ::2]
        return F.pad(x, (0, 0, 0, 0, 4, 4)).flatten(1) + F.pad(net.next(x), (0, 0, 0, 0, 4, 4)).flatten(1)

    listed = operations_of(between, 12 * 3 * 8)
    assert [one.before for one in listed.operations if one.kind == "move"] == [(0, 0, 0), (4, 0, 0), (4, 0, 0)]


def test_two_paddings_are_two_moves():
    listed = operations_of(lambda net, x: F.pad(F.pad(net.one(x), (1, 1)), (0, 0, 2, 2)), 4 * 10 * 10)
    assert [one.before for one in listed.operations if one.kind == "move"] == [(0, 0, 1), (0, 2, 0)]


@pytest.mark.parametrize(
    ("between", "features", "kind", "kernel", "stride", "padding"),
    [
        (lambda net, x: net.pool(net.one(x)), 4 * 7 * 4, "maximum", (2, 3), (1, 2), (1, 1)),
        (lambda net, x: F.max_pool2d(net.one(x), 3, padding=1), 4 * 2 * 3, "maximum", (3, 3), (3, 3), (1, 1)),
        (lambda net, x: F.max_pool2d(net.one(x), 2, 1), 4 * 5 * 7, "maximum", (2, 2), (1, 1), (0, 0)),
        (lambda net, x: F.max_pool2d(input=net.one(x), kernel_size=(6, 2)), 16, "maximum", (6, 2), (6, 2), (0, 0)),
        (lambda net, x: net.average(net.one(x)), 4 * 3 * 7, "average", (2, 2), (2, 1), (0, 0)),
        (lambda net, x: F.avg_pool2d(net.one(x), (3, 2), 1), 4 * 4 * 7, "average", (3, 2), (1, 1), (0, 0)),
        (lambda net, x: F.adaptive_avg_pool2d(net.one(x), 1), 4, "average", (6, 8), (6, 8), (0, 0)),
    ],
)
def test_pools_as_modules_and_as_functions(between, features, kind, kernel, stride, padding):
    listed = operations_of(between, features)
    pool = only(listed, kind)
    assert (pool.kernel, pool.stride, pool.padding) == (kernel, stride, padding)
    assert pool.inputs[0].border == padding
    assert pool.inputs[0].read_as_values
    assert pool.output.shape[0] * pool.output.shape[1] * pool.output.shape[2] == features


def test_pools_of_one_value_share_the_wider_border():
    def between(net, x):
        x = net.one(x)
        return F.max_pool2d(x, (5, 1), 1, padding=(2, 0)) + F.max_pool2d(x, (1, 3), 1, padding=(0, 1))

    listed = operations_of(between)
    assert listed.operations[0].output.border == (2, 1)


def test_an_addition_is_a_window_over_both_tensors():
    listed = operations_of(lambda net, x: net.one(x) + net.two(x))
    add = only(listed, "add")
    assert [value.name for value in add.inputs] == ["one", "two"]
    assert add.kernel == (2, 1)
    assert [value.read_as_values for value in add.inputs] == [True, True]
    double = only(operations_of(lambda net, x: _double(net.one(x))), "add")
    assert double.inputs[0] is double.inputs[1]


def _double(x):
    return x + x


def test_readers_of_different_widths_are_all_known():
    def between(net, x):
        x = F.relu(net.one(x))
        return net.next(x).flatten(1) + x.flatten(1)

    listed = operations_of(between, bits=[8, 3, 5])
    value = listed.operations[0].output
    assert [layer.activation_bits for layer in value.readers] == [3]
    assert value.read_as_values
    assert listed.operations[-1].inputs[0].readers[0].activation_bits == 5


REFUSED = [
    (lambda net, x: F.max_pool2d(net.one(x), 4, ceil_mode=True), 16, "it pools with ceil_mode or dilation"),
    (lambda net, x: F.max_pool2d(net.one(x), 2, 1, dilation=2), 4 * 4 * 6, "it pools with ceil_mode or dilation"),
    (lambda net, x: net.one(x)[:, 1:3], 2 * 48, "it takes a part of the channels or of the images"),
    (lambda net, x: F.pad(net.one(x), (-1, 0)), 4 * 6 * 7, "it pads by a negative number or along the images"),
    (lambda net, x: F.max_pool2d(x, 2), 36, "it reads the image itself"),
    (lambda net, x: F.relu(x), 144, "it reads the image itself"),
    (lambda net, x: F.pad(x, (1, 1)), 3 * 60, "it reads the image itself"),
    (lambda net, x: x[:, :, ::2], 72, "it reads the image itself"),
    (lambda net, x: F.relu6(net.one(x)), 192, "it is a relu6"),
    (lambda net, x: torch.cat((net.one(x), net.two(x)), 1), 384, "it is a concatenation"),
]


@pytest.mark.parametrize(("between", "features", "problem"), REFUSED)
def test_a_node_that_the_machine_cannot_do_is_refused_by_name(between, features, problem):
    with pytest.raises(
        InputError, match=rf"node '\w+' of the network: {problem}, which the machine cannot do in a prog"
    ):
        operations_of(between, features)


def test_a_network_that_returns_its_image_is_refused():
    class Same(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = nn.Linear(4, 4)

        def forward(self, x):
            return self.unused(x.flatten(1))

    traced = trace(Same().eval(), (1, 2, 2))
    policy = Policy.uniform("same", traced.layers, 4, 4)
    network = IntegerNetwork(QuantizedNetwork(traced, policy, Calibration(traced, torch.randn(2, 1, 2, 2))).eval())
    output = next(node for node in network.graph_module.graph.nodes if node.op == "output")
    output.args = (output.all_input_nodes[0].all_input_nodes[0],)  # the flattened image
    with pytest.raises(InputError, match="node 'output' of the network: it reads the image itself"):
        list_operations(network, (1, 2, 2))


def test_a_relu_of_a_flattened_value_that_others_read_without_is_a_move_of_its_own():
    def between(net, x):
        x = net.one(x)
        return F.relu(x.flatten(1)) + x.flatten(1)

    listed = operations_of(between)
    assert not listed.operations[0].relu


def test_the_graph_is_left_as_it_is():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        traced = trace(Net(lambda net, x: F.relu(net.one(x) + net.two(x)), 192).eval(), SHAPE)
    policy = Policy.uniform("net", traced.layers, 4, 4)
    network = IntegerNetwork(QuantizedNetwork(traced, policy, Calibration(traced, torch.randn(2, *SHAPE))).eval())

    def nodes(graph: fx.Graph) -> list[tuple]:
        return [(node.op, node.target, node.args) for node in graph.nodes]

    before = nodes(network.graph_module.graph)
    first, second = list_operations(network, SHAPE), list_operations(network, SHAPE)
    assert nodes(network.graph_module.graph) == before
    assert any(target is operator.add for _, target, _ in before)
    assert kinds(first) == kinds(second)
    assert first.operations[0].output is not second.operations[0].output
