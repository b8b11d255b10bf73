"""How fast the oracle prices policies, beside HAQ's loop in Python, and how close its kernel-wise prices are.

Both price the same policies by the same table in the same process, turn by turn.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd
from common import markdown, write_report

from codesign.workload import load_workload
from hardware.accelerator import Accelerator, load_accelerator
from hardware.kernel_wise import histogram
from hardware.layer import Layer
from hardware.oracle import Oracle

BATCH = 10_000


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
            begin = time.perf_counter()
            task()
            if turn:  # the first one compiles
                times[name].append((time.perf_counter() - begin) / policies)
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


def build(layers: Sequence[Layer], accelerator: Accelerator) -> tuple[Oracle, float]:
    """An oracle and how many seconds it took."""
    begin = time.perf_counter()
    oracle = Oracle(layers, accelerator)
    return oracle, time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hardware", nargs="+", default=["bitserial-small", "bitserial-edge"])
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--policies", type=int, default=40, help="Kernel-wise policies per row of the error table.")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)

    comparison, count = layer_wise(options.repetitions, rng)
    building, errors, speeds = [], [], []
    for network in ("mobilenetv2", "resnet18"):
        layers = network_layers(network)
        for hardware in options.hardware:
            accelerator = load_accelerator(hardware)
            oracle, cold = build(layers, accelerator)
            _, warm = build(layers, accelerator)
            building.append({"network": network, "accelerator": hardware, "layers": len(layers)})
            building[-1] |= {"first, s": f"{cold:.3f}", "second, s": f"{warm:.3f}"}
            speeds.append({"network": network, "accelerator": hardware})
            speeds[-1]["policies per second"] = f"{kernel_wise_speed(oracle, options.repetitions, rng):,.0f}"
            for spread in ("any", "near a mean"):
                found = 100 * kernel_wise_errors(oracle, spread, options.policies, rng)
                size = np.abs(found)
                errors.append({"network": network, "accelerator": hardware, "widths": spread})
                errors[-1] |= {"mean error %": f"{size.mean():.2f}", "95 % below %": f"{np.quantile(size, 0.95):.2f}"}
                errors[-1] |= {"largest %": f"{size.max():.2f}", "mean with sign %": f"{found.mean():+.2f}"}
                print(errors[-1], flush=True)
    write_report(
        "oracle_speed",
        "Speed of the oracle",
        [
            f"MobileNet-V2 ({count}), one table, the same random policies; the four take turns, medians of "
            f"{options.repetitions}. HAQ's loop is one indexed addition per layer over an array (layers, 8, 8).",
            comparison,
            "## Making the table",
            "All 9 x 8 widths of every layer, every one scheduled and timed by the cycle model, equal layers once. "
            "First and second time in one process.",
            markdown(pd.DataFrame(building)),
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
