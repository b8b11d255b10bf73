"""All agents on a complete table of accuracies: regret against brute force, and ReLeQ's own claim.

ReLeQ's table of LeNet (he-actlab/releq): 625 policies of weight bits, activations float, accuracy before quantization
99.8 %.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from common import markdown, write_report

from codesign.compare import compare
from codesign.comparison import brute_force
from codesign.tasks import Problem, read_benchmark
from hardware.accelerator import load_accelerator
from policies.agent import agent_names, make_agent
from policies.task import Task

COUNTS = (50, 100, 200)


def episodes_until_best(task: Task, agent: str, seed: int, most: int, best: float) -> int | None:
    """Episodes until an agent, made for ``most``, asks for the best policy; None if it does not."""
    player = make_agent(agent, task, episodes=most, seed=seed)
    for episode in range(1, most + 1):
        if player.episode().reward > best - 1e-9:
            return episode
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--reference", type=float, default=0.998)
    parser.add_argument("--rewards", default="releq,releq-lenet")
    parser.add_argument("--agents", default=",".join(agent_names()))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--episodes", type=int, default=400)
    options = parser.parse_args()
    benchmark = read_benchmark(options.table, reference=options.reference)
    agents, seeds = options.agents.split(","), range(options.seeds)

    text = [
        f"Every one of {len(benchmark.vectors)} policies has a known accuracy, so the best is known by brute force. No "
        f"budget; {options.seeds} seeds; an evaluation is a distinct policy asked for, a policy asked for again is "
        "free, and a run ends after three episodes per evaluation. Agents are made for the largest number of "
        "evaluations. Mean regret in reward, with its standard error, and seeds that found the best."
    ]
    for reward in options.rewards.split(","):
        problem = Problem(benchmark.space, load_accelerator("bitserial-tiny"), "none", reward)
        task = problem.task(benchmark.evaluator)
        with tempfile.TemporaryDirectory() as folder:
            found = compare(
                task,
                agents,
                seeds,
                COUNTS[-1],
                Path(folder) / "run",
                {},
                vectors=benchmark.vectors,
                progress=lambda done, who: print(f"\r{done} {who}   ", end="", flush=True),
            )
        rows = []
        for agent in agents:
            row: dict[str, str] = {"agent": agent}
            for count in COUNTS:
                mean = found.summary(agent, count)
                error = mean["regret_error"]
                row[f"regret at {count}"] = f"{mean['regret']:.4f}" + ("" if error is None else f" ± {error:.4f}")
                row[f"best at {count}"] = f"{mean['found_best']}"
            row["episodes"] = f"{mean['episodes']:.0f}"
            row["agent, s"] = f"{mean['agent_s']:.2f}"
            rows.append(row)
        best = found.best
        text += [
            f"## Reward {reward}",
            f"Best: {benchmark.space.text(best.vector)}, reward {best.reward:.4f}, accuracy {best.accuracy:.2%}.",
            markdown(pd.DataFrame(rows)),
        ]
    task = Problem(benchmark.space, load_accelerator("bitserial-tiny"), "none", "releq").task(benchmark.evaluator)
    best, _ = brute_force(task, benchmark.vectors)
    took = [
        episodes_until_best(
            Problem(benchmark.space, load_accelerator("bitserial-tiny"), "none", "releq").task(benchmark.evaluator),
            "releq",
            seed,
            options.episodes,
            best.reward,
        )
        for seed in seeds
    ]
    reached = [episode for episode in took if episode is not None]
    text += [
        "## ReLeQ's claim",
        f"With the paper's reward ReLeQ asked for brute force's answer, {benchmark.space.text(best.vector)}, within "
        f"{options.episodes} episodes with {len(reached)} of {options.seeds} seeds; median "
        f"{np.median(reached):.0f} episodes, longest {max(reached)}.",
    ]
    write_report("tabular", "Agents on ReLeQ's table of LeNet", text)


if __name__ == "__main__":
    main()
