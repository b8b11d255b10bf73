"""Counts rounds, and knows the last one without a comparison."""

from amaranth.hdl import Mux, Signal


class Countdown:
    """``last`` is a register: it announces the last round when it begins, so that no decision waits for a comparison.

    `begin` and `step` return the statements of a cycle in which the first or the next round begins.
    """

    def __init__(self, name: str, bits: int):
        self.left = Signal(bits, name=f"{name}_left")
        self.last = Signal(name=f"{name}_last")

    def begin(self, rounds) -> list:
        """So many rounds from now on, at least one."""
        return [self.left.eq(rounds), self.last.eq(rounds == 1)]

    def step(self) -> list:
        """The next round; not after the last."""
        return [self.left.eq(self.left - 1), self.last.eq(self.left == 2)]

    def last_after_step(self, one):
        """What ``last`` becomes with the next round, if after the last one begin as many rounds again; ``one``: one."""
        return Mux(self.last, one, self.left == 2)
