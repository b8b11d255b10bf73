"""The oracle: what policies cost, thousands in one call.

An `Oracle` holds a table of cycles per (network, accelerator), `hardware.cost.cost_table` or anybody's in HAQ's format
(Wang et al., "HAQ: Hardware-Aware Automated Quantization with Mixed Precision", CVPR 2019). A layer-wise policy costs
the sum of its layers' entries, which is exact. Kernel-wise policies are close, see `hardware.kernel_wise`. With a table
of joules beside it, `codesign.energy_table.energy_table`, it prices energy in the same way.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from hardware.accelerator import Accelerator
from hardware.cost import PRICED_OUTPUT, cost_table
from hardware.cycles import layer_cycles
from hardware.errors import InputError
from hardware.files import replacing
from hardware.kernel_wise import KernelWise, as_integers
from hardware.layer import Layer
from hardware.schedule import MAX_BITS, schedule
from hardware.sums import mean_cost, total_cost


class Oracle:
    """Prices policies of one network on one accelerator.

    Parameters
    ----------
    layers:
        The layers in the network's order.
    table:
        Cycles to price by instead of the cycle model's, for example from `read_table`: (layers, 8, 8), or
        (layers, 9, 8) if it prices pruned layers. ``inf`` where the buffers are too small.
    energy:
        Joules to price by, of the same shapes; without them there are no joules.

    Attributes
    ----------
    table: float64, (layers, 9, 8), ``[layer, weight bits, activation bits - 1]``; (layers, 8, 8) if given so.
    energy_table: float64, of the same shapes, or None.
    lowest: int
        Fewest weight bits that the table holds, 0 or 1.

    Raises
    ------
    InputError
        A layer that the accelerator cannot run at any width, or a table that `check_table` refuses.
    """

    clock = "assumed"
    """Where the clock comes from that turns cycles into seconds: the accelerator's description, not a measurement."""

    def __init__(
        self,
        layers: Sequence[Layer],
        accelerator: Accelerator,
        table: np.ndarray | None = None,
        energy: np.ndarray | None = None,
    ):
        self.layers, self.accelerator = tuple(layers), accelerator
        self.table = cost_table(layers, accelerator, lowest=0) if table is None else check_table(table, len(layers))
        self.energy_table = None if energy is None else check_table(energy, len(layers))
        self.lowest = MAX_BITS + 1 - self.table.shape[1]
        self._given = table is not None
        self._kernel_wise: KernelWise | None = None  # made when it is first asked for

    @classmethod
    def from_table(cls, path: Path, layers: Sequence[Layer], accelerator: Accelerator) -> Self:
        """An oracle that prices by a table in a file, see `read_table`."""
        return cls(layers, accelerator, read_table(path, len(layers)))

    def save(self, path: Path) -> None:
        """Write HAQ's table, see `write_table`; the row of pruned kernels is left out, because HAQ's has none."""
        write_table(path, self.table[:, -MAX_BITS:])

    def cost(self, policies: np.ndarray) -> Any:
        """Cycles of layer-wise policies, see `total_cost`."""
        return total_cost(policies, self.table)

    def latency(self, policies: np.ndarray) -> Any:
        """Seconds of layer-wise policies at the accelerator's clock (see `clock`): one number, or (policies,)."""
        return self.cost(policies) / (self.accelerator.clock_mhz * 1e6)

    def energy(self, policies: np.ndarray) -> Any:
        """Dynamic joules of layer-wise policies, see `total_cost`: one number, or (policies,).

        Raises
        ------
        InputError
            What `total_cost` refuses, or an oracle without energies.
        """
        return total_cost(policies, self._energies())

    def kernel_wise_energy(self, counts: np.ndarray, activation_bits: np.ndarray) -> Any:
        """Dynamic joules of kernel-wise policies: each layer's mean, over its kernels, of what it takes at their width.

        That is an estimate, and mostly too low: it knows nothing of row tiles, which run at their widest kernel's
        width, of weights that the buffer holds or not, and of columns that are read once for all. Beside the energy of
        48 mixed layers each (widths of 0 to 8 alike, or within about a bit) it was off by +1 to -5 % where a tile has
        two rows (bitserial-tiny), and by +3 to -20 %, -5 % in the median, where it has eight (bitserial-edge).

        Parameters
        ----------
        counts, activation_bits:
            As of `kernel_wise_cost`.

        Raises
        ------
        InputError
            What `kernel_wise_cost` refuses, kernels of a width that the table does not hold, or an oracle without
            energies.
        """
        return mean_cost(counts, activation_bits, self._energies(), [layer.out_channels for layer in self.layers])

    def _energies(self) -> np.ndarray:
        if self.energy_table is None:
            raise InputError(
                "this oracle holds no energies: make it with energy=codesign.energy_table.energy_table(...)[0]."
            )
        return self.energy_table

    def kernel_wise_cost(self, counts: np.ndarray, activation_bits: np.ndarray) -> Any:
        """Cycles of kernel-wise policies by the cycle model, close but not exact: see `hardware.kernel_wise`.

        Parameters
        ----------
        counts:
            int, (layers, 9) for one policy or (policies, layers, 9): kernels at each width 0 to 8, see
            `hardware.kernel_wise.histogram`.
        activation_bits:
            int, (layers,) or (policies, layers); 1 to 8.

        Returns
        -------
        float64: one number, or (policies,). Exact, but for rounding, where all kernels of a layer have one width.

        Raises
        ------
        InputError
            An oracle by somebody else's table, an array that is set to one width per layer, other shapes, activation
            bits out of range, or counts that are not the layer's kernels.
        """
        if self.accelerator.traits.packed:
            raise InputError(
                f"{self.accelerator.name} computes all kernels of a layer at the widest one's bits: choose one width "
                "per layer, not per kernel."
            )
        if self._given:
            raise InputError(
                "a cost table of whole layers does not tell what row tiles cost: make the oracle without a table."
            )
        if self._kernel_wise is None:
            self._kernel_wise = KernelWise.build(self.layers, self.accelerator, self.table)
        return self._kernel_wise.cost(as_integers(counts), as_integers(activation_bits))

    def exact(self, weight_bits: Sequence[int | Sequence[int]], activation_bits: Sequence[int]) -> int:
        """Cycles of one policy by the cycle model, whatever the table says: one schedule and its timing per layer.

        Parameters
        ----------
        weight_bits:
            Per layer one width, or one per kernel; 0 to 8.
        activation_bits:
            Per layer; 1 to 8.

        Raises
        ------
        InputError
            Not one entry per layer, a width out of range, or a layer that does not fit the buffers.
        """
        if not len(weight_bits) == len(activation_bits) == len(self.layers):
            raise InputError(
                f"expected weight and activation bits of {len(self.layers)} layers, got {len(weight_bits)} and "
                f"{len(activation_bits)}: give one entry per layer."
            )
        return sum(
            layer.repeats * layer_cycles(schedule(layer, w, a, self.accelerator, output=PRICED_OUTPUT))
            for layer, w, a in zip(self.layers, weight_bits, activation_bits, strict=True)
        )


def check_table(table: np.ndarray, layers: int, rows: Sequence[int] = (MAX_BITS, MAX_BITS + 1)) -> np.ndarray:
    """The table as float64, if policies of so many layers can be priced by it.

    Parameters
    ----------
    rows:
        How many weight widths it may have: 8 for 1 to 8 bits, 9 for 0 to 8.

    Raises
    ------
    InputError
        Not numbers, another shape, or an entry that is negative or not a number. ``inf`` is none of these: it marks
        what the buffers cannot hold.
    """
    if table.dtype.kind not in "iuf":
        raise InputError(f"expected a cost table of integers or floats, got {table.dtype}: save it with numpy.save.")
    if table.shape not in [(layers, count, MAX_BITS) for count in rows]:
        raise InputError(
            f"expected a cost table of shape ({layers}, {MAX_BITS}, {MAX_BITS}), one entry per layer, weight bits and "
            f"activation bits, got {table.shape}: use the table of this network."
        )
    if not (table >= 0).all():  # nan is not >= 0 either
        layer, w, a = (int(index) for index in np.argwhere(~(table >= 0))[0])
        raise InputError(
            f"expected costs of at least 0, got {table[layer, w, a]} in layer {layer} at index [{w}, {a}]: "
            "mend the table."
        )
    return np.ascontiguousarray(table, dtype=np.float64)


def read_table(path: Path, layers: int) -> np.ndarray:
    """Read HAQ's table: .npy, (layers, 8, 8), ``[layer, weight bits - 1, activation bits - 1]``.

    Raises
    ------
    InputError
        No such file, no .npy file, or a table that `check_table` refuses; the message names the file.
    """
    try:
        with path.open("rb") as file:
            table = np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}; give a cost table's name.") from None
    except Exception as error:  # NumPy parses the header as Python, which a damaged one breaks in many ways
        raise InputError(f"{path} is no .npy file of numbers ({error}): let `codesign cost --lut` write one.") from None
    try:
        return check_table(table, layers, rows=(MAX_BITS,))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def write_table(path: Path, table: np.ndarray) -> None:
    """Write HAQ's table as .npy."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, table)
