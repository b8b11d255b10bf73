"""The machine's registers on AXI4-Lite, built from the one description in `hardware.registers`."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib.wiring import Component, In, Out, Signature

from hardware.registers import ADDRESS_BITS, INTERRUPT_ENABLE, REGISTER_BITS, REGISTERS, Access

OKAY, SLVERR = 0b00, 0b10

AXI_LITE = Signature(
    {
        "awvalid": Out(1),
        "awready": In(1),
        "awaddr": Out(ADDRESS_BITS),
        "awprot": Out(3),
        "wvalid": Out(1),
        "wready": In(1),
        "wdata": Out(REGISTER_BITS),
        "wstrb": Out(REGISTER_BITS // 8),
        "bvalid": In(1),
        "bready": Out(1),
        "bresp": In(2),
        "arvalid": Out(1),
        "arready": In(1),
        "araddr": Out(ADDRESS_BITS),
        "arprot": Out(3),
        "rvalid": In(1),
        "rready": Out(1),
        "rdata": In(REGISTER_BITS),
        "rresp": In(2),
    }
)
"""AXI4-Lite as the master sees it, 32 data bits."""


class RegisterFile(Component):
    """`hardware.registers.REGISTERS` as an AXI4-Lite slave.

    Address and data of a write may come in any order. A read of an offset without a register, a write to one, and a
    write to a register with nothing to write get SLVERR; protection bits and the two lowest address bits are ignored.
    Reading the low half of a wide register keeps the high half for the next read of any high half.

    Members
    -------
    axi: the slave's pins.
    interrupt: level, some event is set and the enable bit too.
    For every field, named by `Register.port`: an input (READ) or an output (READ_WRITE: the value; STROBE: the strobe,
    with the response; EVENT: the bit). For EVENT also an input ``..._set``; it wins over a clear.

    Latency: read data two cycles after the address, write response two cycles after the later of address and data.
    Throughput: a read every three cycles, a write every two.
    """

    def __init__(self):
        members = {"axi": In(AXI_LITE), "interrupt": Out(1)}
        for register in REGISTERS:
            for field in register.fields:
                name = register.port(field)
                match field.access:
                    case Access.READ:
                        members[name] = In(field.bits)
                    case Access.READ_WRITE:
                        members[name] = Out(field.bits, init=field.reset)
                    case Access.STROBE:
                        members[name] = Out(field.bits)
                    case Access.EVENT:
                        members[name], members[f"{name}_set"] = Out(field.bits), In(field.bits)
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        self._write(m)
        self._read(m)
        events = [getattr(self, r.port(f)) for r in REGISTERS for f in r.fields if f.access is Access.EVENT]
        m.d.comb += self.interrupt.eq(Cat(events).any() & getattr(self, INTERRUPT_ENABLE))
        return m

    def _write(self, m: Module) -> None:
        axi = self.axi
        has_address = Signal()
        address = Signal(ADDRESS_BITS)
        has_data = Signal()
        data = Signal(REGISTER_BITS)
        strobes = Signal(REGISTER_BITS // 8)
        commit = Signal()
        m.d.comb += [
            axi.awready.eq(~has_address),
            axi.wready.eq(~has_data),
            commit.eq(has_address & has_data & ~axi.bvalid),
        ]
        with m.If(axi.awvalid & axi.awready):
            m.d.sync += [has_address.eq(1), address.eq(axi.awaddr)]
        with m.If(axi.wvalid & axi.wready):
            m.d.sync += [has_data.eq(1), data.eq(axi.wdata), strobes.eq(axi.wstrb)]
        with m.If(axi.bready):
            m.d.sync += axi.bvalid.eq(0)
        with m.If(commit):
            m.d.sync += [has_address.eq(0), has_data.eq(0), axi.bvalid.eq(1), axi.bresp.eq(SLVERR)]

        mask = Cat(strobe.replicate(8) for strobe in strobes)
        for register in REGISTERS:
            selected = Signal(name=f"write_{register.name}")
            m.d.comb += selected.eq(commit & (address[2:] == register.offset // 4))
            if register.writable:
                with m.If(selected):
                    m.d.sync += axi.bresp.eq(OKAY)
            for field in register.fields:
                bits = slice(field.low, field.low + field.bits)
                name, enable = register.port(field), Mux(selected, mask[bits], 0)
                ones = data[bits] & enable
                match field.access:
                    case Access.READ_WRITE:
                        m.d.sync += getattr(self, name).eq((getattr(self, name) & ~enable) | ones)
                    case Access.STROBE:
                        m.d.sync += getattr(self, name).eq(ones)
                    case Access.EVENT:
                        event = getattr(self, name)
                        m.d.sync += event.eq((event & ~ones) | getattr(self, f"{name}_set"))

    def _values(self, m: Module) -> list:
        """Every register and what it reads, all its places."""
        values = []
        for register in REGISTERS:
            value = Signal(register.places * REGISTER_BITS, name=f"read_{register.name}")
            for field in register.fields:
                match field.access:
                    case Access.CONSTANT:
                        read = field.reset
                    case Access.STROBE:
                        read = 0
                    case Access.INTERRUPT:
                        read = self.interrupt
                    case _:
                        read = getattr(self, register.port(field))
                m.d.comb += value[field.low : field.low + field.bits].eq(read)
            values.append((register, value))
        return values

    def _read(self, m: Module) -> None:
        axi, high, values = self.axi, Signal(REGISTER_BITS), self._values(m)
        has_address = Signal(name="read_has_address")
        address = Signal(ADDRESS_BITS, name="read_address")
        m.d.comb += axi.arready.eq(~(axi.rvalid | has_address))
        m.d.sync += [has_address.eq(axi.arvalid & axi.arready), address.eq(axi.araddr)]
        with m.If(axi.rready):
            m.d.sync += axi.rvalid.eq(0)
        with m.If(has_address):
            m.d.sync += [axi.rvalid.eq(1), axi.rdata.eq(0), axi.rresp.eq(SLVERR)]
            with m.Switch(address[2:]):
                for register, value in values:
                    with m.Case(register.offset // 4):
                        m.d.sync += [axi.rdata.eq(value), axi.rresp.eq(OKAY)]
                        if register.places > 1:
                            m.d.sync += high.eq(value[REGISTER_BITS:])
                    if register.places > 1:
                        with m.Case(register.offset // 4 + 1):
                            m.d.sync += [axi.rdata.eq(high), axi.rresp.eq(OKAY)]
