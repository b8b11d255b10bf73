"""A stream register without delay: it takes what its consumer does not, so that readiness need not be known at once."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream
from amaranth.lib.wiring import Component, In, Out


class Skid(Component):
    """Cuts the path from a consumer's ``ready`` to the producer.

    Latency: none. Throughput: one transfer per cycle.
    """

    def __init__(self, payload):
        self._payload = payload
        super().__init__({"input": In(stream.Signature(payload)), "output": Out(stream.Signature(payload))})

    def elaborate(self, platform):
        m = Module()
        held = Signal()
        payload = Signal(self._payload)
        m.d.comb += [
            self.input.ready.eq(~held),
            self.output.valid.eq(self.input.valid | held),
            self.output.payload.eq(Mux(held, payload, self.input.payload)),
        ]
        with m.If(~held):
            m.d.sync += payload.eq(self.input.payload)
        m.d.sync += held.eq(self.output.valid & ~self.output.ready)
        return m
