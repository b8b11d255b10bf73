"""Vector operations: sums and maxima of windows of 16-bit values that lie in the activation buffer.

One column after another, ``dm`` channels of it after another, one window pixel (tap) per step.
"""

from amaranth.hdl import Array, Module, Mux, Signal, Value, signed
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out

from hardware.accelerator import Accelerator
from hardware.instruction import OPCODE_MAXIMUM, VALUE_LANES, WORD_BITS
from hardware.timing import BUFFER_LATENCY, VECTOR_LATENCY
from rtl.countdown import Countdown
from rtl.datapath import at_hand
from rtl.interface import ACCUMULATOR_BITS, INSTRUCTION, VALUE_BITS, columns_bits, entries_bits, part_of
from rtl.popcount import add

WINDOW_VALUES = 1024
"""Most values that are added."""
TOTAL_BITS = VALUE_BITS + WINDOW_VALUES.bit_length() - 1


def words_at_once(accelerator: Accelerator) -> int:
    """Memory words that one step takes: those of ``dm`` channels, as far as they lie in one buffer entry."""
    return min(accelerator.lanes, max(1, accelerator.array.dm // VALUE_LANES))


def steps_per_tap(accelerator: Accelerator) -> int:
    """Steps that ``dm`` channels of one tap need."""
    return max(1, accelerator.array.dm // VALUE_LANES // accelerator.lanes)


def vector_step(accelerator: Accelerator) -> data.StructLayout:
    """One step.

    column, lane, half: which values of the buffer's output: column, first word of the entry, and, with two channels
    at a time, which half of the word. part: which of the dm channels. first: the window's first pixel;
    part_done: its last; done: all dm channels are complete after this step.
    """
    array, lanes = accelerator.array, accelerator.lanes
    return data.StructLayout(
        {
            "column": range(max(array.dn, 2)),
            "lane": range(max(lanes, 2)),
            "half": 1,
            "part": range(max(steps_per_tap(accelerator), 2)),
            "first": 1,
            "part_done": 1,
            "done": 1,
        }
    )


class VectorSteps(Component):
    """The steps of one column tile.

    Members
    -------
    load: a column tile with ``columns`` columns begins in the next cycle. The instruction has been there for a cycle.
    advance: the current step is taken.
    offset: the step's buffer entry, counted from the tile's.
    last_group: the step belongs to its column's last channels; last_column: to the last column. last: it is the tile's
        last one. next_done, next_last: what ``step.done`` and ``last`` become if no tile begins.
    first_done, first_last: what they become if one does, whose ``columns`` have been there for a cycle.
    """

    def __init__(self, accelerator: Accelerator):
        self._accelerator = accelerator
        super().__init__(
            {
                "instruction": In(INSTRUCTION),
                "load": In(1),
                "columns": In(columns_bits(accelerator)),
                "advance": In(1),
                "offset": Out(entries_bits(accelerator)),
                "step": Out(vector_step(accelerator)),
                "last_group": Out(1),
                "last_column": Out(1),
                "last": Out(1),
                "next_done": Out(1),
                "next_last": Out(1),
                "first_done": Out(1),
                "first_last": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        instr, accelerator = self.instruction, self._accelerator
        words, parts = words_at_once(accelerator), steps_per_tap(accelerator)
        lane_bits = accelerator.lanes.bit_length() - 1
        tile_words = accelerator.buffers.rhs_entries * accelerator.lanes
        base, position, next_base = (Signal(range(tile_words), name=n) for n in ("base", "position", "next_base"))
        taps = Countdown("taps", WINDOW_VALUES.bit_length())
        groups = Countdown("groups", 16)
        columns = Countdown("columns", columns_bits(accelerator))
        step, last_part = self.step, Signal()
        m.d.comb += [
            self.offset.eq(position >> lane_bits),
            step.lane.eq(position & (accelerator.lanes - 1)),
            step.part_done.eq(taps.last),
            self.last_group.eq(groups.last),
            self.last_column.eq(columns.last),
            next_base.eq(base + words),
        ]
        first_tap = [*taps.begin(instr.taps), step.first.eq(1)]
        first_part = [step.part.eq(0), last_part.eq(parts == 1)]
        first_group = [*groups.begin(instr.row_tiles), base.eq(0), position.eq(0), step.half.eq(0)]
        with m.If(self.advance):
            m.d.sync += [*taps.step(), step.first.eq(0), position.eq(position + instr.pixel_words)]
            with m.If(taps.last):
                m.d.sync += [*first_tap, base.eq(next_base), position.eq(next_base)]
                m.d.sync += [step.part.eq(step.part + 1), last_part.eq(step.part == parts - 2)]
                with m.If(step.done):
                    m.d.sync += [*first_part, *groups.step()]
                    if accelerator.array.dm < VALUE_LANES:  # a word's other half is the next group
                        m.d.sync += step.half.eq(~step.half)
                        with m.If(~step.half):
                            m.d.sync += [base.eq(base), position.eq(base)]
                    with m.If(groups.last):
                        m.d.sync += [*first_group, *columns.step(), step.column.eq(step.column + 1)]
        with m.If(self.load):
            m.d.sync += [*first_tap, *first_part, *first_group, *columns.begin(self.columns), step.column.eq(0)]

        # The ends, like their parts, are registers that announce themselves.
        one_tap = Signal()
        one_group = Signal()
        m.d.sync += [one_tap.eq(instr.taps == 1), one_group.eq(instr.row_tiles == 1)]
        tap_ends = taps.last_after_step(one_tap)
        part_ends = Mux(taps.last, Mux(last_part, parts == 1, step.part == parts - 2), last_part)
        group_ends = Mux(step.done, groups.last_after_step(one_group), groups.last)
        column_ends = Mux(step.done & groups.last, columns.left == 2, columns.last)
        one_column = Signal()
        m.d.sync += [
            one_column.eq(self.columns == 1),
            step.done.eq(Mux(self.load, self.first_done, self.next_done)),
            self.last.eq(Mux(self.load, self.first_last, self.next_last)),
        ]
        m.d.comb += [
            self.next_done.eq(step.done),
            self.next_last.eq(self.last),
            self.first_done.eq(one_tap & (parts == 1)),
            self.first_last.eq(self.first_done & one_group & one_column),
        ]
        with m.If(self.advance):
            m.d.comb += [
                self.next_done.eq(tap_ends & part_ends),
                self.next_last.eq(tap_ends & part_ends & group_ends & column_ends),
            ]
        return m


class VectorUnit(Component):
    """Accumulates the values that the steps select.

    Members
    -------
    rhs: ``dn`` vectors of ``dk`` bits, `hardware.timing.BUFFER_LATENCY` cycles after the step they belong to.
    step, valid: in the cycle of the buffer address.
    instruction: since `rtl.datapath.SETTLING` cycles before the first step's values are added.
    totals, totals_valid: ``dm`` totals, sign-extended, of a step marked ``done``.

    Latency: `hardware.timing.VECTOR_LATENCY` cycles from ``step`` to ``totals``. Throughput: one step per cycle.
    """

    def __init__(self, accelerator: Accelerator):
        self._accelerator = accelerator
        array = accelerator.array
        super().__init__(
            {
                "instruction": In(INSTRUCTION),
                "rhs": In(data.ArrayLayout(array.dk, array.dn)),
                "step": In(vector_step(accelerator)),
                "valid": In(1),
                "totals": Out(data.ArrayLayout(signed(ACCUMULATOR_BITS), array.dm)),
                "totals_valid": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        accelerator = self._accelerator
        array, words, parts = accelerator.array, words_at_once(accelerator), steps_per_tap(accelerator)
        steps = [(self.step, self.valid)]
        for stage in range(1, VECTOR_LATENCY):
            step, valid = Signal(self.step.shape(), name=f"step_{stage}"), Signal(name=f"valid_{stage}")
            m.d.sync += [step.eq(steps[-1][0]), valid.eq(steps[-1][1])]
            steps.append((step, valid))
        (reading, _), (adding, adding_valid), (gathering, gathering_valid) = steps[BUFFER_LATENCY:]

        entry = Array(Value.cast(vector) for vector in self.rhs)[reading.column]
        chosen = entry
        if words < accelerator.lanes:
            chosen = part_of(entry, reading.lane >> (words.bit_length() - 1), words * WORD_BITS)
        if array.dm < VALUE_LANES:
            chosen = part_of(chosen, reading.half, array.dm * VALUE_BITS)
        width = array.dm * VALUE_BITS // parts
        values = Signal(data.ArrayLayout(signed(VALUE_BITS), width // VALUE_BITS))
        m.d.sync += values.as_value().eq(chosen)

        maxima = at_hand(m, self.instruction.opcode == OPCODE_MAXIMUM, len(values), "maximum")
        for i, (value, maximum) in enumerate(zip(values, maxima, strict=True)):
            total = Signal(signed(TOTAL_BITS), name=f"total_{i}")
            # One carry chain: total + value, or total - value, whose sign says which one is greater.
            added, before, summand = (
                Signal(signed(TOTAL_BITS + 1), name=f"{n}_{i}") for n in ("added", "before", "summand")
            )
            m.d.comb += [
                before.eq(total),
                summand.eq(value ^ maximum.replicate(VALUE_BITS).as_signed()),
                added.eq(add(before, summand, maximum)),
            ]
            greater = Mux(added[-1], value, total)
            with m.If(adding_valid):
                m.d.sync += total.eq(Mux(adding.first, value, Mux(maximum, greater, added)))
            for part in range(parts):
                with m.If(gathering_valid & gathering.part_done & (gathering.part == part)):
                    m.d.sync += self.totals[part * len(values) + i].eq(total)
        m.d.sync += self.totals_valid.eq(gathering_valid & gathering.done)
        return m
