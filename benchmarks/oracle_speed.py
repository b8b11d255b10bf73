"""How fast the oracle prices policies, beside HAQ's loop in Python; how close kernel-wise prices and joules are.

Both price the same policies by the same table in the same process, turn by turn. Time is the processor's, in one
thread: what else the computer does counts as little as can be.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd
from common import markdown, write_report

from codesign.energy import energy_of, machine_energy, typical_operands
from codesign.energy_table import energy_table
from codesign.switching.streams import layer_switching
from codesign.workload import load_workload
from hardware.accelerator import Accelerator, load_accelerator
from hardware.cost import PRICED_OUTPUT, cost_table
from hardware.cycles import layer_cycles
from hardware.energy import layer_energy
from hardware.kernel_wise import histogram
from hardware.layer import Layer
from hardware.oracle import Oracle
from hardware.schedule import schedule

BATCH = 10_000
JOULES = (("lenet", "bitserial-tiny"), ("resnet20", "bitserial-small"), ("resnet18", "bitserial-edge"))
JOULES += (("mobilenetv2", "bitserial-edge"),)
PRICED = "bitserial-edge"
KINDS = {
    "1x1, 96 to 24, 14x14": Layer("pointwise", "conv", 96, 24, 14, 14),
    "3x3, 64 to 32, 14x14": Layer("conv", "conv", 64, 32, 14, 14, kernel=(3, 3), padding=(1, 1)),
    "3x3, 128 to 64, 7x7": Layer("small", "conv", 128, 64, 7, 7, kernel=(3, 3), padding=(1, 1)),
    "3x3 depthwise, 192, 14x14": Layer("dw", "conv", 192, 192, 14, 14, kernel=(3, 3), padding=(1, 1), groups=192),
    "3x3, 3 to 16, 32x32, stride 2, signed": Layer(
        "input", "conv", 3, 16, 32, 32, kernel=(3, 3), padding=(1, 1), stride=(2, 2), signed_activations=True
    ),
    "linear, 512 to 100": Layer("fc", "linear", 512, 100),
}
WIDTHS = ((1, 1), (1, 4), (3, 1), (2, 2), (4, 3), (3, 7), (7, 2), (6, 6), (8, 8))
"""Weight and activation bits at which every tile is followed."""


def network_layers(name: str) -> Sequence[Layer]:
    """A network's layers."""
    return load_workload(name, seed=0).traced.layers


def haq_cost(table: np.ndarray, policy: Sequence[Sequence[int]]) -> float:
    """One indexed addition per layer, as HAQ's environment prices a policy."""
    cost = 0.0
    for index in range(len(policy)):
        cost += table[index, policy[index][0] - 1, policy[index][1] - 1]
    return cost


def medians(repetitions: int, **tasks: tuple[Callable[[], object], int]) -> dict[str, float]:
    """Median seconds per policy of tasks that take turns; each with the policies that it prices."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(repetitions + 1):
        for name, (task, policies) in tasks.items():
            begin = time.process_time()
            task()
            if turn:  # the first one compiles
                times[name].append((time.process_time() - begin) / policies)
    return {name: float(np.median(taken)) for name, taken in times.items()}


def layer_wise(repetitions: int, rng: np.random.Generator) -> tuple[str, str]:
    """The comparison with HAQ's loop: a table, and what the ratios are."""
    layers = len(network_layers("mobilenetv2"))
    # What is timed does not depend on the entries.
    table = rng.integers(1, 10**6, (layers, 8, 8)).astype(float)
    batch = rng.integers(1, 9, (BATCH, layers, 2))
    oracle = Oracle([Layer(str(i), "linear", 1, 1) for i in range(layers)], load_accelerator("bitserial-edge"), table)
    lists, arrays = batch[:1000].tolist(), list(batch[:1000])
    expected = [haq_cost(table, policy) for policy in lists]
    assert oracle.cost(batch)[:1000].tolist() == [oracle.cost(policy) for policy in arrays] == expected
    taken = medians(
        repetitions,
        haq=(lambda: [haq_cost(table, policy) for policy in lists], len(lists)),
        single=(lambda: [oracle.cost(policy) for policy in arrays], len(arrays)),
        list=(lambda: [oracle.cost(policy) for policy in lists], len(lists)),
        batch=(lambda: oracle.cost(batch), BATCH),
    )
    names = {
        "haq": "HAQ's loop, policies as lists",
        "single": "oracle, one policy per call, arrays",
        "list": "oracle, one policy per call, lists",
        "batch": f"oracle, {BATCH:,} policies per call",
    }
    rows = [
        {
            "who": names[key],
            "µs per policy": f"{1e6 * taken[key]:.2f}",
            "times faster": f"{taken['haq'] / taken[key]:.1f}",
        }
        for key in names
    ]
    return markdown(pd.DataFrame(rows)), f"{layers} layers"


def kernel_wise_speed(oracle: Oracle, repetitions: int, rng: np.random.Generator) -> float:
    """Policies per second, from their histograms."""
    counts = np.stack(
        [rng.multinomial(layer.out_channels, np.full(9, 1 / 9), size=BATCH) for layer in oracle.layers], axis=1
    )
    activations = rng.integers(1, 9, counts.shape[:2])
    taken = medians(repetitions, batch=(partial(oracle.kernel_wise_cost, counts, activations), BATCH))
    return 1 / taken["batch"]


def kernel_wise_errors(oracle: Oracle, spread: str, policies: int, rng: np.random.Generator) -> np.ndarray:
    """Relative error of random policies: every width alike, or each layer's widths around a mean of its own."""
    errors = np.empty(policies)
    for policy in range(policies):
        if spread == "any":
            widths = [rng.integers(0, 9, layer.out_channels) for layer in oracle.layers]
        else:
            widths = [
                np.clip(np.rint(rng.normal(rng.integers(1, 9), 1, layer.out_channels)), 0, 8).astype(int)
                for layer in oracle.layers
            ]
        activations = rng.integers(1, 9, len(widths))
        exact = oracle.exact([one.tolist() for one in widths], activations.tolist())
        errors[policy] = oracle.kernel_wise_cost(np.stack([*map(histogram, widths)]), activations) / exact - 1
    return errors


def every_tile(layer: Layer, widths: Sequence[int], activation_bits: int, accelerator: Accelerator) -> float:
    """Dynamic joules of a layer whose every tile is followed."""
    priced = machine_energy(accelerator)
    assert priced is not None
    plan = schedule(layer, widths, activation_bits, accelerator, output=PRICED_OUTPUT)
    switching = layer_switching(typical_operands(layer, widths, activation_bits), plan, everything=True)
    return layer_energy(plan, layer_cycles(plan), switching, priced[0]).dynamic


def joule_errors(layer: Layer, accelerator: Accelerator, rng: np.random.Generator) -> dict[str, str]:
    """Of one layer's table, and of `energy_of`, beside every tile and beside one another."""
    priced = machine_energy(accelerator)
    assert priced is not None
    tables = [energy_table([layer], accelerator, seed)[0] for seed in range(3)]
    sampled = np.empty((9, 8))
    for w, a in np.ndindex(9, 8):
        plan = schedule(layer, w, a + 1, accelerator, output=PRICED_OUTPUT)
        operands = typical_operands(layer, (w,) * layer.out_channels, a + 1)
        sampled[w, a] = energy_of(plan, priced[0], operands).dynamic
    places = tuple(np.array(WIDTHS).T - np.array([[0], [1]]))
    exact = np.array([every_tile(layer, (w,) * layer.out_channels, a, accelerator) for w, a in WIDTHS])
    table, own = np.array([100 * (one[0][places] / exact - 1) for one in tables]), 100 * (sampled[places] / exact - 1)
    both = 100 * (tables[0][0] / sampled - 1)
    oracle, mixed = Oracle([layer], accelerator, energy=tables[0]), []
    for a in (2, 3, 4, 5):
        widths = rng.integers(0, 9, layer.out_channels)
        energy = oracle.kernel_wise_energy(histogram([widths]), np.array([a]))
        mixed.append(100 * (energy / every_tile(layer, widths.tolist(), a, accelerator) - 1))
    return {
        "table, largest %": f"{np.abs(table).max():.2f}",
        "mean %": f"{np.abs(table).mean():.2f}",
        "energy_of, largest %": f"{np.abs(own).max():.2f}",
        "table from energy_of, 72 points, largest %": f"{np.abs(both).max():.2f}",
        "mean % ": f"{np.abs(both).mean():.2f}",
        "kernel-wise, %": f"{min(mixed):+.1f} to {max(mixed):+.1f}",
    }


def build(layers: Sequence[Layer], accelerator: Accelerator) -> tuple[Oracle, float]:
    """An oracle and how many seconds it took."""
    begin = time.process_time()
    oracle = Oracle(layers, accelerator)
    return oracle, time.process_time() - begin


def make(layers: Sequence[Layer], accelerator: Accelerator, lowest: int, repetitions: int) -> float:
    """Median seconds that a cost table takes."""
    return medians(repetitions, table=(partial(cost_table, layers, accelerator, lowest=lowest), 1))["table"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hardware", nargs="+", default=["bitserial-small", "bitserial-edge"])
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--policies", type=int, default=40, help="Kernel-wise policies per row of the error table.")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)

    load = os.getloadavg()[1]
    comparison, count = layer_wise(options.repetitions, rng)
    building, errors, speeds = [], [], []
    for network in ("mobilenetv2", "resnet18"):
        layers = network_layers(network)
        for hardware in options.hardware:
            accelerator = load_accelerator(hardware)
            oracle, cold = build(layers, accelerator)
            building.append({"network": network, "accelerator": hardware, "layers": len(layers), "first, s": cold})
            for widths, lowest in (("9 x 8", 0), ("8 x 8", 1)):
                building[-1][f"{widths}, s"] = make(layers, accelerator, lowest, options.repetitions)
            speeds.append({"network": network, "accelerator": hardware})
            speeds[-1]["policies per second"] = f"{kernel_wise_speed(oracle, options.repetitions, rng):,.0f}"
            for spread in ("any", "near a mean"):
                found = 100 * kernel_wise_errors(oracle, spread, options.policies, rng)
                size = np.abs(found)
                errors.append({"network": network, "accelerator": hardware, "widths": spread})
                errors[-1] |= {"mean error %": f"{size.mean():.2f}", "95 % below %": f"{np.quantile(size, 0.95):.2f}"}
                errors[-1] |= {"largest %": f"{size.max():.2f}", "mean with sign %": f"{found.mean():+.2f}"}
                print(errors[-1], flush=True)
    joules, precision = [], []
    for network, hardware in JOULES:
        layers, accelerator = network_layers(network), load_accelerator(hardware)
        begin = time.process_time()
        energy_table(layers, accelerator)
        joules.append({"network": network, "accelerator": hardware, "layers": len(layers)})
        joules[-1]["s"] = f"{time.process_time() - begin:.1f}"
        print(joules[-1], flush=True)
    for name, layer in KINDS.items():
        precision.append({"layer": name} | joule_errors(layer, load_accelerator(PRICED), rng))
        print(precision[-1], flush=True)
    write_report(
        "oracle_speed",
        "Speed of the oracle",
        [
            f"MobileNet-V2 ({count}), one table, the same random policies; the four take turns, medians of "
            f"{options.repetitions}. HAQ's loop is one indexed addition per layer over an array (layers, 8, 8). "
            f"All times here are processor time in one thread; the two cores had a load of {load:.1f} when it began.",
            comparison,
            "## Making the table",
            "All 9 x 8 (or 8 x 8) widths of every layer, every one scheduled and timed by the cycle model, equal ones "
            f"once. The first time in one process, and medians of {options.repetitions} later ones.",
            markdown(pd.DataFrame(building).map(lambda one: f"{one:.3f}" if isinstance(one, float) else one)),
            "## Making the table of joules",
            "All 9 x 8 widths of every layer, once.",
            markdown(pd.DataFrame(joules)),
            f"Its error on `{PRICED}`, beside layers whose every tile is followed at {len(WIDTHS)} pairs of widths "
            f"({', '.join(f'{w}/{a}' for w, a in WIDTHS)}; seeds 0 to 2), and beside `energy_of` at all 72. "
            "`energy_of` follows the first tiles of a few groups: too few of an image's border, or too many. "
            "Kernel-wise: four layers each, whose kernels have any width of 0 to 8, priced by the mean over kernels.",
            markdown(pd.DataFrame(precision)),
            "## Kernel-wise policies",
            f"From histograms, {BATCH:,} per call, medians of {options.repetitions}.",
            markdown(pd.DataFrame(speeds)),
            f"Error against the schedule of every kernel's width, {options.policies} random policies per row, seed "
            f"{options.seed}: all widths 0 to 8 alike in every layer, or widths around a random mean of each layer "
            "(standard deviation 1 bit). Activation widths at random. `Oracle.exact` has no error.",
            markdown(pd.DataFrame(errors)),
        ],
    )


if __name__ == "__main__":
    main()
