"""The energy of every layer at every pair of widths: what an agent looks joules up in, as it does cycles.

Cycles, events and with them most of the energy are those of each point's own schedule. What the data's bit planes
switch is followed at a few widths only: per array step (and, of the words from memory, per word) it changes smoothly
from width to width. It is interpolated by polynomials in 1/bits, in which whatever happens once per tile, or once per
diagonal of plane pairs, is linear.

Of layers whose every tile was followed, the table was within 1 % at every point that was compared (six kinds of layers
on `bitserial-edge`, three seeds; `benchmarks/oracle_speed.py`). `codesign.energy.energy_of`, which follows the first
tiles of a few groups, was up to 7 % above them where a group is a small image with a padded border.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

import numpy as np

from codesign.energy import MEASURED, machine_energy, typical_operands
from codesign.switching.streams import Sample, image_words, layer_switching
from hardware.accelerator import Accelerator
from hardware.cost import PRICED_OUTPUT, cost_table, count_events
from hardware.energy import EnergyCalibration, layer_energy
from hardware.errors import InputError
from hardware.kinds import Kind
from hardware.layer import Layer
from hardware.operands import Operands
from hardware.schedule import MAX_BITS, Schedule, schedule

NODES = (1, 2, 3, 5, 8)
"""Widths, of weights and of activations, at which streams are followed, where the array does not pad them; there all
that it takes are, and others are priced as the next one."""
ROWS = 2
SAMPLE = Sample(runs=8, tiles=2, rows=ROWS, columns=4, evenly=True)
DRAWN = 2**17
"""Typical integers that are drawn for a layer's activations, and for its weights; larger layers repeat them."""


def energy_table(
    layers: Sequence[Layer], accelerator: Accelerator, seed: int = 0, lowest: int = 0
) -> tuple[np.ndarray, str]:
    """Dynamic joules of every layer at every pair of widths, for typical integers.

    Parameters
    ----------
    seed:
        Draws the integers and the tiles whose streams are followed.
    lowest:
        Weight bits of the first row, 0 or 1, as of `hardware.cost.cost_table`.

    Returns
    -------
    float64, ``(layers, 9 - lowest, 8)``, ``[layer, weight bits - lowest, activation bits - 1]``, ``inf`` where the
    buffers are too small; and what it is based on, see `codesign.energy.machine_energy`.

    Raises
    ------
    InputError
        The project holds no calibration of energy, or one of another gateware; or a layer fits the buffers at no width.
    """
    priced = machine_energy(accelerator)
    if priced is None:
        raise InputError(
            f"nothing is known of what {accelerator.name} switches, and so not its energy: run `codesign calibrate "
            f"--energy --store` on {MEASURED[accelerator.kind]}, from which others of its kind are scaled."
        )
    calibration, basis = priced
    known: dict[Layer, np.ndarray] = {}
    table = np.empty((len(layers), MAX_BITS + 1 - lowest, MAX_BITS))
    for index, (layer, cycles) in enumerate(zip(layers, cost_table(layers, accelerator, lowest=0), strict=True)):
        shape = replace(layer, name="", repeats=1)  # as in the cost table
        if shape not in known:
            known[shape] = _layer_table(shape, accelerator, cycles / layer.repeats, calibration, seed)
        table[index] = layer.repeats * known[shape][lowest:]
    return table, basis


def _layer_table(
    layer: Layer, accelerator: Accelerator, cycles: np.ndarray, calibration: EnergyCalibration, seed: int
) -> np.ndarray:
    """(9, 8) joules from (9, 8) cycles."""
    fits = np.isfinite(cycles)
    plans = {
        (int(w), int(a) + 1): schedule(layer, int(w), int(a) + 1, accelerator, output=PRICED_OUTPUT)
        for w, a in np.argwhere(fits)
    }
    names, rates = _rates(layer, plans, seed)
    table = np.full(cycles.shape, np.inf)
    for (w, a), plan in plans.items():
        switching = {}
        if w:
            found = rates[w - 1, a - 1] * _amounts(plan, names)
            switching = dict(zip(names, found.tolist(), strict=True))
        table[w, a - 1] = layer_energy(plan, int(cycles[w, a - 1]), switching, calibration).dynamic
    return table


def _amounts(plan: Schedule, names: Sequence[str]) -> np.ndarray:
    """What each kind of toggle is proportional to: words read, tiles, or array steps."""
    events = count_events(plan)
    tiles = sum(work.row_tiles * work.column_tiles for work in plan.passes if work.operation == "matrix")
    others = {"writes": events.buffer_writes, "column_writes": events.column_words, "results": tiles}
    return np.array([others.get(name, events.array_steps) for name in names], dtype=float)


def _rates(layer: Layer, plans: dict[tuple[int, int], Schedule], seed: int) -> tuple[list[str], np.ndarray]:
    """Names of toggles and, (8, 8, names), how many there are per step or word at every pair of widths."""
    most_w = max((w for w, a in plans if w and a == 1), default=0)
    if not most_w:
        return [], np.zeros((MAX_BITS, MAX_BITS, 0))
    most_a = max(a for w, a in plans if w == most_w)
    accelerator = plans[most_w, most_a].accelerator
    traits = accelerator.traits
    widths = NODES if len(traits.widths) > len(NODES) else traits.widths
    nodes = [sorted({min(node, most) for node in widths}) for most in (most_w, most_a)]
    drawn = _typical(layer, nodes[0], nodes[1], seed, traits)
    names: list[str] = []
    measured = []
    for w in nodes[0]:
        for a in nodes[1]:
            operands, image = drawn[0][w], drawn[1][a]
            plan = _wrapped(plans[w, a], len(operands.weights))
            followed = layer_switching(
                replace(operands, activation_bits=a), plan, seed, sample=_sample(layer, plan), image=image
            )
            names = names or list(followed)
            measured.append(np.array([followed[name] for name in names]) / _amounts(plans[w, a], names))
    grid = np.array(measured).reshape(len(nodes[0]), len(nodes[1]), -1)
    along_w, along_a = (_polynomials(axis, traits) for axis in nodes)
    return names, np.maximum(np.einsum("wi,aj,ijn->wan", along_w, along_a, grid), 0.0)


def _sample(layer: Layer, plan: Schedule) -> Sample:
    """Rows and columns stand for others only where few of these are padding."""
    array = plan.accelerator.array
    return replace(
        SAMPLE,
        runs=SAMPLE.runs if len(plan.passes) == 1 else SAMPLE.runs // 2,
        # A depthwise layer's kernels have a few weights each, so more of them are needed.
        rows=None if _padding(layer.out_channels, array.dm) > 0.02 else ROWS * (2 if layer.groups > 1 else 1),
        columns=None if _padding(layer.pixels, array.dn) > 0.02 else SAMPLE.columns,
    )


def _padding(count: int, size: int) -> float:
    """Which part of tiles of a size is empty."""
    return 1 - count / (-(-count // size) * size)


def _polynomials(nodes: Sequence[int], traits: Kind) -> np.ndarray:
    """(8, nodes): weights of the values at the nodes in those at all widths, by polynomials in 1/bits."""
    widths = np.array([traits.padded(bits) for bits in range(1, MAX_BITS + 1)])
    return np.vander(1 / widths, len(nodes)) @ np.linalg.inv(np.vander(1 / np.array(nodes), len(nodes)))


def _typical(
    layer: Layer, weight_nodes: Sequence[int], activation_nodes: Sequence[int], seed: int, traits: Kind
) -> tuple[dict[int, Operands], dict[int, np.ndarray]]:
    """Weights by their width, and words of the padded image by its; kernels and pixels of large layers repeat."""
    pixels, kernels = layer.in_height * layer.in_width, layer.out_channels
    some_pixels = min(pixels, max(256, DRAWN // layer.in_channels))
    if layer.groups == 1:
        kernels = min(kernels, max(64, DRAWN // layer.reduction))
    small = replace(layer, out_channels=kernels, in_height=1, in_width=some_pixels, padding=(0, 0))
    # Where all are drawn, each in its place; one more is the border.
    places = np.arange(pixels) % some_pixels
    if some_pixels < pixels:
        places = np.random.default_rng(seed).integers(some_pixels, size=pixels)
    image = places.reshape(layer.in_height, layer.in_width)
    image = np.pad(image, [(border, border) for border in layer.padding], constant_values=some_pixels)
    weights, images = {}, {}
    for w, a in zip_longest(weight_nodes, activation_nodes):
        operands = typical_operands(small, (w or 1,) * kernels, a or 1, seed)
        if w:
            weights[w] = replace(operands, layer=layer)
        if a:
            words = image_words(operands, traits)[0, 0]
            images[a] = np.concatenate([words, np.zeros_like(words[:1])])[image][None]
    return weights, images


def _wrapped(plan: Schedule, kernels: int) -> Schedule:
    """The plan with kernels of which only so many differ."""
    if kernels == plan.layer.out_channels:
        return plan
    return replace(
        plan, passes=tuple(replace(work, kernels=tuple(k % kernels for k in work.kernels)) for work in plan.passes)
    )
