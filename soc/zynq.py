"""The logic of a Zynq-7000 for tools that know no block designs: processing system, machine, nothing else."""

from amaranth.hdl import Cat, ClockDomain, ClockSignal, Const, Instance, Module, ResetSignal, Shape, Signal
from amaranth.lib.wiring import Component, In, Out

from hardware.accelerator import Accelerator
from rtl.accelerator import Machine
from rtl.axi import axi_read, axi_write
from soc.lite import PROCESSOR, LiteBridge
from soc.system import held_reset, join

PORTS = 4
"""High-performance ports to memory: HP0 is the machine's port 0, and so on."""
INTERRUPTS = 20
_SMALLER = {"size": 2}
"""Signals that have fewer bits there than AXI gives them."""
_IDLE = {"ID": 6, "LOCK": 2, "QOS": 4}
"""Signals of a high-performance port's addresses that the machine does not have."""


class ZynqSystem(Component):
    """Top module. It has no pins: the processing system's are where they are.

    The machine's registers fill the port GP0, from 0x40000000; it has FCLK 0, reset 0 and interrupt 0.

    Sources: Yosys' declaration of PS7; Xilinx UG585, chapters on interconnect, clocks and interrupts.
    """

    def __init__(self, accelerator: Accelerator, build_hash: int):
        self._machine = Machine(accelerator, build_hash)
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        clocks, resets, clock = Signal(4), Signal(4), Signal()
        m.submodules.buffer = Instance("BUFG", i_I=clocks[0], o_O=clock)
        m.domains.sync = ClockDomain(local=True)
        m.d.comb += [ClockSignal().eq(clock), ResetSignal().eq(held_reset(m, clock, resets[0]))]
        m.submodules.machine = machine = self._machine
        m.submodules.lite = lite = LiteBridge()
        join(m, machine, "s_axi", lite.registers)
        system = {"o_FCLKCLK": clocks, "o_FCLKRESETN": resets, "i_MAXIGP0ACLK": clock, "i_DDRARB": Const(0, 4)}
        system["i_IRQF2P"] = Cat(machine.interrupt, Const(0, INTERRUPTS - 1))
        for name, member in PROCESSOR.members.items():
            system[f"{_way(member.flow is Out)}_MAXIGP0{name.upper()}"] = getattr(lite.processor, name)
        for port in range(PORTS):
            system |= self._memory_port(f"m_axi_{port}_", f"SAXIHP{port}", clock)
        m.submodules.processor = Instance("PS7", **system)
        return m

    def _memory_port(self, prefix: str, port: str, clock: Signal) -> dict:
        """A high-performance port's connections: the machine's port, if it has that one, and else nothing."""
        machine = self._machine.signature.members
        if f"{prefix}arvalid" not in machine:
            return {}
        found = {f"i_{port}ACLK": clock, f"i_{port}RDISSUECAP1EN": Const(0), f"i_{port}WRISSUECAP1EN": Const(0)}
        for channel in ("AR", "AW"):
            found |= {f"i_{port}{channel}{name}": Const(0, bits) for name, bits in _IDLE.items()}
        found[f"i_{port}WID"] = Const(0, _IDLE["ID"])
        for name, member in (*axi_read().members.items(), *axi_write().members.items()):
            width = _SMALLER.get(name[2:], Shape.cast(member.shape).width)
            if f"{prefix}{name}" in machine:
                found[f"{_way(member.flow is In)}_{port}{name.upper()}"] = getattr(self._machine, prefix + name)[:width]
            elif member.flow is Out:  # of a port that only reads
                found[f"i_{port}{name.upper()}"] = Const(0, width)
        return found


def _way(out: bool) -> str:
    """How an `Instance` names an output or an input."""
    return "o" if out else "i"
