"""A QONNX file, ours or by other hands, as a network that the toolkit traces, and what it says about every width.

Constants are computed first (`codesign.qonnx.constants`), then every other node becomes one of ours
(`codesign.qonnx.operators`), and ``Quant`` nodes become the quantizers of the layers (`codesign.qonnx.graph`). What the
file computes is kept, but for the rounding of exact ties in activations: ours is half up, mostly theirs to even. Ties
are rare unless scales are powers of two, or multiples of one another.

- signed activations that cannot be negative are unsigned ones with a bit less, and an unsigned ``Quant`` of what may be
  negative has a ReLU before it;
- bipolar weights, +-1, have 2 bits, and unsigned ones one bit more than in the file;
- batch norm, and constants that a layer's output is multiplied with, divided by, or moved by, go into its scales and
  bias; the integers of the weights stay;
- a quantized value that something else than a layer reads is made by a layer of its own.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import yaml
from onnx import numpy_helper
from torch import fx

from codesign.qonnx.constants import QUANTS, Constant, attributes, evaluate, refuse
from codesign.qonnx.exporting import ARITHMETIC, LARGEST, NETWORK, POLICY
from codesign.qonnx.graph import BATCH, Builder, ImportedLayer, Value
from codesign.qonnx.operators import HANDLERS
from codesign.quantize import QuantizedNetwork
from codesign.quantizer_fit import Calibration
from codesign.tracing import Traced, trace
from hardware.errors import InputError
from policies.policy import ActivationChoice, LayerPolicy, Policy, WeightChoice

Image = tuple[tuple[int, int, int], bool]
"""``(channels, height, width)`` of one image, and whether it may be negative."""


@dataclass(frozen=True, eq=False)
class ImportedNetwork:
    """A file's network.

    Parameters
    ----------
    module:
        Float network with the weights at their levels; `codesign.tracing.trace` takes it.
    traced:
        The same, traced.
    policy:
        The widths, under the name that the file gives its network (else its own).
    input_shape, signed_input:
        ``(channels, height, width)`` of an image, and whether it may be negative.
    largest_value:
        The values' range in the machine, where our own export noted it.
    """

    module: fx.GraphModule
    traced: Traced
    policy: Policy
    input_shape: tuple[int, int, int]
    signed_input: bool
    largest_value: float | None
    layers: dict[str, ImportedLayer]

    def quantized(self, calibration: Calibration) -> QuantizedNetwork:
        """The network as the file has it; ``calibration``, made from `traced`, gives only the values' range."""
        network = QuantizedNetwork(self.traced, self.policy, calibration)
        with torch.no_grad():
            for name, layer in network.layers.items():
                source = self.layers[name]
                module: Any = source.module
                layer.weight.copy_(module.weight)
                layer.bias.copy_(module.bias)
                layer.weight_scales.copy_(torch.from_numpy(source.scale))
                layer.activation_scale.fill_(source.activations.scale)
                layer.narrow_weights, layer.narrow_activations = source.narrow, source.activations.narrow
        network.largest_value = self.largest_value or calibration.largest_value
        return network.eval()


def import_qonnx(path: Path, image: Image | None = None) -> ImportedNetwork:
    """Read a QONNX file.

    Parameters
    ----------
    image:
        ``(channels, height, width)`` of the images and whether they may be negative. By default what the file says; an
        image may be negative unless each ``Quant`` that reads it is unsigned.

    Raises
    ------
    InputError
        There is no such file, it is damaged, it does something that is not supported (the message names the node), or
        takes other images.
    """
    if not path.is_file():
        raise InputError(f"no QONNX file at {path}: check the path.")
    try:
        model = onnx.load(str(path))
        constants = {one.name: Constant(numpy_helper.to_array(one)) for one in model.graph.initializer}
    except Exception as error:  # a damaged file raises nearly anything
        first = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(f"cannot read {path} ({first}): expected a QONNX model in one file.") from None
    try:
        return _network(model, constants, image, path.stem)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _network(model: onnx.ModelProto, constants: dict[str, Constant], image: Image | None, name: str) -> ImportedNetwork:
    file, metadata = model.graph, {one.key: one.value for one in model.metadata_props}
    if metadata.get(ARITHMETIC) == "machine":
        raise InputError("it was exported with --exact, for others to execute: import one that was exported without.")
    builder = Builder(file, constants)
    inputs = [one for one in file.input if one.name not in constants]
    if len(inputs) != 1 or len(file.output) != 1 or not file.node:
        raise InputError(
            f"it has {len(inputs)} inputs, {len(file.node)} nodes and {len(file.output)} outputs: expected one image "
            "and one tensor of scores."
        )
    shape, signed = _read_image(builder, file, inputs[0], image)
    scores = file.output[0].name
    with torch.no_grad():
        for node in file.node:
            _take(builder, node, list(model.opset_import))
        if scores not in builder.values:
            raise InputError(f"nothing makes its output {scores!r} from the image: export it again.")
        last = next((node for node in file.node if scores in node.output), file.node[-1])
        builder.graph.output(builder.plain(last, builder.values[scores]).node)
    for layer in builder.layers.values():
        layer.finish()
    module = fx.GraphModule(builder.root, builder.graph)
    traced = trace(module, shape, signed)
    policy = _policy(builder, traced, metadata.get(NETWORK, name), metadata.get(POLICY, ""))
    try:
        largest = float(metadata.get(LARGEST, "")) or None
    except ValueError:
        largest = None
    return ImportedNetwork(module, traced, policy, shape, signed, largest, builder.layers)


def _read_image(builder: Builder, file: onnx.GraphProto, given: onnx.ValueInfoProto, image: Image | None) -> Image:
    """Start the graph with the image; its format."""
    sizes = [one.dim_value for one in given.type.tensor_type.shape.dim]
    if len(sizes) not in (2, 4) or not all(sizes[1:]):
        raise InputError(
            f"its input {given.name!r} has the sizes {sizes} (0: not fixed): expected images, channels, height and "
            "width, or images and features, all but the images fixed."
        )
    builder.images = sizes[0]
    declared = (sizes[1], sizes[2], sizes[3]) if len(sizes) == 4 else (sizes[1], 1, 1)
    readers = [node for node in file.node if given.name in node.input]
    shape, signed = image or (declared, any(_may_be_negative(builder, node) for node in readers))
    if shape != declared and (len(sizes) == 4 or np.prod(shape) != sizes[1]):
        raise InputError(f"it takes images of shape {declared}, not {shape}: use data of its own shape.")
    value = Value(builder.graph.placeholder("images"), torch.zeros(BATCH, *shape), signed)
    builder.values[given.name] = value if len(sizes) == 4 else builder.flatten(file.node[0], value)
    return shape, signed


def _may_be_negative(builder: Builder, reader: onnx.NodeProto) -> bool:
    """Whether what a node reads may be: all but an unsigned ``Quant`` could tell, and that too if it turns the sign."""
    if reader.op_type not in QUANTS or attributes(reader).get("signed", 1):
        return True
    scale = builder.constants.get(reader.input[1]) if len(reader.input) > 1 else None
    return scale is not None and bool((scale.value < 0).any())


def _take(builder: Builder, node: onnx.NodeProto, opsets: list[Any]) -> None:
    """Compute a node from constants, or make it one of ours."""
    constants, values = builder.constants, builder.values
    unknown = [name for name in node.input if name not in constants and name not in values]
    if unknown:
        raise refuse(node, f"it reads {unknown[0]!r}, which no node before it makes")
    try:
        if node.op_type == "Shape" and node.input[0] in values:
            constants[node.output[0]] = Constant(np.array(values[node.input[0]].zeros.shape, dtype=np.int64))
        elif all(name in constants for name in node.input):
            found = evaluate(node, [constants[name] for name in node.input], opsets)
            constants.update((name, one) for name, one in zip(node.output, found, strict=False) if name)
        elif node.op_type in HANDLERS:
            values[node.output[0]] = HANDLERS[node.op_type](builder, node)
        else:
            advice = "; qonnx's QCDQToQuant turns it into Quant" if node.op_type.endswith("izeLinear") else ""
            raise refuse(node, f"it is not supported{advice}; supported are {', '.join(HANDLERS)}")
    except InputError:
        raise
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise refuse(node, f"it is not as ONNX describes it ({type(error).__name__}: {error})") from None


def _policy(builder: Builder, traced: Traced, network: str, noted: str) -> Policy:
    """The widths; as our export noted them where that is the same policy, which may be written in several ways."""
    entries = []
    for layer in traced.layers:
        source = builder.layers[layer.name]
        bits = tuple(int(width) for width in source.bits)
        weights = WeightChoice(bits=bits if len(set(bits)) > 1 else bits[0])
        activations = ActivationChoice(bits=source.activations.bits)
        entries.append(LayerPolicy(name=layer.name, weights=weights, activations=activations))
    found = Policy(network=network, layers=tuple(entries))
    try:
        written = Policy.from_mapping(yaml.safe_load(noted), "the noted policy")
        written.check(network, traced.layers)
    except (InputError, yaml.YAMLError):
        return found
    pairs = zip(written.layers, found.layers, traced.layers, strict=True)
    same = all(
        one.activations == other.activations
        and one.weights.per_kernel(layer.out_channels) == other.weights.per_kernel(layer.out_channels)
        for one, other, layer in pairs
    )
    return written if same else found
