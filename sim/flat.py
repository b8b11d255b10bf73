"""A component with plain vectors for ports, for tools that know no fields: synthesis alone, `sim.place`'s harness."""

from typing import Any

from amaranth.hdl import Module, Value
from amaranth.lib.wiring import Component, In


class Flat(Component):
    """A unit whose every member, however deep, is one port: the names on its path, joined by two underscores."""

    def __init__(self, unit: Component):
        self._unit, self._ports = unit, {}
        for path, member, value in unit.signature.flatten(unit):
            self._ports["__".join(map(str, path))] = (Value.cast(value), member.flow)
        super().__init__({name: flow(len(value)) for name, (value, flow) in self._ports.items()})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.unit = self._unit
        for name, (value, flow) in self._ports.items():
            port = getattr(self, name)
            m.d.comb += value.eq(port) if flow is In else port.eq(value)
        return m
