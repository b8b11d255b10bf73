"""Co-design: the accelerator is chosen together with the bits.

A policy's accuracy does not depend on the machine that runs it. So for every policy the best machine is the one on
which it is cheapest, and the joint search over machines and bits is a search over bits whose latency is the least over
all machines that fit the device. `MachineChoice` prices so, exactly, and says which machine it was; any agent can
search in it. (N3H-Core, zhihanxu/N3H-Core, lets its agent pick the hardware in six actions before the bits.)

What this leaves out: all machines are taken to run at the reference's clock, because the clock of a machine is known
only after place and route.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import product
from typing import Any

import numpy as np

from hardware.accelerator import Accelerator
from hardware.board import Device
from hardware.cost import cost_table
from hardware.errors import InputError
from hardware.oracle import Oracle
from hardware.resource_law import ResourceLaw
from hardware.schedule import MAX_BITS
from policies.costs import Costs
from policies.space import Space

ROWS, COLUMNS = (2, 4, 8, 16), (2, 4, 8, 16)
DEPTHS = (64, 128, 256, 512)
ENTRIES = (256, 512, 1024, 2048, 4096)
PORTS = (1, 2, 4)


def candidates(reference: Accelerator, law: ResourceLaw, device: Device) -> list[Accelerator]:
    """Every machine of the grid above that fits the device by its resource law, with room for the law's largest error.

    The reference gives what is not varied: memory latency, clock, device, and how deep the plane buffer is.
    """
    machines = list(_grid(reference))
    used = law.predict_all(machines)
    for column, error in enumerate(("lut_error", "ff_error")):
        used[:, column] /= 1 + min(0.0, *(getattr(sample, error) for sample in law.held_out))
    limits = np.array([device.lut, device.ff, device.bram36, device.dsp])
    return [machine for machine, row in zip(machines, used, strict=True) if (row <= limits).all()]


def _grid(reference: Accelerator) -> Iterator[Accelerator]:
    fixed = reference.model_dump()
    for dm, dk, dn, lhs, rhs, ports in product(ROWS, DEPTHS, COLUMNS, ENTRIES, ENTRIES, PORTS):
        if dm % ports or dn % ports:
            continue
        yield Accelerator.model_validate(
            fixed
            | {
                "name": f"searched-{dm}x{dk}x{dn}-{lhs}-{rhs}-{ports}",
                "array": {"dm": dm, "dk": dk, "dn": dn},
                "buffers": fixed["buffers"] | {"lhs_entries": lhs, "rhs_entries": rhs},
                "memory": fixed["memory"] | {"ports": ports},
            }
        )


class MachineChoice(Costs):
    """Costs of policies on the best of several machines.

    Parameters
    ----------
    reference:
        Whose cost at 8/8 bits ratios are shares of.
    machines:
        To choose from. Those that another one beats at every width of every layer are dropped.
    progress:
        Called with the number of machines priced so far.

    Attributes
    ----------
    machines: tuple[Accelerator, ...]
        What is left to choose from.

    Raises
    ------
    InputError
        No machine runs the network, or the space is finer than layers.
    """

    additive = False

    def __init__(
        self,
        space: Space,
        reference: Oracle,
        machines: Sequence[Accelerator],
        progress: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__(space, reference)
        if not space.layer_wise:
            raise InputError("co-design prices whole layers, not single kernels: search with one width per layer.")
        self.tables.pop("energy", None)  # every machine would need its own
        found: list[tuple[Accelerator, np.ndarray]] = []
        for number, machine in enumerate(machines):
            with suppress(InputError):  # a layer fits its buffers at no width
                found.append((machine, cost_table(space.layers, machine, lowest=0)))
            if progress:
                progress(number + 1)
        if not found:
            raise InputError("none of the accelerators to choose from can run every layer: choose a larger device.")
        kept = _undominated(np.stack([table for _, table in found]))
        self.machines = tuple(found[index][0] for index in kept)
        self._tables = np.stack([found[index][1] for index in kept])

    def cost(self, metric: str, vectors: np.ndarray) -> Any:
        """As `Costs.cost`; latency on the machine that is best for each policy."""
        return super().cost(metric, vectors) if metric != "latency" else self._cycles(vectors).min(-1)

    def machine(self, vector: np.ndarray) -> Accelerator:
        """The machine on which the policy is fastest; of equals the first."""
        return self.machines[int(self._cycles(vector).argmin())]

    def _cycles(self, vectors: np.ndarray) -> np.ndarray:
        """float64, (..., machines)."""
        pairs = self.space.pairs(vectors)
        layers = np.arange(pairs.shape[-2])
        entries = self._tables[:, layers, pairs[..., 0], pairs[..., 1] - 1]
        return np.moveaxis(entries.sum(-1), 0, -1)


def _undominated(tables: np.ndarray) -> list[int]:
    """Indices of tables, (machines, ...), that no other is at most everywhere; of equal ones the first."""
    flat = tables[:, :, 1:].reshape(len(tables), -1)
    order = np.argsort(np.where(np.isinf(flat), flat[np.isfinite(flat)].max() * MAX_BITS, flat).sum(1), kind="stable")
    kept: list[int] = []
    for index in order:  # whoever beats another is before it here
        if not any((flat[other] <= flat[index]).all() for other in kept):
            kept.append(int(index))
    return sorted(kept)
