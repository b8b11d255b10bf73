"""What paths of operands are made of: registers without reset, memories without an order of reads and writes, settings
that travel."""

from amaranth.hdl import ClockDomain, ClockSignal, DomainRenamer, Module, Signal, Value

NO_COLLISIONS = {"no_rw_check": 1}
"""Attribute of a memory in which no word is used that is read while it is written. Without it Yosys builds the old word
for block RAMs that give neither: a comparison, a copy of what is written, and a multiplexer behind the RAM."""


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


SETTLING = 8
"""Cycles after which settings have reached everyone, see `at_hand`."""


def at_hand(m: Module, setting: Value, users: int, name: str) -> list[Signal]:
    """A setting for many users, in registers beside them: each passes it on to the next one.

    All have it `SETTLING` cycles after it has changed, so more users than that share.
    """
    copies: list[Signal] = []
    for copy in range(min(users, SETTLING)):
        register = Signal(setting.shape(), name=f"{name}_{copy}")
        m.d.sync += register.eq(copies[-1] if copies else setting)
        copies.append(register)
    return [copies[user % SETTLING] for user in range(users)]
