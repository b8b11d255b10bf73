"""Two published claims beside our machines: ReLeQ's gain on ResNet-20, HAQ's MobileNet-V1 at 4 bits. Models alone.

Everything published is recalled, not checked against the papers.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pandas as pd
from common import markdown, write_report

from codesign.energy import energy_of, machine_energy, typical_operands
from codesign.published import network_layers, price
from codesign.workload import Workload, load_workload
from hardware.accelerator import Accelerator, load_accelerator
from hardware.bitfusion_cost import total_cost
from hardware.bitfusion_published import published_machine
from hardware.cost import PRICED_OUTPUT, count_events
from hardware.cycles import layer_cycles
from hardware.layer import Layer
from hardware.schedule import schedule
from policies.policy import Policy

RELEQ_BITS = (8, 2, 2, 3, 2, 2, 2, 3, 2, 3, 3, 3, 2, 2, 2, 3, 2, 2, 2, 2, 2, 8)
"""ReLeQ's weight bits of ResNet-20, two shortcut convolutions among them (arXiv 1811.01704)."""
RELEQ_GAIN = 2.0
"""Times as fast as 8 bits, and times less energy, on ReLeQ's own accelerator."""
STAGES = range(7, 14), range(14, 21)
"""Places in the list of the second and of the third stage: six convolutions and a shortcut each."""
RELEQ_MACHINES = ("stripes-edge", "stripes-small", "bitserial-edge", "fusion-edge")

HAQ_LATENCY = {"bitserial-edge": 45.45 / 96.20, "bitserial-cloud": 57.49 / 151.09}
HAQ_ENERGY = {"fusion-edge": 13.47 / 31.03}
"""MobileNet-V1 at 4/4 over 8/8 bits (arXiv 1811.08886); energy on BitFusion, whose size is not known to us."""
HAQ_MACHINES = {"fusion-edge": 16, "fusion-cloud": 16, "bitserial-edge": 1, "bitserial-cloud": 16}
"""With batches: of the bit-serial machines HAQ's, of the others that of BitFusion's authors."""
PUBLISHED = ("bitfusion-published-edge", "bitfusion-published-server")
"""Machines of the model of BitFusion's authors."""

PARTS = ("array", "reads", "writes")
FIGURES = ("cycles", "joules", *PARTS)
"""Of a layer: cycles, dynamic joules (not a number where not known), and cycles in which the array multiplies, in
which a port reads, in which the first one writes. These overlap."""
Price = Callable[[Layer, int, int], np.ndarray]
"""`FIGURES` of a layer at weight and activation bits."""


def without(bits: Sequence[int], places: Sequence[int]) -> tuple[int, ...]:
    """The entries at all other places."""
    return tuple(one for place, one in enumerate(bits) if place not in places)


def pricing(accelerator: Accelerator) -> Price:
    """What layers cost on a machine; each is priced once."""
    known = machine_energy(accelerator)

    @cache
    def figures(layer: Layer, weight_bits: int, activation_bits: int) -> np.ndarray:
        plan = schedule(layer, weight_bits, activation_bits, accelerator, output=PRICED_OUTPUT)
        events, joules = count_events(plan), np.nan
        if known:
            operands = typical_operands(layer, (weight_bits,) * layer.out_channels, activation_bits)
            joules = energy_of(plan, known[0], operands).dynamic
        reads = events.words_read / accelerator.memory.ports
        return np.array([layer_cycles(plan), joules, events.array_steps, reads, events.words_written])

    return figures


def total(layers: Sequence[Layer], bits: Sequence[tuple[int, int]], figures: Price) -> np.ndarray:
    """`FIGURES` of a network."""
    return np.sum([figures(layer, *pair) for layer, pair in zip(layers, bits, strict=True)], axis=0)


def shape(layer: Layer, images: int = 1) -> Layer:
    """Without its name, so that equal layers are equal."""
    return replace(layer, name="", images=images)


def span(values: Sequence[float], digits: int = 2) -> str:
    """Smallest and largest."""
    texts = [f"{value:.{digits}f}" for value in (min(values), max(values))]
    if "nan" in texts:
        return "not known"
    return texts[0] if texts[0] == texts[1] else " to ".join(texts)


def busiest(layers: Sequence[Layer], bits: Sequence[tuple[int, int]], figures: Price) -> dict[str, float]:
    """By part, the share of the cycles that layers take in which it is the busiest."""
    found = dict.fromkeys(PARTS, 0.0)
    for layer, pair in zip(layers, bits, strict=True):
        of_layer = dict(zip(FIGURES, figures(layer, *pair), strict=True))
        found[max(PARTS, key=of_layer.__getitem__)] += of_layer["cycles"]
    return {part: cycles / sum(found.values()) for part, cycles in found.items()}


def releq() -> list[str]:
    """ReLeQ's gain: what is published, ours, and what ours is made of."""
    layers = [shape(layer) for layer in load_workload("resnet20", 0).traced.layers]
    lists = sorted({without(RELEQ_BITS, places) for places in product(*STAGES)})
    eight = [(8, 8)] * len(layers)
    macs = np.array([layer.macs for layer in layers])
    means = [sum(bits) / len(bits) for bits in lists]
    products = [8 * macs.sum() / float(macs @ np.array(bits)) for bits in lists]
    gains: list[dict[str, str]] = []
    parts: list[dict[str, str]] = []
    remarks: list[str] = []
    for name in RELEQ_MACHINES:
        figures = pricing(load_accelerator(name))
        whole = dict(zip(FIGURES, total(layers, eight, figures), strict=True))
        mixed = [[(one, 8) for one in bits] for bits in lists]
        priced = [dict(zip(FIGURES, total(layers, bits, figures), strict=True)) for bits in mixed]
        gain = {figure: [whole[figure] / one[figure] for one in priced] for figure in FIGURES}
        gains.append(
            {
                "machine": name,
                "cycles at 8/8": f"{whole['cycles']:,.0f}",
                "times as fast": span(gain["cycles"]),
                "ReLeQ's": f"{RELEQ_GAIN:.1f}",
                "times less energy": span(gain["joules"]),
                "ReLeQ's energy": f"{RELEQ_GAIN:.1f}",
                "times fewer array steps": span(gain["array"]),
                "fewer reads": span(gain["reads"]),
                "fewer writes": span(gain["writes"]),
            }
        )
        # All lists have nearly the same cycles: the first stands for them.
        ends = [(2, 8), *mixed[0][1:-1], (2, 8)]
        for label, bits in (("8", eight), ("ReLeQ's", mixed[0]), ("ReLeQ's, first and last layer at 2", ends)):
            one = dict(zip(FIGURES, total(layers, bits, figures), strict=True))
            first, last = (figures(layers[end], *bits[end])[0] / one["cycles"] for end in (0, -1))
            bound = busiest(layers, bits, figures)
            parts.append(
                {
                    "machine": name,
                    "weight bits": label,
                    "cycles": f"{one['cycles']:,.0f}",
                    "times as fast": f"{whole['cycles'] / one['cycles']:.2f}",
                    **{part: f"{one[part] / one['cycles']:.0%}" for part in PARTS},
                    "busiest part": ", ".join(f"{part} {share:.0%}" for part, share in bound.items() if share),
                    "first layer": f"{first:.1%}",
                    "last": f"{last:.1%}",
                }
            )
        bound, at_two = busiest(layers, mixed[0], figures), total(layers, ends, figures)[0]
        waits = 1 - priced[0]["array"] / priced[0]["cycles"]
        remarks.append(
            f"- `{name}`, {span(gain['cycles'])} times as fast: the array takes {span(gain['array'])} times fewer "
            f"steps, but {span(gain['reads'])} times fewer words are read, as activations keep their 8 bits, and "
            f"{span(gain['writes'])} times fewer written. So with ReLeQ's bits the array does not multiply in "
            f"{waits:.0%} of the cycles (of 8 bits' {1 - whole['array'] / whole['cycles']:.0%}), and "
            f"{1 - bound['array']:.0%} of them pass in layers where a port is busier than the array. With the first "
            f"and the last layer at 2 bits as well it would be {whole['cycles'] / at_two:.2f} times."
        )
    return [
        "## ReLeQ: ResNet-20 against 8 bits",
        f"ReLeQ (Elthakeb et al., arXiv 1811.01704) has weights of {np.mean(RELEQ_BITS):.2f} bits on average (2.81, it "
        f"says), activations of 8, and is {RELEQ_GAIN:.1f} times as fast as 8 bits with {RELEQ_GAIN:.1f} times less "
        "energy on an accelerator of its own, after Stripes. Its list has 22 layers: the two shortcuts of ours are no "
        "convolutions. Where they stand in the list is not known, so a place in the second and one in the third stage "
        f"are left out in every way: {len(lists)} different lists of 20, of {span(means)} bits on average. Were all "
        f"layers alike, these would be {span([8 / mean for mean in means])} times as fast; by multiply-accumulates "
        f"times weight bits, {span(products)} times.",
        markdown(pd.DataFrame(gains)),
        "What the gain is made of, for one of the lists. *array*, *reads*, *writes*: part of the cycles in which the "
        "array multiplies (padding included), in which a port reads, in which the first port writes; they overlap. "
        "*Busiest part*: cycles of the layers in which that part is the busiest of the three.",
        markdown(pd.DataFrame(parts)),
        f"Why not {RELEQ_GAIN:.1f} times, or {span(products)}:",
        "\n".join(remarks),
    ]


def ratio(narrow: float, wide: float) -> str:
    """To three digits."""
    return "not known" if np.isnan(narrow / wide) else f"{narrow / wide:.3f}"


def published(workload: Workload) -> list[dict[str, str]]:
    """Rows of the BitFusion authors' own model, with and without depthwise layers."""
    rows, layers = [], workload.traced.layers
    policies = [Policy.uniform(workload.network, layers, bits, bits) for bits in (8, 4)]
    for name, batch in product(PUBLISHED, (1, 16)):
        costs = [price(network_layers(workload, policy, batch, published_machine(name))) for policy in policies]
        wide, narrow = map(total_cost, costs)
        dense = [
            total_cost(cost for cost, layer in zip(of_all, layers, strict=True) if layer.groups == 1)
            for of_all in costs
        ]
        rows.append(
            {
                "machine": name,
                "batch": str(batch),
                "cycles at 8/8": f"{wide.cycles:,}",
                "mJ at 8/8": f"{1e3 * wide.energy.total:.3f}",
                "latency": ratio(narrow.cycles, wide.cycles),
                "energy": ratio(narrow.energy.total, wide.energy.total),
                "depthwise layers' cycles at 8/8": f"{1 - dense[0].cycles / wide.cycles:.1%}",
                "latency without these": ratio(dense[1].cycles, dense[0].cycles),
                "energy without these": ratio(dense[1].energy.total, dense[0].energy.total),
            }
        )
    return rows


def haq() -> list[str]:
    """HAQ's ratios of 4 to 8 bits beside ours, and beside those of BitFusion's authors' model."""
    workload = load_workload("mobilenetv1", 0)
    rows = []
    for name, batch in HAQ_MACHINES.items():
        accelerator = load_accelerator(name)
        figures = pricing(accelerator)
        for images in sorted({1, batch}):
            layers = [shape(layer, images) for layer in workload.traced.layers]
            inner = [(4, 4)] * (len(layers) - 2)
            wide = total(layers, [(8, 8)] * len(layers), figures)
            narrow = total(layers, [(4, 4)] * len(layers), figures)
            pinned = total(layers, [(8, 8), *inner, (8, 8)], figures)
            compared = images == batch
            rows.append(
                {
                    "machine": name,
                    "batch": images,
                    "cycles at 8/8": f"{wide[0]:,.0f}",
                    "mJ at 8/8": "not known" if np.isnan(wide[1]) else f"{1e3 * wide[1]:.3f}",
                    "latency": ratio(narrow[0], wide[0]),
                    "first and last 8/8": ratio(pinned[0], wide[0]),
                    "HAQ's latency": f"{HAQ_LATENCY[name]:.3f}" if compared and name in HAQ_LATENCY else "",
                    "energy": ratio(narrow[1], wide[1]),
                    "the same, 8/8 at the ends": ratio(pinned[1], wide[1]),
                    "HAQ's energy": f"{HAQ_ENERGY[name]:.3f}" if compared and name in HAQ_ENERGY else "",
                }
            )
    return [
        "## HAQ: MobileNet-V1, 4/4 against 8/8 bits",
        "HAQ (Wang et al., CVPR 2019, arXiv 1811.08886) has 13.47 mJ at 4/4 bits and 31.03 mJ at 8/8 on BitFusion, "
        "45.45 of 96.20 ms on its edge machine and 57.49 of 151.09 ms on its cloud machine. Ratios of 4/4 to 8/8, "
        "224x224 pixels; whether HAQ's keep the first and the last layer at 8 bits is not known, so both are shown. "
        "What makes up the bit-serial machines' ratios is in `docs/validation.md`.",
        markdown(pd.DataFrame(rows)),
        "The model of BitFusion's authors (`codesign cost --model published`), for the same network, all layers at "
        "4/4. It knows no groups, so a depthwise layer's channels are priced one after the other, and its array is "
        "nearly empty at any width; how HAQ priced them on BitFusion is not known.",
        markdown(pd.DataFrame(published(workload))),
    ]


def main() -> None:
    conditions = (
        "**All that is published is recalled**, not checked against the papers. Cycles are those of the cycle model, "
        "which equals the RTL; energy is dynamic, the event model's, for typical data (`energy.md`), and *not known* "
        "where no switching was measured for a machine's kind. Layers write their outputs as 8 bits."
    )
    write_report("claims", "Published claims on our machines", [conditions, *releq(), *haq()])


if __name__ == "__main__":
    main()
