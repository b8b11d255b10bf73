"""What proofs of the stages have in common: a small machine, mutants of a module, an order in which any tile may come.

The accounts in the proofs know the units by their ports. Order and drain are replaced by stand-ins that may do
anything: what holds for those holds for the real ones, whatever the instruction; the real ones have proofs of their
own.
"""

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from amaranth.hdl import Assert, Assume, Cat, Module, Signal
from amaranth.lib.wiring import Component, Out

from hardware.accelerator import Accelerator
from hardware.timing import INSTRUCTION_TO_STAGES
from sim.properties import past

SETTLED = INSTRUCTION_TO_STAGES - 2
"""Cycles in which the stages see an instruction before they start on it."""
RING = 4
"""Entries of both rings: fewer than any accelerator has, so that a few tiles fill them and addresses wrap."""
PATIENCE = 4
"""Cycles in which a unit that waits for nothing must do something."""


def with_small_rings(accelerator: Accelerator) -> Accelerator:
    """The same with rings of `RING` entries, which the specification would refuse."""
    buffers = accelerator.buffers.model_copy(update={"lhs_entries": RING, "rhs_entries": RING})
    return accelerator.model_copy(update={"buffers": buffers})


def copy_of(module: ModuleType, source: str | None = None) -> ModuleType:
    """A module with the same source, whose names may be changed; or with another ``source``, which it keeps."""
    copy: Any = ModuleType(module.__name__)
    copy.source = source or getattr(module, "source", None) or inspect.getsource(module)
    exec(copy.source, vars(copy))
    return copy


def mutant_of(module: ModuleType, text: str, wrong: str) -> ModuleType:
    """A module whose source has ``wrong`` wherever that of ``module`` has ``text``.

    Raises
    ------
    AssertionError
        The source does not have ``text``.
    """
    source = inspect.getsource(module)
    assert text in source, f"the mutant no longer matches {module.__name__}"
    return copy_of(module, source.replace(text, wrong))


class StandIn(Component):
    """Stands in for a part of a unit: the proof decides what comes out of it."""

    def __init__(self, real: Component):
        self._real = real  # elaborated as well, or Amaranth warns of it
        super().__init__(dict(real.signature.members))

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.real = self._real
        return m


class AnyOrder(Component):
    """Stands in for an order inside a unit: after every step any tile may come, and any may be the last.

    No step comes closer behind a load or another step than `rtl.order` allows: that is asserted.

    What holds for this order holds for `FetchOrder` and `TileOrder`, whatever the instruction. ``next`` is free; it has
    the width of all outputs.
    """

    def __init__(self, real: Component, legal: Callable[[Any], Any]):
        self._real = real  # elaborated as well, or Amaranth warns of it
        members = dict(real.signature.members)
        self._outputs = [name for name, member in members.items() if member.flow is Out]
        self._legal = legal
        super().__init__(members)
        self.next = Signal(sum(len(getattr(self, name)) for name in self._outputs))

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.real = self._real
        kept = Cat(getattr(self, name) for name in self._outputs)
        loaded = Signal()
        ports: Any = self
        moves = past(m, ports.load | ports.step)
        m.d.comb += Assert(~(moves & ports.step))
        with m.If(ports.load | ports.step):
            m.d.sync += [kept.eq(self.next), loaded.eq(1)]
        m.d.comb += Assume(~loaded | self._legal(self))
        return m


def with_any_order(
    module: ModuleType, name: str, accelerator: Accelerator, legal: Callable[[Any], Any]
) -> tuple[Any, AnyOrder]:
    """A copy of a unit's module in which the order called ``name`` is an `AnyOrder`."""
    copy: Any = copy_of(module)
    order = AnyOrder(getattr(copy, name)(accelerator), legal)
    setattr(copy, name, lambda accelerator: order)
    return copy, order
