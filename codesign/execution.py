"""Runs layers on the simulated machine and sets the cycle model beside it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from codesign.lowering import lower
from codesign.stalls import expected_cycles, hesitation
from hardware.accelerator import Accelerator, Memory
from hardware.cycles import layer_cycles
from hardware.operands import Operands
from sim.job import Stalls
from sim.run import Job, MachineError, simulate_jobs


@dataclass(frozen=True, eq=False)
class LayerResult:
    """One layer's run.

    Parameters
    ----------
    outputs:
        The RTL's sums, int64, ``(images, M, out height, out width)``.
    rtl_cycles, model_cycles:
        Measured and predicted.
    """

    outputs: np.ndarray
    rtl_cycles: int
    model_cycles: int


@dataclass(frozen=True)
class Execution:
    """Results of all layers, and the simulator's wall time in seconds."""

    layers: tuple[LayerResult, ...]
    seconds: float

    @property
    def rtl_cycles(self) -> int:
        """Cycles of all layers together."""
        return sum(layer.rtl_cycles for layer in self.layers)

    @property
    def cycles_per_second(self) -> float:
        """Simulated clock cycles per second of wall time."""
        return self.rtl_cycles / self.seconds if self.seconds else 0.0


def run_on_rtl(
    work: Sequence[Operands],
    accelerator: Accelerator,
    memory: Memory | Sequence[Memory] | None = None,
    waves: Path | None = None,
    progress: Callable[[int], None] | None = None,
    stalls: Sequence[Stalls] = (),
) -> Execution:
    """Run every layer as a program of its own, one after the other, in one simulator process.

    A layer whose kernels are all pruned is not run: its sums are 0 and cost nothing.

    Parameters
    ----------
    memory:
        Latency and bandwidth, if not the accelerator's own; of all layers, or of each.
    waves, progress:
        See `sim.run.simulate_jobs`.
    stalls:
        How the memory hesitates, one for each layer, all channels alike; the model then counts what is expected of it,
        see `codesign.stalls`.
    """
    lowered = [lower(operands, accelerator) for operands in work]
    memories = memory if isinstance(memory, Sequence) else [memory] * len(lowered)
    stalls = stalls or [Stalls()] * len(lowered)
    model = [
        layer_cycles(one.schedule, its)
        if not hesitation(stall)
        else round(expected_cycles(one.schedule, its or accelerator.memory, hesitation(stall)))
        for one, its, stall in zip(lowered, memories, stalls, strict=True)
    ]
    jobs = [
        Job(
            *(one.image, 0, one.result_address, one.result_words),
            # A machine that needs several times the model's cycles has hung; end it long before the user gives up.
            cycle_limit=4 * cycles + 100_000,
            memory=its,
            stalls=stall,
        )
        for one, cycles, its, stall in zip(lowered, model, memories, stalls, strict=True)
        if one.result_words
    ]
    simulated = simulate_jobs(jobs, accelerator, waves=waves, progress=progress)
    outcomes = iter(simulated.outcomes)
    results = []
    for one, cycles in zip(lowered, model, strict=True):
        if not one.result_words:
            results.append(LayerResult(one.outputs(np.zeros(0, dtype="<u8")), 0, cycles))
            continue
        outcome = next(outcomes)
        if outcome.error:
            raise MachineError(f"layer {one.schedule.layer.name!r} stopped with error code {outcome.error}")
        results.append(LayerResult(one.outputs(outcome.results), outcome.cycles, cycles))
    return Execution(tuple(results), simulated.seconds)
