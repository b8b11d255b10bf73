"""Result: takes the finished sums out of the array and writes them to memory."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out

from hardware.accelerator import Accelerator
from hardware.instruction import WORD_BITS
from rtl.array import ACCUMULATOR_BITS
from rtl.interface import ADDRESS_BITS, INSTRUCTION, WRITE_CHANNEL
from rtl.order import TileOrder


class Result(Component):
    """Copies an output tile into registers and drains them, two 32-bit sums per word, column by column.

    Results lie as [column][row], rows padded to ``dm``; columns beyond the layer's last are not written.

    Members
    -------
    sums, sums_valid: from the array. The registers must be free.
    free: strobe, the last word of a tile has been accepted.

    Latency: `hardware.timing.LAST_STEP_TO_RESULT` from a tile's last step to its first word.
    Throughput: one word per cycle, ``columns * dm / 2`` words per tile.
    """

    def __init__(self, accelerator: Accelerator):
        array = accelerator.array
        self._dm, self._dn = array.dm, array.dn
        super().__init__(
            {
                "instruction": In(INSTRUCTION),
                "start": In(1),
                "sums": In(data.ArrayLayout(ACCUMULATOR_BITS, array.dm * array.dn)),
                "sums_valid": In(1),
                "word": WRITE_CHANNEL.members["word"],
                "free": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        instr = self.instruction
        words = self._dm // 2  # per column
        m.submodules.order = order = TileOrder(self._dn)
        m.d.comb += [order.instruction.eq(instr), order.load.eq(self.start)]

        registers = Signal(self._dm * self._dn * ACCUMULATOR_BITS)
        draining = Signal()
        column, word = Signal(8), Signal(range(max(words, 2)))
        # Addresses: the group's first column, the current row tile in it, the current column, the current word.
        group, rows, address_of_column, address = (
            Signal(ADDRESS_BITS, name=n) for n in ("group_address", "rows_address", "column_address", "address")
        )
        next_column = Signal(ADDRESS_BITS)
        after_group = Signal(ADDRESS_BITS)  # where the next group starts, known once row tile 0 is through
        m.d.comb += [
            next_column.eq(address_of_column + instr.result_column_step),
            self.word.valid.eq(draining),
            self.word.payload.address.eq(address),
            self.word.payload.data.eq(registers[:WORD_BITS]),
        ]
        with m.If(self.sums_valid):
            m.d.sync += [registers.eq(Cat(self.sums)), draining.eq(1)]
        with m.If(draining & self.word.ready):
            m.d.sync += [registers.eq(registers >> WORD_BITS), word.eq(word + 1), address.eq(address + 1)]
            with m.If(word == words - 1):
                m.d.sync += [word.eq(0), column.eq(column + 1)]
                m.d.sync += [a.eq(next_column) for a in (address_of_column, address)]
                with m.If(column == order.columns - 1):
                    m.d.comb += [order.step.eq(1), self.free.eq(1)]
                    m.d.sync += [draining.eq(0), column.eq(0)]
                    with m.If(order.last_in_group):
                        with m.If(order.first_row_tile):
                            m.d.sync += after_group.eq(next_column)
                        with m.If(~order.last_row_tile):
                            m.d.sync += [a.eq(rows + words) for a in (rows, address_of_column, address)]
                        with m.Elif(order.first_row_tile):
                            m.d.sync += [a.eq(next_column) for a in (group, rows)]
                        with m.Else():
                            m.d.sync += [a.eq(after_group) for a in (group, rows, address_of_column, address)]
                        with m.If(order.last):
                            m.d.sync += self.busy.eq(0)
        with m.If(self.start):
            m.d.sync += [a.eq(instr.result_base) for a in (group, rows, address_of_column, address)]
            m.d.sync += self.busy.eq(1)
        return m
