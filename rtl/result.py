"""Result: takes finished sums, requantizes them column by column, and writes them to memory."""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out, connect, flipped

from hardware.accelerator import Accelerator
from hardware.instruction import OPCODE_MATRIX
from hardware.timing import PENDING_JOBS, sums_latency
from rtl.countdown import Countdown
from rtl.datapath import NO_COLLISIONS, without_reset
from rtl.drain import JOB, Drain
from rtl.execute import PLACE
from rtl.interface import ACCUMULATOR_BITS, INSTRUCTION, WRITE_CHANNEL, columns_bits
from rtl.planes import PlaneAddress, PlaneBuffer
from rtl.requantize import ACTIVATION_STAGES, CONSTANTS, VALUE_STAGES, Requantize

TO_TOTALS = 3
"""Cycles from deciding on a column to its totals."""
VECTOR_BIAS = 1 << 15
"""One half, in units of 2**-16 of a value: vector operations only round."""


def _delayed(m, signal, cycles: int, name: str, reset_less: bool = False):
    for stage in range(cycles):
        later = Signal(signal.shape(), name=f"{name}_{stage}", reset_less=reset_less)
        m.d.sync += later.eq(signal)
        signal = later
    return signal


def _one_of(values, choices):
    """The value whose bit of ``choices`` is set, 0 if none is."""
    return reduce(or_, (Mux(choice, value, 0) for value, choice in zip(values, choices, strict=False)))


class Result(Component):
    """Registers for one tile's sums, the requantization pipeline, and the buffers that the `Drain` writes from.

    Members
    -------
    sums, column_sums, sums_valid: from the array; totals, totals_valid: from the vector unit. The registers must be
        free.
    place: where they belong; stable from their last step on.
    constants, lhs: constants are on the weight buffer's output ``lhs`` in this cycle.
    free: strobe, the next tile's last step may come: by the time of its sums all columns will have left the registers.
    request, word: see `rtl.interface.WRITE_CHANNEL`.
    busy: the instruction has words that have not left. writing: some tile has.

    Latency and throughput: one column per cycle leaves the registers; a tile that has something to write waits until
    at most one other is still to be written. See `hardware.timing`.
    """

    def __init__(self, accelerator: Accelerator):
        array = accelerator.array
        self._accelerator = accelerator
        super().__init__(
            {
                "instruction": In(INSTRUCTION),
                "start": In(1),
                "sums": In(data.ArrayLayout(signed(ACCUMULATOR_BITS), array.dm * array.dn)),
                "column_sums": In(data.ArrayLayout(signed(ACCUMULATOR_BITS), array.dn)),
                "sums_valid": In(1),
                "totals": In(data.ArrayLayout(signed(ACCUMULATOR_BITS), array.dm)),
                "totals_valid": In(1),
                "place": In(PLACE),
                "constants": In(1),
                "lhs": In(data.ArrayLayout(unsigned(array.dk), array.dm)),
                "request": WRITE_CHANNEL.members["request"],
                "word": WRITE_CHANNEL.members["word"],
                "free": Out(1),
                "busy": Out(1),
                "writing": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        instr, dm, dn = self.instruction, self._accelerator.array.dm, self._accelerator.array.dn
        # Constants of the instruction.
        vector, bipolar, write_sums, write_values, write_planes = (
            Signal(name=n) for n in ("vector", "bipolar", "write_sums", "write_values", "write_planes")
        )
        m.d.sync += [
            vector.eq(instr.opcode != OPCODE_MATRIX),
            bipolar.eq(instr.bipolar),
            write_sums.eq(instr.write_sums),
            write_values.eq(instr.write_values),
            write_planes.eq(instr.write_planes),
        ]

        # The registers. They keep still while their columns are chosen, one after another: in the cycle after the
        # decision `chooses` has the column's bit, behind those of the array's columns the one of a vector pass.
        registers, column_registers, vector_registers, chosen, of_column, totals = (
            Signal(layout, name=n, reset_less=True)
            for n, layout in (
                ("registers", data.ArrayLayout(ACCUMULATOR_BITS * dm, dn)),
                ("column_registers", data.ArrayLayout(ACCUMULATOR_BITS, dn)),
                ("vector_registers", ACCUMULATOR_BITS * dm),
                ("chosen", data.ArrayLayout(signed(ACCUMULATOR_BITS), dm)),
                ("of_column", signed(ACCUMULATOR_BITS)),
                ("totals", data.ArrayLayout(signed(ACCUMULATOR_BITS), dm)),
            )
        )
        following, chooses = Signal(dn + 1), Signal(dn + 1)
        m.d.sync += [
            chosen.eq(_one_of((*registers, vector_registers), chooses)),
            of_column.eq(_one_of(column_registers, chooses)),
            *(total.eq(Mux(bipolar, (own << 1) + of_column, own)) for total, own in zip(totals, chosen, strict=True)),
        ]
        full = Signal()
        begun = Signal()
        columns_left = Countdown("columns", columns_bits(self._accelerator))
        frees = Signal()
        place = Signal(PLACE)  # the execute stage already works on the next one
        in_flight = sums_latency(self._accelerator.array.dk, self._accelerator.kind)
        column = Signal()
        last_column = columns_left.last
        is_job = Signal()
        jobs = Signal(range(PENDING_JOBS + 1))
        next_jobs = Signal.like(jobs)
        room = Signal(init=1)
        m.d.comb += [column.eq(full & (begun | ~is_job | room)), self.free.eq(column & frees)]
        leaves = _delayed(m, column, TO_TOTALS, "leaves")
        m.d.sync += chooses.eq(following)
        with m.If(column):
            m.d.sync += [
                following.eq(following << 1),
                begun.eq(~last_column),
                *columns_left.step(),
                frees.eq(columns_left.left == in_flight + 2),
            ]
            with m.If(last_column):
                m.d.sync += full.eq(0)
        with m.If(self.sums_valid):
            m.d.sync += [registers.as_value().eq(Cat(self.sums)), column_registers.as_value().eq(Cat(self.column_sums))]
        with m.If(self.totals_valid):
            m.d.sync += vector_registers.eq(Cat(self.totals))
        with m.If(self.sums_valid | self.totals_valid):
            has_planes = write_planes & (self.place.plane_columns != 0)
            m.d.sync += [
                full.eq(1),
                following.eq(Mux(vector, 1 << dn, 1)),
                place.eq(self.place),
                *columns_left.begin(self.place.columns),
                frees.eq(self.place.columns <= in_flight + 1),
                is_job.eq(write_sums | write_values | has_planes),
            ]

        # Requantization.
        requantize = Requantize(dm)
        m.submodules.requantize = without_reset(m, "columns")(requantize)
        # The next row tile's constants may come while the last columns of this one are still being multiplied.
        constants, next_constants = (
            Signal(data.ArrayLayout(CONSTANTS, dm), name=n, reset_less=True) for n in ("constants", "next")
        )
        load_next = _delayed(m, self.sums_valid, TO_TOTALS - 1, "load_next")
        load_vector = _delayed(m, _delayed(m, self.start, 1, "start") & vector, 1, "load_vector")
        come = _delayed(m, self.constants, 1, "constants_come")
        of_vector = Signal(CONSTANTS)
        m.d.comb += [of_vector.multiplier.eq(instr.multiplier), of_vector.bias.eq(VECTOR_BIAS)]
        for row in range(dm):
            entry = _delayed(m, self.lhs[row][: CONSTANTS.size], 1, f"constants_{row}", reset_less=True)
            with m.If(come):
                m.d.sync += next_constants[row].as_value().eq(entry)
            with m.If(load_next):
                m.d.sync += constants[row].eq(next_constants[row])
            with m.If(load_vector):
                m.d.sync += constants[row].eq(of_vector)
        m.d.comb += [
            requantize.instruction.eq(instr),
            requantize.sums.eq(totals),
            requantize.constants.eq(constants),
        ]

        # Sums and values: a ring of columns.
        depth = 1 << (PENDING_JOBS * dn - 1).bit_length()
        m.submodules.columns = columns = Memory(
            shape=unsigned(dm * ACCUMULATOR_BITS), depth=depth, init=[], attrs=NO_COLLISIONS
        )
        write, read = columns.write_port(), columns.read_port()
        value_column = _delayed(m, leaves & write_values, VALUE_STAGES, "value_column")
        first = _delayed(m, column & ~begun, TO_TOTALS, "first_leaves")
        first_value = _delayed(m, first & write_values, VALUE_STAGES, "first_value")
        m.d.sync += [
            write.en.eq(value_column | (leaves & write_sums)),
            write.data.eq(Mux(write_sums, Cat(totals), Cat(requantize.values))),
        ]
        with m.If(write.en):
            m.d.sync += write.addr.eq(write.addr + 1)

        # Bit planes.
        m.submodules.address = address = PlaneAddress(self._accelerator)
        m.submodules.planes = planes = PlaneBuffer(self._accelerator)
        m.d.comb += [
            address.instruction.eq(instr),
            address.start.eq(self.start),
            address.column.eq(column),
            address.last_column.eq(last_column),
            address.vector.eq(vector),
            address.last_in_group.eq(place.last_in_group),
            address.last_row_tile.eq(place.last_row_tile),
            planes.instruction.eq(instr),
            planes.write.eq(_delayed(m, leaves & write_planes, ACTIVATION_STAGES, "plane_column")),
            planes.word.eq(_delayed(m, address.word, TO_TOTALS + ACTIVATION_STAGES, "plane_word")),
            planes.segment.eq(_delayed(m, address.segment, TO_TOTALS + ACTIVATION_STAGES, "plane_segment")),
            planes.activations.eq(requantize.activations),
        ]
        planes_done = column & last_column & write_planes & (place.plane_columns != 0)

        # Jobs for the drain.
        m.submodules.drain = drain = Drain(self._accelerator)
        job = Signal(JOB)
        m.d.comb += [
            job.columns.eq(place.columns),
            job.plane_columns.eq(Mux(write_planes, place.plane_columns, 0)),
            job.last_in_group.eq(place.last_in_group),
            job.last_row_tile.eq(place.last_row_tile),
            job.last.eq(place.last),
            drain.instruction.eq(instr),
            drain.start.eq(self.start),
            drain.job.eq(job),
            drain.job_valid.eq(column & ~begun & is_job),
            drain.columns_ready.eq(Mux(write_sums, first, first_value)),
            drain.planes_ready.eq(_delayed(m, planes_done, TO_TOTALS + ACTIVATION_STAGES, "planes_done")),
            read.en.eq(1),
            read.addr.eq(drain.read_column),
            planes.read_word.eq(drain.read_word),
            planes.plane.eq(drain.plane),
            planes.masked.eq(drain.masked),
            drain.plane_data.eq(planes.data),
        ]
        m.d.comb += next_jobs.eq(jobs + drain.job_valid - drain.job_done)
        m.d.sync += [jobs.eq(next_jobs), room.eq(next_jobs != PENDING_JOBS)]
        m.d.comb += drain.column.eq(_delayed(m, read.data, 2, "read_column"))
        m.d.comb += self.writing.eq((jobs != 0) | ~drain.empty)
        connect(m, flipped(self.request), drain.request)
        connect(m, flipped(self.word), drain.word)

        running = Signal()
        m.d.comb += self.busy.eq(running | ~drain.empty)
        with m.If(drain.job_done & drain.last):
            m.d.sync += running.eq(0)
        with m.If(self.start):
            m.d.sync += [running.eq(1), write.addr.eq(0)]
        return m
