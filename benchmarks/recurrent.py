"""Recurrent networks end to end: trained, their bits learned, fine-tuned, and their gate matrices run on the RTL."""

import argparse
from pathlib import Path

import pandas as pd
from agents import codesign
from common import add_options, markdown, write_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    networks = ["lstm-classifier", "lstm-classifier", "lstm-lm", "lstm-lm"]
    parser.add_argument("--networks", nargs="+", default=networks)
    parser.add_argument("--agents", nargs="+", default=["uniform", "qpl"] * 2, help="One per network, as all lists.")
    parser.add_argument("--train-epochs", type=int, nargs="+", default=[10, 10, 8, 8])
    parser.add_argument(
        "--budgets",
        nargs="+",
        default=["latency=0.22", "size=0.34,latency=0.22", "latency=0.15", "size=0.34,latency=0.15"],
    )
    defaults = {"hardware": "bitserial-tiny", "weight_scheme": "clip", "episodes": 6}
    defaults |= {"tune_images": 4000, "tune_epochs": 2, "tune_rate": 0.02, "out": Path("runs/recurrent")}
    add_options(parser, **defaults)
    options = parser.parse_args()

    rows, machine = [], ["--hardware", options.hardware]
    cases = zip(options.networks, options.train_epochs, options.budgets, options.agents, strict=True)
    for network, epochs, budget, agent in cases:
        folder = options.out / f"{network}-{agent}"
        arguments = ["search", "--network", network, *machine, "--agent", agent, "--budget", budget, "--resume"]
        arguments += ["--weight-scheme", options.weight_scheme, "--train-epochs", str(epochs), "--out", str(folder)]
        for name in ("episodes", "tune_images", "tune_epochs", "tune_rate"):
            arguments += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
        found = codesign(arguments, folder.with_suffix(".json"))
        files = ["--policy", str(folder / "policy.yaml"), "--weights", str(folder / "quantized.pt")]
        ran = codesign(
            ["simulate", "--network", network, *machine, *files, "--images", "1", "--test-images", "0"],
            folder.with_suffix(".simulate.json"),
        )
        widths = pd.DataFrame(found["bits"], columns=["weights", "activations"]).mean()
        words = found["perplexity"] is not None
        rows.append(
            {
                "network": network,
                "agent": agent,
                "budget": f"{budget}, used {found['budget_used']:.1%}",
                "weights": ", ".join(f"{row['name']} {row['bits'][0]}" for row in ran["layers"]),
                "inputs": ", ".join(str(row["bits"][1]) for row in ran["layers"]),
                "weight bits, by number": f"{8 * found['ratios']['size']:.2f}",
                "input bits, by layer": f"{widths['activations']:.2f}",
                "accuracy, full precision": f"{found['accuracy']:.2%}, {found['accuracy_full_precision']:.2%}",
                "perplexity, full precision": f"{found['perplexity']:.1f}, {found['perplexity_full_precision']:.1f}"
                if words
                else "",
                "outputs on the RTL": f"{sum(row['outputs'] for row in ran['layers']):,}",
                "mismatches": ran["mismatches"],
                "RTL cycles": f"{ran['rtl_cycles']:,}",
                "cycle error": ran["rtl_cycles"] - ran["model_cycles"],
            }
        )
    write_report(
        "recurrent",
        "Recurrent networks",
        [
            f"`{options.hardware}`; weights in scheme `{options.weight_scheme}`, {options.episodes} episodes of "
            f"each agent, fine-tuned on {options.tune_images:,} texts; texts of Python's own library. Accuracy of a "
            "language model is that of the next word. One text on the RTL, gate matrices at every step included; the "
            "host squashes and multiplies the gates.",
            markdown(pd.DataFrame(rows)),
        ],
    )


if __name__ == "__main__":
    main()
