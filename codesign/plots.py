"""Pictures of a search: the learning curve and the bits per layer."""

from collections.abc import Sequence
from pathlib import Path

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


def bits_per_layer(names: Sequence[str], bits: Sequence[tuple[int, int]], title: str, path: Path) -> None:
    """Weight and activation bits of every layer as a bar chart, as PNG."""
    figure, axes = plt.subplots(figsize=(max(5.0, 0.5 * len(names) + 2), 4), layout="constrained")
    positions = np.arange(len(names))
    for operand, (label, shift) in enumerate((("weights", -0.2), ("activations", 0.2))):
        bars = axes.bar(positions + shift, [pair[operand] for pair in bits], 0.4, label=label)
        axes.bar_label(bars, fontsize=7)
    axes.set_xticks(positions, names, rotation=60, ha="right", parse_math=False)
    axes.set(ylabel="bits", ylim=(0, 9))
    axes.set_title(title, parse_math=False)
    axes.legend(loc="upper right", ncols=2)
    _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    plt.close(figure)
