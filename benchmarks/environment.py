"""What a step of the environment takes, without the accuracy: layer-wise and kernel-wise."""

import argparse
import time

import numpy as np
import pandas as pd
from common import markdown, write_report

from codesign.tasks import Choices, Problem
from codesign.workload import load_workload
from hardware.accelerator import load_accelerator
from policies.environment import BitWidthEnv
from policies.policy import Policy


class Instant:
    """Answers at once."""

    reference_accuracy = 1.0

    def accuracy(self, policy: Policy) -> float:
        """Always the same."""
        return 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hardware", default="bitserial-edge")
    parser.add_argument("--budget", default="latency=0.5")
    parser.add_argument("--episodes", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generator = np.random.default_rng(options.seed)
    accelerator, rows = load_accelerator(options.hardware), []
    for network, choices, kind in (
        ("mobilenetv2", Choices(), "layer-wise"),
        ("resnet20", Choices(), "layer-wise"),
        ("resnet20", Choices(lowest_bits=0, group=1), "kernel-wise"),
    ):
        layers = load_workload(network, seed=0).traced.layers
        problem = Problem(choices.space(network, layers), accelerator, options.budget, "haq")
        environment = BitWidthEnv(problem.task(Instant()))
        steps, episodes, last = environment.steps_per_episode, [], []
        for _ in range(options.episodes + 1):
            actions = generator.uniform(0.5, 1.0, (steps, 1)).astype(np.float32)  # wide: the back-off has work to do
            begin = time.process_time()
            environment.reset()
            for action in actions[:-1]:
                environment.step(action)
            middle = time.process_time()
            environment.step(actions[-1])
            end = time.process_time()
            episodes.append((end - begin) / steps)
            last.append(end - middle)
        rows.append(
            {
                "network": network,
                "policies": kind,
                "steps per episode": steps,
                "ms per step": f"{1e3 * np.median(episodes[1:]):.3f}",
                "last step, ms": f"{1e3 * np.median(last[1:]):.1f}",
            }
        )
    write_report(
        "environment",
        "Time of the environment",
        [
            f"`{options.hardware}`, budget {options.budget}, {options.episodes} random episodes of wide actions, so "
            "that bits have to be taken away; an evaluator that answers at once. Processor time, medians; a step's "
            "time is an episode's over its steps, reset and back-off included. The last step backs off, prices and "
            "evaluates.",
            markdown(pd.DataFrame(rows)),
        ],
    )


if __name__ == "__main__":
    main()
