"""What work costs: the cycle table an agent looks policies up in, and the events of a schedule."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from hardware.accelerator import Accelerator
from hardware.cycles import layer_cycles
from hardware.errors import InputError
from hardware.instruction import INSTRUCTION_WORDS
from hardware.layer import Layer
from hardware.schedule import MAX_BITS, Schedule, schedule


def cost_table(layers: Sequence[Layer], accelerator: Accelerator) -> np.ndarray:
    """Cycles of every layer at every pair of widths.

    Returns
    -------
    float64, ``(layers, 8, 8)``, ``[layer, weight bits - 1, activation bits - 1]``: HAQ's table format. Additive
    over layers, because a layer starts when the one before has ended. ``inf`` where the buffers are too small.
    """
    known: dict[Layer, np.ndarray] = {}
    table = np.empty((len(layers), MAX_BITS, MAX_BITS))
    for index, layer in enumerate(layers):
        shape = replace(layer, name="")  # networks repeat shapes; each is timed once
        if shape not in known:
            known[shape] = _layer_table(layer, accelerator)
        table[index] = known[shape]
    return table


def _layer_table(layer: Layer, accelerator: Accelerator) -> np.ndarray:
    table = np.full((MAX_BITS, MAX_BITS), np.inf)
    refusal: InputError | None = None
    for w in range(1, MAX_BITS + 1):
        for a in range(1, MAX_BITS + 1):
            try:
                table[w - 1, a - 1] = layer_cycles(schedule(layer, w, a, accelerator))
            except InputError as error:
                refusal = error
    if refusal and np.isinf(table).all():
        raise refusal
    return table


@dataclass(frozen=True)
class Events:
    """What happens while a layer runs, counted from its schedule; the energy model's input."""

    plane_products: int
    """Array steps times dm * dn * dk: binary multiply-accumulates, padding included."""
    array_steps: int
    words_read: int
    """64-bit words fetched from memory, the instruction included."""
    words_written: int
    """64-bit result words."""
    buffer_reads: int
    """``dk``-bit entries read from all row and column memories."""
    buffer_writes: int
    """64-bit words written into them."""

    def __add__(self, other: "Events") -> "Events":
        return Events(*(a + b for a, b in zip(asdict(self).values(), asdict(other).values(), strict=True)))


def count_events(plan: Schedule) -> Events:
    """Events of all passes of a layer."""
    array = plan.accelerator.array
    total = Events(0, 0, 0, 0, 0, 0)
    for work in plan.passes:
        tiles = work.row_tiles * work.column_tiles
        groups = -(-work.column_tiles // work.group_tiles)
        columns = (work.column_tiles - 1) * work.dn + work.last_columns
        operand_words = (
            work.lhs_tile_words * work.row_tiles * (1 if work.lhs_resident else groups) + columns * work.column_words
        )
        steps = tiles * work.steps
        total += Events(
            plane_products=steps * array.dm * array.dn * array.dk,
            array_steps=steps,
            words_read=operand_words + INSTRUCTION_WORDS,
            words_written=work.row_tiles * columns * work.dm // 2,
            buffer_reads=steps * (array.dm + array.dn),
            buffer_writes=operand_words,
        )
    return total
