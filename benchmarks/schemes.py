"""AutoQNN's schemes on a network: accuracy after a short fine-tune, and what the simulated machine takes for them."""

import argparse
from pathlib import Path

import pandas as pd
from agents import codesign
from common import add_options, markdown, write_report

from codesign.integers import IntegerNetwork
from codesign.training import FineTune, FineTuneEvaluator, accuracy
from codesign.workload import load_workload, save_quantized
from hardware.errors import InputError
from policies.policy import ActivationChoice, LayerPolicy, Policy, WeightChoice

CHOICES = [
    *(("binary", 1), ("ternary", 2), ("quaternary", 2), ("clip", 2), ("pot", 2), ("symmetric", 2)),
    *(("clip", 3), ("pot", 3), ("fixed", 3), ("symmetric", 3), ("zoom", 3), ("res", 3)),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    defaults = {"hardware": "bitserial-edge", "activation_bits": 4, "tune_images": 2048}
    defaults |= {"tune_epochs": 2, "tune_rate": 5e-3, "test_images": 2000, "out": Path("runs/schemes")}
    add_options(parser, weights=True, **defaults)
    options = parser.parse_args()

    workload = load_workload(options.network, 0, options.data, options.weights)
    assert workload.data is not None
    tune = FineTune(epochs=options.tune_epochs, learning_rate=options.tune_rate, images=options.tune_images)
    evaluator = FineTuneEvaluator(workload.traced, workload.data, tune, seed=0)
    test, layers = workload.data.test.take(slice(options.test_images)), workload.traced.layers
    rows = []
    for scheme, bits in CHOICES:
        # The ends stay at 8 bits, as in the papers.
        entries = [
            LayerPolicy(
                name=layer.name,
                weights=WeightChoice.model_validate(
                    {"bits": 8} if index in (0, len(layers) - 1) else {"bits": bits, "scheme": scheme}
                ),
                activations=ActivationChoice(bits=8 if index in (0, len(layers) - 1) else options.activation_bits),
            )
            for index, layer in enumerate(layers)
        ]
        policy = Policy(network=options.network, layers=tuple(entries))
        quantized = evaluator.quantized(policy)
        row = {"scheme": scheme, "bits": bits}
        try:
            row["planes"] = max(entries[1].weights.machine_bits(layers[1]))
            figure = IntegerNetwork(quantized).accuracy(test)
            files = options.out / f"{scheme}-{bits}.yaml", options.out / f"{scheme}-{bits}.pt"
            policy.save(files[0])
            save_quantized(quantized, files[1])
            arguments = ["simulate", "--network", options.network, "--data", options.data, "--test-images", "0"]
            arguments += ["--hardware", options.hardware, "--policy", str(files[0]), "--weights", str(files[1])]
            ran = codesign(arguments, files[0].with_suffix(".json"))
            row |= {
                "test accuracy": f"{figure:.2%}",
                "RTL cycles": f"{ran['rtl_cycles']:,}",
                "cycle error": ran["rtl_cycles"] - ran["model_cycles"],
                "mismatches": ran["mismatches"],
            }
        except InputError:
            row |= {"planes": "refused", "test accuracy": f"{accuracy(quantized, test):.2%} (float)"}
        rows.append(row)
    write_report(
        f"schemes_{options.network}",
        f"AutoQNN's schemes on {options.network}",
        [
            f"Weights of all layers but the first and the last, which have 8 bits; {options.activation_bits}-bit "
            f"uniform activations; {options.tune_epochs} epochs of fine-tuning on {options.tune_images:,} images; test "
            f"accuracy on {len(test):,} images in integer arithmetic, full precision "
            f"{accuracy(workload.traced.graph_module, test):.2%}. One image on the RTL of `{options.hardware}`.",
            markdown(pd.DataFrame(rows).fillna("")),
        ],
    )


if __name__ == "__main__":
    main()
