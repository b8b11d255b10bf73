"""``codesign search``: an agent looks for the most accurate policy within a budget."""

import hashlib
import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from codesign.checkpoint import save_tensors
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
from codesign.data import load_data
from codesign.integers import IntegerNetwork
from codesign.networks import create_network, default_data
from codesign.plots import bits_per_layer, learning_curve
from codesign.program import build_program
from codesign.resources import accelerator_resources
from codesign.search import CHECKPOINT, SearchResult, check_directory, search
from codesign.training import FineTune, FineTuneEvaluator, kernel_deviations, train, weight_deviation
from codesign.training import accuracy as float_accuracy
from codesign.workload import load_workload, save_quantized
from hardware.errors import InputError
from hardware.files import check_writable
from hardware.oracle import Oracle, read_table
from hardware.schedule import MAX_BITS
from policies.agent import check_agent, make_agent
from policies.budget import NONE, Limits, parse_budgets
from policies.costs import Costs
from policies.rewards import make_reward
from policies.space import Space
from policies.task import Task

TRAIN_EPOCHS = {"digits": 60}
"""Data sets on which training a network from nothing takes seconds."""


def command(
    directory: Annotated[Path, typer.Option("--out", help="Folder of the run.")] = Path("runs/search"),
    network: NetworkOption = "lenet",
    data: DataOption = None,
    weights: WeightsOption = None,
    hardware: HardwareOption = "bitserial-tiny",
    agent: Annotated[str, typer.Option("--agent", help="See `codesign list`.")] = "haq",
    budget: Annotated[
        str,
        typer.Option(
            "--budget",
            help="Share of the cost with 8 bits everywhere: latency=0.6, a mix such as 0.5*latency+0.5*size=0.4, "
            "several with commas, or none. Metrics: latency, energy, size, bits, quantization.",
        ),
    ] = "latency=0.6",
    reward: Annotated[
        str, typer.Option("--reward", help="What is maximized: haq, autoq, autoq:latency=0.5, releq, releq-lenet, ...")
    ] = "haq",
    lut: Annotated[
        Path | None,
        typer.Option("--lut", help="Price policies by this table (.npy, layers x 8 x 8, HAQ's), not by ours."),
    ] = None,
    episodes: Annotated[int, typer.Option("--episodes", min=1, help="Policies to try.")] = 100,
    seed: SeedOption = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run that --out holds.")] = False,
    lowest_bits: Annotated[
        int, typer.Option("--lowest-bits", min=0, max=8, help="Fewest bits a variable may get; 0 prunes weights.")
    ] = 2,
    group: Annotated[
        int | None,
        typer.Option("--group", min=1, help="Kernels that share a width: 1 is kernel-wise. Default: whole layers."),
    ] = None,
    weights_only: Annotated[bool, typer.Option("--weights-only", help="Leave activations at 8 bits.")] = False,
    pin_ends: Annotated[
        bool, typer.Option("--pin-ends", help="Keep the first and the last layer at 8 bits, as HAQ does.")
    ] = False,
    train_epochs: Annotated[
        int | None, typer.Option("--train-epochs", min=1, help="Without --weights: epochs of float training.")
    ] = None,
    tune_epochs: Annotated[int, typer.Option("--tune-epochs", min=0, help="Fine-tuning epochs per policy.")] = 1,
    tune_rate: Annotated[float, typer.Option("--tune-rate", help="Learning rate of the fine-tuning.")] = (
        FineTune.learning_rate
    ),
    tune_images: Annotated[
        int | None, typer.Option("--tune-images", min=1, help="Fine-tune on this many training images (default: all).")
    ] = None,
    validation_images: Annotated[
        int | None, typer.Option("--validation-images", min=1, help="Judge on this many images (default: all).")
    ] = None,
    test_images: Annotated[
        int | None,
        typer.Option("--test-images", min=1, help="Test the final policy on this many images (default: all)."),
    ] = None,
    threads: Annotated[
        int, typer.Option("--threads", min=1, help="Threads of PyTorch; more than 1 pays for large networks only.")
    ] = 1,
    json: JsonOption = None,
) -> None:
    """Search a bit-width policy: each episode is one policy, fine-tuned and judged on validation images.

    Leaves policy.yaml, quantized.pt (the fine-tuned network under it), results.csv, checkpoint.pt, two pictures, and
    float.pt if it had to train. The accuracy printed at the end is on held-out test images, in the integer arithmetic
    that `codesign simulate` compares with the machine.
    """
    result = Result("search", json)
    torch.set_num_threads(threads)
    check_writable(directory / "policy.yaml")
    budgets, accelerator = parse_budgets(budget), priced_accelerator(hardware)
    budget_text = ",".join(map(str, budgets)) or NONE
    accelerator_resources(accelerator)
    check_agent(agent)
    worth = make_reward(reward)
    layers = load_workload(network, seed, data).traced.layers
    space = Space(
        network,
        layers,
        weight_widths=range(lowest_bits, MAX_BITS + 1),
        activation_widths=None if weights_only else range(max(lowest_bits, 1), MAX_BITS + 1),
        group=group,
        pin_ends=pin_ends,
    )
    costs = Costs(space, Oracle(layers, accelerator, read_table(lut, len(layers)) if lut else None))
    Limits(budgets, costs)  # what cannot be reached ends here, not after training
    worth(1.0, 1.0, costs.ratios(space.widest))  # as does a reward for a cost that is not known
    tune = FineTune(
        epochs=tune_epochs, learning_rate=tune_rate, images=tune_images, validation_images=validation_images
    )
    settings = {
        "network": network,
        "data": data or default_data(network),
        "hardware": accelerator.model_dump_json(),
        "agent": agent,
        "budget": budget_text,
        "reward": reward,
        "lut": hashlib.sha256(costs.oracle.table.tobytes()).hexdigest() if lut else None,
        "episodes": episodes,
        "seed": seed,
        "lowest_bits": lowest_bits,
        "group": group,
        "weights_only": weights_only,
        "pin_ends": pin_ends,
        "train_epochs": train_epochs,
        "fine_tune": repr(tune),
        "threads": threads,
        "codesign": version("codesign"),
        "torch": str(torch.__version__),
    }
    check_directory(directory, settings, resume)
    if resume and not (directory / CHECKPOINT).exists():
        note(f"{directory} holds no run to resume: starting one")
    if weights is None:
        weights = directory / "float.pt"
        if not (resume and weights.exists() and (directory / CHECKPOINT).exists()):
            _train(network, data or default_data(network), train_epochs, seed, weights)
    workload = load_workload(network, seed, data, weights, quantized=False)
    settings["weights"] = _digest(workload.traced.graph_module)
    if workload.data is None:
        raise InputError(f"network {network!r} has no images here to judge a policy by: pass --data.")
    evaluator = FineTuneEvaluator(workload.traced, workload.data, tune, seed)
    traced = workload.traced
    task = Task(costs, evaluator, budgets, worth, weight_deviation(traced), kernel_deviations(traced))
    player = make_agent(agent, task, episodes=episodes, seed=seed)
    begin = time.perf_counter()
    with progress_bar(f"{agent} episodes", episodes) as bar:
        found = search(task, player, episodes, directory, settings, resume, lambda now: bar(*_remark(now)))
    seconds = time.perf_counter() - begin

    best = found.rows[found.best]
    vector = space.parse(best["bits"])
    policy, bits = space.policy(vector), layer_bits(space, vector)
    quantized = evaluator.quantized(policy)
    test = workload.data.test if test_images is None else workload.data.test.take(slice(test_images))
    integers = IntegerNetwork(quantized)
    accuracy = integers.accuracy(test)
    reference = float_accuracy(workload.traced.graph_module, test)
    policy.save(directory / "policy.yaml")
    save_quantized(quantized, directory / "quantized.pt")
    title = f"{agent} on {network}, {lut.name if lut else accelerator.name}, {budget_text}"
    learning_curve([row["reward"] for row in found.rows], title, directory / "learning_curve.png")
    bits_per_layer([layer.name for layer in layers], bits, title, directory / "bits.png")

    try:
        program_cycles = build_program(integers, accelerator, workload.input_shape).cycles()
    except InputError as error:  # the search is still worth its result
        program_cycles = None
        note(f"the network is no program for {accelerator.name}: {error}")

    lines = table(title, "layer", "weight bits", "activation bits", "cycles at 8,8")
    for layer, (w, a), cycles in zip(layers, bits, costs.oracle.table[:, -1, -1], strict=True):
        lines.add_row(layer.name, f"{w:.3g}", f"{a}", f"{cycles:,.0f}")
    out.print(lines)
    say(
        f"best of {episodes} episodes ({len(task.asked)} policies evaluated): "
        f"{best['cost']:,.0f} cycles, {best['budget_used']:.1%} of the budget\n"
        f"the whole network as one program, pools and additions included: "
        f"{'none' if program_cycles is None else f'{program_cycles:,} cycles'}\n"
        f"validation accuracy {best['accuracy']:.2%} (full precision {evaluator.reference_accuracy:.2%})\n"
        f"held-out test accuracy in integer arithmetic {accuracy:.2%} on {len(test):,} images "
        f"(full precision {reference:.2%})\n"
        f"wrote {directory}: policy.yaml, quantized.pt, results.csv, learning_curve.png, bits.png"
    )
    values: dict[str, Any] = {
        "network": network,
        "agent": agent,
        "episodes": episodes,
        "policy": str(directory / "policy.yaml"),
        "accuracy": accuracy,
        "accuracy_full_precision": reference,
        "validation_accuracy": best["accuracy"],
        "validation_accuracy_full_precision": evaluator.reference_accuracy,
        "test_images": len(test),
        "cost": best["cost"],
        "program_cycles": program_cycles,
        "cost_ratio": best["latency_ratio"],
        "budget": budget_text,
        "reward": reward,
        "lut": str(lut) if lut else None,
        "budget_used": best["budget_used"],
        "evaluations": len(task.asked),
        "ratios": {metric: best[f"{metric}_ratio"] for metric in costs.tables},
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


def _digest(module: torch.nn.Module) -> str:
    """Names the float weights that a run started from."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def _train(network: str, data: str | None, epochs: int | None, seed: int, path: Path) -> None:
    """Train the network from nothing and keep its weights."""
    if data is None:
        raise InputError(f"network {network!r} has no data set of its own: pass --data.")
    epochs = epochs or TRAIN_EPOCHS.get(data)
    if epochs is None:
        raise InputError(f"training on {data!r} takes long: pass a trained network's --weights, or --train-epochs N.")
    module = create_network(network, seed)
    with progress_bar(f"training {network} on {data}", epochs) as progress:
        train(module, load_data(data), epochs=epochs, seed=seed, progress=progress)
    note(f"trained {network} on {data} for {epochs} epochs")
    save_tensors(module.state_dict(), path)
