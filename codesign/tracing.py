"""From a PyTorch network to its layers: symbolic trace, folding of batch norm, shapes and signs.

The traced graph is brought to few forms, so that whoever walks it (fake quantization, integer inference) meets only
layers, ``nn.AvgPool2d`` modules, ``F.relu6``, and operations that do the same to integers as to floats: ``torch.relu``,
``operator.add``, ``torch.cat``, max pooling, flattening, slicing, zero padding. None of them works in place.
"""

import operator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from hardware.errors import InputError
from hardware.layer import Layer

SUPPORTED = (
    "Conv2d, Linear, BatchNorm after them, ReLU, ReLU6, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d into equal parts, "
    "flatten/view/reshape, addition, concatenation of channels, slicing, zero padding, Dropout and Identity"
)
_KINDS: dict[Any, str] = {
    **dict.fromkeys((nn.Conv2d, nn.Linear), "layer"),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d), "batch norm"),
    **dict.fromkeys((nn.ReLU, F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"), "relu"),
    **dict.fromkeys((nn.ReLU6, F.relu6), "relu6"),
    **dict.fromkeys((torch.cat, torch.concat), "concatenation"),
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), "add"),
    **dict.fromkeys((nn.MaxPool2d, F.max_pool2d, torch.max_pool2d), "max pool"),
    **dict.fromkeys((nn.AvgPool2d, F.avg_pool2d), "average pool"),
    **dict.fromkeys((nn.AdaptiveAvgPool2d, F.adaptive_avg_pool2d), "adaptive average pool"),
    **dict.fromkeys((nn.Flatten, torch.flatten, torch.reshape, "flatten", "view", "reshape"), "flatten"),
    **dict.fromkeys((nn.Dropout, nn.Dropout2d, nn.Identity, F.dropout, F.dropout2d, "contiguous"), "identity"),
    **dict.fromkeys(("size", getattr), "size"),
    operator.getitem: "item",
    F.pad: "pad",
}
"""What a module's type, a function or a method's name does."""
_IMAGES = 3
"""Images that are run to find the shapes; several, so that an operation that mixes images shows."""
_IN_PLACE: tuple[Any, ...] = (F.relu_, torch.relu_, operator.iadd, "relu_", "add_")


@dataclass(frozen=True, eq=False)
class Traced:
    """A network as the toolkit sees it.

    Parameters
    ----------
    graph_module:
        Float32 copy in evaluation mode, batch norm folded into the layer before; every layer has a bias and its name as
        the module's path. An ``fx.GraphModule`` of few forms, see above, unless ``host`` says otherwise.
    layers:
        Convolutions and linear layers in the order in which they run, with ``images`` 1.
    host:
        Why the machine cannot run the network as one program, but only its layers; None if it can.
    unconverted:
        What is not quantized, by name.
    """

    graph_module: nn.Module
    layers: tuple[Layer, ...]
    host: str | None = None
    unconverted: tuple[str, ...] = ()


def trace(module: nn.Module, input_shape: tuple[int, ...], signed_input: bool = True) -> Traced:
    """Trace a network, fold batch norm and list the layers.

    Parameters
    ----------
    module:
        Takes one tensor of images and returns scores ``(N, classes)``. It is left as it is.
    input_shape:
        ``(channels, height, width)`` of one image.
    signed_input:
        Whether an image can hold negative values.

    Raises
    ------
    InputError
        The network cannot be traced, does something that is not supported, or cannot take such images.
    """
    try:
        graph_module = fx.symbolic_trace(deepcopy(module).cpu().float().eval())
    except Exception as error:  # a user's forward may raise anything when it meets a symbolic value
        raise InputError(
            f"cannot trace {type(module).__name__} ({_first_line(error)}): "
            "write its forward so that it does not depend on the values of tensors."
        ) from error
    graph_module.graph.eliminate_dead_code()
    _simplify(graph_module)
    _fold_batch_norm(graph_module)
    walk = _Walk(graph_module, signed_input)
    try:
        with torch.no_grad():
            walk.run(torch.zeros(_IMAGES, *input_shape))
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"the network cannot take images of shape {tuple(input_shape)} ({_first_line(error)}): "
            "use the data set that it was made for."
        ) from error
    if not walk.layers:
        raise InputError("the network has no convolution and no linear layer: there is nothing to quantize.")
    for node, pool in walk.pools.items():
        if pool.kernel_size == pool.stride == (1, 1):
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph_module.graph.erase_node(node)
            continue
        graph_module.add_module(f"pool_{node.name}", pool)
        _replace(node, "call_module", f"pool_{node.name}", node.all_input_nodes[:1])
    graph_module.graph.eliminate_dead_code()
    graph_module.delete_all_unused_submodules()
    graph_module.recompile()
    return Traced(graph_module, tuple(walk.layers))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _refuse(node: fx.Node, problem: str) -> InputError:
    return InputError(f"node {node.name!r} of the network: {problem}.")


def _replace(node: fx.Node, op: str, target: Any, inputs: list[fx.Node]) -> None:
    with node.graph.inserting_before(node):
        new = node.graph.create_node(op, target, tuple(inputs), name=node.name)
    node.replace_all_uses_with(new)
    node.graph.erase_node(node)


def node_kind(node: fx.Node, graph_module: fx.GraphModule) -> str:
    """What a node of a traced graph does: a word of `_KINDS`, or its ``op``; InputError where that is not supported."""
    if node.op in ("placeholder", "output"):
        return node.op
    key: Any = type(graph_module.get_submodule(str(node.target))) if node.op == "call_module" else node.target
    if node.op == "get_attr" or key not in _KINDS or (key is getattr and node.args[1] != "shape"):
        raise _refuse(node, f"{getattr(key, '__name__', key)} is not supported; supported are {SUPPORTED}")
    return _KINDS[key]


def _simplify(graph_module: fx.GraphModule) -> None:
    """Drop what does nothing in evaluation, and write relu and addition in one way, not in place."""
    used: set[Any] = set()
    for node in list(graph_module.graph.nodes):
        kind, inputs = node_kind(node, graph_module), node.all_input_nodes
        module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if kind in ("layer", "batch norm"):
            if node.target in used:
                raise _refuse(node, f"layer {node.target!r} is used twice; give every use a layer of its own")
            used.add(node.target)
        in_place = getattr(module, "inplace", False) or node.kwargs.get("inplace") or node.target in _IN_PLACE
        if in_place and len(inputs[0].users) > 1:
            raise _refuse(node, "it works in place on a value that others read too; make it not in place")
        if kind == "identity":
            node.replace_all_uses_with(inputs[0])
            graph_module.graph.erase_node(node)
        elif kind == "relu":
            _replace(node, "call_function", torch.relu, inputs)
        elif kind == "relu6":
            _replace(node, "call_function", F.relu6, inputs)
        elif kind == "add":
            operands = [argument for argument in node.args if isinstance(argument, fx.Node)]
            if len(operands) != 2 or node.kwargs:
                raise _refuse(node, "only two tensors can be added, without alpha")
            _replace(node, "call_function", operator.add, operands)


def _fold_batch_norm(graph_module: fx.GraphModule) -> None:
    """Put batch norm's scale and shift into the layer before it, and give every layer a bias."""
    layers: dict[fx.Node, Any] = {}
    for node in list(graph_module.graph.nodes):
        kind = node_kind(node, graph_module)
        module: Any = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if kind == "layer":
            layers[node] = module
            if module.bias is None:
                module.bias = nn.Parameter(torch.zeros(len(module.weight)))
        elif kind == "batch norm":
            before = node.all_input_nodes[0]
            if before not in layers or len(before.users) > 1 or module.running_mean is None:
                raise _refuse(node, "batch norm needs running statistics, and to be the only reader of a layer")
            fold(layers[before], module)
            node.replace_all_uses_with(before)
            graph_module.graph.erase_node(node)


def fold(layer: Any, norm: Any) -> None:
    """Put a batch norm's scale and shift into the layer before it, which has a bias, in place."""
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double() * scale
    if norm.affine:
        scale, shift = scale * norm.weight.double(), shift * norm.weight.double() + norm.bias.double()
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    layer.weight = nn.Parameter((weight * scale.reshape(-1, *[1] * (weight.ndim - 1))).float().detach())
    layer.bias = nn.Parameter((bias * scale + shift).float().detach())


class _Walk(fx.Interpreter):
    """Runs images of zeros through the graph; checks every node and notes layers, signs and average pools."""

    def __init__(self, graph_module: fx.GraphModule, signed_input: bool) -> None:
        super().__init__(graph_module)
        self.graph_module = graph_module
        self.extra_traceback = False
        self.signed_input = signed_input
        self.layers: list[Layer] = []
        self.pools: dict[fx.Node, nn.AvgPool2d] = {}
        self.signed: dict[fx.Node, bool] = {}
        self.shapes: dict[fx.Node, tuple[int, int, int]] = {}

    def run_node(self, n: fx.Node) -> Any:
        kind = node_kind(n, self.graph_module)
        result = super().run_node(n)
        if isinstance(result, torch.Size | int):
            return result  # a size, on its way into a reshape or a pool
        if not isinstance(result, torch.Tensor) or result.ndim < 2 or len(result) != _IMAGES:
            made = tuple(result.shape) if isinstance(result, torch.Tensor) else type(result).__name__
            raise _refuse(n, f"it makes {made} of {_IMAGES} images; expected one tensor, its first axis the images")
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        self.shapes[n] = self._shape(n, kind, result)
        if kind == "layer":
            self._note_layer(n, args[0])
        elif kind in ("average pool", "adaptive average pool"):
            self._note_pool(n, kind, result)
        elif kind == "add" and args[0].shape != args[1].shape:
            raise _refuse(n, f"tensors of shapes {tuple(args[0].shape)} and {tuple(args[1].shape)} cannot be added")
        elif kind == "concatenation":
            axis = kwargs.get("dim", args[1] if len(args) > 1 else 0)
            if result.ndim != 4 or axis not in (1, -3):
                raise _refuse(n, "only the channels of images can be concatenated")
        elif kind == "pad":
            given = dict(zip(("mode", "value"), args[2:], strict=False)) | kwargs
            if given.get("mode", "constant") != "constant" or given.get("value"):
                raise _refuse(n, "only padding with zeros is supported")
        elif kind == "item" and not all(
            isinstance(i, slice) for i in (args[1] if isinstance(args[1], tuple) else args[1:])
        ):
            raise _refuse(n, "a tensor can be indexed by slices only")
        elif kind == "output" and result.ndim != 2:
            raise _refuse(n, f"the scores have shape {tuple(result.shape)}, expected (images, classes)")
        self.signed[n] = self._is_signed(n, kind)
        return result

    def _shape(self, node: fx.Node, kind: str, result: torch.Tensor) -> tuple[int, int, int]:
        """``(channels, height, width)`` as which one image's values lie in memory: flattening moves nothing."""
        if result.ndim == 4:
            return result.shape[1], result.shape[2], result.shape[3]
        before = {self.shapes[one] for one in node.all_input_nodes if one in self.shapes}
        if kind in ("flatten", "relu", "relu6", "add") and len(before) == 1:
            return before.pop()
        return result[0].numel(), 1, 1

    def _is_signed(self, node: fx.Node, kind: str) -> bool:
        if kind == "placeholder":
            return self.signed_input
        signed = any(self.signed.get(one, False) for one in node.all_input_nodes)
        return kind == "layer" or (kind not in ("relu", "relu6") and signed)

    def _note_pool(self, node: fx.Node, kind: str, result: torch.Tensor) -> None:
        if kind == "adaptive average pool":
            before, after = (tuple(one.shape[2:]) for one in (self.env[node.all_input_nodes[0]], result))
            if before[0] % after[0] or before[1] % after[1]:
                raise _refuse(node, f"adaptive average pooling of {before} pixels to {after}, which are no equal parts")
            self.pools[node] = nn.AvgPool2d((before[0] // after[0], before[1] // after[1]))
            return
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        options = {key: value for key, value in kwargs.items() if key != "input"}
        pool = self.fetch_attr(str(node.target)) if node.op == "call_module" else nn.AvgPool2d(*args[1:], **options)
        if pool.padding not in (0, (0, 0)) or pool.ceil_mode or pool.divisor_override is not None:
            raise _refuse(node, "average pooling with padding, ceil_mode or divisor_override is not supported")
        self.pools[node] = nn.AvgPool2d(pool.kernel_size, pool.stride)

    def _note_layer(self, node: fx.Node, images: torch.Tensor) -> None:
        module = self.fetch_attr(str(node.target))
        name, signed = str(node.target), self.signed[node.all_input_nodes[0]]
        if isinstance(module, nn.Linear):
            if images.ndim != 2:
                raise _refuse(
                    node, f"a linear layer needs (images, features), not {tuple(images.shape)}: flatten first"
                )
            channels, height, width = self.shapes[node.all_input_nodes[0]]
            layer = Layer(
                name,
                "linear",
                channels,
                module.out_features,
                height,
                width,
                kernel=(height, width),
                signed_activations=signed,
            )
        else:
            if isinstance(module.padding, str) or module.padding_mode != "zeros":
                raise _refuse(node, f"padding must be a number of zero pixels, not {module.padding!r}")
            layer = Layer(
                name,
                "conv",
                module.in_channels,
                module.out_channels,
                images.shape[2],
                images.shape[3],
                kernel=module.kernel_size,
                stride=module.stride,
                padding=module.padding,
                groups=module.groups,
                signed_activations=signed,
                dilation=module.dilation,
            )
        self.layers.append(layer)
