"""HAQ on ResNet-20 and CIFAR-10, and its policy on the RTL: accuracy, wall time, simulated cycles per second.

Needs CIFAR-10 in $CODESIGN_DATA and a trained ResNet-20's weights.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
from common import markdown, write_report


def run(command: list[str], json_file: Path) -> dict:
    """Results of a command, and its wall time as ``seconds``."""
    begin = time.perf_counter()
    subprocess.run([str(Path(sys.executable).with_name("codesign")), *command, "--json", str(json_file)], check=True)
    return json.loads(json_file.read_text()) | {"seconds": time.perf_counter() - begin}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/resnet20"))
    parser.add_argument("--budget", default="latency=0.4")
    parser.add_argument("--episodes", type=int, default=60)
    options = parser.parse_args()

    machine = ["--network", "resnet20", "--data", "cifar10", "--hardware", "bitserial-small"]
    search = ["search", *machine, "--weights", str(options.weights), "--budget", options.budget]
    search += ["--episodes", str(options.episodes), "--tune-images", "512", "--validation-images", "1000"]
    found = run([*search, "--seed", "1", "--out", str(options.out)], options.out / "search.json")
    simulate = ["simulate", *machine, "--policy", str(options.out / "policy.yaml"), "--test-images", "0"]
    confirmed = run([*simulate, "--weights", str(options.out / "quantized.pt")], options.out / "simulate.json")
    errors = [abs(row["rtl_cycles"] - row["model_cycles"]) for row in confirmed["layers"]]
    rows = [
        ("budget", options.budget),
        ("episodes (each a policy, fine-tuned on 512 images, judged on 1,000)", options.episodes),
        ("seconds per episode, mean", f"{found['search_s'] / options.episodes:.1f}"),
        ("full precision, test accuracy", f"{found['accuracy_full_precision']:.2%}"),
        ("best policy, test accuracy in integer arithmetic", f"{found['accuracy']:.2%}"),
        ("test images", f"{found['test_images']:,}"),
        ("cycles per image", f"{found['cost']:,.0f}"),
        ("share of the 8-bit network's cycles", f"{found['cost_ratio']:.1%}"),
        ("one image through all layers on the RTL: mismatching outputs", confirmed["mismatches"]),
        ("outputs compared", f"{sum(row['outputs'] for row in confirmed['layers']):,}"),
        ("largest cycle error of a layer", max(errors)),
        ("simulated cycles per second", f"{confirmed['cycles_per_second']:,.0f}"),
        ("seconds of `codesign simulate`, its start included", f"{confirmed['seconds']:.0f}"),
    ]
    layers = [
        (row["name"], f"{row['bits'][0]},{row['bits'][1]}", f"{row['rtl_cycles']:,}") for row in confirmed["layers"]
    ]
    write_report(
        "resnet20_search",
        "ResNet-20 on CIFAR-10 (JPEG), bitserial-small",
        [
            "The network was trained on all training images, of which the validation images are a part, so only the "
            "test accuracy is a fair figure. Seconds are of one thread on a machine that other work shared.",
            markdown(pd.DataFrame(rows, columns=["", "figure"])),
            "The policy:",
            markdown(pd.DataFrame(layers, columns=["layer", "bits W,A", "cycles"])),
        ],
    )


if __name__ == "__main__":
    main()
