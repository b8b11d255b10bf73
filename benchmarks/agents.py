"""All agents on a network, live, under several budgets; the best policy of each then runs on the simulated machine."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from common import markdown, write_report

from hardware.files import write_text
from policies.agent import agent_names


def codesign(arguments: list[str], result: Path, keep: bool = False) -> dict[str, Any]:
    """A command's results; it shows its own progress. ``keep``: the same command, once done, is not run again."""
    ran = result.with_suffix(".command")
    if not (keep and result.exists() and ran.exists() and ran.read_text() == repr(arguments)):
        subprocess.run([sys.executable, "-m", "codesign", *arguments, "--json", str(result)], check=True)
        if keep:
            write_text(ran, repr(arguments))
    return dict(json.loads(result.read_text()))


def comparison(summary: list[dict[str, Any]]) -> str:
    """The table of a comparison after its last evaluations, means over seeds."""
    last = max(row["evaluations"] for row in summary)
    rows = [row for row in summary if row["evaluations"] == last]
    rows.sort(key=lambda row: row["regret"])
    return markdown(
        pd.DataFrame(
            {
                "agent": row["agent"],
                "validation accuracy": f"{row['accuracy']:.2%}",
                "reward behind the best": f"{row['regret']:.3f}"
                + ("" if row["regret_error"] is None else f" ± {row['regret_error']:.3f}"),
                "latency": f"{row['latency_ratio']:.1%}",
                "energy": f"{row['energy_ratio']:.1%}",
                "size": f"{row['size_ratio']:.1%}",
                "weight bits": f"{row['weight_bits']:.2f}",
                "activation bits": f"{row['activation_bits']:.2f}",
                "agent, s": f"{row['agent_s']:.0f}",
                "evaluations, s": f"{row['evaluator_s']:.0f}",
            }
            for row in rows
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="lenet")
    parser.add_argument("--data")
    parser.add_argument("--weights")
    parser.add_argument("--hardware", default="bitserial-tiny")
    parser.add_argument("--budgets", default="latency=0.3,latency=0.15")
    parser.add_argument("--agents", default=",".join(agent_names()))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--evaluations", default="50")
    parser.add_argument("--tune-images", type=int)
    parser.add_argument("--validation-images", type=int)
    parser.add_argument("--test-images", type=int)
    parser.add_argument("--images", type=int, default=1, help="Images that each best policy runs on the machine.")
    parser.add_argument("--out", type=Path, default=Path("runs/agents"), help="Continued, if it holds a part already.")
    options = parser.parse_args()
    machine = ["--network", options.network, "--hardware", options.hardware]
    machine += ["--data", options.data] if options.data else []
    search = [*machine, "--agents", options.agents, "--seeds", str(options.seeds)]
    search += ["--evaluations", options.evaluations, "--resume"]
    for name in ("weights", "tune_images", "validation_images", "test_images"):
        value = getattr(options, name)
        search += [f"--{name.replace('_', '-')}", str(value)] if value else []

    text = [
        f"`{options.network}` on `{options.hardware}`; accuracy on validation images after a short fine-tune, the same "
        f"for all, {options.tune_images or 'all'} images to tune on and {options.validation_images or 'all'} to "
        "validate; "
        f"{options.seeds} seeds. An evaluation is a distinct policy asked for; {options.evaluations} of them. "
        "Latency, energy and size are shares of 8 bits everywhere; bits are means over layers; means over seeds of "
        "each run's best policy. The last table is of each agent's best policy over its seeds: test accuracy in "
        f"integer arithmetic, and {options.images} image(s) on the RTL.",
        "Accuracies are as good as the square root of so many images lets them be, about a point for 500; and a "
        "network that was trained on all training images has seen the validation images.",
    ]
    for budget in options.budgets.split(","):
        folder = options.out / budget.replace("=", "-")
        found = codesign(["compare", *search, "--budget", budget, "--out", str(folder)], folder.with_suffix(".json"))
        rows = []
        for saved in found["policies"]:
            files = ["--policy", saved["policy"], "--weights", saved["weights"], "--images", str(options.images)]
            files += ["--test-images", "0"]  # the comparison has measured that
            ran = codesign(["simulate", *machine, *files], folder / f"simulate-{saved['agent']}.json")
            rows.append(
                {
                    "agent": saved["agent"],
                    "test accuracy": f"{saved['accuracy']:.2%}",
                    "test images": f"{saved['test_images']:,}",
                    "latency": f"{saved['latency_ratio']:.1%}",
                    "cycles on the RTL": f"{ran['rtl_cycles']:,}",
                    "cycle error": ran["rtl_cycles"] - ran["model_cycles"],
                    "mismatches": ran["mismatches"],
                }
            )
        text += [
            f"## {budget}",
            f"Full precision: {found['accuracy_full_precision']:.2%} on validation, "
            f"{found['policies'][0]['accuracy_full_precision']:.2%} on test images. "
            f"{found['evaluated']} policies in all.",
            comparison(found["summary"]),
            markdown(pd.DataFrame(rows)),
        ]
    write_report(f"agents_{options.network}", f"Agents on {options.network}", text)


if __name__ == "__main__":
    main()
