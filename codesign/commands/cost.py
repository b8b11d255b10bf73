"""``codesign cost``: what a network costs on an accelerator, by the cycle model."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from codesign.commands.common import (
    BitsOption,
    DataOption,
    HardwareOption,
    JsonOption,
    NetworkOption,
    PolicyOption,
    Result,
    bits_text,
    out,
    parse_bits,
    priced_accelerator,
    say,
    table,
)
from codesign.commands.published_cost import price_published
from codesign.energy import energy_of, machine_energy, typical_operands
from codesign.published import network_layers, read_layers
from codesign.resources import accelerator_resources, resources_text
from codesign.workload import choose_policy, load_workload
from hardware.accelerator import Accelerator
from hardware.bitfusion_published import DEFAULT_PUBLISHED, published_machine
from hardware.cost import PRICED_OUTPUT, cost_table, count_events
from hardware.cycles import layer_cycles
from hardware.energy import (
    BLOCK_RAM_PICOJOULES,
    BOARD_DEVICE,
    BOARD_IDLE_WATTS,
    DRAM_PICOJOULES_PER_BIT,
    PIN_PICOJOULES,
    Energy,
)
from hardware.errors import InputError, unknown
from hardware.files import check_writable
from hardware.oracle import write_table
from hardware.resources import Resources
from hardware.schedule import schedule

MODELS = ("ours", "published")
FILE_HAS = ("network", "hardware", "data", "policy", "bits", "batch")
"""Options that a file of ``--layers`` says itself."""


def command(
    context: typer.Context,
    network: NetworkOption = "lenet",
    hardware: HardwareOption = "bitserial-tiny",
    data: DataOption = None,
    policy: PolicyOption = None,
    bits: BitsOption = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images per run of a layer.")] = 1,
    lut: Annotated[
        Path | None, typer.Option("--lut", help="Write HAQ's table: layers x 8 x 8 cycles, [layer, w-1, a-1], .npy.")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", help="ours: this project's machines; published: the BitFusion authors' model.")
    ] = "ours",
    layers_file: Annotated[
        Path | None, typer.Option("--layers", help="With --model published: layers and their machines, a CSV file.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Price a network at --bits N (or W,A) or under a --policy: cycles and events per layer, no RTL run.

    A layer is priced from its start until its outputs lie in memory as 8-bit activations. Pools and additions, which
    `simulate` counts too, are not in it.

    --model published prices the same layers, or those of --layers FILE, as the authors of BitFusion do, on one of their
    machines (--hardware bitfusion-published-edge by default; `codesign list` names all).
    """
    if model not in MODELS:
        raise unknown("model", model, MODELS)
    result = Result("cost", json)
    # By its name: typer brings its own copy of click, or not, depending on its version.
    sources = {name: context.get_parameter_source(name) for name in FILE_HAS}
    given = [name for name, source in sources.items() if source and source.name == "COMMANDLINE"]
    if model == "published":
        if lut:
            raise InputError("--lut writes this project's cycles: leave it out, or leave out --model published.")
        if layers_file and given:
            raise InputError(
                f"{layers_file} says itself what it holds: leave out {', '.join(f'--{one}' for one in given)}."
            )
        if layers_file:
            price_published(result, read_layers(layers_file))
            return
        machine = published_machine(hardware if "hardware" in given else DEFAULT_PUBLISHED)
        workload = load_workload(network, seed=0, data=data)
        chosen = choose_policy(workload, policy, parse_bits(bits) if bits else None)
        price_published(result, network_layers(workload, chosen, batch, machine))
        return
    if layers_file:
        raise InputError("--layers is for the published model: add --model published.")
    if lut:
        check_writable(lut)
    accelerator = priced_accelerator(hardware)
    used = accelerator_resources(accelerator)
    workload = load_workload(network, seed=0, data=data)
    layers = [replace(layer, images=batch) for layer in workload.traced.layers]
    if lut:
        write_table(lut, cost_table(layers, accelerator))
        say(f"wrote {lut}: {len(layers)} x 8 x 8 cycles")
        if policy is None and bits is None:
            bits = "8"
    chosen = choose_policy(workload, policy, parse_bits(bits) if bits else None)
    priced = machine_energy(accelerator)
    rows: list[dict[str, Any]] = []
    energies: list[Energy] = []
    for entry, layer in zip(chosen.layers, layers, strict=True):
        weight_bits = entry.weights.bits
        per_kernel, planes = entry.weights.machine_bits(layer), entry.activations.machine_bits(layer)
        plan = schedule(layer, per_kernel, planes, accelerator, output=PRICED_OUTPUT)
        cycles, events = layer.repeats * layer_cycles(plan), count_events(plan) * layer.repeats
        if priced:
            typical = typical_operands(layer, per_kernel, planes)
            energies.append(energy_of(plan, priced[0], typical) * layer.repeats)
        useful = sum(per_kernel) * planes * layer.reduction * layer.pixels * layer.repeats
        rows.append(
            {
                "name": layer.name,
                "bits": [weight_bits if isinstance(weight_bits, int) else list(weight_bits), entry.activations.bits],
                "macs": layer.macs,
                "cycles": cycles,
                "efficiency": useful / (cycles * accelerator.peak_binary_macs) if cycles else 0.0,
                "events": asdict(events),
                "energy_j": energies[-1].dynamic if priced else None,
            }
        )
    cycles = sum(row["cycles"] for row in rows)
    latency = cycles / (accelerator.clock_mhz * 1e6)
    lines = table(
        f"{network} on {accelerator.name}, {batch} image(s)",
        *("layer", "bits W,A", "cycles", "share", "efficiency", "µJ"),
    )
    for row in rows:
        share = row["cycles"] / cycles if cycles else 0.0
        lines.add_row(
            row["name"],
            bits_text(row["bits"]),
            f"{row['cycles']:,}",
            f"{share:.1%}",
            f"{row['efficiency']:.1%}",
            f"{1e6 * row['energy_j']:.2f}" if priced else "",
        )
    out.print(lines)
    say(resources_text(accelerator, used))
    say(f"{cycles:,} cycles, {1e3 * latency:.3f} ms at {accelerator.clock_mhz:g} MHz (clock assumed)")
    energy = sum(energies[1:], energies[0]) if energies else None
    if energy and priced:
        say(energy_text(energy, priced[1], latency if accelerator.device == BOARD_DEVICE else None))
    result.write(
        {
            "network": network,
            "batch": batch,
            "layers": rows,
            "cycles": cycles,
            "latency_s": latency,
            "energy_j": energy.dynamic if energy else None,
            "energy": asdict(energy) | {"basis": priced[1]} if energy and priced else None,
            "resources": _resources(accelerator, used),
        },
        accelerator,
    )


def energy_text(energy: Energy, basis: str, latency: float | None) -> str:
    """One line: dynamic energy, its range and where that comes from, and what a PYNQ-Z2 takes beside it."""
    constants = ", ".join(
        f"{one.value:g} pJ per {what} ({one.low:g} to {one.high:g})"
        for what, one in (
            ("pin", PIN_PICOJOULES),
            ("block RAM and cycle", BLOCK_RAM_PICOJOULES),
            ("DRAM bit", DRAM_PICOJOULES_PER_BIT),
        )
    )
    text = (
        f"{1e6 * energy.dynamic:.4g} µJ dynamic, {energy.dram / energy.dynamic:.0%} of it DRAM; {1e6 * energy.low:.3g} "
        f"to {1e6 * energy.high:.3g} by the ranges of {constants}; typical data, {basis}"
    )
    if latency is not None:
        idle = BOARD_IDLE_WATTS.value
        text += f"; an idle PYNQ-Z2's {idle:g} W take {1e6 * idle * latency:.4g} µJ in that time"
    return text


def _resources(accelerator: Accelerator, used: Resources | None) -> dict[str, Any]:
    """What follows from the description, and what the device's law says; None if the device has no law."""
    array, buffers = accelerator.array, accelerator.buffers
    return {
        "binary_macs_per_cycle": accelerator.peak_binary_macs,
        "buffer_bits": array.dk * (array.dm * buffers.lhs_entries + array.dn * buffers.rhs_entries),
        **(asdict(used) if used else dict.fromkeys(("lut", "ff", "bram36", "dsp"))),
        "fits": True if used else None,  # what does not fit has been refused
    }
