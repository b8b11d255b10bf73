"""``codesign search``: an agent looks for the most accurate policy within a budget."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import torch
import typer
import yaml

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
from codesign.data import Split
from codesign.gradient_agents import AFTER_SCHEMES, GRADIENT_AGENTS, check_live_agent, make_live_agent
from codesign.host_network import HostNetwork
from codesign.networks import default_data
from codesign.plots import bits_per_layer, learning_curve, pareto_front
from codesign.program import build_program
from codesign.resources import accelerator_resources, fitting_machines, resources_text
from codesign.scheme_run import check_scheme_budgets, choose_schemes
from codesign.search import CHECKPOINT, SearchResult, check_directory, search
from codesign.tasks import LOWEST_BITS as LOWEST
from codesign.tasks import Choices, LiveTask, Problem
from codesign.text_training import perplexity
from codesign.training import FineTune
from codesign.training import accuracy as float_accuracy
from codesign.weight_only import FEWEST_BITS, Scheme
from codesign.workload import load_workload
from hardware.accelerator import Accelerator
from hardware.errors import InputError, unknown
from hardware.files import check_writable, write_text
from hardware.schedule import MAX_BITS
from policies.budget import NONE
from policies.policy import SYMMETRIC, UNIFORM, Policy
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
    scheme: Annotated[
        str | None,
        typer.Option("--scheme", help="Quantize weights alone, by kmeans (HAQ), wrpn or dorefa (ReLeQ): no machine."),
    ] = None,
    co_design: Annotated[
        bool,
        typer.Option("--co-design", help="Choose the accelerator, too, among those that fit the --hardware's device."),
    ] = False,
    weight_scheme: Annotated[
        str, typer.Option("--weight-scheme", help="Levels of weights: symmetric, or one of AutoQNN's, such as clip.")
    ] = SYMMETRIC,
    activation_scheme: Annotated[
        str, typer.Option("--activation-scheme", help="Levels of inputs that are not negative: uniform, fixed or clip.")
    ] = UNIFORM,
    scheme_epochs: Annotated[
        int, typer.Option("--scheme-epochs", min=1, help="With --agent qss or autoqnn: epochs that choose schemes.")
    ] = 10,
    scheme_bits: Annotated[
        int, typer.Option("--scheme-bits", min=2, max=8, help="Bits of the schemes while they are chosen.")
    ] = 3,
    coarse: Annotated[
        bool, typer.Option("--coarse", help="Choose one scheme for all weights, and one for all inputs.")
    ] = False,
    threads: ThreadsOption = 1,
    json: JsonOption = None,
) -> None:
    """Search a bit-width policy: each episode is one policy, fine-tuned and judged on validation images.

    Leaves policy.yaml, quantized.pt (the fine-tuned network under it), results.csv, checkpoint.pt, three pictures,
    scalars for TensorBoard, and float.pt if it had to train. The accuracy printed at the end is on held-out test
    images, in the integer arithmetic that `codesign simulate` compares with the machine.

    With --co-design also accelerator.yaml, on which the policy is fastest; ratios are to the 8-bit cost on --hardware.
    With --scheme weights.pt instead of quantized.pt, whose accuracy is that of its float arithmetic.

    With --agent qpl or qpl-precision an episode is an epoch of learning bits. With qss a scheme is learned for every
    layer, and uniform bits are tried; with autoqnn the schemes, then the bits: also schemes.json, .csv and .png.
    """
    check_live_agent(agent)
    result = Result("search", json)
    torch.set_num_threads(threads)
    check_writable(directory / "policy.yaml")
    accelerator = priced_accelerator(hardware)
    accelerator_resources(accelerator)
    layers = load_workload(network, seed, data).traced.layers
    only = _scheme(scheme, lowest_bits, group)
    choices = Choices(lowest_bits, group, weights_only or only is not None, pin_ends, weight_scheme, activation_scheme)
    _check_schemes(agent, choices, only, co_design, budget.strip())
    space = choices.space(network, layers)
    if co_design:
        if lut:
            raise InputError("--lut prices one accelerator, --co-design chooses among many: leave out one of them.")
        machines = fitting_machines(accelerator)
        with progress_bar("pricing accelerators", len(machines)) as bar:
            problem = Problem(space, accelerator, budget, reward, machines=machines, progress=bar)
    else:
        problem = Problem(space, accelerator, budget, reward, lut)
    if agent in AFTER_SCHEMES:
        check_scheme_budgets(problem.budgets)
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
        "scheme": scheme,
        "schemes": [scheme_epochs, scheme_bits, coarse] if agent in AFTER_SCHEMES else None,
    }
    check_directory(directory, settings, resume)
    if resume and not (directory / CHECKPOINT).exists():
        note(f"{directory} holds no run to resume: starting one")
    if weights is None:
        weights = directory / "float.pt"
        if not (resume and weights.exists() and (directory / CHECKPOINT).exists()):
            train_network(network, data, train_epochs, seed, weights)
    live = LiveTask(problem, data, weights, tune, seed, only)
    settings["weights"] = live.digest
    if live.workload.traced.layers != layers and not co_design:
        layers = live.workload.traced.layers  # the signs of inputs, which in the host's networks the weights decide
        space = choices.space(network, layers)
        problem = Problem(space, accelerator, budget, reward, lut)
        live.pose(problem)
    if agent in AFTER_SCHEMES:
        with progress_bar("epochs of schemes", scheme_epochs) as bar:
            found_schemes = choose_schemes(
                live.task, live.evaluator, directory, scheme_epochs, scheme_bits, coarse, seed, settings, resume, bar
            )
        space = choices.space(network, layers, found_schemes)
        problem = Problem(space, accelerator, budget, reward, lut)
        live.pose(problem)
    player = make_live_agent(agent, live.task, evaluator=live.evaluator, episodes=episodes, seed=seed)
    begin = time.perf_counter()
    with progress_bar(f"{agent} episodes", episodes) as bar:
        found = search(live.task, player, episodes, directory, settings, resume, lambda now: bar(*_remark(now)))
    seconds = time.perf_counter() - begin

    best = found.rows[found.best]
    vector = space.parse(best["bits"])
    bits = layer_bits(space, vector)
    machine = problem.machine(vector)
    if co_design:
        write_text(directory / "accelerator.yaml", yaml.safe_dump(machine.model_dump(mode="json"), sort_keys=False))
        note(f"the policy is fastest on accelerator.yaml: {resources_text(machine, accelerator_resources(machine))}")
    test = live.test_images(test_images)
    accuracy, program_cycles = _deliver(live, space.policy(vector), machine, test, directory)
    reference = float_accuracy(live.workload.traced.graph_module, test)
    words = _perplexities(live, space.policy(vector), test) if test.labels.ndim > 1 else (None, None)
    title = f"{agent} on {network}, {lut.name if lut else accelerator.name}, {problem.budget}"
    learning_curve([row["reward"] for row in found.rows], title, directory / "learning_curve.png")
    bits_per_layer([layer.name for layer in layers], bits, title, directory / "bits.png")
    points = [(row["latency_ratio"], row["accuracy"]) for row in found.rows]
    pareto_front({agent: points}, live.task.reference_accuracy, title, directory / "pareto.png")

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
        f"held-out test accuracy in {'float' if scheme else 'integer'} arithmetic {accuracy:.2%} on {len(test):,} "
        f"images (full precision {reference:.2%})\n"
        + (f"perplexity {words[0]:.1f} (full precision {words[1]:.1f})\n" if words[0] else "")
        + f"wrote {directory}: policy.yaml, {'weights' if scheme else 'quantized'}.pt, results.csv, "
        "learning_curve.png, bits.png, pareto.png, tensorboard"
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
        "perplexity": words[0],
        "perplexity_full_precision": words[1],
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
        "schemes": [list(pair) for pair in space.schemes],
        "accelerator": machine.name,
        "scheme": scheme,
        "search_s": round(seconds, 3),
    }
    result.write(values, accelerator, seed)


def _check_schemes(agent: str, choices: Choices, only: Scheme | None, co_design: bool, budget: str) -> None:
    """What agents cannot do, said before anything is trained."""
    learns = agent in GRADIENT_AGENTS and agent != "qss"
    if learns and (only or co_design or choices.group is not None or budget == NONE):
        raise InputError(
            f"--agent {agent} learns the bits of whole layers against a --budget on one accelerator: pass one, and "
            "leave out --scheme, --co-design and --group."
        )
    if agent in AFTER_SCHEMES and (only or co_design or choices.group is not None or choices.weights_only):
        raise InputError(
            f"--agent {agent} chooses schemes of whole layers for one accelerator: leave out --scheme, --co-design, "
            "--group and --weights-only."
        )
    if agent in AFTER_SCHEMES and (choices.pin_ends or choices.lowest_bits > LOWEST):
        raise InputError(
            f"--agent {agent} may choose schemes that have 1 or 2 bits only: leave out --pin-ends and --lowest-bits."
        )
    named = (choices.weight_scheme, choices.activation_scheme) != (SYMMETRIC, UNIFORM)
    if named and (only or agent in AFTER_SCHEMES):
        raise InputError(
            f"--weight-scheme and --activation-scheme do not go with {'--scheme' if only else f'--agent {agent}'}: "
            "leave one of them out."
        )


def _scheme(name: str | None, lowest_bits: int, group: int | None) -> Scheme | None:
    if name is None:
        return None
    if name not in FEWEST_BITS:
        raise unknown("scheme", name, FEWEST_BITS)
    if group is not None or lowest_bits < FEWEST_BITS[name]:
        raise InputError(
            f"--scheme {name} takes one width per layer, of at least {FEWEST_BITS[name]} bits: leave out --group and "
            "raise --lowest-bits."
        )
    return cast(Scheme, name)


def _deliver(
    live: LiveTask, policy: Policy, machine: Accelerator, test: Split, directory: Path
) -> tuple[float, int | None]:
    """Write the policy and its network; held-out accuracy, and the cycles as one program, if it is one."""
    if live.evaluator.scheme:
        network = live.evaluator.tuned(policy)
        policy.save(directory / "policy.yaml")
        save_tensors({name: tensor.detach() for name, tensor in network.state_dict().items()}, directory / "weights.pt")
        return float_accuracy(network, test), None
    integers = live.save(policy, directory / "policy.yaml", directory / "quantized.pt")
    try:
        if isinstance(integers, HostNetwork):
            raise InputError(str(live.workload.traced.host))
        channels, height, width = live.workload.input_shape
        cycles: int | None = build_program(integers, machine, (channels, height, width)).cycles()
    except InputError as error:  # the search is still worth its result
        note(f"the network is no program for {machine.name}: {error}")
        cycles = None
    return integers.accuracy(test), cycles


def _perplexities(live: LiveTask, policy: Policy, test: Split) -> tuple[float, float]:
    """Of the fine-tuned network, and of the one in full precision, on texts whose every word has a label."""
    return perplexity(live.evaluator.tuned(policy), test), perplexity(live.workload.traced.graph_module, test)


def layer_bits(space: Space, vector: np.ndarray) -> list[tuple[float, int]]:
    """Mean weight bits and activation bits of every layer; a whole number where all kernels have one width."""
    counts, activations = space.histograms(vector)
    means = (counts * np.arange(MAX_BITS + 1)).sum(1) / counts.sum(1)
    return [(int(w) if w == int(w) else float(w), int(a)) for w, a in zip(means, activations, strict=True)]


def _remark(found: SearchResult) -> tuple[int, str]:
    """Episodes done, and the best of them."""
    best = found.rows[found.best]
    return len(found.rows), f"best reward {best['reward']:.3f}, latency {best['latency_ratio']:.1%} of 8 bits"
