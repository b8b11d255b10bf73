"""``codesign cost --model published``: what layers cost by the published BitFusion model."""

from collections.abc import Sequence
from dataclasses import asdict

from codesign.commands.common import Result, out, say, table
from codesign.published import PublishedWork, machine_name, price
from hardware.bitfusion_cost import total_cost
from hardware.bitfusion_energy import sram_basis


def price_published(result: Result, works: Sequence[PublishedWork]) -> None:
    """Price, print, and write the results; `InputError` for layers that fit no buffer."""
    costs = price(works)
    name, total = machine_name(works), total_cost(costs)
    basis = "; ".join(sorted({sram_basis(work.machine) for work in works}))
    lines = table(
        f"published BitFusion model, {name}", *("layer", "bits W,A", "cycles", "share", "waiting", "DRAM Mbit", "µJ")
    )
    rows = []
    for work, cost in zip(works, costs, strict=True):
        dram = (cost.dram_read_bits + cost.dram_write_bits) / 1e6
        lines.add_row(
            " ".join(filter(None, (work.network, work.layer))),
            f"{work.shape.weight_bits},{work.shape.input_bits}",
            f"{cost.cycles:,}",
            f"{cost.cycles / total.cycles:.1%}",
            f"{cost.memory_wait_cycles / cost.cycles:.1%}",
            f"{dram:,.1f}",
            f"{1e6 * cost.energy.total:,.2f}",
        )
        names = {"network": work.network, "layer": work.layer}
        rows.append(names | cost.figures | {"energy_j": cost.energy.total, "energy": asdict(cost.energy)})
    latency = sum(cost.cycles / (1e6 * work.machine.clock_mhz) for work, cost in zip(works, costs, strict=True))
    out.print(lines)
    say(f"{total.cycles:,} cycles, {1e3 * latency:.3f} ms, {total.memory_wait_cycles / total.cycles:.1%} waiting")
    parts = ", ".join(f"{part} {joules / total.energy.total:.0%}" for part, joules in asdict(total.energy).items())
    say(f"{1e3 * total.energy.total:.4g} mJ ({parts}); {basis}")
    result.write(
        {
            "hardware": name,
            "model": "published",
            "rows": rows,
            "cycles": total.cycles,
            "latency_s": latency,
            "energy_j": total.energy.total,
            "energy": asdict(total.energy) | {"basis": basis},
        }
    )
