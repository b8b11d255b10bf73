"""What the machine does for a network, one operation per instruction, before anything has an address.

Layers become matrix operations. Additions, pools and what only moves values (strided slices, zero padding) become
vector operations. ReLU goes into the operation before it, flattening is nothing, and zero padding goes into a slice
before it.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import fx, nn

from codesign.integers import IntegerLayer, IntegerNetwork
from codesign.tracing import node_kind
from hardware.errors import InputError


@dataclass(eq=False)
class Value:
    """A node's values, and who reads them.

    Parameters
    ----------
    name:
        The graph node's; of the ReLU's where one is part of the operation.
    shape:
        Channels, height, width. A flattened value keeps the shape that it had.
    readers:
        Layers that read it as activations.
    read_as_values:
        Whether anything else reads it.
    border:
        Pixels around the image that a pool with padding reads.
    """

    name: str
    shape: tuple[int, int, int]
    readers: list[IntegerLayer] = field(default_factory=list)
    read_as_values: bool = False
    border: tuple[int, int] = (0, 0)


@dataclass(eq=False)
class Operation:
    """One instruction's work.

    Parameters
    ----------
    name:
        The layer's, or the graph node's.
    layer:
        Of kind ``layer``.
    kernel, stride, padding:
        Of the windows of pools and moves.
    start, size:
        First row and column that a move reads, and how many it takes, ``stride`` apart.
    before:
        Channels, rows and columns of zeros that a move puts before what it writes.
    """

    name: str
    kind: Literal["layer", "add", "maximum", "average", "move"]
    inputs: list[Value]
    output: Value
    layer: IntegerLayer | None = None
    relu: bool = False
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    start: tuple[int, int] = (0, 0)
    size: tuple[int, int] = (0, 0)
    before: tuple[int, int, int] = (0, 0, 0)


@dataclass(eq=False)
class Operations:
    """A network's operations in order, its image's readers, and its scores."""

    operations: list[Operation]
    image: Value
    scores: Value


def list_operations(network: IntegerNetwork, image_shape: tuple[int, int, int]) -> Operations:
    """Translate the graph of a network.

    Raises
    ------
    InputError
        A node that the machine cannot do.
    """
    return _Translation(network, image_shape).run()


def _refuse(node: fx.Node, problem: str) -> InputError:
    return InputError(f"node {node.name!r} of the network: {problem}, which the machine cannot do in a program.")


def _pair(number: Any) -> tuple[int, int]:
    return (number, number) if isinstance(number, int) else (number[0], number[1])


class _Translation:
    def __init__(self, network: IntegerNetwork, image_shape: tuple[int, int, int]) -> None:
        self.network = network
        # One image of zeros says what shape every node has.
        recorded = network.run(torch.zeros(1, *image_shape), record=True).values
        self.shapes = {name: values.shape[1:] for name, values in recorded.items()}
        self.values: dict[fx.Node, Value] = {}
        self.operations: list[Operation] = []
        self.made_by: dict[Value, Operation] = {}
        self.image = Value("image", image_shape)

    def run(self) -> Operations:
        for node in self.network.graph_module.graph.nodes:
            if node in self.network.image_nodes:
                self.values[node] = self.image
            elif node.op == "output":
                scores = self._values(node, 0)
                if scores.shape[1:] != (1, 1):
                    raise _refuse(node, f"its scores are those of {scores.shape[1]}x{scores.shape[2]} pixels")
                return Operations(self.operations, self.image, scores)
            else:
                self._translate(node)
        raise AssertionError("a graph ends with its output")

    def _translate(self, node: fx.Node) -> None:
        kind = "layer" if node.target in self.network.layers else node_kind(node, self.network.graph_module)
        if kind == "size":
            return
        if kind == "layer":
            layer = self.network.layers[str(node.target)]
            shape = layer.layer.out_channels, layer.layer.out_height, layer.layer.out_width
            source = self.values[node.all_input_nodes[0]]
            source.readers.append(layer)
            self._append(node, Operation(layer.layer.name, "layer", [source], Value(node.name, shape), layer))
        elif kind == "flatten":
            self.values[node] = self.values[node.all_input_nodes[0]]
        elif kind == "relu":
            self._relu(node)
        elif kind == "add":
            inputs = [self._values(node, 0), self._values(node, 1 if len(node.all_input_nodes) > 1 else 0)]
            if inputs[0].shape != inputs[1].shape:
                raise _refuse(node, f"it adds values that lie as {inputs[0].shape} and as {inputs[1].shape}")
            self._append(node, Operation(node.name, "add", inputs, self._value(node, inputs[0]), kernel=(2, 1)))
        elif kind in ("max pool", "average pool"):
            self._pool(node, kind)
        elif kind == "item":
            self._slice(node)
        elif kind == "pad":
            self._pad(node)
        else:
            raise _refuse(node, f"it is a {kind}")

    def _values(self, node: fx.Node, number: int) -> Value:
        """An input that is read as values."""
        value = self.values[node.all_input_nodes[number]]
        if value is self.image:
            raise _refuse(node, "it reads the image itself")
        value.read_as_values = True
        return value

    def _value(self, node: fx.Node, like: Value | None = None) -> Value:
        """The node's own value, shaped as computed; a flat one as its input."""
        shape = self.shapes[node.name]
        if len(shape) == 3:
            return Value(node.name, (shape[0], shape[1], shape[2]))
        return Value(node.name, like.shape if like else (shape[0], 1, 1))

    def _append(self, node: fx.Node, operation: Operation) -> None:
        self.operations.append(operation)
        self.values[node] = operation.output
        self.made_by[operation.output] = operation

    def _relu(self, node: fx.Node) -> None:
        before = node.all_input_nodes[0]
        made_by = self.made_by.get(self.values[before])
        if made_by is not None and made_by.kind != "move" and self._read_once(before):
            made_by.relu, made_by.output.name = True, node.name
            self.values[node] = self.values[before]
        else:
            source = self._values(node, 0)
            self._move(node, source, self._value(node, source)).relu = True

    def _read_once(self, node: fx.Node) -> bool:
        """Whether the node's values, flattened or not, have a single reader."""
        while len(node.users) == 1:
            before = node.all_input_nodes[0] if node.all_input_nodes else None
            if before is None or self.values.get(before) is not self.values[node]:
                return True
            node = before
        return False

    def _move(self, node: fx.Node, source: Value, output: Value) -> Operation:
        """Append an operation that moves all of a value."""
        operation = Operation(node.name, "move", [source], output, size=(source.shape[1], source.shape[2]))
        self._append(node, operation)
        return operation

    def _pool(self, node: fx.Node, kind: str) -> None:
        source, output = self._values(node, 0), self._value(node)
        if node.op == "call_module":
            pool: Any = self.network.graph_module.get_submodule(str(node.target))
        else:
            sizes: Any = node.args[1:]
            options: Any = {key: value for key, value in node.kwargs.items() if key != "input"}
            pool = nn.MaxPool2d(*sizes, **options)
        padding, dilation = _pair(pool.padding), _pair(getattr(pool, "dilation", 1))
        if pool.ceil_mode or dilation != (1, 1):
            raise _refuse(node, "it pools with ceil_mode or dilation")
        source.border = max(source.border[0], padding[0]), max(source.border[1], padding[1])
        operation = Operation(node.name, "maximum" if kind == "max pool" else "average", [source], output)
        operation.kernel, operation.stride, operation.padding = _pair(pool.kernel_size), _pair(pool.stride), padding
        self._append(node, operation)

    def _slice(self, node: fx.Node) -> None:
        source = self._values(node, 0)
        parts = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
        whole = [part == slice(None) for part in parts]
        if len(source.shape) != 3 or not all(whole[:2]) or not all(isinstance(part, slice) for part in parts):
            raise _refuse(node, "it takes a part of the channels or of the images")
        ranges = [
            range(*part.indices(size))
            for part, size in zip([*parts[2:], *[slice(None)] * 2], source.shape[1:], strict=False)
        ]
        if min(one.step for one in ranges) < 1:
            raise _refuse(node, "it walks backwards")
        operation = self._move(node, source, self._value(node))
        operation.start, operation.stride = (ranges[0].start, ranges[1].start), (ranges[0].step, ranges[1].step)
        operation.size = len(ranges[0]), len(ranges[1])

    def _pad(self, node: fx.Node) -> None:
        source, output = self._values(node, 0), self._value(node)
        pad: Any = node.args[1] if len(node.args) > 1 else node.kwargs["pad"]
        amounts = [*pad, 0, 0, 0, 0, 0, 0]
        if len(self.shapes[node.name]) != 3:
            raise _refuse(node, "it pads flattened values")
        if min(amounts) < 0 or any(amounts[6:]):
            raise _refuse(node, "it pads by a negative number or along the images")
        before = amounts[4], amounts[2], amounts[0]
        made_by = self.made_by[source]
        if made_by.kind == "move" and made_by.before == (0, 0, 0) and len(node.all_input_nodes[0].users) == 1:
            made_by.name, made_by.output, made_by.before = node.name, output, before
            self.values[node] = output
            self.made_by[output] = made_by
        else:
            self._move(node, source, output).before = before
