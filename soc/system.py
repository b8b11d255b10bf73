"""The whole FPGA: machine, memory, serial line, and on an ECP5 the clock that drives them."""

from amaranth.hdl import Cat, ClockDomain, ClockSignal, Module, ResetSignal, Signal
from amaranth.lib.wiring import Component, In, Out, connect

from hardware.accelerator import Accelerator
from rtl.accelerator import Machine
from soc.bridge import Bridge
from soc.memory import OnChipMemory
from soc.pll import Pll
from soc.uart import UartReceiver, UartTransmitter, bit_cycles

RESET_CYCLES = 32
"""Longer than the machine needs, see `rtl.accelerator.Machine`."""


def held_reset(m: Module, clock: Signal, ready: Signal) -> Signal:
    """A reset, high until `RESET_CYCLES` after ``ready``, which needs no clock; the module gets a domain `started`."""
    m.domains.started = ClockDomain(local=True, reset_less=True)
    steady = Signal(2)
    waited = Signal(range(RESET_CYCLES + 1))
    reset = Signal(init=1)
    m.d.started += [steady.eq(Cat(ready, steady)), reset.eq(waited != RESET_CYCLES)]
    with m.If(~steady[-1]):
        m.d.started += waited.eq(0)
    with m.Elif(waited != RESET_CYCLES):
        m.d.started += waited.eq(waited + 1)
    m.d.comb += ClockSignal("started").eq(clock)
    return reset


def join(m: Module, machine: Machine, prefix: str, bus) -> None:
    """The machine's flat pins and a bus."""
    for name in bus.signature.members:
        flat, other = f"{prefix}_{name}", getattr(bus, name)
        pin = getattr(machine, flat)
        m.d.comb += other.eq(pin) if machine.signature.members[flat].flow is Out else pin.eq(other)


class System(Component):
    """Machine, memory and serial line on one clock.

    Parameters
    ----------
    words: of memory, see `soc.memory.OnChipMemory`.
    baud: of the line.

    Members
    -------
    rx, tx: the serial line, from the host and to it; see `soc.bridge`.
    """

    def __init__(self, accelerator: Accelerator, build_hash: int, words: int, baud: int):
        self._accelerator, self._build_hash, self._words = accelerator, build_hash, words
        self._cycles = bit_cycles(accelerator.clock_mhz, baud)
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.machine = machine = Machine(self._accelerator, self._build_hash)
        m.submodules.memory = memory = OnChipMemory(self._words)
        m.submodules.receiver = receiver = UartReceiver(self._cycles)
        m.submodules.transmitter = transmitter = UartTransmitter(self._cycles)
        m.submodules.bridge = bridge = Bridge()
        for slave in (memory.read, memory.write):
            join(m, machine, "m_axi_0", slave)
        join(m, machine, "s_axi", bridge.registers)
        connect(m, receiver.byte, bridge.received)
        connect(m, bridge.send, transmitter.byte)
        connect(m, bridge.memory, memory.side)
        m.d.comb += [
            receiver.line.eq(self.rx),
            self.tx.eq(transmitter.line),
            bridge.overrun.eq(receiver.overrun),
        ]
        return m


class Ecp5System(Component):
    """`System` behind the pins of a board, whose oscillator's clock a PLL multiplies; top module of a bitstream.

    Members
    -------
    clock, rx, tx: pins.
    high: pins that the board wants driven high.
    """

    def __init__(self, system: System, oscillator_mhz: float, clock_mhz: float, high: int):
        self._system, self._mhz = system, (oscillator_mhz, clock_mhz)
        self._pll = Pll.find(*self._mhz)
        pins = {"clock": In(1), "rx": In(1, init=1), "tx": Out(1, init=1)}
        super().__init__(pins | ({"high": Out(high)} if high else {}))

    def elaborate(self, platform):
        m = Module()
        clock, locked = Signal(), Signal()
        m.submodules.pll = self._pll.instance(self.clock, clock, locked, self._mhz)
        m.domains.sync = ClockDomain(local=True)
        reset = held_reset(m, clock, locked)
        m.submodules.system = self._system
        m.d.comb += [
            ClockSignal("sync").eq(clock),
            ResetSignal("sync").eq(reset),
            self._system.rx.eq(self.rx),
            self.tx.eq(self._system.tx),
        ]
        if "high" in self.signature.members:
            m.d.comb += self.high.eq(-1)
        return m
