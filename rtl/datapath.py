"""A clock domain without reset, for units whose registers hold nothing but operands on their way."""

from amaranth.hdl import ClockDomain, ClockSignal, DomainRenamer, Module


def without_reset(m: Module, domain: str) -> DomainRenamer:
    """The way to add units to ``m`` that its reset does not reach; ``domain`` is theirs, found nowhere else.

    A reset for all registers of an array is a net that costs more than any other. What such a unit gets while its
    surroundings are in reset is not valid, so it has run empty after as many cycles as it has stages
    (`rtl.control.FLUSH_CYCLES`). In Amaranth's simulator a domain made like this ticks a delta cycle behind the other:
    signals must cross through a submodule's ports, as they do here.
    """
    m.domains += ClockDomain(domain, reset_less=True, local=True)
    m.d.comb += ClockSignal(domain).eq(ClockSignal())
    return DomainRenamer(domain)
