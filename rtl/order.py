"""The schedule's loop nest as gateware: which tile comes next."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out

from rtl.interface import INSTRUCTION

TILE_BITS = 24


def _group_size(instruction, tiles_left: Signal):
    """Column tiles of the group that starts with ``tiles_left`` still to do."""
    return Mux(tiles_left < instruction.group_tiles, tiles_left[:16], instruction.group_tiles)


class FetchOrder(Component):
    """Walks the tiles in the order in which they are fetched.

    Members
    -------
    load: a new instruction is on ``instruction``; it must stay there until ``done``.
    step: go to the next tile (the current one is taken).
    is_lhs: the current tile is a row tile; otherwise a column tile.
    last_row_tile: the current row tile is the last one.
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
                "columns": Out(8),
                "done": Out(1, init=1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        instr = self.instruction
        tiles_left = Signal(TILE_BITS)  # column tiles from the start of this group
        first_group = Signal()
        row, column = Signal(16), Signal(16)
        in_columns = Signal()
        group_end = Signal()

        size = Signal(16)
        m.d.comb += [
            size.eq(_group_size(instr, tiles_left)),
            self.is_lhs.eq(~in_columns),
            self.last_row_tile.eq(row == instr.row_tiles - 1),
            self.columns.eq(Mux(tiles_left == column + 1, instr.last_columns, self._dn)),
        ]
        rows_follow = Signal()  # after the columns of this group, row tiles 1.. are fetched
        m.d.comb += rows_follow.eq((instr.row_tiles != 1) & (first_group | ~instr.lhs_resident))

        with m.If(self.step):
            with m.If(in_columns):
                with m.If(column != size - 1):
                    m.d.sync += column.eq(column + 1)
                with m.Elif(rows_follow):
                    m.d.sync += [in_columns.eq(0), row.eq(1)]
                with m.Else():
                    m.d.comb += group_end.eq(1)
            with m.Elif(row == 0):
                m.d.sync += in_columns.eq(1)
            with m.Elif(~self.last_row_tile):
                m.d.sync += row.eq(row + 1)
            with m.Else():
                m.d.comb += group_end.eq(1)
        with m.If(group_end):
            m.d.sync += [
                tiles_left.eq(tiles_left - size),
                first_group.eq(0),
                row.eq(0),
                column.eq(0),
                in_columns.eq(instr.lhs_resident),
                self.done.eq(tiles_left == size),
            ]
        with m.If(self.load):
            m.d.sync += [
                tiles_left.eq(instr.column_tiles),
                first_group.eq(1),
                row.eq(0),
                column.eq(0),
                in_columns.eq(0),
                self.done.eq(0),
            ]
        return m


class TileOrder(Component):
    """Walks the output tiles in the order in which they are computed and written.

    Members
    -------
    load, step: as in `FetchOrder`.
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
        tiles_left = Signal(TILE_BITS)
        row, column, size = Signal(16), Signal(16), Signal(16)
        m.d.comb += [
            size.eq(_group_size(instr, tiles_left)),
            self.first_row_tile.eq(row == 0),
            self.last_row_tile.eq(row == instr.row_tiles - 1),
            self.first_in_group.eq(column == 0),
            self.last_in_group.eq(column == size - 1),
            self.columns.eq(Mux(tiles_left == column + 1, instr.last_columns, self._dn)),
            self.last.eq(self.last_row_tile & self.last_in_group & (tiles_left == size)),
        ]
        with m.If(self.step):
            m.d.sync += column.eq(column + 1)
            with m.If(self.last_in_group):
                m.d.sync += [column.eq(0), row.eq(row + 1)]
                with m.If(self.last_row_tile):
                    m.d.sync += [row.eq(0), tiles_left.eq(tiles_left - size), self.first_group.eq(0)]
        with m.If(self.load):
            m.d.sync += [tiles_left.eq(instr.column_tiles), row.eq(0), column.eq(0), self.first_group.eq(1)]
        return m
