"""What proofs of several units have in common: handshakes, answers in time, instructions that are free within bounds.

All functions add statements to the proof's module; none may be called inside a condition.
"""

from collections.abc import Callable, Mapping
from typing import Any

from amaranth.hdl import Assert, Assume, Cat, Module, Mux, Signal, Value
from amaranth.lib import data

from hardware.instruction import FIELDS

LAYOUT = data.StructLayout(dict(FIELDS))


def past(m: Module, value: Any) -> Signal:
    """``value`` one cycle ago."""
    value = Value.cast(value)
    before = Signal(value.shape())
    m.d.sync += before.eq(value)
    return before


def same(m: Module, value: Any) -> Value:
    """Whether ``value`` is what it was one cycle ago; true in the very first cycle."""
    value, begun = Value.cast(value), Signal()
    m.d.sync += begun.eq(1)
    return ~begun | (value == past(m, value))


def stable_while_stalled(m: Module, valid: Any, ready: Any, *payload: Any) -> Signal:
    """What is offered stays until it is taken (AXI A3.2.1 demands it, so do our streams).

    Returns whether it was offered and not taken a cycle ago.
    """
    waited, offered = past(m, valid & ~ready), Cat(*payload)
    before = past(m, offered)
    with m.If(waited):
        m.d.comb += [Assert(valid), Assert(offered == before)]
    return waited


def within(m: Module, cycles: int, waiting: Any) -> None:
    """``waiting`` never holds for more than ``cycles`` cycles without a break."""
    waited = Signal(range(cycles + 2))
    m.d.sync += waited.eq(Mux(waiting, Mux(waited > cycles, waited, waited + 1), 0))
    m.d.comb += Assert(~waiting | (waited < cycles))


class FreeInstruction:
    """An instruction whose fields are free within ranges, and the strobe that starts it whenever the proof allows it.

    The instruction changes only in ``load`` cycles and stays from then to the end of its pass, as the sequencer's does.

    Parameters
    ----------
    fields:
        Name to smallest and largest value; a name that is no field of the instruction is a value of the proof's own.
    first:
        Values in the very first cycle, where the smallest of all fields are no legal instruction.
    settled:
        Cycles from the instruction to its start strobe: 0 where both come together.
    """

    def __init__(self, fields: Mapping[str, tuple[int, int]], first: Mapping[str, int] | None = None, settled: int = 0):
        self._ranges, self._settled = fields, settled
        layout = data.StructLayout({name: max(high, 1).bit_length() for name, (_, high) in fields.items()})
        smallest = {name: low for name, (low, _) in fields.items()}
        self.kept = Signal(layout, init=smallest | dict(first or {}))
        self.instruction = Signal(LAYOUT)
        self.start = Signal()

    def ports(self) -> dict[str, int]:
        """Bits of the free inputs that the proof's component must have."""
        return {"free_fields": self.kept.shape().size, "free_load": 1, "free_start": 1}

    def __getitem__(self, name: str) -> Any:
        return self.kept[name]

    def build(self, m: Module, component: Any, idle: Any, legal: Any, derived: Mapping[str, Any]) -> None:
        """Keep the free inputs of ``component``.

        Parameters
        ----------
        idle:
            A pass may begin.
        legal:
            What the fields must fulfil beside their ranges.
        derived:
            Fields that follow from others, or are constant.
        """
        age = Signal(range(self._settled + 1))
        ranges = [(self.kept[name] >= low) & (self.kept[name] <= high) for name, (low, high) in self._ranges.items()]
        m.d.comb += [Assume(Cat(ranges).all()), Assume(legal)]
        with m.If(idle & component.free_load):
            m.d.sync += [self.kept.as_value().eq(component.free_fields), age.eq(0)]
        with m.Elif(age != self._settled):
            m.d.sync += age.eq(age + 1)
        good = idle & ~component.free_load & (age == self._settled)
        m.d.comb += self.start.eq(component.free_start & good)
        for name in self._ranges:
            if name in FIELDS:
                m.d.comb += self.instruction[name].eq(self.kept[name])
        m.d.comb += [self.instruction[name].eq(value) for name, value in derived.items()]


def faulty(proof: Any, fault: Callable[[Any], Any]) -> Any:
    """The proof, whose unit (``_unit``) does not get what the proof gives it, so that it must fail.

    Parameters
    ----------
    fault:
        Statements that drive inputs of the unit, instead of those of the proof.
    """
    elaborate = proof.elaborate

    def wrong(platform: Any) -> Module:
        m: Module = elaborate(platform)
        m.d.comb += fault(proof._unit)
        return m

    proof.elaborate = wrong
    return proof
