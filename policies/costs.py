"""What the policies of a space cost, by every metric that a budget or a reward may name.

Every metric is a table per layer, weight bits and activation bits that adds up over the layers:

- ``latency``: cycles, by the oracle;
- ``energy``: joules, by the oracle, if it has energies;
- ``size``: bits of all weights;
- ``bits``: mean weight bits of the layers, each counting alike: ReLeQ's state of quantization, as its code has it;
- ``quantization``: the same with layers weighted by weights and operations, as ReLeQ's paper has it (Elthakeb et al.,
  arXiv 1811.01704): ``weights * 120 + macs``, 120 being the energy of a memory access in operations (recalled).
"""

from typing import Any

import numpy as np

from hardware.errors import InputError, unknown
from hardware.oracle import Oracle
from hardware.schedule import MAX_BITS
from hardware.sums import mean_cost, total_cost
from policies.policy import SYMMETRIC, UNIFORM
from policies.space import ACTIVATIONS, WEIGHTS, Space, machine_planes

METRICS = ("latency", "energy", "size", "bits", "quantization")
MEMORY_ACCESS = 120
"""Energy of a memory access over that of a multiplication, in ``quantization``."""


class Costs:
    """Prices vectors of a space.

    Parameters
    ----------
    oracle:
        Of the same layers. Kernel-wise latencies need one without somebody else's table.

    Attributes
    ----------
    tables: dict[str, numpy.ndarray]
        By metric, float64, (layers, 9, 8) or (layers, 8, 8), as `hardware.oracle.Oracle.table`, by the policy's bits:
        a scheme costs the planes that it takes on the machine.

    Raises
    ------
    InputError
        The oracle is of other layers, or its table does not price pruned layers, and the space has them.
    """

    additive = True
    """Whether latency is the sum of the layers' entries in ``tables``."""

    def __init__(self, space: Space, oracle: Oracle) -> None:
        if [layer.name for layer in oracle.layers] != [layer.name for layer in space.layers]:
            raise InputError(
                f"expected an oracle of the {len(space.layers)} layers to search, got one of {len(oracle.layers)} "
                "others: make both from one network."
            )
        if int(space.narrowest.min()) < oracle.lowest:
            raise InputError("a cost table without pruned layers cannot price 0 weight bits: ask for 1 bit or more.")
        self.space, self.oracle = space, oracle
        self._kernels = [layer.out_channels for layer in space.layers]
        weights = np.array([layer.weight_count for layer in space.layers], dtype=float)
        macs = np.array([layer.macs for layer in space.layers], dtype=float)
        widths = np.arange(oracle.lowest, MAX_BITS + 1, dtype=float)[:, None] * np.ones(MAX_BITS)
        self.tables = {
            "latency": oracle.table,
            "size": weights[:, None, None] * widths,
            "bits": np.full(len(weights), 1 / len(weights))[:, None, None] * widths,
            "quantization": (MEMORY_ACCESS * weights + macs)[:, None, None] * widths,
        }
        if oracle.energy_table is not None:
            self.tables["energy"] = oracle.energy_table
        # A share is one of 8 bits everywhere in plain integers, whatever the schemes.
        full = np.full((len(space.layers), 2), MAX_BITS)
        self.full = {metric: float(total_cost(full, table)) for metric, table in self.tables.items()}
        for metric in {"latency", "energy"} & self.tables.keys():
            self.tables[metric] = _by_planes(self.tables[metric], space, oracle.lowest)

    def check(self, metric: str) -> None:
        """Raise `InputError` unless the metric can be priced."""
        if metric not in METRICS:
            raise unknown("metric", metric, METRICS)
        if metric not in self.tables:
            raise InputError("no energies are known for this accelerator: ask for another metric, for example latency.")

    def cost(self, metric: str, vectors: np.ndarray) -> Any:
        """Cost of vectors (variables,) or (policies, variables): one number, or (policies,).

        A layer whose kernels differ costs the mean of theirs, but for latency: `Oracle.kernel_wise_cost`.
        """
        table = self.tables[metric]
        if self.space.layer_wise:
            return total_cost(self.space.pairs(vectors), table)
        counts, activations = self.space.histograms(vectors)
        if metric == "latency":
            return self.oracle.kernel_wise_cost(counts, activations)
        return mean_cost(counts, activations, table, self._kernels)

    def ratio(self, metric: str, vectors: np.ndarray) -> Any:
        """Cost over the cost at 8/8 bits."""
        return self.cost(metric, vectors) / self.full[metric]

    def ratios(self, vector: np.ndarray) -> dict[str, float]:
        """The ratios of one vector by all metrics that are known."""
        return {metric: float(self.ratio(metric, vector)) for metric in self.tables}


def _by_planes(table: np.ndarray, space: Space, lowest: int) -> np.ndarray:
    """The oracle's table by the policy's bits instead of the machine's; bits that a scheme lacks cost as its next."""
    if all(own == (SYMMETRIC, UNIFORM) for own in space.schemes):
        return table
    widths = np.arange(MAX_BITS + 1)
    priced = np.empty_like(table)
    for index, (layer, own) in enumerate(zip(space.layers, space.schemes, strict=True)):
        found = []
        for operand in (WEIGHTS, ACTIVATIONS):
            planes = machine_planes(own[operand], operand, layer)
            nearest = np.abs(widths[:, None] - np.array(list(planes))).argmin(1)
            found.append(np.array(list(planes.values()))[nearest])
        w, a = found
        priced[index] = table[index][np.ix_(w[lowest:] - lowest, a[1:] - 1)]
    return priced
