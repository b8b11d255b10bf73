"""What the published BitFusion model is asked: layers from a table with their machines, or those of a network."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from codesign.workload import Workload
from hardware.bitfusion_cost import PublishedCost, published_cost
from hardware.bitfusion_published import PUBLISHED_MACHINES, PublishedLayer, PublishedMachine
from hardware.errors import InputError
from hardware.layer import Layer
from policies.policy import SYMMETRIC, UNIFORM, LayerPolicy, Policy

LAYER_COLUMNS = ("kernel", "output_size", "stride", "in_channels", "out_channels", "input_bits", "weight_bits")
MACHINE_COLUMNS = {
    "rows_N": "rows",
    "columns_M": "columns",
    "wbuf_bytes": "wbuf_bytes",
    "ibuf_bytes": "ibuf_bytes",
    "obuf_bytes": "obuf_bytes",
    "dram_bits_per_cycle": "dram_bits_per_cycle",
}
COLUMNS = (*MACHINE_COLUMNS, *LAYER_COLUMNS, "im2col", "batch")
"""Columns that a table of layers must have; ``network`` and ``layer`` are names, others are not read."""


@dataclass(frozen=True)
class PublishedWork:
    """One layer to price: ``times`` runs of ``shape``, one after the other."""

    network: str
    layer: str
    shape: PublishedLayer
    machine: PublishedMachine
    times: int = 1


def price(works: Sequence[PublishedWork]) -> list[PublishedCost]:
    """Price layers; equal ones once.

    Raises
    ------
    InputError
        A layer that fits no buffer; the message names it.
    """
    known = cache(published_cost)
    costs = []
    for work in works:
        try:
            costs.append(known(work.shape, work.machine) * work.times)
        except InputError as error:
            raise InputError(f"layer {work.layer!r}: {error}") from None
    return costs


def machine_name(works: Sequence[PublishedWork]) -> str:
    """The name of the one published machine that all of the work is for; ``bitfusion-published`` if there is none."""
    machines = {work.machine for work in works}
    names = [name for name, machine in PUBLISHED_MACHINES.items() if machines == {machine}]
    return names[0] if names else "bitfusion-published"


def read_layers(path: Path) -> list[PublishedWork]:
    """Layers of a CSV file, a line each, with the columns of `COLUMNS`; the clock is the edge machine's.

    Raises
    ------
    InputError
        The file cannot be read or has no layers, a column is missing, or a cell is not a number that is possible there.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.DictReader(file)
            rows, header = list(lines), lines.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read {path}: {error}.") from None
    if missing := [column for column in COLUMNS if column not in header]:
        raise InputError(f"{path} lacks the columns {', '.join(missing)}: add them, a whole number per layer.")
    if not rows:
        raise InputError(f"{path} holds no layers: write one per line, after the line of column names.")
    return [_work(row, f"{path}, layer {number}") for number, row in enumerate(rows, start=1)]


def _work(row: dict[str, str | None], source: str) -> PublishedWork:
    numbers = {}
    for column in COLUMNS:
        text = (row[column] or "").strip()
        # Only ASCII digits: int() also takes 1_000 and digits of other scripts.
        if not (text.isascii() and text.isdecimal() and len(text) < 19):
            raise InputError(f"{source}, column {column}: expected a whole number, got {text!r}.")
        numbers[column] = int(text)
        if column == "im2col" and numbers[column] > 1:
            raise InputError(f"{source}, column {column}: expected 0 or 1, got {text}.")
        if column in MACHINE_COLUMNS and numbers[column] < 1:
            raise InputError(f"{source}, column {column}: expected at least 1, got {text}.")
    sizes = {column: numbers[column] for column in (*LAYER_COLUMNS, "batch")}
    try:
        shape = PublishedLayer(im2col=bool(numbers["im2col"]), **sizes)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    machine = PublishedMachine(**{name: numbers[column] for column, name in MACHINE_COLUMNS.items()})
    return PublishedWork(row.get("network") or "", row.get("layer") or source, shape, machine)


def network_layers(workload: Workload, policy: Policy, batch: int, machine: PublishedMachine) -> list[PublishedWork]:
    """A network's layers, as the published model sees them.

    The model knows no channel groups: a group is priced as a layer of its own, one after the other, as the authors do
    with AlexNet's two branches. It knows only squares: a linear layer at several positions, such as a text's, is priced
    as one of as many images. The network's first layer is taken as the one that reads its input.

    Raises
    ------
    InputError
        The model has no such layer or no such operands; the message names the layer.
    """
    works: list[PublishedWork] = []
    for entry, layer in zip(policy.layers, workload.traced.layers, strict=True):
        try:
            shape = _shape(layer, *_widths(entry), im2col=not works, batch=batch)
        except InputError as error:
            raise InputError(f"layer {layer.name!r}: {error}") from None
        works.append(PublishedWork(workload.network, layer.name, shape, machine, layer.groups * layer.repeats))
    return works


def _widths(entry: LayerPolicy) -> tuple[int, int]:
    """Stored bits of inputs and of weights."""
    if (entry.weights.scheme, entry.activations.scheme) != (SYMMETRIC, UNIFORM):
        raise InputError("the published model multiplies plain integers: leave out the policy's schemes.")
    bits = set(entry.weights.per_kernel(1))
    if len(bits) > 1 or 0 in bits:
        raise InputError("the published model has one width of 1 to 8 bits for all kernels: give it one.")
    return entry.activations.bits, bits.pop()


def _shape(layer: Layer, input_bits: int, weight_bits: int, im2col: bool, batch: int) -> PublishedLayer:
    def shape(kernel: int, output: int, stride: int, inputs: int, outputs: int, images: int) -> PublishedLayer:
        sizes = (kernel, output, stride, inputs, outputs, input_bits, weight_bits)
        return PublishedLayer(*sizes, im2col=im2col, batch=images)

    output = layer.out_height, layer.out_width
    pointwise = layer.kernel == layer.stride == (1, 1) and layer.padding == (0, 0)
    if layer.kind == "linear" or (pointwise and output[0] != output[1] and layer.groups == 1):
        return shape(1, 1, 1, layer.reduction, layer.out_channels, batch * output[0] * output[1])
    for what, (height, width) in (("kernel", layer.kernel), ("output", output), ("stride", layer.stride)):
        if height != width:
            raise InputError(
                f"the published model knows only squares, but its {what} is {height}x{width}: leave it out."
            )
    if layer.dilation != (1, 1):
        raise InputError("the published model knows no dilation: leave the layer out.")
    channels = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    return shape(layer.kernel[0], output[0], layer.stride[0], *channels, batch)
