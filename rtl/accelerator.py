"""The whole machine: engine, AXI units of its memory ports, registers and control, with flat port names."""

from amaranth.hdl import Cat, ClockDomain, ClockSignal, DomainRenamer, Module, ResetSignal
from amaranth.lib.wiring import Component, Out, Signature, connect

from hardware.accelerator import Accelerator
from rtl.axi import PAGE_BYTES, AxiReader, AxiWriter, axi_read, axi_write
from rtl.control import COUNTERS, Control
from rtl.engine import Engine
from rtl.registers import AXI_LITE, RegisterFile


def _flat(prefix: str, signature: Signature) -> dict:
    return {f"{prefix}_{name}": member for name, member in signature.members.items()}


class Machine(Component):
    """What is built and what is simulated.

    Parameters
    ----------
    build_hash: 64 bits that the register of that name reads, see `rtl.verilog.rtl_hash`.

    Members
    -------
    s_axi_...: AXI4-Lite slave, the map of `hardware.registers`.
    m_axi_0_...: AXI3 master that reads and writes; m_axi_1_... and so on only read. See `rtl.axi`.
    interrupt: level, see `hardware.registers`.
    clk, rst: made by Amaranth. ``rst`` is synchronous and high; unless the FPGA has just been configured it must last
        `rtl.control.FLUSH_CYCLES`, as AXI resets do.

    Latency: `hardware.timing` and `hardware.cycles`.
    """

    def __init__(self, accelerator: Accelerator, build_hash: int = 0):
        self._accelerator, self._build_hash = accelerator, build_hash
        self._reads = range(accelerator.memory.ports)
        ports = _flat("m_axi_0", axi_read()) | _flat("m_axi_0", axi_write())
        for port in self._reads[1:]:
            ports |= _flat(f"m_axi_{port}", axi_read())
        super().__init__(_flat("s_axi", AXI_LITE.flip()) | ports | {"interrupt": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.registers = registers = RegisterFile()
        m.submodules.control = control = Control()
        engine = Engine(self._accelerator)
        m.submodules.engine = DomainRenamer("engine")(engine)
        # Its reset is a register and nothing else: thousands of registers hang on it.
        m.domains.engine = ClockDomain(local=True)
        m.d.comb += [ClockSignal("engine").eq(ClockSignal()), ResetSignal("engine").eq(control.engine_reset)]
        units = []
        for port in self._reads:
            reader = m.submodules[f"reader_{port}"] = AxiReader()
            channel = getattr(engine, f"read_{port}")
            connect(m, channel.request, reader.request)
            connect(m, reader.word, channel.word)
            units.append((reader, f"m_axi_{port}"))
        m.submodules.writer = writer = AxiWriter()
        connect(m, engine.write.request, writer.request)
        connect(m, engine.write.word, writer.word)
        units.append((writer, "m_axi_0"))
        self._pins(m, registers.axi, "s_axi")
        for unit, prefix in units:
            self._pins(m, unit.axi, prefix)
            m.d.comb += [
                unit.base.eq(registers.memory_base * PAGE_BYTES),
                unit.limit.eq(registers.memory_words),
                unit.halt.eq(control.halt),
            ]
        m.d.comb += [
            engine.write.idle.eq(writer.idle),
            engine.start.eq(control.engine_start),
            engine.program.eq(registers.program),
            control.engine_busy.eq(engine.busy),
            control.engine_error.eq(engine.error),
            control.instruction.eq(engine.index),
            self.interrupt.eq(registers.interrupt),
        ]
        self._registers(m, registers, control)
        self._watch(m, control, engine, [unit for unit, _ in units])
        return m

    def _pins(self, m, inner, prefix: str) -> None:
        """Connect a unit's bus with the flat ports."""
        for name, member in inner.signature.members.items():
            pin = getattr(self, f"{prefix}_{name}")
            m.d.comb += pin.eq(getattr(inner, name)) if member.flow is Out else getattr(inner, name).eq(pin)

    def _registers(self, m, registers, control) -> None:
        m.d.comb += [
            registers.build_hash.eq(self._build_hash),
            control.start.eq(registers.control_start),
            control.soft_reset.eq(registers.control_soft_reset),
            control.watchdog.eq(registers.watchdog),
            registers.status_busy.eq(control.busy),
            registers.status_resetting.eq(control.resetting),
            registers.status_done_set.eq(control.done_set),
            registers.status_error_set.eq(control.error_set),
            registers.error_code.eq(control.error_code),
            registers.error_address.eq(control.error_address),
            registers.error_instruction.eq(control.error_instruction),
            *(getattr(registers, name).eq(getattr(control, f"total_{name}")) for name in COUNTERS),
        ]

    def _watch(self, m, control, engine, units) -> None:
        """Errors, progress and activity of all units to control, a cycle later: they come from far away."""
        m.d.sync += control.bus_error.eq(Cat(unit.error for unit in units).any())
        for unit in reversed(units):  # the first one wins
            with m.If(unit.error):
                m.d.sync += [
                    control.bus_error_code.eq(unit.error_code),
                    control.bus_error_address.eq(unit.error_address),
                ]
        *readers, writer = units
        transfers = [writer.axi.awvalid & writer.axi.awready, writer.axi.wvalid & writer.axi.wready, writer.axi.bvalid]
        waits = []
        for reader in readers:
            transfers += [reader.axi.arvalid & reader.axi.arready, reader.axi.rvalid]
            waits.append(~reader.idle & ~reader.axi.rvalid)
        activity = engine.activity
        m.d.sync += [
            control.bus_idle.eq(Cat(unit.idle for unit in units).all()),
            control.progress.eq(Cat(transfers, activity.array_step, activity.vector_step).any()),
            control.count.eq(
                Cat(
                    activity.fetch_busy,
                    activity.execute_busy,
                    activity.array_step,
                    activity.result_busy,
                    Cat(waits).any(),
                    writer.axi.wvalid & ~writer.axi.wready,
                )
            ),
        ]
