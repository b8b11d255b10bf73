"""Energy: how well the model fits what switches in the netlist, what an event takes, and what networks take."""

import argparse
from pathlib import Path

import pandas as pd
from common import markdown, write_report

from codesign.energy import energy_of, machine_energy, typical_operands
from codesign.workload import load_workload
from hardware.accelerator import load_accelerator
from hardware.cost import PRICED_OUTPUT, count_events
from hardware.cycles import layer_cycles
from hardware.energy import (
    BLOCK_RAM_PICOJOULES,
    BOARD_IDLE_WATTS,
    DRAM_PICOJOULES_PER_BIT,
    PARTS,
    PIN_PICOJOULES,
    Energy,
    load_energy,
)
from hardware.layer import Layer
from hardware.schedule import schedule

NETWORKS = (("lenet", "bitserial-tiny"), ("resnet20", "bitserial-small"), ("mobilenetv1", "bitserial-edge"))
BIG = Layer("conv", "conv", 128, 64, 14, 14, kernel=(3, 3), padding=(1, 1))


def errors(rows: pd.DataFrame) -> pd.DataFrame:
    """Errors over the held-out layers, by part, and of array and buffers together by kind of data."""
    held_out = rows[rows["held_out"]]
    table = []

    def add(what: str, model: pd.Series, truth: pd.Series) -> None:
        error = 100 * (model / truth - 1).abs()
        table.append({"what": what, "layers": len(error), "median %": f"{error.median():.2f}"})
        table[-1] |= {"95 % below %": f"{error.quantile(0.95):.2f}", "largest %": f"{error.max():.2f}"}

    for part in PARTS:
        add(f"{part}: pins", held_out[f"{part}_model"], held_out[f"{part}_pins"])
    calibration = load_energy("bitserial-tiny")
    assert calibration is not None
    rams = BLOCK_RAM_PICOJOULES.value * calibration.block_rams
    for data in (None, *sorted(set(held_out["data"]))):
        some = held_out if data is None else held_out[held_out["data"] == data]
        model, truth = (
            PIN_PICOJOULES.value * (some[f"array_{key}"] + some[f"buffers_{key}"]) + rams * some["cycles"]
            for key in ("model", "pins")
        )
        add(f"array and buffers: energy, {data or 'all'} data", model, truth)
    both = [held_out[f"array_{key}"] + held_out[f"buffers_{key}"] for key in ("model", "pins")]
    add("array and buffers: pins, without block RAM", *both)
    return pd.DataFrame(table)


def events() -> pd.DataFrame:
    """What an event takes on the measured machine, from one layer."""
    accelerator = load_accelerator("bitserial-tiny")
    priced = machine_energy(accelerator)
    assert priced is not None
    calibration, _ = priced
    table = []
    for bits in (8, 4, 2):
        plan = schedule(BIG, bits, bits, accelerator, output=PRICED_OUTPUT)
        energy = energy_of(plan, calibration, typical_operands(BIG, (bits,) * BIG.out_channels, bits))
        counted, cycles = count_events(plan), layer_cycles(plan)
        read = counted.array_steps * (accelerator.array.dm + accelerator.array.dn) * accelerator.array.dk
        pico = {
            "array, per plane product": energy.array / counted.plane_products,
            "buffers' registers, per bit read": energy.buffers / read,
            "block RAM, per bit read": energy.block_ram / read,
            "clock, per cycle": energy.clock / cycles,
            "rest of the machine, per cycle": energy.rest / cycles,
            "DRAM, per 64-bit word": energy.dram / (counted.words_read + counted.words_written),
        }
        table.append({"pJ": f"{bits}/{bits} bits"} | {name: f"{1e12 * value:.3g}" for name, value in pico.items()})
    return pd.DataFrame(table)


def networks() -> pd.DataFrame:
    """Typical data, uniform bits."""
    table = []
    for network, hardware in NETWORKS:
        accelerator = load_accelerator(hardware)
        priced = machine_energy(accelerator)
        assert priced is not None
        for bits in (8, 4, 2):
            parts, cycles = [], 0
            for layer in load_workload(network, seed=0).traced.layers:
                plan = schedule(layer, bits, bits, accelerator, output=PRICED_OUTPUT)
                parts.append(energy_of(plan, priced[0], typical_operands(layer, (bits,) * layer.out_channels, bits)))
                cycles += layer_cycles(plan)
            total: Energy = sum(parts[1:], parts[0])
            seconds = cycles / (1e6 * accelerator.clock_mhz)
            table.append(
                {"network": network, "accelerator": hardware, "bits": f"{bits}/{bits}", "cycles": f"{cycles:,}"}
            )
            table[-1] |= {
                "µJ": f"{1e6 * total.dynamic:,.1f}",
                "range": f"{1e6 * total.low:,.1f} to {1e6 * total.high:,.1f}",
            }
            for name in ("array", "buffers", "block_ram", "clock", "rest", "dram"):
                table[-1][f"{name.replace('_', ' ')} %"] = f"{100 * getattr(total, name) / total.dynamic:.0f}"
            table[-1]["board idle, µJ"] = f"{1e6 * BOARD_IDLE_WATTS.value * seconds:,.0f}"
    return pd.DataFrame(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--switching", type=Path, default=Path("runs/energy/switching.csv"), help="Left by calibrate.")
    options = parser.parse_args()
    rows = pd.read_csv(options.switching)
    calibration = load_energy("bitserial-tiny")
    assert calibration is not None
    constants = pd.DataFrame(
        [
            {"constant": name, "value": one.value, "low": one.low, "high": one.high, "source": one.source}
            for name, one in (
                ("pJ per pin", PIN_PICOJOULES),
                ("pJ per block RAM and cycle", BLOCK_RAM_PICOJOULES),
                ("pJ per DRAM bit", DRAM_PICOJOULES_PER_BIT),
                ("W, board idle", BOARD_IDLE_WATTS),
            )
        ]
    )
    write_report(
        "energy",
        "Energy from what switches",
        [
            "The whole `bitserial-tiny`, mapped to the xc7z020 by Yosys, ran random layers under Verilator; toggles of "
            "every net were counted, times the pins that it drives (`sim/netlist.py`). The netlist took the cycles "
            f"that the model says, in every layer. {calibration.samples} layers were fitted to, {calibration.held_out} "
            "kept apart. No delays are simulated, so no glitches are in any figure, and every pin counts alike. The "
            "absolute scale is the weak part: see the constants' ranges.",
            "## Held-out layers: model against netlist",
            markdown(errors(rows)),
            "A third each of the layers has uniform integers, normal weights with half-normal activations, and these "
            "with half of the activations zero.",
            "## What an event takes (bitserial-tiny, 128 to 64 channels, 3x3, 14x14, typical data)",
            markdown(events().set_index("pJ").T.reset_index().rename(columns={"index": "pJ"})),
            "## Networks, typical data",
            markdown(networks()),
            "Only `bitserial-tiny` was measured. For the others the array and its buffers scale with their size, clock "
            "pins with the registers of the resource law, all else is as measured: estimates.",
            "## Constants",
            markdown(constants),
            f"The layers were measured by `{calibration.renew} --out runs/energy`.",
        ],
    )


if __name__ == "__main__":
    main()
