"""What work costs: the cycle table an agent looks policies up in, and the events of a schedule."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import add
from typing import Literal

import numpy as np

from hardware.accelerator import Accelerator
from hardware.cycles import programs_cycles
from hardware.errors import InputError
from hardware.instruction import INSTRUCTION_WORDS
from hardware.kinds import KINDS
from hardware.layer import Layer
from hardware.passes import Output, Pass
from hardware.schedule import MAX_BITS, Schedule, passes_of_widths

PRICED_OUTPUT = Output(plane_bits=MAX_BITS)
"""What a priced layer writes: the widest activations, whatever the next layer wants, so that layers add up."""


def cost_table(layers: Sequence[Layer], accelerator: Accelerator, lowest: Literal[0, 1] = 1) -> np.ndarray:
    """Cycles of every layer at every pair of widths.

    Parameters
    ----------
    lowest:
        Weight bits of the first row. With 0 there is a row of layers whose kernels are all pruned: they have no
        weights to fetch, but write their biases, and read activations as all layers do.

    Returns
    -------
    float64, ``(layers, 8, 8)``, ``[layer, weight bits - 1, activation bits - 1]``: HAQ's table format; or
    ``(layers, 9, 8)``, ``[layer, weight bits, activation bits - 1]``. Additive over layers, because a layer starts
    when the one before has ended. ``inf`` where the buffers are too small.

    Raises
    ------
    InputError
        A layer fits the buffers at no width of 1 to 8.
    """
    known: dict[Layer, np.ndarray] = {}
    table = np.empty((len(layers), MAX_BITS + 1 - lowest, MAX_BITS))
    for index, layer in enumerate(layers):
        shape = replace(layer, name="", repeats=1)  # networks repeat shapes; each is timed once
        if shape not in known:
            known[shape] = _layer_table(layer, accelerator, lowest)
        table[index] = layer.repeats * known[shape]
    return table


def _layer_table(layer: Layer, accelerator: Accelerator, lowest: int) -> np.ndarray:
    widths = [(w, a) for w in range(lowest, MAX_BITS + 1) for a in range(1, MAX_BITS + 1)]
    planned = list(passes_of_widths(layer, widths, accelerator, PRICED_OUTPUT))
    fits = np.array([not isinstance(passes, InputError) for passes in planned]).reshape(-1, MAX_BITS)
    if not fits[-MAX_BITS:].any():
        raise next(passes for passes in reversed(planned) if isinstance(passes, InputError))
    table = np.full(fits.shape, np.inf)
    programs = [passes for passes in planned if not isinstance(passes, InputError)]
    table[fits] = programs_cycles(programs, accelerator.memory)
    return table


@dataclass(frozen=True)
class Events:
    """What happens while a layer runs, counted from its schedule; the energy model's input."""

    plane_products: int = 0
    """Array steps times dm * dn * dk * planes: binary multiply-accumulates, padding included."""
    useful_products: int = 0
    """Those of a weight and an activation of a window, each weight as wide as its row tile."""
    array_steps: int = 0
    """Steps that multiply."""
    idle_steps: int = 0
    """Steps of the array that do not: a row tile's constants, and tiles of pruned kernels."""
    vector_steps: int = 0
    words_read: int = 0
    """64-bit words fetched from memory, the instruction included."""
    column_words: int = 0
    """Of them, activations."""
    words_written: int = 0
    """64-bit words of sums, values (where dm < 4 each word is written in parts) and bit planes."""
    buffer_reads: int = 0
    """Entries read from all row and column memories."""
    buffer_writes: int = 0
    """64-bit words written into them."""
    requantized: int = 0
    """Output pixels times row tiles whose dm sums become values or activations."""

    def __add__(self, other: "Events") -> "Events":
        return Events(*map(add, vars(self).values(), vars(other).values()))

    def __mul__(self, times: int) -> "Events":
        return Events(*(times * count for count in vars(self).values()))


def count_events(plan: Schedule) -> Events:
    """Events of all passes of one run of a layer."""
    return sum((pass_events(work, plan.layer) for work in plan.passes), Events())


def pass_events(work: Pass, layer: Layer) -> Events:
    """Events of one instruction, of a layer's pass or of a vector pass over a layer's windows."""
    read = words_read(work)
    outputs = work.row_tiles * layer.pixels
    planes = layer.pixels * work.plane_words * work.output.plane_bits
    moved = Events(
        words_read=INSTRUCTION_WORDS + read,
        column_words=column_words(work),
        words_written=outputs * work.result_words + planes,
        buffer_writes=read,
        requantized=outputs * work.output.requantized,
    )
    return moved + (_array_events(work, layer) if work.operation == "matrix" else _vector_events(work, layer))


def words_read(work: Pass) -> int:
    """Words of operands that a pass fetches."""
    row_tiles = sum(tiles * work.lhs_tile_words(bits) for bits, tiles in work.segments)
    if work.operation != "matrix":
        row_tiles = 0
    return row_tiles * (1 if work.lhs_resident else work.groups) + column_words(work)


def column_words(work: Pass) -> int:
    """Of them, words of activations."""
    # A port without a valid column fetches one all the same.
    columns = (work.column_tiles - 1) * work.dn + max(work.last_columns, work.ports)
    return columns * work.column_words


def _array_events(work: Pass, layer: Layer) -> Events:
    array_steps = idle_steps = useful = start = 0
    for bits, tiles in work.segments:
        array_steps += tiles * work.column_tiles * work.steps(bits)
        if not bits:  # but for the constants' own, every tile takes one step
            idle_steps += tiles * (work.column_tiles - work.groups)
        kernels = len(work.kernels[start : start + tiles * work.dm])
        useful += kernels * bits * work.activation_bits * layer.reduction * layer.pixels
        start += tiles * work.dm
    constants = work.row_tiles * work.groups * work.output.requantized
    return Events(
        plane_products=array_steps * work.dm * work.dn * 64 * work.lanes * KINDS[work.kind].products,
        useful_products=useful,
        array_steps=array_steps,
        idle_steps=idle_steps + constants,
        buffer_reads=array_steps * (work.dm + work.dn) + constants * work.dm,
    )


def _vector_events(work: Pass, layer: Layer) -> Events:
    steps = layer.pixels * work.row_tiles * work.steps(0)
    return Events(vector_steps=steps, buffer_reads=steps * work.dn)
