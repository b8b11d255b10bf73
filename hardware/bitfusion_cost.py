"""The published BitFusion model: what a layer costs on the authors' machine, at the tiling and loop order they choose.

Written from the equations of their simulator (Sharma et al., ISCA 2018, arXiv 1712.01507; public code of 2018), all of
whose published figures for the edge machine it gives to the bit (`tests/hardware/test_bitfusion_published.py`). It is a
second cost model, for people who compare with BitFusion. This project's own is `hardware.cost`.

A layer is five loops over tiles: images, output columns, output rows, input and output channels. Every tiling whose
tiles fit half of their buffers is tried with every order of the loops; the fewest cycles win, then the least energy,
then what comes first. Tiles at the edge count as full ones; pooling, activations and biases cost nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from itertools import permutations, product
from typing import Any

import numpy as np

from hardware.bitfusion_energy import PublishedEnergy, energy_constants
from hardware.bitfusion_published import PublishedLayer, PublishedMachine
from hardware.errors import InputError

FIGURES = (
    *("cycles", "memory_wait_cycles", "wbuf_read_bits", "wbuf_write_bits", "obuf_read_bits", "obuf_write_bits"),
    *("ibuf_read_bits", "ibuf_write_bits", "dram_read_bits", "dram_write_bits"),
)
"""What the model says of a layer beside its energy: fields of `PublishedCost`."""
PARTIAL_SUM_BITS = 32
_LARGEST = 2**62
_B, _OW, _OH, _IC, _OC = range(5)
# Columns and rows of the output have equal tiles, so exchanging the two changes nothing: 60 of the 120 orders are left.
_ORDERS = np.array([order for order in permutations(range(5)) if order.index(_OW) < order.index(_OH)])
"""Loops from the innermost outward, ``(orders, 5)``."""
_INDEXED_BY = {"inputs": (_B, _OW, _OH, _IC), "weights": (_IC, _OC), "outputs": (_B, _OW, _OH, _OC)}


@dataclass(frozen=True)
class PublishedCost:
    """Cycles in all, those of them that wait for memory, bits read from and written to every memory, joules."""

    cycles: int
    memory_wait_cycles: int
    wbuf_read_bits: int
    wbuf_write_bits: int
    obuf_read_bits: int
    obuf_write_bits: int
    ibuf_read_bits: int
    ibuf_write_bits: int
    dram_read_bits: int
    dram_write_bits: int
    energy: PublishedEnergy

    @property
    def figures(self) -> dict[str, int]:
        """All but the energy, by `FIGURES`."""
        return {name: getattr(self, name) for name in FIGURES}

    def __add__(self, other: "PublishedCost") -> "PublishedCost":
        return PublishedCost(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def __mul__(self, times: int) -> "PublishedCost":
        return PublishedCost(*(getattr(self, field.name) * times for field in fields(self)))


def published_cost(layer: PublishedLayer, machine: PublishedMachine) -> PublishedCost:
    """Price a layer.

    Raises
    ------
    InputError
        Not even the smallest tiles fit the buffers, or the layer is so large that its traffic has no 63-bit number.
    """
    tiles, width = _fitting_tiles(layer, machine), machine.dram_bits_per_cycle
    # Most tilings cannot win, whatever the order: those whose fewest cycles are more than another one's.
    fewest = _fewest_cycles(tiles, width)
    reached = _timed(tiles.chosen([int(fewest.argmin())]), width)[0].min()
    tiles = tiles.chosen(fewest <= reached)
    cycles, moved = _timed(tiles, width)

    best = np.nonzero(cycles == cycles.min())  # (order, tiling) of all that are equally fast
    sram = {name: bits[best[1]] for name, bits in tiles.sram.items()}
    inputs, weights, outputs = (moved[tensor][best] for tensor in _INDEXED_BY)
    # Partial sums come back in as they went out: outputs are read from DRAM and written to it in the same tiles.
    values = (
        *(cycles[best], cycles[best] - tiles.compute[best[1]], sram["wbuf"], weights, sram["obuf"] + outputs),
        *(sram["obuf"] + outputs, sram["ibuf"], inputs, inputs + weights + outputs, outputs),
    )
    figures = dict(zip(FIGURES, values, strict=True))
    energy = _energy(figures, machine)
    first = int(np.argmin(sum(energy.values())))
    return PublishedCost(
        **{name: int(of_all[first]) for name, of_all in figures.items()},
        energy=PublishedEnergy(**{part: float(of_all[first]) for part, of_all in energy.items()}),
    )


def total_cost(costs: Iterable[PublishedCost]) -> PublishedCost:
    """Of layers that run one after the other; of none at all nothing."""
    nothing = PublishedCost(**dict.fromkeys(FIGURES, 0), energy=PublishedEnergy(*[0.0] * 5))
    return sum(costs, nothing)


def _energy(figures: dict[str, Any], machine: PublishedMachine) -> dict[str, Any]:
    """Joules of every part of `PublishedEnergy`, of many candidates at a time."""
    constants = energy_constants(machine)
    working = figures["cycles"] - figures["memory_wait_cycles"]
    energy = {"array": 1e-12 * constants.array * working}
    for part in ("wbuf", "ibuf", "obuf", "dram"):
        read, written = getattr(constants, part)
        energy[part] = 1e-12 * (read * figures[f"{part}_read_bits"] + written * figures[f"{part}_write_bits"])
    return energy


@dataclass(frozen=True, eq=False)
class _Tiles:
    """Tilings of a layer that fit the buffers; arrays are int64, of length ``tilings``.

    Parameters
    ----------
    counts:
        ``(5, tilings)``: tiles along every loop.
    bits, half:
        By tensor: bits of a tile, and bits of half of its buffer.
    compute:
        Cycles of the array for the whole layer.
    sram:
        By buffer: bits that the array reads in the whole layer, of OBUF also those it writes.
    """

    counts: np.ndarray
    bits: dict[str, np.ndarray]
    half: dict[str, int]
    compute: np.ndarray
    sram: dict[str, np.ndarray]

    def chosen(self, which: Any) -> "_Tiles":
        """Some of the tilings, by their indices or a mask."""
        bits, sram = ({key: of_all[which] for key, of_all in one.items()} for one in (self.bits, self.sram))
        return _Tiles(self.counts[:, which], bits, self.half, self.compute[which], sram)


def _fitting_tiles(layer: PublishedLayer, machine: PublishedMachine) -> _Tiles:
    columns, lanes, area = machine.columns, machine.rows * layer.products_per_unit, layer.kernel**2
    reach = layer.output_size * max(layer.kernel, layer.stride)
    # More than any number of bits below, in Python's integers; edge tiles, counted as full, at most double a dimension.
    taps_bound = layer.in_channels * (2 * area + lanes) + area * lanes
    bound = layer.batch * reach**2 * taps_bound * (layer.out_channels + columns)
    if bound * 2**5 * 2 * PARTIAL_SUM_BITS > _LARGEST:
        raise InputError("the layer is too large to count its bits in 63-bit numbers: price a smaller batch.")
    first_oc = 1 if layer.im2col else columns
    sizes = (
        *(_tile_sizes(layer.batch), _tile_sizes(layer.output_size), _tile_sizes(layer.in_channels)),
        _tile_sizes(layer.out_channels, first_oc),
    )
    b, o, ic, oc = np.array(list(product(*sizes)), dtype=np.int64).T
    dimensions = zip(
        (layer.batch, layer.output_size, layer.in_channels, layer.out_channels), (b, o, ic, oc), strict=True
    )
    count_b, count_o, count_ic, count_oc = (-(-dimension // tile) for dimension, tile in dimensions)

    positions, taps = b * o * o, area * ic
    side = layer.kernel + (o - 1) * layer.stride
    window = positions * area if layer.im2col else b * side**2
    bits = {
        "inputs": window * ic * layer.input_bits,
        "weights": _up(taps, lanes) * oc * layer.weight_bits,
        "outputs": positions * _up(oc, columns) * PARTIAL_SUM_BITS,
    }
    steps = -(-taps // lanes) if layer.im2col else area * -(-ic // lanes)
    half = {"inputs": 4 * machine.ibuf_bytes, "weights": 4 * machine.wbuf_bytes, "outputs": 4 * machine.obuf_bytes}
    fits = np.all([bits[tensor] <= half[tensor] for tensor in half], axis=0)
    if not fits.any():
        smallest = ", ".join(f"{tensor} {bits[tensor].min()} of {half[tensor]}" for tensor in half)
        raise InputError(
            f"no tile fits half of the buffers; bits of the smallest tile and of half a buffer are {smallest}: take "
            "larger buffers or fewer bits."
        )
    tiles = count_b * count_o * count_o * count_ic * count_oc
    sram = _tile_traffic(layer, positions, taps, oc, columns, _up(taps, lanes) if layer.im2col else steps * lanes)
    return _Tiles(
        np.stack([count_b, count_o, count_o, count_ic, count_oc]),
        bits,
        half,
        tiles * positions * -(-oc // columns) * steps,
        {buffer: tiles * of_tile for buffer, of_tile in sram.items()},
    ).chosen(fits)


def _tile_sizes(dimension: int, first: int = 1) -> list[int]:
    """Powers of two times ``first``, up to the dimension itself."""
    steps = (-(-dimension // first) - 1).bit_length()
    return [min(first << step, dimension) for step in range(steps + 1)]


def _up(number: np.ndarray, multiple: int) -> np.ndarray:
    """The next multiple."""
    return -(-number // multiple) * multiple


def _tile_traffic(
    layer: PublishedLayer, p: np.ndarray, q: np.ndarray, oc: np.ndarray, columns: int, os: np.ndarray
) -> dict[str, np.ndarray]:
    """Bits read from the buffers for a tile, with that operand kept in the array for which they are fewest.

    Parameters
    ----------
    p, q, oc:
        Output positions, taps and output channels of a tile.
    os:
        Taps, rounded up to what the array takes.
    """
    ip, wp, sums = layer.input_bits, layer.weight_bits, PARTIAL_SUM_BITS
    is_ = _up(oc, columns)
    input_stationary = os * p * (ip + is_ * (wp + sums))
    output_stationary = is_ * p * (sums + os * (ip + wp))
    weight_stationary = os * is_ * (wp + p * (ip + sums))
    kept = np.argmin([input_stationary, output_stationary, weight_stationary], axis=0)  # the first of equal ones
    every = q * p * oc
    return {
        "ibuf": np.choose(kept, [q * p * ip, every * ip, every * ip]),
        "obuf": np.choose(kept, [every * sums, oc * p * sums, every * sums]),
        "wbuf": np.choose(kept, [every * wp, every * wp, q * oc * wp]),
    }


def _fewest_cycles(tiles: _Tiles, width: int) -> np.ndarray:
    """What no order of the loops can beat: all tiles computed, or every tensor moved just once."""
    once = {tensor: bits * tiles.counts[list(_INDEXED_BY[tensor])].prod(axis=0) for tensor, bits in tiles.bits.items()}
    return np.maximum(tiles.compute, -(-(sum(once.values()) + once["outputs"]) // width))


def _timed(tiles: _Tiles, width: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Cycles, and by tensor the bits that DRAM moves one way, all ``(orders, tilings)``.

    Loop by loop outward, what is moved of a tensor grows with the tiles of every loop that indexes it. While it fits
    half of its buffer it is resident there, so that other loops use it again; once it does not, every loop moves all of
    it anew. What is resident is moved before the first tile and after the last one, while the array waits; the rest is
    moved while it computes.
    """
    shape = len(_ORDERS), len(tiles.compute)
    moved = {tensor: np.broadcast_to(bits, shape) for tensor, bits in tiles.bits.items()}
    resident = dict(moved)
    for place in range(_ORDERS.shape[1]):
        loop = _ORDERS[:, place]
        counts = tiles.counts[loop]
        for tensor, loops in _INDEXED_BY.items():
            grows = np.isin(loop, loops)[:, None] | (moved[tensor] > tiles.half[tensor])
            moved[tensor] = moved[tensor] * np.where(grows, counts, 1)
            resident[tensor] = np.where(moved[tensor] <= tiles.half[tensor], moved[tensor], resident[tensor])
    initial, final = sum(resident.values()), resident["outputs"]
    middle = sum(moved.values()) + moved["outputs"] - initial - final
    edges = -(-initial // width) - (-final // width)
    return np.maximum(tiles.compute, -(-middle // width)) + edges, moved
