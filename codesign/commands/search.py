"""``codesign search``: an agent looks for the most accurate policy within a budget."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from codesign.commands.common import (
    DataOption,
    HardwareOption,
    JsonOption,
    NetworkOption,
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
from codesign.networks import default_data
from codesign.plots import bits_per_layer, learning_curve, pareto_front
from codesign.program import build_program
from codesign.resources import accelerator_resources
from codesign.search import CHECKPOINT, SearchResult, check_directory, search
from codesign.tasks import Choices, LiveTask, Problem
from codesign.training import FineTune
from codesign.training import accuracy as float_accuracy
from codesign.workload import load_workload
from hardware.errors import InputError
from hardware.files import check_writable
from hardware.schedule import MAX_BITS
from policies.agent import check_agent, make_agent
from policies.space import Space


def command(
    directory: Annotated[Path, typer.Option("--out", help="Folder of the run.")] = Path("runs/search"),
    network: NetworkOption = "lenet",
    data: DataOption = None,
    weights: WeightsOption = None,
    hardware: HardwareOption = "bitserial-tiny",
    agent: Annotated[str, typer.Option("--agent", help="See `codesign list`.")] = "haq",
    budget: Annotated[str, BUDGET] = "latency=0.6",
    reward: RewardOption = "haq",
    lut: LutOption = None,
    episodes: Annotated[int, typer.Option("--episodes", min=1, help="Policies to try.")] = 100,
    seed: SeedOption = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run that --out holds.")] = False,
    lowest_bits: Annotated[int, LOWEST_BITS] = 2,
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
    """Search a bit-width policy: each episode is one policy, fine-tuned and judged on validation images.

    Leaves policy.yaml, quantized.pt (the fine-tuned network under it), results.csv, checkpoint.pt, three pictures,
    scalars for TensorBoard, and float.pt if it had to train. The accuracy printed at the end is on held-out test
    images, in the integer arithmetic that `codesign simulate` compares with the machine.
    """
    check_agent(agent)
    result = Result("search", json)
    torch.set_num_threads(threads)
    check_writable(directory / "policy.yaml")
    accelerator = priced_accelerator(hardware)
    accelerator_resources(accelerator)
    layers = load_workload(network, seed, data).traced.layers
    choices = Choices(lowest_bits, group, weights_only, pin_ends)
    problem = Problem(choices.space(network, layers), accelerator, budget, reward, lut)
    tune = FineTune(
        epochs=tune_epochs, learning_rate=tune_rate, images=tune_images, validation_images=validation_images
    )
    settings = problem.settings | {
        "data": data or default_data(network),
        "agent": agent,
        "episodes": episodes,
        "seed": seed,
        **asdict(choices),
        "train_epochs": train_epochs,
        "fine_tune": repr(tune),
        "threads": threads,
    }
    check_directory(directory, settings, resume)
    if resume and not (directory / CHECKPOINT).exists():
        note(f"{directory} holds no run to resume: starting one")
    if weights is None:
        weights = directory / "float.pt"
        if not (resume and weights.exists() and (directory / CHECKPOINT).exists()):
            train_network(network, data, train_epochs, seed, weights)
    live = LiveTask(problem, data, weights, tune, seed)
    settings["weights"] = live.digest
    player = make_agent(agent, live.task, episodes=episodes, seed=seed)
    begin = time.perf_counter()
    with progress_bar(f"{agent} episodes", episodes) as bar:
        found = search(live.task, player, episodes, directory, settings, resume, lambda now: bar(*_remark(now)))
    seconds = time.perf_counter() - begin

    best = found.rows[found.best]
    vector = problem.space.parse(best["bits"])
    bits = layer_bits(problem.space, vector)
    integers = live.save(problem.space.policy(vector), directory / "policy.yaml", directory / "quantized.pt")
    test = live.test_images(test_images)
    accuracy = integers.accuracy(test)
    reference = float_accuracy(live.workload.traced.graph_module, test)
    title = f"{agent} on {network}, {lut.name if lut else accelerator.name}, {problem.budget}"
    learning_curve([row["reward"] for row in found.rows], title, directory / "learning_curve.png")
    bits_per_layer([layer.name for layer in layers], bits, title, directory / "bits.png")
    points = [(row["latency_ratio"], row["accuracy"]) for row in found.rows]
    pareto_front({agent: points}, live.task.reference_accuracy, title, directory / "pareto.png")

    try:
        program_cycles = build_program(integers, accelerator, live.workload.input_shape).cycles()
    except InputError as error:  # the search is still worth its result
        program_cycles = None
        note(f"the network is no program for {accelerator.name}: {error}")

    lines = table(title, "layer", "weight bits", "activation bits", "cycles at 8,8")
    for layer, (w, a), cycles in zip(layers, bits, problem.costs.oracle.table[:, -1, -1], strict=True):
        lines.add_row(layer.name, f"{w:.3g}", f"{a}", f"{cycles:,.0f}")
    out.print(lines)
    say(
        f"best of {episodes} episodes ({len(live.task.asked)} policies evaluated): "
        f"{best['cost']:,.0f} cycles, {best['budget_used']:.1%} of the budget\n"
        f"the whole network as one program, pools and additions included: "
        f"{'none' if program_cycles is None else f'{program_cycles:,} cycles'}\n"
        f"validation accuracy {best['accuracy']:.2%} (full precision {live.task.reference_accuracy:.2%})\n"
        f"held-out test accuracy in integer arithmetic {accuracy:.2%} on {len(test):,} images "
        f"(full precision {reference:.2%})\n"
        f"wrote {directory}: policy.yaml, quantized.pt, results.csv, learning_curve.png, bits.png, pareto.png, "
        "tensorboard"
    )
    values: dict[str, Any] = {
        "network": network,
        "agent": agent,
        "episodes": episodes,
        "policy": str(directory / "policy.yaml"),
        "accuracy": accuracy,
        "accuracy_full_precision": reference,
        "validation_accuracy": best["accuracy"],
        "validation_accuracy_full_precision": live.task.reference_accuracy,
        "test_images": len(test),
        "cost": best["cost"],
        "program_cycles": program_cycles,
        "cost_ratio": best["latency_ratio"],
        "budget": problem.budget,
        "reward": reward,
        "lut": str(lut) if lut else None,
        "budget_used": best["budget_used"],
        "evaluations": len(live.task.asked),
        "ratios": {metric: best[f"{metric}_ratio"] for metric in problem.costs.tables},
        "bits": bits,
        "search_s": round(seconds, 3),
    }
    result.write(values, accelerator, seed)


def layer_bits(space: Space, vector: np.ndarray) -> list[tuple[float, int]]:
    """Mean weight bits and activation bits of every layer; a whole number where all kernels have one width."""
    counts, activations = space.histograms(vector)
    means = (counts * np.arange(MAX_BITS + 1)).sum(1) / counts.sum(1)
    return [(int(w) if w == int(w) else float(w), int(a)) for w, a in zip(means, activations, strict=True)]


def _remark(found: SearchResult) -> tuple[int, str]:
    """Episodes done, and the best of them."""
    best = found.rows[found.best]
    return len(found.rows), f"best reward {best['reward']:.3f}, latency {best['latency_ratio']:.1%} of 8 bits"
