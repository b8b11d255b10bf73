"""QAG: any PyTorch module's layers, ready to be quantized, wherever in the module they are.

After Gong et al., "AutoQNN", JCST 39(2), 2024, section 4: a quantizer goes on every edge into an expensive vertex. Here
an expensive vertex is a convolution, a linear layer, or a gate matrix of a recurrent layer, and a module of its own; so
nothing of the user's code is rewritten, its layers are only exchanged. The module runs once on an example, and what
runs is seen by hooks: shapes, uses, signs. A symbolic trace, if one can be made, says where batch norm can be folded.
What multiplies outside such modules is found on the same run, and named, not quantized.

`codesign.tracing` is the stricter reading, of networks that the machine runs as one program.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.overrides import TorchFunctionMode

from codesign.recurrent import Recurrent, RecurrentCell, expand
from codesign.tracing import Traced, fold
from hardware.errors import InputError
from hardware.layer import Layer

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_PRODUCTS = {
    *(F.linear, F.bilinear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
    *(F.multi_head_attention_forward, F.scaled_dot_product_attention),
    *(torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm, torch.einsum, torch.lstm, torch.gru),
    *(torch.Tensor.matmul, torch.Tensor.__matmul__, torch.Tensor.mm, torch.Tensor.bmm),
}
"""Functions that multiply and add up; within a layer they are its own."""


@dataclass(eq=False)
class _Use:
    """What a layer's module was given, run by run: shapes, and whether anything was negative."""

    shapes: list[tuple[int, ...]] = field(default_factory=list)
    signed: bool = False


class _Products(TorchFunctionMode):
    """Notes products outside the layers, by the path of the module that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.running: list[str] = []
        self.layers = 0
        self.found: dict[str, None] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _PRODUCTS and not self.layers:
            where = self.running[-1] if self.running and self.running[-1] else "the module itself"
            self.found[f"{where}: {getattr(func, '__name__', func)} outside a layer"] = None
        return func(*args, **(kwargs or {}))


@contextmanager
def _watched(module: nn.Module, uses: dict[nn.Module, _Use]) -> Iterator[_Products]:
    """Note what the layers are given, and products elsewhere, while the module runs."""
    products = _Products()
    paths = {child: path for path, child in module.named_modules()}

    def before(child: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        products.running.append(paths[child])
        if isinstance(child, _LAYERS):
            products.layers += 1
            given, use = args[0] if args else kwargs["input"], uses.setdefault(child, _Use())
            use.shapes.append(tuple(given.shape))
            use.signed = use.signed or bool((given < 0).any())  # now: others may change it in place

    def after(child: nn.Module, args: Any, output: Any) -> None:
        products.running.pop()
        products.layers -= isinstance(child, _LAYERS)

    handles = [child.register_forward_pre_hook(before, with_kwargs=True) for child in paths]
    handles += [child.register_forward_hook(after) for child in paths]
    try:
        with products:
            yield products
    finally:
        for handle in handles:
            handle.remove()


def convert(module: nn.Module, example: torch.Tensor | tuple[Any, ...]) -> Traced:
    """A network's layers, in the order in which they first run.

    Parameters
    ----------
    module:
        Any module; it is left as it is.
    example:
        Its input, or inputs, whose first axis is the batch: at least two images or sequences. Signs of activations are
        those that are met on it, so give it what is typical; a calibration that meets others refuses them.

    Returns
    -------
    A copy in evaluation mode with recurrent layers taken apart (`codesign.recurrent`) and batch norm folded where it
    follows a layer; its layers; and by name all that stays as it is. It is no program for the machine: the layers run
    there one by one.

    Raises
    ------
    InputError
        The module fails on the example, or has no layer to quantize.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    module, unconverted = expand(deepcopy(module).cpu().float().eval())
    for child in module.modules():
        if isinstance(child, nn.TransformerEncoderLayer):
            child.activation_relu_or_gelu = 0  # its fast path would pass by the layers' own forward
    uses: dict[nn.Module, _Use] = {}
    try:
        with torch.no_grad(), _watched(module, uses) as products:
            module(*inputs)
    except InputError:
        raise
    except Exception as error:  # a user's forward may raise anything
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(
            f"{type(module).__name__} fails on the example of shape {tuple(inputs[0].shape)} ({reason}): "
            "give inputs that it was made for."
        ) from error
    paths = {child: path for path, child in module.named_modules()}
    layers, left = [], [f"{path}: {reason}" for path, reason in unconverted.items()]
    for child, use in uses.items():
        try:
            layers.append(_layer(paths[child], child, use, len(inputs[0])))
        except InputError as error:
            left.append(str(error))
    left += products.found
    left += [f"{path}: never ran" for child, path in paths.items() if isinstance(child, _LAYERS) and child not in uses]
    left += _fold(module, {layer.name for layer in layers}, uses)
    if not layers:
        raise InputError(
            f"{type(module).__name__} has no convolution, linear or recurrent layer that can be quantized"
            + (f" ({'; '.join(left)})" if left else "")
            + ": write products as modules."
        )
    for layer in layers:
        own: Any = module.get_submodule(layer.name)
        if own.bias is None:
            own.bias = nn.Parameter(torch.zeros(len(own.weight)))
    return Traced(module, tuple(layers), host=f"{type(module).__name__} is run by the host", unconverted=tuple(left))


def _layer(path: str, module: Any, use: _Use, batch: int) -> Layer:
    """A layer's shape from what it was given for so many examples.

    Several positions of a linear layer, such as steps, are a row of pixels, wherever their axis is; several images of a
    convolution for each example, such as frames, are runs one after the other.
    """
    base = next(kind for kind in _LAYERS if isinstance(module, kind))
    if any(getattr(type(module), name, None) is not getattr(base, name, None) for name in ("forward", "_conv_forward")):
        raise InputError(
            f"{path}: {type(module).__name__} is no plain {base.__name__}, it computes in a way of its own"
        )
    linear, runs = isinstance(module, nn.Linear), len(use.shapes)
    shapes = {shape[:-1] if linear else shape for shape in use.shapes}
    if len(shapes) > 1:
        raise InputError(f"{path}: used on inputs of different shapes, {' and '.join(map(str, sorted(use.shapes)))}")
    shape = use.shapes[0]
    rows = torch.Size(shape[:-1]).numel() if linear else runs * shape[0]
    if rows % batch:
        raise InputError(f"{path}: an input of shape {shape} for {batch} examples, no whole number for each")
    common: dict[str, Any] = {"repeats": runs if linear else rows // batch, "signed_activations": use.signed}
    if linear:
        kind: Literal["conv", "linear"] = "conv" if rows > batch else "linear"
        return Layer(path, kind, module.in_features, module.out_features, 1, rows // batch, **common)
    shape = shape[1:]
    if module.padding_mode != "zeros":
        raise InputError(f"{path}: padding_mode {module.padding_mode!r}, only zeros can be converted")
    if len(shape) != module.weight.ndim - 1:
        raise InputError(f"{path}: an input without a batch")
    if module.padding == "same" and any(
        d * (k - 1) % 2 for d, k in zip(module.dilation, module.kernel_size, strict=True)
    ):
        raise InputError(f"{path}: padding 'same' of an even window, which is not the same on both sides")

    def pair(sizes: tuple[int, ...], one: int) -> tuple[int, int]:
        return (one, sizes[0]) if len(sizes) == 1 else (sizes[0], sizes[1])

    return Layer(
        path,
        "conv",
        module.in_channels,
        module.out_channels,
        *pair(shape[1:], 1),
        kernel=pair(module.kernel_size, 1),
        stride=pair(module.stride, 1),
        padding=pair(padding(module), 0),
        groups=module.groups,
        dilation=pair(module.dilation, 1),
        **common,
    )


def padding(module: Any) -> tuple[int, ...]:
    """Pixels of zeros on either side that a convolution asks for by number or by word."""
    if module.padding == "same":
        return tuple(d * (k - 1) // 2 for d, k in zip(module.dilation, module.kernel_size, strict=True))
    return (0,) * len(module.kernel_size) if module.padding == "valid" else module.padding


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Recurrent | RecurrentCell) or super().is_leaf_module(m, module_qualified_name)


def _fold(module: nn.Module, layers: set[str], uses: dict[nn.Module, _Use]) -> list[str]:
    """Fold batch norm into the layers before it, in place; returns, by name, what stays."""
    norms = {path: child for path, child in module.named_modules() if isinstance(child, _NORMS)}
    if not norms:
        return []
    try:
        graph = _Tracer().trace(module)
    except Exception:  # control flow that depends on values: the network still runs, only nothing is folded
        return [f"{path}: not folded, the module cannot be traced" for path in norms]
    calls = [node for node in graph.nodes if node.op == "call_module"]
    once = {node.target for node in calls if sum(other.target == node.target for other in calls) == 1}
    for node in calls:
        norm = norms.get(str(node.target))
        before = node.all_input_nodes[0]
        if norm is None or before.op != "call_module" or not {node.target, before.target} <= once:
            continue
        layer: Any = module.get_submodule(str(before.target))
        channels_last = isinstance(layer, nn.Linear) and len(uses[layer].shapes[0]) != 2
        if before.target not in layers or len(before.users) > 1 or channels_last or norm.running_mean is None:
            continue
        if layer.bias is None:
            layer.bias = nn.Parameter(torch.zeros(len(layer.weight)))
        fold(layer, norm)
        parent, _, name = str(node.target).rpartition(".")
        setattr(module.get_submodule(parent), name, nn.Identity())
        del norms[str(node.target)]
    return [f"{path}: not folded, no layer of its own is before it" for path in norms]
