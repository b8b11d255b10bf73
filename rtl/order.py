"""The schedule's loop nest as gateware: which tile comes next.

Counters count down to their last round, which a register announces a round ahead, so that no decision waits for a
comparison. What a step does is decided in registers before it comes, so steps are two cycles apart at least, and so is
the first one from the load.
"""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out

from hardware.accelerator import Accelerator
from hardware.instruction import OPCODE_MATRIX, SEGMENTS
from rtl.interface import INSTRUCTION, columns_bits, entries_bits

GROUP_BITS = 24


class RowWidths(Component):
    """Width and entries of the current row tile.

    Members
    -------
    load: a new instruction is on ``instruction``; back to row tile 0. ``restart`` is the same.
    step: go to the next row tile.

    Latency: the next row tile's figures stand on the outputs in the cycle after ``load``, ``step`` or ``restart``.
    Throughput: one row tile every two cycles.
    """

    def __init__(self, accelerator: Accelerator):
        super().__init__(
            {
                "instruction": In(INSTRUCTION),
                "load": In(1),
                "step": In(1),
                "restart": In(1),
                "bits": Out(4),
                "entries": Out(entries_bits(accelerator)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        following = Signal(range(SEGMENTS + 1), init=1)  # the segment behind the current one
        left = Signal(16)
        last = Signal()
        now = (self.bits, self.entries, left, last)
        table = Array(
            Cat(
                self.instruction[f"segment_{i}_{what}"][: len(register)]
                for what, register in zip(("bits", "entries", "tiles", "single"), now, strict=True)
            )
            for i in range(SEGMENTS)
        )
        now = Cat(now)
        ahead = Signal(len(now))  # the following segment's, so that no step waits for the table
        m.d.sync += ahead.eq(table[following])
        with m.If(self.step):
            with m.If(~last):
                m.d.sync += [left.eq(left - 1), last.eq(left == 2)]
            with m.Else():
                m.d.sync += [following.eq(following + 1), now.eq(ahead)]
        with m.If(self.load | self.restart):
            m.d.sync += [following.eq(1), now.eq(table[0])]
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

    def __init__(self, accelerator: Accelerator):
        self._accelerator = accelerator
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
                "columns": Out(columns_bits(accelerator)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        instr = self.instruction
        groups_left = Signal(GROUP_BITS)
        next_is_last = Signal()
        # of the current group; its tiles left
        size = Signal(range(self._accelerator.buffers.rhs_entries + 1))
        single = Signal()
        left = Signal.like(size)
        columns = self._accelerator.array.dn
        m.d.comb += self.columns.eq(Mux(self.last_group & self.last, instr.last_columns, columns))

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

    def __init__(self, accelerator: Accelerator):
        self._accelerator = accelerator
        super().__init__(
            {
                "instruction": In(INSTRUCTION),
                "load": In(1),
                "step": In(1),
                "restart": In(1),
                "first": Out(1),
                "last": Out(1),
                "bits": Out(4),
                "entries": Out(entries_bits(accelerator)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        instr = self.instruction
        m.submodules.widths = widths = RowWidths(self._accelerator)
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
    Throughput: one tile every two cycles.
    """

    def __init__(self, accelerator: Accelerator):
        self._accelerator = accelerator
        super().__init__(
            {
                "instruction": In(INSTRUCTION),
                "load": In(1),
                "step": In(1),
                "is_lhs": Out(1),
                "last_row_tile": Out(1),
                "lhs_entries": Out(entries_bits(accelerator)),
                "columns": Out(columns_bits(accelerator)),
                "done": Out(1, init=1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        instr = self.instruction
        m.submodules.groups = groups = Groups(self._accelerator)
        m.submodules.rows = rows = Rows(self._accelerator)
        has_rows = Signal()
        resident = Signal()
        m.d.sync += [has_rows.eq(instr.opcode == OPCODE_MATRIX), resident.eq(instr.lhs_resident)]
        for counter in (groups, rows):
            m.d.comb += [counter.instruction.eq(instr), counter.load.eq(self.load)]
        m.d.comb += [
            self.last_row_tile.eq(rows.last),
            self.lhs_entries.eq(rows.entries),
            self.columns.eq(groups.columns),
        ]
        # What the next step does. Behind row tile 0 come the columns of its group, then row tiles 1.. where they are
        # fetched at all; the column counter stays at the last column tile meanwhile.
        rows_follow = has_rows & ~rows.last & (groups.first_group | ~resident)
        group_ends, row_follows, column_follows, lhs_follows = (
            Signal(name=n) for n in ("group_ends", "row_follows", "column_follows", "lhs_follows")
        )
        m.d.sync += [
            group_ends.eq(Mux(self.is_lhs, ~rows.first & rows.last, groups.last & ~rows_follow)),
            row_follows.eq(Mux(self.is_lhs, ~rows.first & ~rows.last, groups.last & rows_follow)),
            column_follows.eq(~self.is_lhs & ~groups.last),
            lhs_follows.eq(
                Mux(self.is_lhs, ~rows.first & ~(rows.last & resident), groups.last & (rows_follow | ~resident))
            ),
        ]
        m.d.comb += [
            rows.step.eq(self.step & row_follows),
            rows.restart.eq(self.step & group_ends),
            groups.step.eq(self.step & (column_follows | group_ends)),
            groups.next_group.eq(group_ends),
        ]
        with m.If(self.step):
            m.d.sync += [self.is_lhs.eq(lhs_follows), self.done.eq(group_ends & groups.last_group)]
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
    Throughput: one tile every two cycles.
    """

    def __init__(self, accelerator: Accelerator):
        self._accelerator = accelerator
        super().__init__(
            {
                "instruction": In(INSTRUCTION),
                "load": In(1),
                "step": In(1),
                "bits": Out(4),
                "entries": Out(entries_bits(accelerator)),
                "first_group": Out(1),
                "first_row_tile": Out(1),
                "last_row_tile": Out(1),
                "first_in_group": Out(1),
                "last_in_group": Out(1),
                "columns": Out(columns_bits(accelerator)),
                "last": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        instr = self.instruction
        m.submodules.groups = groups = Groups(self._accelerator)
        m.submodules.rows = rows = Rows(self._accelerator)
        for counter in (groups, rows):
            m.d.comb += [counter.instruction.eq(instr), counter.load.eq(self.load)]
        has_rows = Signal()
        m.d.sync += has_rows.eq(instr.opcode == OPCODE_MATRIX)
        # What the next step does besides going to the next column tile.
        row_follows = Signal()
        restarts = Signal()
        m.d.sync += [
            row_follows.eq(groups.last & ~self.last_row_tile),
            restarts.eq(groups.last & self.last_row_tile),
        ]
        m.d.comb += [
            groups.step.eq(self.step),
            groups.next_group.eq(restarts),
            rows.step.eq(self.step & row_follows),
            rows.restart.eq(self.step & restarts),
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
