"""Pictures: of a search, of a comparison of agents, and of models against machines."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from hardware.files import replacing

plt.switch_backend("agg")  # files only: there may be no display


def learning_curve(rewards: Sequence[float], title: str, path: Path) -> None:
    """Reward of every episode and the best so far, as PNG."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    episodes = np.arange(1, len(rewards) + 1)
    axes.plot(episodes, rewards, ".", alpha=0.5, label="episode")
    axes.plot(episodes, np.maximum.accumulate(rewards), label="best so far")
    axes.set(xlabel="episode", ylabel="reward")
    axes.set_title(title, parse_math=False)
    axes.legend()
    axes.grid(alpha=0.3)
    _save(figure, path)


def bits_per_layer(names: Sequence[str], bits: Sequence[tuple[float, int]], title: str, path: Path) -> None:
    """Weight and activation bits of every layer as a bar chart, as PNG."""
    figure, axes = plt.subplots(figsize=(max(5.0, 0.5 * len(names) + 2), 4), layout="constrained")
    positions = np.arange(len(names))
    for operand, (label, shift) in enumerate((("weights", -0.2), ("activations", 0.2))):
        bars = axes.bar(positions + shift, [pair[operand] for pair in bits], 0.4, label=label)
        axes.bar_label(bars, fmt="{:.3g}", fontsize=7)
    axes.set_xticks(positions, names, rotation=60, ha="right", parse_math=False)
    axes.set(ylabel="bits", ylim=(0, 9))
    axes.set_title(title, parse_math=False)
    axes.legend(loc="upper right", ncols=2)
    _save(figure, path)


def pareto_front(points: Mapping[str, Sequence[tuple[float, float]]], reference: float, title: str, path: Path) -> None:
    """Accuracy against latency ratio of policies, a colour per agent, and the front of all of them, as PNG.

    Parameters
    ----------
    points:
        By agent, (latency ratio, accuracy) of every policy.
    reference:
        Accuracy before quantization: a line.
    """
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for agent, pairs in points.items():
        latencies, accuracies = np.array(pairs).reshape(-1, 2).T
        axes.plot(100 * latencies, 100 * accuracies, ".", alpha=0.5, label=agent)
    front = np.array(front_of([pair for pairs in points.values() for pair in pairs])).T
    axes.step(100 * front[0], 100 * front[1], "k-", where="post", linewidth=0.8, label="front")
    axes.axhline(100 * reference, color="k", linestyle=":", linewidth=0.8, label="before quantization")
    axes.set(xlabel="latency, % of that at 8 bits", ylabel="accuracy, %")
    axes.set_title(title, parse_math=False)
    axes.legend()
    axes.grid(alpha=0.3)
    _save(figure, path)


def scheme_probabilities(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Mean probability of every scheme over the vertices that offer it, by epoch; weights and inputs apart; as PNG.

    Parameters
    ----------
    rows:
        ``epoch, vertex, scheme, share``; a vertex's name ends in ``.weight`` or ``.input``.
    """
    figure, panels = plt.subplots(1, 2, figsize=(9, 4), layout="constrained", sharey=True)
    for axes, (end, title) in zip(panels, ((".weight", "weights"), (".input", "inputs")), strict=True):
        mine = [row for row in rows if row["vertex"].endswith(end)]
        for scheme in dict.fromkeys(row["scheme"] for row in mine):
            epochs = sorted({row["epoch"] for row in mine})
            shares = [
                [row["share"] for row in mine if (row["epoch"], row["scheme"]) == (epoch, scheme)] for epoch in epochs
            ]
            axes.plot([epoch + 1 for epoch in epochs], [np.mean(part) for part in shares], label=scheme)
        axes.set(xlabel="epoch", title=title)
        axes.legend()
        axes.grid(alpha=0.3)
    panels[0].set(ylabel="probability, mean over layers", ylim=(0, 1))
    _save(figure, path)


def front_of(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (cost, gain) that no other one beats: rising in both."""
    front: list[tuple[float, float]] = []
    for cost, gain in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or gain > front[-1][1]:
            front.append((cost, gain))
    return front


def learning_bands(curves: Mapping[str, np.ndarray], ylabel: str, title: str, path: Path) -> None:
    """Mean over seeds against evaluations, a line per agent in a band of its standard error, as PNG.

    Parameters
    ----------
    curves:
        By agent, float (seeds, evaluations): a figure after one evaluation, after two, ...
    """
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for agent, runs in curves.items():
        counts, mean = np.arange(1, runs.shape[1] + 1), runs.mean(axis=0)
        (line,) = axes.plot(counts, mean, label=agent)
        if len(runs) > 1:
            error = runs.std(axis=0, ddof=1) / np.sqrt(len(runs))
            axes.fill_between(counts, mean - error, mean + error, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set(xlabel="evaluations", ylabel=ylabel)
    axes.set_title(title, parse_math=False)
    axes.legend()
    axes.grid(alpha=0.3)
    _save(figure, path)


def model_against_rtl(rows: Sequence[dict[str, Any]], title: str, path: Path) -> None:
    """Cycles of the model over those of the RTL, a colour for each number of ports (`codesign.calibrate`), as PNG."""
    figure, axes = plt.subplots(figsize=(5.5, 5), layout="constrained")
    for ports in dict.fromkeys(row["ports"] for row in rows):
        mine = [row for row in rows if row["ports"] == ports]
        points = ([row[key] for row in mine] for key in ("rtl_cycles", "model_cycles"))
        axes.plot(*points, ".", alpha=0.5, label=f"{ports} port{'s' if ports > 1 else ''}")
    both = [row[key] for row in rows for key in ("rtl_cycles", "model_cycles")]
    axes.plot([min(both), max(both)], [min(both), max(both)], "k-", linewidth=0.8, zorder=0, label="equal")
    axes.set(xscale="log", yscale="log", aspect="equal", xlabel="RTL, cycles", ylabel="model, cycles")
    axes.set_title(title, parse_math=False)
    axes.legend()
    axes.grid(alpha=0.3)
    _save(figure, path)


def error_histogram(errors: np.ndarray, title: str, path: Path) -> None:
    """How often which relative error, machine minus model, came, as PNG."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.hist(100 * errors, bins=min(40, max(5, len(errors) // 5)))
    axes.axvline(100 * float(errors.mean()), color="k", linewidth=0.8, label="mean")
    axes.set(xlabel="machine minus model, % of the machine's cycles", ylabel="layers")
    axes.set_title(title, parse_math=False)
    axes.legend()
    axes.grid(alpha=0.3)
    _save(figure, path)


def energy_against_netlist(rows: Sequence[dict[str, Any]], name: str, path: Path) -> None:
    """Pins that toggle in every part, of the model over the netlist's (`codesign.energy_calibration`), as PNG."""
    figure, axes = plt.subplots(figsize=(5.5, 5), layout="constrained")
    held_out = [row for row in rows if row["held_out"]]
    for part in ("array", "buffers", "rest"):
        points = ([row[f"{part}_{key}"] for row in held_out] for key in ("pins", "model"))
        axes.plot(*points, ".", alpha=0.5, label=part)
    low, high = axes.get_xlim()
    axes.plot([low, high], [low, high], "k-", linewidth=0.8, zorder=0, label="equal")
    axes.set(xscale="log", yscale="log", xlabel="netlist, pins that toggle", ylabel="model")
    axes.set_title(f"{name}: {len(held_out)} held-out layers", parse_math=False)
    axes.legend()
    axes.grid(alpha=0.3)
    _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    plt.close(figure)
