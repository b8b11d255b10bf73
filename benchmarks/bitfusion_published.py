"""The published BitFusion model: its authors' own figures, how long it takes, and their comparison with Eyeriss."""

import argparse
import csv
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from common import markdown, write_report

from codesign.published import PublishedWork, network_layers, price, read_layers
from codesign.workload import load_workload
from hardware.bitfusion_cost import FIGURES, PublishedCost, published_cost, total_cost
from hardware.bitfusion_published import published_machine
from policies.policy import Policy

FIXTURES = Path(__file__).parent.parent / "tests" / "hardware" / "data"
EDGE = published_machine("bitfusion-published-edge")
BATCH = 16
ORIGINAL_SECONDS = 5.0
"""The authors' simulator for a ResNet-18, as stated; not measured here."""
RESNET = "RESNET-18"

PRINTED = {
    "AlexNet": ((4.708311375, 448.386241718), (8.785792, 373.972376054)),
    "SVHN": ((0.164690375, 410.014092738), (1.412096, 505.580560986)),
    "CIFAR10": ((0.411713, 450.464576981), (5.519232, 496.368564243)),
    "LeNet-5": ((0.051294, 356.024253811), (0.139712, 561.781457444)),
    "VGG-7": ((0.352811375, 419.433333242), (2.703232, 540.072926786)),
    "RESNET-18": ((6.13499775, 442.486265848), (11.935744, 421.36057488)),
    "RNN": ((0.049322875, 407.720807613), (0.131072, 789.0944)),
    "LSTM": ((0.042146875, 410.009320233), (0.1026, 805.53708538)),
}
"""Milliseconds per image and milliwatts of BitFusion, and of Eyeriss, that the authors' notebook prints
(bitfusion-generate-graphs.ipynb in github.com/hsharma35/bitfusion)."""


def printed_joules(milliseconds: float, milliwatts: float) -> float:
    """A batch's energy from what the notebook prints.

    Its milliwatts are nanojoules of the batch of 16 per millisecond of one image, times 16 * 1e-6.
    """
    return milliwatts * milliseconds / 16 * 1e-3


def networks_of(paths: Sequence[Path]) -> dict[str, PublishedCost]:
    """By network, the totals of its layers on the edge machine."""
    works = [work for path in paths for work in read_layers(path) if work.machine == EDGE]
    costs = price(works)
    names = dict.fromkeys(work.network for work in works)
    return {
        name: total_cost(cost for work, cost in zip(works, costs, strict=True) if work.network == name)
        for name in names
    }


def energies(networks: dict[str, PublishedCost]) -> list[dict[str, str]]:
    """Rows of cycles and energy by network."""
    rows = []
    for name, total in networks.items():
        energy = total.energy
        parts = {part: getattr(energy, part) for part in ("array", "wbuf", "ibuf", "obuf", "dram")}
        rows.append(
            {
                "network": name,
                "cycles": f"{total.cycles:,}",
                "waiting for memory": f"{total.memory_wait_cycles / total.cycles:.1%}",
                "ms per image": f"{total.cycles / EDGE.clock_mhz / 1e3 / BATCH:.4f}",
                "mJ per batch": f"{1e3 * energy.total:.3f}",
                **{part: f"{joules / energy.total:.1%}" for part, joules in parts.items()},
            }
        )
    return rows


def eyeriss(networks: dict[str, PublishedCost]) -> list[dict[str, str]]:
    """Rows of the comparison with Eyeriss, and their geometric mean."""
    rows, ratios = [], []
    for name, total in networks.items():
        ours = total.cycles / EDGE.clock_mhz / 1e3 / BATCH, total.energy.total
        theirs, other = ((one[0], printed_joules(*one)) for one in PRINTED[name])
        ratios.append((other[0] / ours[0], other[1] / ours[1]))
        rows.append(
            {
                "network": name,
                "cycles per batch": f"{total.cycles:,}",
                "ms per image": f"{ours[0]:.4f}",
                "authors': ms": f"{theirs[0]:.4f}",
                "mJ per batch": f"{1e3 * ours[1]:.3f}",
                "authors': mJ": f"{1e3 * theirs[1]:.3f}",
                "Eyeriss, ms": f"{other[0]:.4f}",
                "Eyeriss, mJ": f"{1e3 * other[1]:.3f}",
                "faster": f"{ratios[-1][0]:.3f}",
                "less energy": f"{ratios[-1][1]:.3f}",
            }
        )
    faster, less = (math.exp(sum(map(math.log, of_all)) / len(of_all)) for of_all in zip(*ratios, strict=True))
    mean = dict.fromkeys(rows[0], "") | {"network": "geometric mean", "faster": f"{faster:.3f}"}
    return [*rows, mean | {"less energy": f"{less:.3f}"}]


VALIDATION = """\
`codesign cost --model published` is the cost model of BitFusion's authors (Sharma et al., ISCA 2018, arXiv 1712.01507),
for people who compare with their figures. It says nothing of this project's machine, whose model is the default
(`--model ours`). All figures of a layer that their public results hold (cycles, stalls, traffic of every memory) are
reproduced to the bit: all 61 layers of their eight networks on the edge machine (16x32 fusion units, 192 bits of DRAM
per cycle, batch 16), and 15 layers on the wider machines of their sweep ([figures](benchmarks/bitfusion_published.md)).
The results name no shapes and no widths: those are of the networks that the authors describe, and fit the figures.

Their paper has BitFusion 3.9 times as fast as Eyeriss, with 5.1 times less energy: geometric means over these networks.
BitFusion's side below is ours. **Eyeriss' side is not simulated here**: it is what the authors' notebook prints, of a
16-bit machine at 500 MHz, its DRAM energy times 0.15, 16 * 0.2 pJ per unit of energy. So the means confirm our
BitFusion, and say nothing new of Eyeriss. Our constants of energy have three digits, the authors' more. The milliwatts
that they print are not energy per time, by a factor common to both sides; the joules below undo their formula."""


def validation_section() -> list[str]:
    """What `docs/validation.md` says of the published model."""
    paths = [FIXTURES / f"bitfusion_published_{part}.csv" for part in ("edge", "rest")]
    return ["## BitFusion's published model", VALIDATION, markdown(pd.DataFrame(eyeriss(networks_of(paths))))]


def exact_rows(path: Path) -> str:
    """How many rows have all ten of the file's figures."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    costs = price(read_layers(path))
    exact = sum(
        all(cost.figures[name] == int(row[name]) for name in FIGURES) for cost, row in zip(costs, rows, strict=True)
    )
    return f"{exact} of {len(rows)}"


def seconds(work: Callable[[], Any]) -> str:
    """Median and slowest of seven runs, processor time."""
    times = []
    for _ in range(7):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return f"{sorted(times)[3]:.3f} ({max(times):.3f})"


def one_by_one(works: Sequence[PublishedWork]) -> Callable[[], Any]:
    """Prices every layer, equal ones too."""
    return lambda: [published_cost(work.shape, work.machine) for work in works]


def command_seconds(path: Path) -> float:
    """Processor time of the whole command in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "codesign", "cost", "--model", "published", "--layers", str(path)]
        begin = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*command, "--json", f"{folder}/result.json"], check=True, capture_output=True)
        end = resource.getrusage(resource.RUSAGE_CHILDREN)
    return end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--layers", type=Path, nargs="+", help="tables with their figures; by default those of the tests"
    )
    options = parser.parse_args()
    paths = options.layers or [FIXTURES / f"bitfusion_published_{part}.csv" for part in ("edge", "rest")]
    exact = [{"table": path.name, "rows with all ten figures exact": exact_rows(path)} for path in paths]

    works = {path: read_layers(path) for path in paths}
    workload = load_workload("resnet18", seed=0)
    policy = Policy.uniform("resnet18", workload.traced.layers, 4, 4)
    resnet18 = network_layers(workload, policy, BATCH, EDGE)
    theirs = [work for of_file in works.values() for work in of_file if work.network == RESNET and work.machine == EDGE]
    timed = {
        **{f"every row of {path.name}, {len(one)} layers": one_by_one(one) for path, one in works.items()},
        f"`resnet18` of this project, 4 bits, batch {BATCH}, {len(resnet18)} layers": lambda: price(resnet18),
    }
    if theirs:
        timed[f"the authors' ResNet-18, twice as wide, batch {BATCH}, {len(theirs)} layers"] = lambda: price(theirs)
    times = [{"what": what, "seconds: median of 7 (slowest)": seconds(work)} for what, work in timed.items()]
    write_report(
        "bitfusion_published",
        "The published BitFusion model",
        [
            "`codesign cost --model published`: every layer's tiling and loop order are searched as the authors' "
            "simulator does, and priced by its equations. The figures of a row are cycles, stalls, and bits read from "
            "and written to three buffers and DRAM; the tables are the authors' results with the layers' shapes.",
            markdown(pd.DataFrame(exact)),
            "## Time",
            "Processor time. Networks price equal layers once. The authors' simulator is stated to need about "
            f"{ORIGINAL_SECONDS:g} s for a ResNet-18; that was not measured here. The whole command on {paths[0].name} "
            f"took {command_seconds(paths[0]):.1f} s, nearly all of it imports of what any command needs.",
            markdown(pd.DataFrame(times)),
            "## Networks on the edge machine",
            f"Batch {BATCH}, 500 MHz. Energy by the authors' constants for 45 nm.",
            markdown(pd.DataFrame(energies(networks_of(paths)))),
        ],
    )


if __name__ == "__main__":
    main()
