"""A processor's AXI3 master on the machine's registers: bursts with IDs become single AXI4-Lite accesses."""

from amaranth.hdl import Module, ResetSignal, Signal
from amaranth.lib.wiring import Component, In, Out, Signature

from rtl.axi import BYTE_ADDRESS_BITS
from rtl.registers import AXI_LITE

ID_BITS = 12
WORD_BYTES = 4
OKAY = 0b00

_ADDRESS = {"valid": 1, "addr": BYTE_ADDRESS_BITS, "len": 4, "id": ID_BITS}
PROCESSOR = Signature(
    {f"{channel}{name}": Out(width) for channel in ("ar", "aw") for name, width in _ADDRESS.items()}
    | {"wvalid": Out(1), "wdata": Out(32), "wstrb": Out(4), "wlast": Out(1), "rready": Out(1), "bready": Out(1)}
    | {"arready": In(1), "awready": In(1), "wready": In(1), "rvalid": In(1), "rdata": In(32), "rresp": In(2)}
    | {"rlast": In(1), "rid": In(ID_BITS), "bvalid": In(1), "bresp": In(2), "bid": In(ID_BITS)}
)
"""AXI3 with 32 data bits as the master sees it, as far as `LiteBridge` listens: bursts increment by whole words."""


class LiteBridge(Component):
    """See the module.

    Members
    -------
    processor: AXI3 slave. An answer carries the ID of its address; a burst of writes, any of its words' errors.
    registers: AXI4-Lite master. Of addresses it gets the lowest bits.

    Latency: a cycle to the address, none back. One read and one write burst at a time.
    """

    def __init__(self):
        super().__init__({"processor": In(PROCESSOR), "registers": Out(AXI_LITE)})

    def elaborate(self, platform):
        m = Module()
        self._read(m)
        self._write(m)
        return m

    def _read(self, m: Module) -> None:
        axi, lite = self.processor, self.registers
        busy, asked, left = Signal(), Signal(), Signal(4)
        address, answered = Signal(BYTE_ADDRESS_BITS), Signal()
        m.d.comb += [
            axi.arready.eq(~busy & ~ResetSignal()),  # what is taken in reset would never be answered
            lite.arvalid.eq(busy & ~asked),
            lite.araddr.eq(address),
            axi.rvalid.eq(asked & lite.rvalid),
            lite.rready.eq(asked & axi.rready),
            axi.rdata.eq(lite.rdata),
            axi.rresp.eq(lite.rresp),
            axi.rlast.eq(left == 0),
            answered.eq(axi.rvalid & axi.rready),
        ]
        with m.If(axi.arvalid & axi.arready):
            m.d.sync += [busy.eq(1), address.eq(axi.araddr), left.eq(axi.arlen), axi.rid.eq(axi.arid)]
        with m.If(lite.arvalid & lite.arready):
            m.d.sync += asked.eq(1)
        with m.If(answered):
            m.d.sync += [asked.eq(0), busy.eq(~axi.rlast), left.eq(left - 1), address.eq(address + WORD_BYTES)]

    def _write(self, m: Module) -> None:
        axi, lite = self.processor, self.registers
        address, last, response = Signal(BYTE_ADDRESS_BITS), Signal(), Signal(2)
        # The register file takes address and word in either order.
        sent = {name: Signal(name=f"{name}_sent") for name in ("aw", "w")}
        goes = {name: Signal(name=f"{name}_goes") for name in sent}
        m.d.comb += [
            lite.awaddr.eq(address),
            lite.wdata.eq(axi.wdata),
            lite.wstrb.eq(axi.wstrb),
            axi.bresp.eq(response),
        ]
        with m.FSM():
            with m.State("ADDRESS"):
                m.d.comb += axi.awready.eq(~ResetSignal())
                with m.If(axi.awvalid):
                    m.d.sync += [address.eq(axi.awaddr), axi.bid.eq(axi.awid), response.eq(OKAY)]
                    m.next = "WORD"
            with m.State("WORD"):
                for name in sent:
                    valid, ready = getattr(lite, f"{name}valid"), getattr(lite, f"{name}ready")
                    m.d.comb += [valid.eq(axi.wvalid & ~sent[name]), goes[name].eq(sent[name] | (valid & ready))]
                    m.d.sync += sent[name].eq(goes[name] & ~axi.wready)
                m.d.comb += axi.wready.eq(goes["aw"] & goes["w"])
                with m.If(axi.wready):
                    m.d.sync += last.eq(axi.wlast)
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += lite.bready.eq(1)
                with m.If(lite.bvalid):
                    m.d.sync += [response.eq(response | lite.bresp), address.eq(address + WORD_BYTES)]
                    m.next = "WORD"
                    with m.If(last):
                        m.next = "END"
            with m.State("END"):
                m.d.comb += axi.bvalid.eq(1)
                with m.If(axi.bready):
                    m.next = "ADDRESS"
