"""What a network's policies switch on the RTL of the machine itself, beside what the energy model says of them.

A toggle of a net of the described machine weighs as many pins of the mapped one as it does on the machine whose
netlist was measured, over random layers; array, buffers and all else apart.
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from agents import codesign
from common import markdown, write_report

from codesign.energy import MEASURED, machine_energy
from codesign.energy_calibration import UNITS, draw_sample
from codesign.host_network import executable
from codesign.integers import IntegerNetwork
from codesign.program import build_program
from codesign.workload import choose_policy, load_workload, quantized_network
from hardware.accelerator import Accelerator, load_accelerator
from hardware.cost import words_read
from hardware.cycles import layer_cycles
from hardware.energy import (
    BLOCK_RAM_PICOJOULES,
    DRAM_PICOJOULES_PER_BIT,
    PARTS,
    PIN_PICOJOULES,
    EnergyCalibration,
    toggled_pins,
)
from hardware.errors import InputError
from hardware.instruction import INSTRUCTION_WORDS
from sim.activity import rtl_toggles
from sim.job import Job
from sim.run import simulate_jobs


def by_part(toggles: dict[str, int]) -> dict[str, int]:
    """Toggles of units, added up by the parts of the energy model."""
    named = {part: sum(toggles[unit] for unit in units) for part, units in UNITS.items()}
    return named | {"rest": sum(toggles.values()) - sum(named.values())}


def toggles_of(job: Job, accelerator: Accelerator) -> tuple[dict[str, int], int]:
    """Toggles by part on the RTL, and cycles."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "toggles.saif"
        (outcome,) = simulate_jobs([job], accelerator, waves=path).outcomes
        return by_part(rtl_toggles(path)), outcome.cycles


def pins_per_toggle(machine: str, samples: int, seed: int) -> tuple[dict[str, float], dict[str, float]]:
    """By part, pins of the mapped machine per toggle of the RTL, and by how much random layers differ in that."""
    accelerator = load_accelerator(machine)
    priced = machine_energy(accelerator)
    if priced is None:
        raise InputError(f"the energy of {machine} is not calibrated: run `codesign calibrate --energy`.")
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(samples):
        sample = draw_sample(rng, accelerator, number)
        toggles, cycles = toggles_of(sample.job, accelerator)
        if cycles != layer_cycles(sample.schedule):
            raise InputError(f"{sample.operands.layer} took {cycles} cycles: the model says otherwise.")
        values = sample.features | {"cycles": float(cycles)}
        rows.append([(toggled_pins(part, values, priced[0]), toggles[part]) for part in PARTS])
    pins, counted = np.array(rows).transpose(2, 1, 0)
    ratios = pins.sum(1) / counted.sum(1)
    spreads = np.std(pins / counted, axis=1) / ratios
    return dict(zip(PARTS, ratios, strict=True)), dict(zip(PARTS, spreads, strict=True))


@dataclass(frozen=True)
class Measured:
    """A policy on the RTL, one image: cycles, joules by part, and the model's joules."""

    cycles: int
    model_cycles: int
    joules: dict[str, float]
    model: float

    @property
    def total(self) -> float:
        """Joules."""
        return sum(self.joules.values())


def measure(
    options: argparse.Namespace, policy: str, weights: str, energy: EnergyCalibration, ratios: dict[str, float]
) -> Measured:
    """Run one image under a policy (a file, or one width for all) and weigh what toggles."""
    accelerator = load_accelerator(options.hardware)
    workload = load_workload(options.network, 0, options.data, Path(weights))
    width = int(policy) if policy.isdigit() else None
    chosen = choose_policy(workload, None if width else Path(policy), (width, width) if width else None)
    network = executable(quantized_network(workload, chosen, Path(weights)))
    if not isinstance(network, IntegerNetwork):
        raise InputError(f"{options.network} is not one program on the machine.")
    channels, height, columns = workload.input_shape
    program = build_program(network, accelerator, (channels, height, columns))
    memory = program.with_image(workload.images(1).double().numpy())
    model_cycles = program.cycles()
    toggles, cycles = toggles_of(Job(memory, program.address, 0, len(memory), 2 * model_cycles), accelerator)
    words = 0
    for work in (step.work for step in program.steps):
        pixels = (work.column_tiles - 1) * work.dn + work.last_columns
        words += INSTRUCTION_WORDS + words_read(work)
        words += pixels * (work.row_tiles * work.result_words + work.plane_words * work.output.plane_bits)
    joules = {part: 1e-12 * PIN_PICOJOULES.value * ratios[part] * toggles[part] for part in PARTS}
    joules["clock"] = 1e-12 * PIN_PICOJOULES.value * 2 * energy.clock_pins * cycles
    joules["block RAM"] = 1e-12 * BLOCK_RAM_PICOJOULES.value * energy.block_rams * cycles
    joules["DRAM"] = 1e-12 * DRAM_PICOJOULES_PER_BIT.value * 64 * words
    with tempfile.TemporaryDirectory() as name:
        arguments = ["cost", "--network", options.network, "--hardware", options.hardware]
        arguments += ["--bits", policy] if width else ["--policy", policy]
        model = codesign(arguments, Path(name) / "cost.json")["energy_j"]
    return Measured(cycles, model_cycles, joules, model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--hardware", default="bitserial-edge")
    parser.add_argument("--weights", required=True, help="Of the network in full precision, for 8 bits everywhere.")
    parser.add_argument("--policies", nargs="+", required=True, help="POLICY.yaml files, the integers beside them.")
    parser.add_argument("--samples", type=int, default=30, help="Random layers on the machine that was measured.")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)

    accelerator = load_accelerator(options.hardware)
    priced = machine_energy(accelerator)
    if priced is None:
        raise InputError(f"the energy of {options.hardware} is not known: run `codesign calibrate --energy`.")
    measured = MEASURED[accelerator.kind]
    ratios, spreads = pins_per_toggle(measured, options.samples, options.seed)
    jobs = {"8 bits everywhere": ("8", options.weights)}
    jobs |= {Path(policy).stem: (policy, str(Path(policy).with_suffix(".pt"))) for policy in options.policies}
    found = {name: measure(options, *job, priced[0], ratios) for name, job in jobs.items()}
    full = next(iter(found.values()))
    rows = [
        {
            "policy": name,
            "cycles on the RTL": f"{one.cycles:,}",
            "cycle error": one.cycles - one.model_cycles,
            **{part: f"{1e6 * joules:.1f}" for part, joules in one.joules.items()},
            "energy, µJ": f"{1e6 * one.total:.1f}",
            "of 8 bits": f"{one.total / full.total:.1%}",
            "layers by the model, µJ": f"{1e6 * one.model:.1f}",
            "of 8 bits by the model": f"{one.model / full.model:.1%}",
        }
        for name, one in found.items()
    ]
    write_report(
        f"rtl_energy_{options.network}",
        f"Energy of {options.network}'s policies, from what the RTL switches",
        [
            f"One test image on the RTL of `{options.hardware}`, the whole program, with every net's toggles counted. "
            f"A toggle weighs as many pins as on `{measured}`, whose netlist was measured: "
            + ", ".join(f"{part} {ratios[part]:.2f} (one standard deviation {spreads[part]:.0%})" for part in PARTS)
            + f", over {options.samples} random layers (seed {options.seed}). Clock and block RAM go by the cycles of "
            "the RTL, DRAM by the words of its schedule. Columns of parts are in µJ. The model prices the layers "
            "alone, with typical data instead of the image's, so its shares are to be compared, not its joules.",
            markdown(pd.DataFrame(rows)),
        ],
    )


if __name__ == "__main__":
    main()
