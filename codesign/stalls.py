"""The cycle model behind a memory that hesitates at random: expected cycles from the statistics of its stalls.

In `sim/dram.sv` a channel that stalls with probability p in each cycle lets whatever comes wait p / (1 - p) cycles on
average, its *hesitation*. With all channels alike, at one cycle per word:

- a word takes 1 + hesitation cycles of its channel. Bursts' addresses cost nothing more: while the words of one burst
  still come, the next address is accepted;
- a read that finds the channel idle waits for the address and for the first word: the latency grows by twice that;
- an instruction ends after its last word and that word's response have waited, once per instruction.

The model counts whole cycles, so it is run at the two neighbours of each of these means and interpolated linearly.
Two errors of opposite sign remain, and `codesign calibrate --stalls` measures what is left of them. Cycles are the
longest of many sums, so a chord lies above them where the bottleneck changes between the neighbours; and the mean of
the longest is more than the longest of the means.
"""

from hardware.accelerator import Memory
from hardware.cycles import layer_cycles
from hardware.errors import InputError
from hardware.schedule import Schedule
from sim.job import Stalls

LARGEST = 0.9
"""Highest probability of a stall: a word takes ten cycles."""


def uniform_stalls(probability: float, seed: int) -> Stalls:
    """All channels stall with one probability, in 1/256.

    Raises
    ------
    InputError
        It rounds to 0, or is above `LARGEST`.
    """
    rounded = round(256 * probability) if 0 <= probability <= LARGEST else 0
    if not rounded:
        raise InputError(f"expected a probability of stalls of 0.002 to {LARGEST}, got {probability}: change --stalls.")
    return Stalls(rounded, rounded, rounded, rounded, rounded, seed=seed)


def hesitation(stalls: Stalls) -> float:
    """Cycles that an address, a word or a response waits on average; all channels must be alike."""
    (rounded,) = {stalls.ar, stalls.r, stalls.aw, stalls.w, stalls.b}
    return rounded / (256 - rounded)


def expected_cycles(plan: Schedule, memory: Memory, hesitation: float) -> float:
    """Cycles to expect of a layer when every channel of its memory hesitates so many cycles on average.

    Raises
    ------
    InputError
        The memory takes more than one cycle per word: there words wait behind one another whether it hesitates or not.
    """
    if memory.cycles_per_word != 1:
        raise InputError(
            f"stalls are predicted for a memory of 1 cycle per word, got {memory.cycles_per_word}: "
            "change memory.cycles_per_word or leave out --stalls."
        )
    latency, interval = memory.latency + 2 * hesitation, 1 + hesitation
    cycles = 0.0
    for whole_latency, latency_weight in _neighbours(latency):
        for whole_interval, interval_weight in _neighbours(interval):
            changed = memory.model_copy(update={"latency": whole_latency, "cycles_per_word": whole_interval})
            cycles += latency_weight * interval_weight * layer_cycles(plan, changed)
    return cycles + 2 * hesitation * len(plan.passes)


def _neighbours(number: float) -> list[tuple[int, float]]:
    """The integers around a number, and their weights."""
    below = int(number)
    part = number - below
    return [(below, 1 - part), (below + 1, part)] if part else [(below, 1.0)]
