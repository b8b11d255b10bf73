"""HAQ against random search and the uniform baseline: LeNet on digits, equal episodes, several seeds.

All agents share one trained network and one evaluator, so a policy has one accuracy whoever finds it.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from common import markdown, write_report

from codesign.data import load_data
from codesign.integers import IntegerNetwork
from codesign.networks import create_network
from codesign.search import search
from codesign.tracing import trace
from codesign.training import FineTune, FineTuneEvaluator, train
from hardware.accelerator import load_accelerator
from hardware.cost import cost_table
from policies.agent import make_agent
from policies.budget import parse_budget
from policies.environment import BitWidthEnv
from policies.policy import Policy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", default="haq,random,uniform")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--budgets", default="latency=0.15,latency=0.2,latency=0.4,latency=0.6")
    parser.add_argument("--hardware", default="bitserial-tiny")
    options = parser.parse_args()

    data = load_data("digits")
    module = create_network("lenet", 0)
    train(module, data, epochs=60, seed=0)
    traced = trace(module, data.input_shape, data.signed_input)
    costs = cost_table(traced.layers, load_accelerator(options.hardware))
    evaluator = FineTuneEvaluator(traced, data, FineTune(), seed=0)
    evaluations: dict[str, float] = {}
    rows = []
    for budget in options.budgets.split(","):
        for agent_name in options.agents.split(","):
            for seed in range(options.seeds):
                environment = BitWidthEnv("lenet", traced.layers, costs, parse_budget(budget), evaluator)
                environment.evaluations = evaluations
                agent = make_agent(
                    agent_name, steps_per_episode=environment.steps_per_episode, episodes=options.episodes, seed=seed
                )
                with tempfile.TemporaryDirectory() as directory:
                    found = search(environment, agent, options.episodes, Path(directory), {})
                rewards = np.array([row["reward"] for row in found.rows])
                policy = Policy.from_bits("lenet", traced.layers, found.bits())
                rows.append(
                    {
                        "budget": budget,
                        "agent": agent_name,
                        "seed": seed,
                        "best reward": rewards.max(),
                        "mean reward, last fifth": rewards[-(len(rewards) // 5) :].mean(),
                        "best validation accuracy %": 100 * found.rows[found.best]["accuracy"],
                        "test accuracy %": 100 * IntegerNetwork(evaluator.quantized(policy)).accuracy(data.test),
                        "distinct policies": len({row["bits"] for row in found.rows}),
                    }
                )
                print(rows[-1], flush=True)
    frame = pd.DataFrame(rows)
    means = frame.drop(columns="seed").groupby(["budget", "agent"], sort=False).mean().round(3).reset_index()
    write_report(
        "haq_vs_random",
        "HAQ against random search on digits",
        [
            f"LeNet, `{options.hardware}`, {options.episodes} episodes, {options.seeds} seeds. "
            f"Full precision: {100 * evaluator.reference_accuracy:.2f} % on validation. "
            "The reward is a tenth of the change of validation accuracy in percentage points, after HAQ. "
            "Mean over seeds:",
            markdown(means),
            "Every run:",
            markdown(frame.round(3)),
        ],
    )


if __name__ == "__main__":
    main()
