"""QPL under the machine's cost against QPL under mean bits, HAQ and uniform widths, at equal latency budgets."""

import argparse
from pathlib import Path

import pandas as pd
from agents import codesign
from common import add_options, markdown, write_report

AGENTS = ("qpl", "qpl-precision", "haq", "uniform")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", nargs="+", default=AGENTS)
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.5, 0.35, 0.25])
    defaults = {"hardware": "bitserial-edge", "seeds": 1, "episodes": 15}
    defaults |= {"tune_images": 1024, "validation_images": 1000, "test_images": 3000, "out": Path("runs/qpl")}
    add_options(parser, weights=True, **defaults)
    options = parser.parse_args()

    rows, full_precision = [], 0.0
    for budget in options.budgets:
        for agent in options.agents:
            for seed in range(options.seeds):
                folder = options.out / f"{agent}-{round(100 * budget)}-{seed}"
                arguments = ["search", "--network", options.network, "--data", options.data, "--agent", agent]
                arguments += ["--weights", str(options.weights), "--hardware", options.hardware, "--resume"]
                arguments += ["--budget", f"latency={budget}", "--seed", str(seed), "--out", str(folder)]
                for name in ("episodes", "tune_images", "validation_images", "test_images"):
                    arguments += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
                found = codesign(arguments, folder.with_suffix(".json"), keep=True)
                priced = codesign(
                    ["cost", "--network", options.network, "--hardware", options.hardware, "--policy", found["policy"]],
                    folder.with_suffix(".cost.json"),
                )
                full_precision = found["accuracy_full_precision"]
                widths = pd.DataFrame(found["bits"], columns=["weights", "activations"]).mean()
                rows.append(
                    {
                        "budget": f"{budget:.0%}",
                        "agent": agent,
                        "seed": seed,
                        "validation": f"{found['validation_accuracy']:.1%}",
                        "test": f"{found['accuracy']:.2%}",
                        "budget used": f"{found['budget_used']:.2%}",
                        "latency, ms": f"{1e3 * priced['latency_s']:.3f}",
                        "energy, µJ": f"{1e6 * priced['energy_j']:.1f}",
                        "weight bits": f"{widths['weights']:.2f}",
                        "activation bits": f"{widths['activations']:.2f}",
                        "evaluations": found["evaluations"],
                        "search, s": f"{found['search_s']:.0f}",
                    }
                )
    write_report(
        f"qpl_{options.network}",
        f"QPL on {options.network}",
        [
            f"`{options.hardware}`, {options.episodes} episodes of each agent; an episode of the first two is an epoch "
            f"over {options.tune_images:,} training images, an episode of all ends in a policy that is fine-tuned on "
            f"as many and judged on {options.validation_images:,} validation images; the best one is kept. Test "
            f"accuracy on {options.test_images:,} images in integer arithmetic; full precision {full_precision:.2%}. "
            "Bits are means over layers. `qpl` keeps the latency down by the oracle, `qpl-precision` the mean bits, "
            "moved into the budget all alike.",
            markdown(pd.DataFrame(rows)),
        ],
    )


if __name__ == "__main__":
    main()
