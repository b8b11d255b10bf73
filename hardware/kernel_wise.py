"""What kernel-wise policies cost: from how many kernels of each layer have each width, without a schedule per policy.

Lou et al., "AutoQ: Automated Kernel-Wise Neural Network Quantization", ICLR 2020, give every kernel its own width. The
machine sorts a layer's kernels by width into row tiles of ``dm``, and a tile runs at its widest kernel (see
`hardware.schedule`). So a histogram of the layer's kernels over widths tells how many tiles run at each width, and the
layer is priced as the mean, over its tiles, of what it costs with all kernels at the tile's width. What all tiles share
(start, columns, the last writes) has the same weight in every one of these costs, so the mean counts it once.

Three things keep that close to the schedule:

- Weights that all fit the buffer at once stay there, others are fetched again for every group of columns. Whether they
  fit is the whole layer's affair: every tile is priced as in a layer whose weights stay, or as in one whose weights are
  fetched again, whatever is true of a layer with all kernels at that width.
- Columns are fetched for all row tiles at once. In a layer of narrow kernels that takes longer than the tiles do;
  beside wider tiles it is hidden. So a narrow tile counts only the cycles that it would take if columns came in time,
  in line with wider ones, and a layer takes no less than one whose kernels all have its narrowest width.
- A depthwise layer of several passes sorts kernels within each pass. There `row_tiles` is an expectation.

What is left is how a tile's fetch, steps and results overlap with those of a neighbour of another width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numba import njit

from hardware.accelerator import Accelerator
from hardware.cost import PRICED_OUTPUT
from hardware.cycles import layer_cycles
from hardware.errors import InputError
from hardware.layer import Layer
from hardware.schedule import MAX_BITS, Schedule, reads_apart, schedule

WIDTHS = MAX_BITS + 1
"""Widths of a kernel: 0 (pruned) to 8."""


@dataclass(frozen=True, eq=False)
class KernelWise:
    """Everything that pricing histograms needs; L layers.

    Parameters
    ----------
    cycles:
        float64, (L, 9, 8, 2), ``[layer, weight bits, activation bits - 1, whether weights stay]``: the layer's cycles
        with all kernels at that width. ``inf`` where the buffers are too small.
    tile_cycles:
        The same, where only row tiles take time: less than ``cycles`` where the layer waits for its columns.
    most_bits:
        float64, (L,): weights stay if row tiles have at most this width on average.
    kernels:
        int64, (L,).
    row_tiles:
        float64, (L, most kernels + 1), see `row_tiles`.
    """

    cycles: np.ndarray
    tile_cycles: np.ndarray
    most_bits: np.ndarray
    kernels: np.ndarray
    row_tiles: np.ndarray

    @classmethod
    def build(cls, layers: Sequence[Layer], accelerator: Accelerator, table: np.ndarray) -> "KernelWise":
        """From the cycle model and what it gave for layers of one width: ``table``, (L, 9, 8)."""
        repeats = np.array([layer.repeats for layer in layers], dtype=float)[:, None, None, None]
        cycles = np.repeat(table[..., None], 2, axis=-1) / repeats
        tile_cycles, most_bits = cycles.copy(), np.zeros(len(layers))
        known: dict[Layer, int] = {}
        for index, layer in enumerate(layers):
            same = known.setdefault(replace(layer, name="", repeats=1), index)
            if same == index:
                most_bits[index] = _force_residency(layer, accelerator, cycles[index])
                tile_cycles[index] = _without_waiting(layer, accelerator, cycles[index])
            for array in (cycles, tile_cycles, most_bits):
                array[index] = array[same]
        kernels = np.array([layer.out_channels for layer in layers], dtype=np.int64)
        return cls(repeats * cycles, repeats * tile_cycles, most_bits, kernels, row_tiles(layers, accelerator.array.dm))

    def cost(self, counts: np.ndarray, activation_bits: np.ndarray) -> Any:
        """See `hardware.oracle.Oracle.kernel_wise_cost`; int64, contiguous."""
        layers = len(self.kernels)
        if counts.shape[-2:] != (layers, WIDTHS) or activation_bits.shape != counts.shape[:-1] or counts.ndim > 3:
            raise InputError(
                f"expected counts of shape (policies, {layers}, {WIDTHS}) and activation bits of shape "
                f"(policies, {layers}), got {counts.shape} and {activation_bits.shape}: make them from these layers."
            )
        batch = counts.reshape(-1, layers, WIDTHS), activation_bits.reshape(-1, layers)
        costs = np.empty(len(batch[0]))
        if not _sum_tiles(*batch, self.cycles, self.tile_cycles, self.most_bits, self.kernels, self.row_tiles, costs):
            raise InputError(
                f"expected activation bits of 1 to {MAX_BITS} and every kernel of every layer counted once, got other "
                "bits or numbers: make the counts with `histogram`."
            )
        return costs if counts.ndim == 3 else costs[0]


def _force_residency(layer: Layer, accelerator: Accelerator, cycles: np.ndarray) -> float:
    """Put other cycles where a layer of one width does not treat its weights so; the layer's ``most_bits``."""
    for a in range(MAX_BITS):
        fitting = np.flatnonzero(np.isfinite(cycles[:, a, 0])).tolist()
        plans = [schedule(layer, w, a + 1, accelerator, output=PRICED_OUTPUT) for w in fitting]
        stays = [plan.passes[0].lhs_resident for plan in plans]
        if all(stays) or not any(stays):  # then no mixture of widths is treated otherwise
            break
        for w, plan, stay in zip(fitting, plans, stays, strict=True):
            cycles[w, a, 1 - stay] = _cycles_like(plan, plans[stays.index(not stay)])
    work = schedule(layer, 0, 1, accelerator, output=PRICED_OUTPUT).passes[0]
    return (work.lhs_depth / work.row_tiles - 1) / work.chunks + 1e-9  # weights that just fit are not rounded away


def _without_waiting(layer: Layer, accelerator: Accelerator, cycles: np.ndarray) -> np.ndarray:
    """``tile_cycles`` of one layer: on a line through the two narrowest widths at which it does not wait."""
    passes = schedule(layer, 0, 1, accelerator, output=PRICED_OUTPUT).passes
    fetch = sum(
        ((work.column_tiles - 1) * -(-work.dn // work.ports) + -(-work.last_columns // work.ports)) * work.column_words
        for work in passes
    )
    results = layer.pixels * sum(work.row_tiles for work in passes)  # a column of each row tile in a cycle
    # Where it waits, it takes the fetch and at most 2 % more, for its start and end.
    waits = cycles < 1.02 * fetch * accelerator.memory.cycles_per_word * np.arange(1, MAX_BITS + 1)[:, None]
    first = waits.sum(axis=0)  # wider layers take longer: the narrowest width at which it does not wait
    known = np.clip(first, 0, MAX_BITS - 1)[None]
    start, step = np.take_along_axis(cycles, known, axis=0), np.take_along_axis(cycles, known + 1, axis=0)
    with np.errstate(invalid="ignore"):  # inf - inf, where it does not fit
        line = start + (np.arange(WIDTHS)[:, None, None] - known) * (step - start)
    line = np.clip(line, results, cycles)
    return np.where(waits & (first < MAX_BITS) & np.isfinite(line), line, cycles)


def _cycles_like(plan: Schedule, other: Schedule) -> int:
    """Cycles of a plan whose weights stay, or are fetched again, as another's; if they stay, the buffer holds them."""
    passes = tuple(
        replace(
            work,
            lhs_resident=like.lhs_resident,
            group_tiles=like.group_tiles,
            lhs_depth=max(work.lhs_depth, like.lhs_resident * work.row_tiles * work.lhs_tile_entries(MAX_BITS)),
        )
        for work, like in zip(plan.passes, other.passes, strict=True)
    )
    return layer_cycles(Schedule(plan.layer, plan.accelerator, passes))


def row_tiles(layers: Sequence[Layer], dm: int) -> np.ndarray:
    """Row tiles that hold a layer's widest kernels: float64, (layers, most kernels + 1), ``[layer, kernels]``.

    Kernels are sorted by width over the whole layer, ``dm`` to a tile. Only where `hardware.schedule.reads_apart` they
    are sorted within each pass's 64, and a histogram of the layer does not tell in which pass they are: there it is the
    mean over all ways to distribute them, by the hypergeometric distribution.
    """
    most = max((layer.out_channels for layer in layers), default=0)
    tiles = np.zeros((len(layers), most + 1))
    logarithms = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 1)))])  # of factorials

    def choose(n: np.ndarray, k: np.ndarray) -> np.ndarray:
        inside = (k >= 0) & (k <= n)
        k = np.where(inside, k, 0)
        return np.where(inside, logarithms[n] - logarithms[k] - logarithms[n - k], -np.inf)

    for index, layer in enumerate(layers):
        kernels = layer.out_channels
        widest = np.arange(kernels + 1)
        if not reads_apart(layer):
            tiles[index, : kernels + 1] = -(-widest // dm)
            continue
        for size in (min(64, kernels - start) for start in range(0, kernels, 64)):
            here = np.arange(size + 1)  # of the widest kernels, so many are in this pass
            ways = choose(widest[:, None], here) + choose(kernels - widest[:, None], size - here)
            share = np.exp(ways - choose(np.array(kernels), np.array(size)))
            tiles[index, : kernels + 1] += share @ -(-here // dm)
    return tiles


def histogram(widths: np.ndarray | Sequence[int]) -> np.ndarray:
    """How many kernels of a layer have each width: int64, (..., 9) of widths (..., kernels).

    Raises
    ------
    InputError
        No integers, or a width outside 0-8.
    """
    widths = as_integers(widths)
    if widths.size and not 0 <= widths.min() <= widths.max() <= MAX_BITS:
        raise InputError(f"expected widths of 0 to {MAX_BITS}, got {widths.min()} to {widths.max()}: prune or widen.")
    return np.stack([np.count_nonzero(widths == bits, axis=-1) for bits in range(WIDTHS)], axis=-1)


def as_integers(array: np.ndarray | Sequence[int]) -> np.ndarray:
    """The array as contiguous int64, so that one compiled loop serves all integers.

    Raises
    ------
    InputError
        Real numbers, which would be cut off in silence.
    """
    array = np.asarray(array)
    if array.dtype.kind not in "iu":
        raise InputError(f"expected whole numbers of bits or kernels, got {array.dtype}: round them first.")
    return np.ascontiguousarray(array, dtype=np.int64)


@njit(cache=True)
def _sum_tiles(  # pragma: no cover - compiled
    counts: np.ndarray,
    activation_bits: np.ndarray,
    cycles: np.ndarray,
    tile_cycles: np.ndarray,
    most_bits: np.ndarray,
    kernels: np.ndarray,
    row_tiles: np.ndarray,
    costs: np.ndarray,
) -> bool:
    """Sum each policy's layers; False at wrong activation bits or numbers of kernels."""
    for policy in range(len(counts)):
        cost = 0.0
        for layer in range(len(kernels)):
            a = activation_bits[policy, layer] - 1
            if a < 0 or a >= MAX_BITS:
                return False
            done = 0
            tiles = bits = streamed = resident = 0.0
            narrowest = 0
            for width in range(MAX_BITS, -1, -1):
                count = counts[policy, layer, width]
                if count < 0 or count > kernels[layer] - done:
                    return False
                done += count
                more = row_tiles[layer, done] - tiles
                if more > 0:
                    tiles += more
                    bits += more * width
                    streamed += more * tile_cycles[layer, width, a, 0]
                    resident += more * tile_cycles[layer, width, a, 1]
                    narrowest = width
            if done != kernels[layer]:
                return False
            if bits <= tiles * most_bits[layer]:
                cost += max(resident / tiles, cycles[layer, narrowest, a, 1])
            else:
                cost += max(streamed / tiles, cycles[layer, narrowest, a, 0])
        costs[policy] = cost
    return True
