"""A whole network as one program: its instructions, and where every tensor lies.

An operation writes the bit planes of the first layer that reads it, and values where anything else does; a layer that
wants another width gets its planes by one more vector pass over the values. The builder computes nothing: what the
machine must answer is the inference of the `IntegerNetwork`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from codesign.integers import IntegerLayer, IntegerNetwork
from codesign.memory_plan import Lifetime, plan_memory
from codesign.operations import Operation, Value, list_operations
from codesign.tensors import Tensor, activation_words, instruction, row_tile_words
from hardware.accelerator import Accelerator, Memory
from hardware.arithmetic import ADDITION, LOWEST_VALUE, Requantization, averaging, to_activations
from hardware.cycles import program_cycles
from hardware.errors import InputError
from hardware.instruction import VALUE_LANES, encode
from hardware.kinds import Kind
from hardware.layer import Layer
from hardware.passes import Output, Pass
from hardware.schedule import schedule, value_words, vector_passes

POISON = 0xDEADBEEF_DEADBEEF
"""What memory holds that the program must write before it reads."""
_LOWEST = sum((LOWEST_VALUE & 0xFFFF) << (16 * lane) for lane in range(VALUE_LANES))


@dataclass(frozen=True, eq=False)
class Step:
    """One instruction: the layer or graph node that it computes, the node whose values that gives (a ReLU's, where one
    is part of it), its pass, its fields."""

    name: str
    value: str
    work: Pass
    fields: dict[str, int]


@dataclass(frozen=True, eq=False)
class Written:
    """A tensor that the program writes: what a layer or node leaves for its readers.

    Parameters
    ----------
    name, value:
        The operation, and the graph node whose values the tensor holds.
    reader:
        The layer for which it holds bit planes; None where it holds the values themselves.
    channels:
        The node's channels in the order in which they lie there.
    """

    name: str
    value: str
    tensor: Tensor
    reader: IntegerLayer | None
    channels: tuple[int, ...]
    traits: Kind

    def count_mismatches(self, memory: np.ndarray, values: np.ndarray) -> tuple[int, int]:
        """Outputs and how many are wrong: the memory after the run, the node's values ``(1, C, H, W)``."""
        base, tensor = self.tensor.base, self.tensor
        words = memory[base : base + tensor.words]
        values = values.reshape(1, -1, tensor.height, tensor.width)[:, list(self.channels)]
        if self.reader is None:
            got = np.ascontiguousarray(tensor.inside(words)).view("<i2")[..., : len(self.channels)]
            return values.size, int((got.transpose(0, 3, 1, 2) != values).sum())
        reader = self.reader
        expected = to_activations(values, reader.activation_multiplier, *reader.levels)
        bits = self.traits.padded(reader.activation_bits)
        # The border and unused channels must be 0.
        difference = words ^ activation_words(expected, bits, tensor.border, self.traits)
        return values.size, int(np.unpackbits(difference.view(np.uint8)).sum())


@dataclass(frozen=True, eq=False)
class Program:
    """A network ready to run.

    Parameters
    ----------
    memory:
        uint64 words from address 0: row tiles, tensors, instructions. The image's bit planes are still missing.
    address:
        Of the first instruction.
    image_tensors:
        A layer that reads the image, and where its activations lie.
    written:
        All tensors that it writes.
    scores:
        Where the last node's values lie.
    classes:
        How many of them are scores.
    """

    accelerator: Accelerator
    steps: tuple[Step, ...]
    memory: np.ndarray
    address: int
    image_tensors: tuple[tuple[IntegerLayer, Tensor], ...]
    written: tuple[Written, ...]
    scores: Tensor
    classes: int

    def cycles(self, memory: Memory | None = None) -> int:
        """What the cycle model says of the whole program."""
        return program_cycles(tuple(step.work for step in self.steps), memory or self.accelerator.memory)

    def with_image(self, image: np.ndarray) -> np.ndarray:
        """The memory with one float64 image ``(1, C, H, W)``, quantized as its readers want it."""
        memory = self.memory.copy()
        for layer, tensor in self.image_tensors:
            traits = self.accelerator.traits
            bits = traits.padded(layer.activation_bits)
            words = activation_words(layer.activations(image), bits, tensor.border, traits)
            memory[tensor.base : tensor.base + len(words)] = words
        return memory

    def read_scores(self, words: np.ndarray) -> np.ndarray:
        """int64 ``(classes,)`` from the words of `scores`."""
        return words.view("<i2")[: self.classes].astype(np.int64)


def build_program(
    network: IntegerNetwork, accelerator: Accelerator, image_shape: tuple[int, int, int], compact: bool = False
) -> Program:
    """Lower a network for one image at a time.

    Parameters
    ----------
    compact:
        Tensors that are not needed together share memory. Without it every tensor that the program wrote can be read
        when it has ended.

    Raises
    ------
    InputError
        A node that the machine cannot compute, or a layer that does not fit the machine's buffers.
    """
    builder = _Builder(accelerator)
    program = builder.build(network, image_shape)
    if compact:
        return _Builder(accelerator, *plan_memory(list(builder.lifetimes.values()))).build(network, image_shape)
    return program


class _Builder:
    def __init__(self, accelerator: Accelerator, bases: Sequence[int] = (), tensor_words: int = 0) -> None:
        """``bases`` are the addresses of all tensors in the order in which they are made, all below ``tensor_words``;
        without them tensors lie where they are made."""
        self.accelerator = accelerator
        self.steps: list[Step] = []
        self.written: list[Written] = []
        self.parts: list[tuple[int, np.ndarray]] = []
        self.bases, self.address = bases, tensor_words
        self.lifetimes: dict[int, Lifetime] = {}
        """Of every tensor, by its address: for a builder without ``bases``, whose tensors have one each."""
        self.values: dict[Value, Tensor] = {}
        self.planes: dict[IntegerLayer, Tensor] = {}
        self.orders: dict[Value, tuple[int, ...]] = {}
        """Kernels in the order in which they lie in a value's channels, where they were sorted by width."""

    def build(self, network: IntegerNetwork, image_shape: tuple[int, int, int]) -> Program:
        listed = list_operations(network, image_shape)
        for layer in listed.image.readers:
            self.planes[layer] = self._image_tensor(layer)
        image_tensors = [(layer, self.planes[layer]) for layer in listed.image.readers]
        for operation in listed.operations:
            if operation.layer is not None:
                self._matrix(operation, operation.layer)
            else:
                self._vector(operation)
            self._convert(operation)
        program_address = self.address  # behind the data, whose addresses so do not depend on its length
        for number, step in enumerate(self.steps):
            self._place(encode(step.fields | {"last": number == len(self.steps) - 1}))
        self._need(self.values[listed.scores])  # by the host, after the last step
        memory = np.full(self.address, POISON, dtype=np.uint64)
        for base, words in self.parts:
            memory[base : base + len(words)] = words
        return Program(
            self.accelerator,
            tuple(self.steps),
            memory,
            program_address,
            tuple(image_tensors),
            tuple(self.written),
            self.values[listed.scores],
            listed.scores.shape[0],
        )

    # Memory.

    def _place(self, words: np.ndarray) -> int:
        base, self.address = self.address, self.address + len(words)
        self.parts.append((base, words))
        return base

    def _tensor(
        self,
        shape: tuple[int, int, int],
        pixel_words: int,
        border: tuple[int, int],
        edge: int = 0,
        inside: int = POISON,
    ) -> Tensor:
        """A tensor whose border holds ``edge``, and whose pixels hold ``inside`` until they are written."""
        number = len(self.lifetimes)
        tensor = Tensor(self.bases[number] if self.bases else self.address, 1, *shape[1:], pixel_words, border)
        words = np.full(tensor.words, edge, dtype=np.uint64)
        tensor.inside(words)[:] = inside
        if self.bases:
            self.parts.append((tensor.base, words))
        else:
            self._place(words)
        initial = (*shape[1:], pixel_words, border, edge, inside) if border != (0, 0) or inside != POISON else None
        self.lifetimes[number if self.bases else tensor.base] = Lifetime(
            tensor.words, len(self.steps), len(self.steps), initial
        )
        return tensor

    def _need(self, *tensors: Tensor) -> None:
        """The step that comes next reads or writes them."""
        if not self.bases:
            for tensor in tensors:
                self.lifetimes[tensor.base].last = len(self.steps)

    def _stored_bits(self, layer: IntegerLayer) -> int:
        """Bits of a layer's activations in memory."""
        return self.accelerator.traits.padded(layer.activation_bits)

    def _image_tensor(self, layer: IntegerLayer) -> Tensor:
        shape = layer.layer
        words = -(-shape.in_channels // 64) * self._stored_bits(layer)
        tensor = self._tensor((shape.in_channels, shape.in_height, shape.in_width), words, shape.padding)
        if not self.bases:
            self.lifetimes[tensor.base].shape = None  # the host writes its border with every image
        return tensor

    # Outputs.

    def _outputs(self, operation: Operation) -> tuple[Output, Tensor | None, Tensor | None, dict[str, int]]:
        """What an operation's own instruction writes: values, the planes of its first reader, and how."""
        value = operation.output
        # Zeros around what is moved: the operation does not write all of its value, and so not its planes.
        partial = operation.kind == "move" and value.shape != (operation.inputs[0].shape[0], *operation.size)
        direct = value.readers[0] if value.readers and not partial else None
        others = [layer for layer in value.readers if direct is None or _quantizer(layer) != _quantizer(direct)]
        values = planes = None
        if value.read_as_values or others or direct is None:
            values = self.values[value] = self._tensor(
                value.shape,
                value_words(value.shape[0], self.accelerator),
                value.border,
                _LOWEST,
                0 if partial else POISON,
            )
        fields = {"relu": int(operation.relu)}
        if direct is not None:
            planes = self._plane_tensor(value, direct)
            fields |= _quantizer_fields(direct)
        return (
            Output(values=values is not None, plane_bits=self._stored_bits(direct) if direct else 0),
            values,
            planes,
            fields,
        )

    def _plane_tensor(self, value: Value, reader: IntegerLayer) -> Tensor:
        """The planes that a layer reads, and with it all that quantize alike."""
        alike = [layer for layer in value.readers if _quantizer(layer) == _quantizer(reader)]
        border = max(one.layer.padding[0] for one in alike), max(one.layer.padding[1] for one in alike)
        words = self._stored_bits(reader) * -(-value.shape[0] // 64)
        tensor = self._tensor(value.shape, words, border)
        for layer in alike:
            self.planes[layer] = tensor
        return tensor

    def _convert(self, operation: Operation) -> None:
        """Planes of the readers that the operation's own instruction does not serve."""
        value = operation.output
        for layer in value.readers:
            if layer not in self.planes:
                shape = _windows(value.shape, Operation(operation.name, "move", [value], value, size=value.shape[1:]))
                output, planes = Output(plane_bits=self._stored_bits(layer)), self._plane_tensor(value, layer)
                for work in vector_passes("sum", shape, self.accelerator, output):
                    fields = instruction(
                        work, shape, self.values[value], planes=planes, plane_offset=_plane_offset(work)
                    )
                    fields |= _constants(ADDITION) | _quantizer_fields(layer)
                    self._add(operation, work, fields, self.values[value], planes)
                self._note(operation, planes, layer)

    def _add(self, operation: Operation, work: Pass, fields: dict[str, int], *tensors: Tensor | None) -> None:
        """One more step, and the tensors that it reads and writes."""
        self._need(*(tensor for tensor in tensors if tensor))
        self.steps.append(Step(operation.name, operation.output.name, work, fields))

    def _note(self, operation: Operation, tensor: Tensor, reader: IntegerLayer | None) -> None:
        value = operation.output
        channels = self.orders.get(value, tuple(range(value.shape[0])))
        self.written.append(Written(operation.name, value.name, tensor, reader, channels, self.accelerator.traits))

    # Operations.

    def _matrix(self, operation: Operation, layer: IntegerLayer) -> None:
        source, value = operation.inputs[0], operation.output
        output, values, planes, fields = self._outputs(operation)
        sortable = values is None and all(reader.layer.groups == 1 for reader in value.readers)
        order = None if sortable else tuple(range(layer.layer.out_channels))
        plan = schedule(
            layer.layer,
            layer.weight_bits,
            layer.activation_bits,
            self.accelerator,
            bipolar=layer.bipolar,
            output=output,
            order=order,
        )
        self.orders[value] = tuple(kernel for work in plan.passes for kernel in work.kernels)
        weights = layer.weights
        if source in self.orders:
            channels = self.orders[source]
            weights = weights[:, list(channels)] if layer.layer.groups == 1 else weights
        requantization = layer.requantization
        constants = (requantization.bias.astype(np.uint64) << np.uint64(32)) | requantization.multiplier.astype(
            np.uint64
        )
        fields |= {"wide_shift": int(requantization.shift == 32)}
        done = 0
        for work in plan.passes:
            base = self._place(row_tile_words(weights, work, layer.layer.groups, constants))
            own = instruction(
                work,
                layer.layer,
                self.planes[layer],
                base,
                results=values,
                result_offset=done // VALUE_LANES,
                planes=planes,
                plane_offset=done // 64 * work.output.plane_bits,
            )
            self._add(operation, work, own | fields, self.planes[layer], values, planes)
            done += len(work.kernels)
        self._note_outputs(operation, values, planes)

    def _vector(self, operation: Operation) -> None:
        source, value = operation.inputs[0], operation.output
        output, values, planes, fields = self._outputs(operation)
        shape = _windows(source.shape, operation)
        sources = [self.values[one] for one in operation.inputs]
        tensor, row_step = sources[0], None
        if operation.kind == "add":
            other = sources[1]
            if (other.pixel_words, other.row_step) != (tensor.pixel_words, tensor.row_step):
                raise InputError(
                    f"node {value.name!r} adds two tensors of which one has a border for a pool: pool a copy of it."
                )
            row_step = other.address() - tensor.address()
        elif operation.start != (0, 0):
            tensor = replace(tensor, base=tensor.address(*operation.start) - tensor.address() + tensor.base)
        constants = averaging(shape.kernel[0] * shape.kernel[1]) if operation.kind == "average" else ADDITION
        channels, top, left = operation.before
        offset = 0
        if values is not None and operation.before != (0, 0, 0):
            offset = self._channel_offset(value, channels, source.shape[0])
            offset += values.address(top, left) - values.address()
        for work in vector_passes("maximum" if operation.kind == "maximum" else "sum", shape, self.accelerator, output):
            own = instruction(
                work,
                shape,
                tensor,
                results=values,
                result_offset=offset + work.channel_words[0],
                planes=planes,
                plane_offset=_plane_offset(work),
                window_row_step=row_step,
            )
            self._add(operation, work, own | fields | _constants(constants), *sources, values, planes)
        self._note_outputs(operation, values, planes)

    def _note_outputs(self, operation: Operation, values: Tensor | None, planes: Tensor | None) -> None:
        if values is not None:
            self._note(operation, values, None)
        if planes is not None:
            self._note(operation, planes, operation.output.readers[0])

    def _channel_offset(self, value: Value, before: int, channels: int) -> int:
        at_once = max(self.accelerator.array.dm, VALUE_LANES)
        room = VALUE_LANES * value_words(value.shape[0], self.accelerator)
        if before % VALUE_LANES or before + -(-channels // at_once) * at_once > room:
            raise InputError(
                f"node {value.name!r} puts {before} channels before {channels}, but {self.accelerator.name} moves "
                f"{at_once} at a time: pad by a multiple of it."
            )
        return before // VALUE_LANES


def _quantizer(layer: IntegerLayer) -> tuple[int, int, tuple[int, int]]:
    """Layers that have this in common read the same planes."""
    return layer.activation_bits, layer.activation_multiplier, layer.levels


def _quantizer_fields(layer: IntegerLayer) -> dict[str, int]:
    low, high = layer.levels
    return {"quantizer": layer.activation_multiplier, "clamp_low": -low, "clamp_high": high}


def _constants(requantization: Requantization) -> dict[str, int]:
    return {"multiplier": int(requantization.multiplier[0]), "wide_shift": int(requantization.shift == 32)}


def _plane_offset(work: Pass) -> int:
    """Words from a pixel's first to the ones that a vector pass over some of its channels writes."""
    return work.channel_words[0] * VALUE_LANES // 64 * work.output.plane_bits


def _windows(shape: tuple[int, int, int], windows: Operation) -> Layer:
    """The windows of a vector operation over a value of a shape."""
    channels, height, width = shape
    if windows.kind == "add":
        height += 1  # the second row of a window is the other tensor's pixel
    elif windows.kind == "move":
        height, width = ((count - 1) * step + 1 for count, step in zip(windows.size, windows.stride, strict=True))
    return Layer(
        windows.name,
        "conv",
        channels,
        channels,
        height,
        width,
        kernel=windows.kernel,
        stride=windows.stride,
        padding=windows.padding,
    )
