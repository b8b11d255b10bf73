"""HAQ's Table 1: a policy searched for one machine, priced on all of them.

The same search runs for every machine. For every allowed loss of accuracy, the cheapest policy that a machine's own
searches asked for is priced on all machines, beside the cheapest that any machine's searches asked for.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import add_options, markdown, write_report

from codesign.commands.common import progress_bar
from codesign.compare import EVALUATIONS, RUNS, SETTINGS, Evaluations, check_comparison, compare
from codesign.energy import machine_energy
from codesign.gradient_agents import make_live_agent
from codesign.records import read_records
from codesign.tasks import Choices, LiveTask, Problem
from codesign.training import FineTune
from codesign.training import accuracy as measured
from codesign.workload import load_workload
from hardware.accelerator import Accelerator, load_accelerator
from hardware.files import write_text
from policies.costs import Costs
from policies.policy import Policy
from policies.space import Space
from policies.task import Evaluator

REWARD = "haq"
UNITS = {"latency": "ms", "energy": "µJ"}
HAQ_MACHINES = ("HW1, BitFusion", "HW2, edge", "HW3, cloud")
HAQ_MILLISECONDS = np.array([[16.29, 85.24, 117.44], [19.95, 64.29, 108.64], [19.94, 66.15, 99.68]])
"""HAQ's Table 1, recalled: MobileNet-V1, the policy searched for the row's machine on the column's."""


@dataclass(frozen=True)
class Found:
    """A policy as `policies.space.Space.text`, and its accuracy on the validation images."""

    bits: str
    accuracy: float

    @property
    def widths(self) -> dict[str, str]:
        """Means over the layers."""
        weights, activations = np.array([[int(digit) for digit in word] for word in self.bits.split()]).T
        return {"weight bits": f"{weights.mean():.2f}", "activation bits": f"{activations.mean():.2f}"}


class Machine:
    """A machine: what policies cost there, the searches to do for it, and all policies that these asked for."""

    def __init__(self, space: Space, accelerator: Accelerator, budgets: Sequence[str]) -> None:
        self.name, self.clock_mhz, self.space = accelerator.name, accelerator.clock_mhz, space
        energies = machine_energy(accelerator) is not None
        self.costs = Problem(space, accelerator, "none", REWARD, energies=energies).costs
        own = [budget_on(accelerator, self.costs, text) for text in budgets]
        self.problems = [Problem(space, accelerator, budget, REWARD) for budget in own]
        self.found: tuple[Found, ...] = ()

    def cost(self, metric: str, one: Found) -> float:
        """Milliseconds or microjoules; widths that the machine lacks are padded."""
        raw = float(self.costs.cost(metric, self.space.parse(one.bits)))
        return raw / self.clock_mhz / 1e3 if metric == "latency" else 1e6 * raw

    def text(self, metric: str, one: Found) -> str:
        """The cost, and its share of that of 8 bits everywhere."""
        share = float(self.costs.ratio(metric, self.space.parse(one.bits)))
        return f"{self.cost(metric, one):,.3f} {UNITS[metric]}, {share:.1%}"

    def cheapest(self, metric: str, found: Sequence[Found], lowest: float) -> Found | None:
        """Of the policies of an accuracy, what costs least here; of equals the most accurate. None if there is none."""
        good = [one for one in found if one.accuracy >= lowest - 1e-9]
        return min(good, key=lambda one: (self.cost(metric, one), -one.accuracy), default=None)


class Shared(Evaluations):
    """Accuracies for the searches of all machines, as none depends on the machine."""

    def accuracy(self, policy: Policy) -> float:
        """Known, or the evaluator's answer."""
        bits = " ".join(f"{layer.weights.bits}{layer.activations.bits}" for layer in policy.layers)
        if bits not in self:
            self[bits] = super().accuracy(policy)
        return self[bits]


def against_others(costs: np.ndarray) -> list[tuple[int, int, float]]:
    """By column of a square table: the best row, the best that is not the column's own, and what that one costs more.

    0.1 is 10 % above the own one; below 0, the own one is not the best. Of equals, the own one is.
    """
    found = []
    for own, column in enumerate(costs.T):
        other = int(np.where(np.arange(len(column)) == own, np.inf, column).argmin())
        found.append((own if column[own] <= column[other] else other, other, float(column[other] / column[own] - 1)))
    return found


def bold(text: str, best: bool) -> str:
    """Marks the best of a column."""
    return f"**{text}**" if best else text


def budget_on(accelerator: Accelerator, costs: Costs, text: str) -> str:
    """What ``--budgets`` means on a machine: bits are the latency of so many everywhere, as HAQ's budgets are.

    One share of 8 bits for all machines would ask for other accuracies on each: 0.5 is 5.5 bits on bitserial-edge and
    4 on bitserial-cloud, which 0.35 is out of reach of. Between the widths that a machine has it is interpolated.
    """
    if "=" in text:
        return text
    widths = [bits for bits in accelerator.traits.widths if bits > 1]
    shares = [float(costs.ratio("latency", np.full(len(costs.space.variables), bits))) for bits in widths]
    return f"latency={math.ceil(1e4 * np.interp(float(text), widths, shares)) / 1e4:g}"  # so that these bits fit


def accuracy_settings(options: argparse.Namespace, tune: FineTune, live: LiveTask, problem: Problem) -> dict[str, Any]:
    """All that a policy's accuracy depends on."""
    versions = {name: problem.settings[name] for name in ("network", "codesign", "torch")}
    return versions | {"data": options.data, "seed": 0, "fine_tune": repr(tune), "weights": live.digest}


def search(
    options: argparse.Namespace, live: LiveTask, shared: Evaluator, problem: Problem, settings: dict[str, Any]
) -> list[Found]:
    """All policies that the agents ask for under one budget."""
    live.pose(problem)
    live.task.evaluator = shared
    folder = options.out / f"{problem.accelerator.name}-{problem.budget}"
    settings = problem.settings | settings
    seeds, most = range(options.seeds), options.evaluations
    make = partial(make_live_agent, evaluator=live.evaluator)
    with progress_bar(folder.name, len(options.agents) * options.seeds * most) as bar:
        compare(live.task, options.agents, seeds, most, folder, settings, True, progress=bar, make=make)
    evaluations, runs = (read_records(folder / name) for name in (EVALUATIONS, RUNS))
    mine = [run for run in runs if run["agent"] in options.agents and run["seed"] in seeds]  # others may lie there, too
    asked = sorted({number for run in mine for number in run["policies"]})
    return [Found(evaluations[number]["bits"], evaluations[number]["accuracy"]) for number in asked]


def cross(metric: str, machines: Sequence[Machine], chosen: Sequence[Found], tests: Sequence[float]) -> list[str]:
    """A policy for every machine on every machine, and whether each machine's own is the best there.

    Parameters
    ----------
    chosen, tests:
        By machine the policy, and its accuracy on test images.
    """
    best = against_others(np.array([[machine.cost(metric, one) for machine in machines] for one in chosen]))
    table, own = [], []
    for index, (name, one, test) in enumerate(zip([machine.name for machine in machines], chosen, tests, strict=True)):
        row = {"searched for": name, "validation": f"{one.accuracy:.1%}", "test": f"{test:.2%}"} | one.widths
        for machine, (first, _, _) in zip(machines, best, strict=True):
            row[f"on {machine.name}"] = bold(machine.text(metric, one), first == index)
        table.append(row)
        first, other, margin = best[index]
        own.append(
            {
                "machine": name,
                "own policy is best": "yes" if first == index else "**no**",
                "best other, searched for": machines[other].name,
                f"its {metric} against own": f"{margin:+.1%}",
                "its validation, points": f"{100 * (chosen[other].accuracy - one.accuracy):+.1f}",
                "its test, points": f"{100 * (tests[other] - test):+.2f}",
            }
        )
    return [markdown(pd.DataFrame(table)), markdown(pd.DataFrame(own))]


def pooled(metric: str, machines: Sequence[Machine], lowest: float) -> str:
    """By machine, the cheapest of all policies, and how far its own search was from that."""
    every, rows = list(dict.fromkeys(one for machine in machines for one in machine.found)), []
    for machine in machines:
        best, own = (machine.cheapest(metric, found, lowest) for found in (every, machine.found))
        assert best is not None
        behind = f"{machine.cost(metric, own) / machine.cost(metric, best) - 1:+.1%}" if own else "asked for none"
        rows.append(
            {
                "machine": machine.name,
                "cheapest of all": machine.text(metric, best),
                "validation": f"{best.accuracy:.1%}",
                **best.widths,
                "asked for when searching for": ", ".join(one.name for one in machines if best in one.found),
                "own search's against it": behind,
            }
        )
    return markdown(pd.DataFrame(rows))


def agreement(machines: Sequence[Machine]) -> list[str]:
    """How alike machines order the policies: why another machine's policy can be the better one."""
    every, text = list(dict.fromkeys(one for machine in machines for one in machine.found)), []
    for metric in UNITS:
        able = [machine for machine in machines if metric in machine.costs.tables]
        costs = pd.DataFrame({machine.name: [machine.cost(metric, one) for one in every] for machine in able})
        ranks = costs.corr(method="spearman")
        rows = [{metric: name} | {other: f"{ranks.loc[name, other]:.3f}" for other in ranks} for name in ranks]
        text.append(markdown(pd.DataFrame(rows)))
    return [
        "## How alike the machines are",
        "Rank correlation of what all these policies cost on two machines. Where it is near 1, a policy that is cheap "
        "on one is cheap on the other, and which search came upon the better one is luck; where a machine's own policy "
        "is not the best, its own searches had not asked for the other one: see `own search's against it`.",
        *text,
    ]


def at_loss(options: argparse.Namespace, live: LiveTask, machines: Sequence[Machine], points: float) -> list[str]:
    """What is reported of an allowed loss."""
    lowest = live.evaluator.reference_accuracy - points / 100
    text = [f"## At most {points:g} points below full precision"]
    for metric in UNITS:
        if not all(metric in machine.costs.tables for machine in machines):
            continue
        found = {machine: machine.cheapest(metric, machine.found, lowest) for machine in machines}
        own = {machine: one for machine, one in found.items() if one}
        text.append(f"### {metric.capitalize()}")
        if missing := [machine.name for machine in machines if machine not in own]:
            text.append(f"No such policy was asked for when searching for {', '.join(missing)}.")
        if len(own) > 1:
            tests = [test_accuracy(options, live, one) for one in own.values()]
            text += cross(metric, list(own), list(own.values()), tests)
        if own:
            every = list(dict.fromkeys(one for machine in machines for one in machine.found))
            best = [one for machine in machines if (one := machine.cheapest(metric, every, lowest))]
            tests = [test_accuracy(options, live, one) for one in best]
            text += ["Of all policies, whichever machine they were asked for:", pooled(metric, machines, lowest)]
            text += ["These on all machines, so that all choose from the same:", *cross(metric, machines, best, tests)]
    return text


def test_accuracy(options: argparse.Namespace, live: LiveTask, one: Found) -> float:
    """On images that nothing was chosen by."""
    space = live.task.space
    quantized = live.evaluator.quantized(space.policy(space.parse(one.bits)))
    return measured(quantized, live.test_images(options.test_images))


def published() -> list[str]:
    """HAQ's table in the same form."""
    best, table, own = against_others(HAQ_MILLISECONDS), [], []
    for index, name in enumerate(HAQ_MACHINES):
        row = {"searched for": name}
        for column, machine in enumerate(HAQ_MACHINES):
            row[f"on {machine}"] = bold(f"{HAQ_MILLISECONDS[index, column]:.2f} ms", best[column][0] == index)
        table.append(row)
        first, other, margin = best[index]
        row = {"machine": name, "own policy is best": "yes" if first == index else "**no**"}
        own.append(row | {"best other, searched for": HAQ_MACHINES[other], "its latency against own": f"{margin:+.1%}"})
    return [
        "## HAQ's",
        "HAQ (Wang et al., CVPR 2019, arXiv 1811.08886, Table 1; **recalled**, not checked against the paper): "
        "MobileNet-V1, ImageNet. The accuracies that go with these are not known to us.",
        markdown(pd.DataFrame(table)),
        markdown(pd.DataFrame(own)),
    ]


def conditions(options: argparse.Namespace, live: LiveTask, machines: Sequence[Machine]) -> list[str]:
    """What was searched, and how to read the tables."""
    evaluated = len({one for machine in machines for one in machine.found})
    searches = [
        {
            "machine": machine.name,
            "ms at 8 bits": f"{machine.costs.full['latency'] / machine.clock_mhz / 1e3:,.3f}",
            "budgets": ", ".join(problem.budget for problem in machine.problems),
            "policies asked for": len(machine.found),
        }
        for machine in machines
    ]
    text = [
        f"`{options.network}`; {', '.join(options.agents)} with reward {REWARD} searched for every machine, "
        f"{options.seeds} seeds and {options.evaluations} distinct policies for each budget; widths 2 to 8 for weights "
        f"and activations on every machine. Budgets: {', '.join(options.budgets)}; bits are the latency of so many "
        "everywhere on that machine, between the widths that it has interpolated. The policies asked for are "
        f"{evaluated} different ones, each evaluated once, as its accuracy is the same on every machine.",
        markdown(pd.DataFrame(searches)),
        "Of the policies asked for in a machine's own searches, that of the least latency there (in tables of energy, "
        "of the least energy) is taken whose accuracy is within so many points of full precision "
        f"({live.evaluator.reference_accuracy:.1%}) on {options.validation_images} validation images, after "
        f"fine-tuning on {options.tune_images}; test accuracy on {options.test_images:,} images. Validation is as good "
        "as so many images let it be, about a point for 500; policies were chosen by it, and a network that was "
        "trained on all training images has seen them. Percentages of costs are of 8 bits everywhere on the same "
        "machine; bold: the best of a column; a margin above 0: the machine's own policy costs less. Cycles are exact, "
        "clocks assumed. A machine with fusion units computes at 2, 4 or 8 bits: other widths cost as the next of "
        "these.",
    ]
    if unknown := [machine.name for machine in machines if "energy" not in machine.costs.tables]:
        text.append(f"Energy is not known of {', '.join(unknown)}, and so there are no tables of it.")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    names = ["bitserial-edge", "bitserial-cloud", "fusion-edge", "stripes-edge"]
    parser.add_argument("--hardware", nargs="+", default=names)
    parser.add_argument("--agents", nargs="+", default=["haq"])
    parser.add_argument("--budgets", nargs="+", default=["5", "4"], help="Bits everywhere, or latency=SHARE.")
    parser.add_argument("--points", type=float, nargs="+", default=[0.5, 1, 2])
    defaults = {"seeds": 2, "evaluations": 30, "tune_images": 256}
    defaults |= {"validation_images": 500, "test_images": 2000, "out": Path("runs/cross_table")}
    add_options(parser, weights=True, **defaults)
    options = parser.parse_args()

    space = Choices().space(options.network, load_workload(options.network, 0, options.data).traced.layers)
    machines = [Machine(space, load_accelerator(name), options.budgets) for name in options.hardware]
    first = machines[0].problems[0]
    tune = FineTune(images=options.tune_images, validation_images=options.validation_images)
    live = LiveTask(first, options.data, options.weights, tune, 0)
    settings = accuracy_settings(options, tune, live, first)
    check_comparison(options.out, settings, resume=True)
    options.out.mkdir(parents=True, exist_ok=True)
    write_text(options.out / SETTINGS, json.dumps(settings, indent=2) + "\n")
    shared = Shared(live.evaluator, options.out / EVALUATIONS)

    for machine in machines:
        searches = (search(options, live, shared, problem, settings) for problem in machine.problems)
        machine.found = tuple(dict.fromkeys(chain.from_iterable(searches)))
    text = conditions(options, live, machines)
    text += agreement(machines)
    for points in options.points:
        text += at_loss(options, live, machines, points)
    write_report("cross_table", "A policy searched for one machine, on another", [*text, *published()])


if __name__ == "__main__":
    main()
