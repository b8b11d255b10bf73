"""ReLeQ's headline on ResNet-20: mean weight bits, and what the accuracy loses after a last fine-tune."""

import argparse
import dataclasses
from pathlib import Path

import pandas as pd
from common import add_options, markdown, write_report

from codesign.search import search
from codesign.tasks import Choices, LiveTask, Problem
from codesign.training import FineTune, FineTuneEvaluator, accuracy
from codesign.workload import load_workload
from hardware.accelerator import load_accelerator
from policies.agent import make_agent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--last", nargs="+", default=["2x10000"], help="Last fine-tunes to compare: EPOCHSxIMAGES.")
    parser.add_argument("--test-images", type=int)
    defaults = {"reward": "releq-cifar", "episodes": 100, "seed": 0}
    defaults |= {"tune_images": 256, "validation_images": 500, "last_rate": 5e-3, "out": Path("runs/releq_resnet20")}
    add_options(parser, weights=True, **defaults)
    options = parser.parse_args()

    layers = load_workload(options.network, options.seed, options.data).traced.layers
    space = Choices(weights_only=True).space(options.network, layers)
    problem = Problem(space, load_accelerator("bitserial-edge"), "none", options.reward)
    tune = FineTune(images=options.tune_images, validation_images=options.validation_images)
    live = LiveTask(problem, options.data, options.weights, tune, options.seed)
    agent = make_agent("releq", live.task, episodes=options.episodes, seed=options.seed)
    settings = problem.settings | {"fine_tune": repr(tune), "seed": options.seed, "episodes": options.episodes}
    found = search(live.task, agent, options.episodes, options.out, settings, resume=True)
    best = found.rows[found.best]
    policy = space.policy(space.parse(best["bits"]))

    test, data = live.test_images(options.test_images), live.workload.data
    assert data is not None
    before, short = (
        accuracy(network, test) for network in (live.workload.traced.graph_module, live.evaluator.quantized(policy))
    )
    after = []
    for text in options.last:
        epochs, images = map(int, text.split("x"))
        last = dataclasses.replace(tune, epochs=epochs, learning_rate=options.last_rate, images=images)
        tuned = FineTuneEvaluator(live.workload.traced, data, last, options.seed).quantized(policy)
        figure = accuracy(tuned, test)
        loss = f"{figure:.2%}, {100 * (before - figure):.2f} points lost"
        after.append((f"after a last one instead ({epochs} epochs of {images:,} images)", loss))
    widths = [int(word[0]) for word in best["bits"].split()]
    rows = [
        ("mean weight bits", f"{sum(widths) / len(widths):.2f}"),
        ("weight bits", " ".join(map(str, widths))),
        ("reward, policies asked for", f"{best['reward']:.3f}, {len(live.task.asked)} in {options.episodes} episodes"),
        ("test images", f"{len(test):,}"),
        ("full precision", f"{before:.2%}"),
        (f"after the search's fine-tune ({options.tune_images} images)", f"{short:.2%}"),
        *after,
    ]
    write_report(
        "releq_resnet20",
        "ReLeQ on ResNet-20",
        [
            f"CIFAR-10 (JPEG); weights searched in 2 to 8 bits, activations at 8; reward {options.reward}, no budget; "
            "symmetric quantizers, which the machine runs, not DoReFa. Published: 2.81 bits with a loss of 0.12 points "
            "(recalled), after 10 epochs of retraining per episode, up to 2,000 episodes, first and last layer at 8.",
            markdown(pd.DataFrame(rows, columns=["", "figure"])),
        ],
    )


if __name__ == "__main__":
    main()
