"""``codesign compare``: several agents, several seeds, one task."""

from dataclasses import asdict
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer

from codesign.commands.common import (
    DataOption,
    HardwareOption,
    JsonOption,
    Result,
    SeedOption,
    WeightsOption,
    note,
    out,
    priced_accelerator,
    progress_bar,
    say,
    table,
)
from codesign.commands.task_options import (
    BUDGET,
    LOWEST_BITS,
    GroupOption,
    LutOption,
    PinEndsOption,
    RewardOption,
    TestImagesOption,
    ThreadsOption,
    TrainEpochsOption,
    TuneEpochsOption,
    TuneImagesOption,
    TuneRateOption,
    ValidationImagesOption,
    WeightsOnlyOption,
    train_network,
)
from codesign.compare import SETTINGS, MakeAgent, check_comparison, compare
from codesign.comparison import Comparison
from codesign.gradient_agents import AFTER_SCHEMES, GRADIENT_AGENTS, make_live_agent
from codesign.networks import default_data
from codesign.plots import learning_bands, pareto_front
from codesign.resources import accelerator_resources
from codesign.tasks import LOWEST_BITS as LOWEST
from codesign.tasks import Choices, LiveTask, Problem, read_benchmark
from codesign.training import FineTune
from codesign.training import accuracy as float_accuracy
from codesign.workload import load_workload
from hardware.errors import InputError
from hardware.files import check_writable, replacing
from policies.agent import check_agent, make_agent

NETWORK = "lenet"
LIVE_BUDGET, TABLE_BUDGET = "latency=0.6", "bits=0.6"
LIVE_ONLY = {
    *("data", "weights", "group", "pin_ends", "train_epochs", "tune_epochs", "tune_rate", "tune_images"),
    *("validation_images", "test_images"),
}
"""Parameters that a table leaves nothing to do for."""


def command(
    context: typer.Context,
    directory: Annotated[Path, typer.Option("--out", help="Folder of the comparison.")] = Path("runs/compare"),
    agents: Annotated[str, typer.Option("--agents", help="Names with commas; see `codesign list`.")] = (
        "haq,random,uniform"
    ),
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs per agent: seeds --seed, --seed + 1, ...")] = 5,
    evaluations: Annotated[
        str, typer.Option("--evaluations", help="Distinct policies per run after which to compare; rising numbers.")
    ] = "50,100",
    accuracies: Annotated[
        Path | None,
        typer.Option("--table", help="Accuracies of all policies (CSV: w1, w2, ..., maybe a1, ..., top1_percent)."),
    ] = None,
    reference: Annotated[
        float | None,
        typer.Option("--reference", help="With --table: accuracy before quantization, a fraction. Default: its best."),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            "--network",
            help=f"A built-in network (see `codesign list`) or package.module:callable. Default: {NETWORK}; with "
            "--table linear layers of one size: the metric bits is right then, latency and energy say little.",
        ),
    ] = None,
    data: DataOption = None,
    weights: WeightsOption = None,
    hardware: HardwareOption = "bitserial-tiny",
    budget: Annotated[str | None, BUDGET] = None,
    reward: RewardOption = "haq",
    lut: LutOption = None,
    seed: SeedOption = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the comparison that --out holds.")] = False,
    lowest_bits: Annotated[int | None, LOWEST_BITS] = None,
    group: GroupOption = None,
    weights_only: WeightsOnlyOption = False,
    pin_ends: PinEndsOption = False,
    train_epochs: TrainEpochsOption = None,
    tune_epochs: TuneEpochsOption = FineTune.epochs,
    tune_rate: TuneRateOption = FineTune.learning_rate,
    tune_images: TuneImagesOption = None,
    validation_images: ValidationImagesOption = None,
    test_images: TestImagesOption = None,
    threads: ThreadsOption = 1,
    json: JsonOption = None,
) -> None:
    """Compare agents: what each finds with how many evaluations, over several seeds of one task.

    The task is a network, fine-tuned under every policy, as in `codesign search`, or a --table of accuracies. An
    evaluation is a distinct policy that a run asks for. Regret is the distance in reward from the best policy: in a
    table from that of brute force, else from the best that any run found. --budget is by default latency=0.6, of a
    table without --network bits=0.6; --lowest-bits 2, or the table's lowest.

    Leaves comparison.csv, regret.png, pareto.png, and, of a network, each agent's best as policy-AGENT.yaml and
    quantized-AGENT.pt, ready for `codesign simulate`. A killed comparison continues with --resume, which may also add
    agents and seeds.
    """
    names, counts = _agents(agents, live=accuracies is None), _evaluations(evaluations)
    result = Result("compare", json)
    torch.set_num_threads(threads)
    accelerator = priced_accelerator(hardware)
    accelerator_resources(accelerator)
    live: LiveTask | None = None
    vectors: np.ndarray | None = None
    if accuracies:
        given = [name for name in LIVE_ONLY if getattr(context.get_parameter_source(name), "name", "") != "DEFAULT"]
        if given:
            options = " and ".join(f"--{name.replace('_', '-')}" for name in sorted(given))
            raise InputError(f"a --table brings its own accuracies and widths: leave out {options}.")
        benchmark = read_benchmark(accuracies, network, reference, lowest_bits or 0)
        if weights_only and benchmark.evaluator.activation_widths:
            raise InputError(
                f"{accuracies} holds activations: leave out --weights-only, or their columns of the table."
            )
        problem = Problem(
            benchmark.space, accelerator, budget or (LIVE_BUDGET if network else TABLE_BUDGET), reward, lut
        )
        settings = problem.settings | {"table": benchmark.digest, "reference": reference, "lowest_bits": lowest_bits}
        _check(directory, settings, resume)
        task, vectors = problem.task(benchmark.evaluator), benchmark.vectors
    else:
        if reference is not None:
            raise InputError("--reference belongs to a --table: the accuracy of a network is measured.")
        network = network or NETWORK
        layers = load_workload(network, seed, data).traced.layers
        choices = Choices(LOWEST if lowest_bits is None else lowest_bits, group, weights_only, pin_ends)
        problem = Problem(choices.space(network, layers), accelerator, budget or LIVE_BUDGET, reward, lut, True)
        tune = FineTune(
            epochs=tune_epochs, learning_rate=tune_rate, images=tune_images, validation_images=validation_images
        )
        settings = problem.settings | {
            "data": data or default_data(network),
            "seed": seed,
            **asdict(choices),
            "train_epochs": train_epochs,
            "fine_tune": repr(tune),
            "threads": threads,
        }
        _check(directory, settings, resume)
        if weights is None:
            weights = directory / "float.pt"
            if not (resume and weights.exists() and (directory / SETTINGS).exists()):
                train_network(network, data, train_epochs, seed, weights)
        live = LiveTask(problem, data, weights, tune, seed)
        settings["weights"] = live.digest
        task = live.task

    with progress_bar("evaluations", len(names) * seeds * counts[-1]) as bar:
        make: MakeAgent = partial(make_live_agent, evaluator=live.evaluator) if live else make_agent
        runs = range(seed, seed + seeds)
        found = compare(task, names, runs, counts[-1], directory, settings, resume, vectors, bar, make)
    title = f"{problem.space.network}, {lut.name if lut else accelerator.name}, {problem.budget}, reward {reward}"
    rows, summary = _write(found, names, counts, title, directory)
    _print(summary, title)
    best = found.best
    say(
        f"regret is against {found.against}: reward {best.reward:.4f}, accuracy {best.accuracy:.2%}, "
        f"latency {best.ratios['latency']:.1%} of 8 bits, bits {_short(problem.space.text(best.vector))}"
    )
    policies = _save_best(found, names, live, test_images, directory) if live else []
    say(f"wrote {directory}: comparison.csv, regret.png, pareto.png" + (", policies, networks" if live else ""))
    values = {
        "network": problem.space.network,
        "table": str(accuracies) if accuracies else None,
        "budget": problem.budget,
        "reward": reward,
        "lut": str(lut) if lut else None,
        "accuracy_full_precision": task.reference_accuracy,
        "regret_against": found.against,
        "best": best.row(problem.space),
        "evaluated": len(found.outcomes),
        "rows": rows,
        "summary": summary,
        "policies": policies,
    }
    result.write(values, accelerator, seed)


def _agents(text: str, live: bool) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name in AFTER_SCHEMES or (name in GRADIENT_AGENTS and not live):
            needed = (
                "chooses schemes, which is another task" if name in AFTER_SCHEMES else "needs a network to learn on"
            )
            raise InputError(f"agent {name!r} {needed}: leave it out, or let `codesign search` run it.")
        if name not in GRADIENT_AGENTS:
            check_agent(name)
    return names


def _evaluations(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or counts[0] < 1 or any(a >= b for a, b in pairwise(counts)):
        raise InputError(f"--evaluations {text!r}: expected rising numbers of 1 or more, for example 50,100,200.")
    return counts


def _check(directory: Path, settings: dict[str, Any], resume: bool) -> None:
    """What can be known of the folder before a network is trained."""
    check_writable(directory / "comparison.csv")
    check_comparison(directory, settings, resume)
    if resume and not (directory / SETTINGS).exists():
        note(f"{directory} holds no comparison to resume: starting one")


def _write(
    found: Comparison, names: list[str], counts: list[int], title: str, directory: Path
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The table and the pictures; returns rows and summary."""
    rows = [found.row(run, count) for run, count in product(found.runs, counts)]
    with replacing(directory / "comparison.csv") as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)
    curves = {agent: found.regrets(agent, counts[-1]) for agent in names}
    learning_bands(curves, "regret: reward behind the best", title, directory / "regret.png")
    points = {agent: found.points(agent) for agent in names}
    pareto_front(points, found.task.reference_accuracy, title, directory / "pareto.png")
    return rows, [found.summary(agent, count) for agent, count in product(names, counts)]


def _print(summary: list[dict[str, Any]], title: str) -> None:
    lines = table(title, "agent", "evaluations", "mean regret", "best found", "accuracy", "latency", "agent s")
    for row in summary:
        error = "" if row["regret_error"] is None else f" ± {row['regret_error']:.4f}"
        lines.add_row(
            row["agent"],
            f"{row['evaluations']}",
            f"{row['regret']:.4f}{error}",
            f"{row['found_best']}/{row['seeds']}",
            f"{row['accuracy']:.2%}",
            f"{row['latency_ratio']:.1%}",
            f"{row['agent_s']:.2f}",
        )
    out.print(lines)


def _short(bits: str, most: int = 100) -> str:
    """The text of a policy; only its beginning where it has a width per kernel."""
    return bits if len(bits) <= most else f"{bits[:most]}..."


def _save_best(
    found: Comparison, names: list[str], live: LiveTask, test_images: int | None, directory: Path
) -> list[dict[str, Any]]:
    """Each agent's best policy with its fine-tuned network, and what they are worth on held-out images."""
    test, space = live.test_images(test_images), live.task.space
    reference = float_accuracy(live.workload.traced.graph_module, test)
    saved = []
    for agent in names:
        policy, network = directory / f"policy-{agent}.yaml", directory / f"quantized-{agent}.pt"
        best = found.best_of(agent)
        accuracy = live.save(space.policy(best.vector), policy, network).accuracy(test)
        saved.append({"agent": agent, "policy": str(policy), "weights": str(network), "test_images": len(test)})
        saved[-1] |= {"accuracy": accuracy, "accuracy_full_precision": reference} | {
            f"validation_{key}" if key == "accuracy" else key: value for key, value in best.row(space).items()
        }
        say(
            f"{agent}: validation accuracy {best.accuracy:.2%} at {best.ratios['latency']:.1%} of the 8-bit latency, "
            f"held-out test accuracy in integer arithmetic {accuracy:.2%} on {len(test):,} images "
            f"(full precision {reference:.2%})"
        )
    return saved
