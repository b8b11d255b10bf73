"""The schedule's loop nest as gateware: which tile comes next.

Counters count down to their last round, which a register announces a round ahead, so that no decision waits for a
comparison.
"""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out

from hardware.instruction import OPCODE_MATRIX, SEGMENTS
from rtl.interface import INSTRUCTION

GROUP_BITS = 24


class RowWidths(Component):
    """Width and entries of the current row tile.

    Members
    -------
    load: a new instruction is on ``instruction``; back to row tile 0. ``restart`` is the same.
    step: go to the next row tile.

    Latency: the next row tile's figures stand on the outputs in the cycle after ``load``, ``step`` or ``restart``.
    """

    instruction: In(INSTRUCTION)
    load: In(1)
    step: In(1)
    restart: In(1)
    bits: Out(4)
    entries: Out(16)

    def elaborate(self, platform):
        m = Module()
        following = Signal(range(SEGMENTS + 2), init=1)  # the segment behind the current one, and the one behind that
        second = Signal(range(SEGMENTS + 2), init=2)
        left = Signal(16)
        last = Signal()
        table = Array(
            Cat(*(self.instruction[f"segment_{i}_{what}"] for what in ("bits", "entries", "tiles", "single")))
            for i in range(SEGMENTS)
        )
        now = Cat(self.bits, self.entries, left, last)
        ahead = Signal(len(now))  # the next segment's, so that no step waits for the table
        m.d.sync += ahead.eq(table[following])
        with m.If(self.step):
            with m.If(~last):
                m.d.sync += [left.eq(left - 1), last.eq(left == 2)]
            with m.Else():
                m.d.sync += [following.eq(second), second.eq(second + 1), now.eq(ahead), ahead.eq(table[second])]
        with m.If(self.load | self.restart):
            m.d.sync += [following.eq(1), second.eq(2), now.eq(table[0]), ahead.eq(table[1])]
        return m


class Groups(Component):
    """Counts the groups of column tiles, and the column tiles in a group.

    Members
    -------
    load: a new instruction is on ``instruction``, since the cycle before.
    step: go to the next column tile of the group, behind the last to the first one again.
    next_group: with ``step`` behind the last: the next group begins.
    first_group, last_group, first, last: of the current group and column tile.
    columns: valid columns of the current column tile.

    Latency: the next tile stands on the outputs in the cycle after ``load`` or ``step``.
    """

    def __init__(self, dn: int):
        self._dn = dn
        super().__init__(
            {
                "instruction": In(INSTRUCTION),
                "load": In(1),
                "step": In(1),
                "next_group": In(1),
                "first_group": Out(1),
                "last_group": Out(1),
                "first": Out(1),
                "last": Out(1),
                "columns": Out(8),
            }
        )

    def elaborate(self, platform):
        m = Module()
        instr = self.instruction
        groups_left = Signal(GROUP_BITS)
        next_is_last = Signal()
        # of the current group; its tiles left
        size = Signal(16)
        single = Signal()
        left = Signal(16)
        m.d.comb += self.columns.eq(Mux(self.last_group & self.last, instr.last_columns, self._dn))

        # Constants of the instruction.
        one_group, two_groups, one_tile, one_last_tile = (
            Signal(name=n) for n in ("one_group", "two_groups", "one_tile", "one_last_tile")
        )
        m.d.sync += [
            one_group.eq(instr.groups == 1),
            two_groups.eq(instr.groups == 2),
            one_tile.eq(instr.group_tiles == 1),
            one_last_tile.eq(instr.last_group_tiles == 1),
        ]

        def begin(is_last):
            """Statements that begin a group."""
            tiles = Mux(is_last, instr.last_group_tiles, instr.group_tiles)
            one = Mux(is_last, one_last_tile, one_tile)
            return [size.eq(tiles), left.eq(tiles), single.eq(one), self.last.eq(one), self.first.eq(1)]

        with m.If(self.step):
            with m.If(~self.last):
                m.d.sync += [left.eq(left - 1), self.last.eq(left == 2), self.first.eq(0)]
            with m.Elif(~self.next_group):
                m.d.sync += [left.eq(size), self.last.eq(single), self.first.eq(1)]
            with m.Else():
                m.d.sync += [
                    groups_left.eq(groups_left - 1),
                    self.first_group.eq(0),
                    self.last_group.eq(next_is_last),
                    next_is_last.eq(groups_left == 3),
                    *begin(next_is_last),
                ]
        with m.If(self.load):
            m.d.sync += [
                groups_left.eq(instr.groups),
                self.first_group.eq(1),
                self.last_group.eq(one_group),
                next_is_last.eq(two_groups),
                *begin(one_group),
            ]
        return m


class Rows(Component):
    """Counts the row tiles of a group.

    Members
    -------
    load, restart: back to row tile 0; the instruction must be there since the cycle before. step: go to the next one.
    first, last, bits, entries: of the current row tile.

    Latency: the next row tile stands on the outputs in the cycle after ``load``, ``restart`` or ``step``.
    """

    instruction: In(INSTRUCTION)
    load: In(1)
    step: In(1)
    restart: In(1)
    first: Out(1)
    last: Out(1)
    bits: Out(4)
    entries: Out(16)

    def elaborate(self, platform):
        m = Module()
        instr = self.instruction
        m.submodules.widths = widths = RowWidths()
        left = Signal(16)
        one = Signal()
        m.d.sync += one.eq(instr.row_tiles == 1)
        m.d.comb += [
            widths.instruction.eq(instr),
            widths.load.eq(self.load),
            widths.step.eq(self.step),
            widths.restart.eq(self.restart),
            self.bits.eq(widths.bits),
            self.entries.eq(widths.entries),
        ]
        with m.If(self.step):
            m.d.sync += [left.eq(left - 1), self.last.eq(left == 2), self.first.eq(0)]
        with m.If(self.load | self.restart):
            m.d.sync += [left.eq(instr.row_tiles), self.last.eq(one), self.first.eq(1)]
        return m


class FetchOrder(Component):
    """Walks the tiles in the order in which they are fetched.

    Members
    -------
    load: a new instruction is on ``instruction``, since the cycle before; it must stay there until ``done``.
    step: go to the next tile (the current one is taken).
    is_lhs: the current tile is a row tile; otherwise a column tile.
    last_row_tile: the current row tile is the last one.
    lhs_entries: entries of the current row tile.
    columns: valid columns of the current column tile.
    done: no tile is left.

    Latency: the next tile stands on the outputs in the cycle after ``step`` or ``load``.
    Throughput: one tile per cycle.
    """

    def __init__(self, dn: int):
        self._dn = dn
        super().__init__(
            {
                "instruction": In(INSTRUCTION),
                "load": In(1),
                "step": In(1),
                "is_lhs": Out(1),
                "last_row_tile": Out(1),
                "lhs_entries": Out(16),
                "columns": Out(8),
                "done": Out(1, init=1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        instr = self.instruction
        m.submodules.groups = groups = Groups(self._dn)
        m.submodules.rows = rows = Rows()
        group_end = Signal()
        has_rows = Signal()
        m.d.sync += has_rows.eq(instr.opcode == OPCODE_MATRIX)
        for counter in (groups, rows):
            m.d.comb += [counter.instruction.eq(instr), counter.load.eq(self.load)]
        m.d.comb += [
            self.last_row_tile.eq(rows.last),
            self.lhs_entries.eq(rows.entries),
            self.columns.eq(groups.columns),
        ]
        rows_follow = Signal()  # after the columns of this group, row tiles 1.. are fetched
        m.d.comb += rows_follow.eq(has_rows & ~rows.last & (groups.first_group | ~instr.lhs_resident))

        with m.If(self.step):
            with m.If(~self.is_lhs):
                with m.If(groups.last & rows_follow):  # the counter stays at the last column tile meanwhile
                    m.d.sync += self.is_lhs.eq(1)
                    m.d.comb += rows.step.eq(1)
                with m.Elif(groups.last):
                    m.d.comb += group_end.eq(1)
                with m.Else():
                    m.d.comb += groups.step.eq(1)
            with m.Elif(rows.first):
                m.d.sync += self.is_lhs.eq(0)
            with m.Elif(~rows.last):
                m.d.comb += rows.step.eq(1)
            with m.Else():
                m.d.comb += group_end.eq(1)
        with m.If(group_end):
            m.d.comb += [rows.restart.eq(1), groups.step.eq(1), groups.next_group.eq(1)]
            m.d.sync += [self.is_lhs.eq(~instr.lhs_resident), self.done.eq(groups.last_group)]
        with m.If(self.load):
            m.d.sync += [self.is_lhs.eq(has_rows), self.done.eq(0)]
        return m


class TileOrder(Component):
    """Walks the output tiles in the order in which they are computed. Of a vector pass: the column tiles.

    Members
    -------
    load, step: as in `FetchOrder`.
    bits, entries: of the current row tile.
    first_group: weights that stay resident arrive during this group.
    first_row_tile, last_row_tile, first_in_group, last_in_group: position of the current output tile.
    columns: valid columns of the current output tile.
    last: the current output tile is the last one.

    Latency: the next tile stands on the outputs in the cycle after ``step`` or ``load``.
    Throughput: one tile per cycle.
    """

    def __init__(self, dn: int):
        self._dn = dn
        super().__init__(
            {
                "instruction": In(INSTRUCTION),
                "load": In(1),
                "step": In(1),
                "bits": Out(4),
                "entries": Out(16),
                "first_group": Out(1),
                "first_row_tile": Out(1),
                "last_row_tile": Out(1),
                "first_in_group": Out(1),
                "last_in_group": Out(1),
                "columns": Out(8),
                "last": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        instr = self.instruction
        m.submodules.groups = groups = Groups(self._dn)
        m.submodules.rows = rows = Rows()
        for counter in (groups, rows):
            m.d.comb += [counter.instruction.eq(instr), counter.load.eq(self.load)]
        has_rows = Signal()
        m.d.sync += has_rows.eq(instr.opcode == OPCODE_MATRIX)
        row_ends = self.step & groups.last
        m.d.comb += [
            groups.step.eq(self.step),
            groups.next_group.eq(self.last_row_tile),
            rows.step.eq(row_ends & ~self.last_row_tile),
            rows.restart.eq(row_ends & self.last_row_tile),
            self.bits.eq(rows.bits),
            self.entries.eq(rows.entries),
            self.first_group.eq(groups.first_group),
            self.first_row_tile.eq(rows.first),
            self.last_row_tile.eq(rows.last | ~has_rows),
            self.first_in_group.eq(groups.first),
            self.last_in_group.eq(groups.last),
            self.columns.eq(groups.columns),
            self.last.eq(self.last_row_tile & groups.last & groups.last_group),
        ]
        return m
