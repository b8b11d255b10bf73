"""Published latencies beside ours: HAQ's MobileNets on its edge and its cloud machine, and what the gaps are made of.

Cycles come from the cycle model, which equals the RTL (`codesign calibrate`, `codesign simulate`). What is published is
recalled.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
from bitfusion_published import validation_section
from common import TABLES, markdown, write_report

from codesign.networks import create_network, default_data, network_names
from codesign.tracing import trace
from hardware.accelerator import Accelerator, load_accelerator
from hardware.cost import PRICED_OUTPUT, count_events
from hardware.cycles import layer_cycles
from hardware.layer import Layer
from hardware.passes import Output
from hardware.schedule import schedule

V1 = {"bitserial-edge": (1, 96.20, 45.45), "bitserial-cloud": (16, 151.09, 57.49)}
"""MobileNet-V1: batch, and HAQ's milliseconds at 8 and at 4 bits (recalled)."""
V2 = {6: 0.673, 5: 0.528, 4: 0.397}
"""MobileNet-V2 on the cloud machine: ratio to 8 bits, by width, of the sums over HAQ's published table (recalled)."""
KINDS = ("first", "depthwise", "pointwise", "last")
AS_IT_IS, OWN_WIDTH = "as it is", "outputs of the layer's width instead of 8 bits"

Price = Callable[[Layer, int], np.ndarray]
"""Of a layer at a width: `FIGURES`."""
FIGURES = ("cycles", "useful", "array", "reads", "writes")
"""Cycles; cycles for which the useful products would fill the array; cycles in which the array multiplies, in which a
port reads, in which the first one writes."""


@cache
def layers_of(network: str) -> tuple[Layer, ...]:
    """Layers of one ImageNet image."""
    return trace(create_network(network, 0), (3, 224, 224)).layers


def images(network: str, batch: int) -> list[Layer]:
    """The same for a batch, without names, so that equal shapes are equal."""
    return [replace(layer, name="", images=batch) for layer in layers_of(network)]


def pricing(accelerator: Accelerator, own_width: bool = False, reuse: int = 0, **memory: int) -> Price:
    """A machine as it is or as it might be.

    Parameters
    ----------
    own_width:
        Outputs have the layer's width, not 8 bits.
    reuse:
        Column tiles that use a row tile before it is fetched again, 1 in BISMO v2; 0: as the schedule has it.
    memory:
        Fields of `hardware.accelerator.Memory` that differ. They are not checked: the model also prices 16 ports.
    """
    machine = accelerator.model_copy(update={"memory": accelerator.memory.model_copy(update=memory)})

    @cache
    def price(layer: Layer, bits: int) -> np.ndarray:
        output = Output(plane_bits=bits) if own_width else PRICED_OUTPUT
        plan = schedule(layer, bits, bits, machine, output=output)
        if reuse:
            passes = (replace(one, group_tiles=min(reuse, one.column_tiles), lhs_resident=False) for one in plan.passes)
            plan = replace(plan, passes=tuple(passes))
        events = count_events(plan)
        useful = events.useful_products / machine.peak_binary_macs
        reads = events.words_read / machine.memory.ports
        return np.array([layer_cycles(plan), useful, events.array_steps, reads, events.words_written])

    return price


def total(layers: Sequence[Layer], bits: int, price: Price, pinned: bool = False) -> np.ndarray:
    """`FIGURES` of a network; ``pinned``: its first and its last layer stay at 8 bits."""
    widths = [8 if pinned and layer in (layers[0], layers[-1]) else bits for layer in layers]
    return np.sum([price(layer, width) for layer, width in zip(layers, widths, strict=True)], axis=0)


def kinds(layers: Sequence[Layer]) -> dict[str, list[Layer]]:
    """Layers of a MobileNet by their kind."""
    inner = layers[1:-1]
    found = [layers[:1], [one for one in inner if one.groups > 1], [one for one in inner if one.groups == 1]]
    return dict(zip(KINDS, (*found, layers[-1:]), strict=True))


def gap(ours: float, published: float) -> str:
    """Relative difference."""
    return f"{ours / published - 1:+.1%}"


def linear_share(ratios: dict[int, float]) -> tuple[float, float]:
    """Best s for ratio(b) = s * b/8 + (1 - s) * (b/8)**2, and the largest error that it leaves."""
    x, y = np.array(list(ratios)) / 8, np.array(list(ratios.values()))
    share = float((y - x**2) @ (x - x**2) / ((x - x**2) @ (x - x**2)))
    return share, float(abs(share * x + (1 - share) * x**2 - y).max())


def what_ifs(accelerator: Accelerator) -> dict[str, Price]:
    """The machine, and others that differ in one thing."""
    memory = accelerator.memory
    found = {
        AS_IT_IS: pricing(accelerator),
        OWN_WIDTH: pricing(accelerator, own_width=True),
        "weights fetched anew for every column tile": pricing(accelerator, reuse=1),
        "weights fetched anew for every second column tile": pricing(accelerator, reuse=2),
        "weights fetched anew for every fourth column tile": pricing(accelerator, reuse=4),
        "memory of half the bandwidth": pricing(accelerator, cycles_per_word=2 * memory.cycles_per_word),
        "memory of twice the latency": pricing(accelerator, latency=2 * memory.latency),
    }
    if accelerator.name == "bitserial-cloud":
        found["sixteen ports"] = pricing(accelerator, ports=16)
        found["sixteen ports, and outputs of the layer's width"] = pricing(accelerator, own_width=True, ports=16)
    return found


def mobilenet_v1() -> tuple[list[dict], list[dict], list[dict]]:
    """Rows of latencies, of where the cycles go, and of what the ratio hangs on."""
    latencies, parts, variants = [], [], []
    for name, (batch, *published) in V1.items():
        accelerator, layers = load_accelerator(name), images("mobilenetv1", batch)
        machines = what_ifs(accelerator)
        base = machines[AS_IT_IS]
        whole = total(layers, 8, base)[0]
        for bits, pinned, milliseconds in ((8, False, published[0]), (4, False, published[1]), (4, True, published[1])):
            cycles = total(layers, bits, base, pinned)[0]
            ratio, known = cycles / whole, milliseconds / published[0]
            latencies.append(
                {
                    "accelerator": name,
                    "batch": batch,
                    "bits": f"{bits}/{bits}" + ", first and last 8/8" * pinned,
                    "cycles": f"{cycles:,.0f}",
                    "ms": f"{cycles / accelerator.clock_mhz / 1e3:.2f}",
                    "HAQ, ms": f"{milliseconds:.2f}",
                    "ratio": f"{ratio:.3f}",
                    "HAQ, ratio": f"{known:.3f}",
                    "gap": gap(ratio, known),
                }
            )
        parts += breakdown(name, layers, base)
        for label, price in machines.items():
            wide, narrow = (total(layers, bits, price)[0] for bits in (8, 4))
            row = {"accelerator": name, "the machine": label, "cycles at 8/8": f"{wide:,.0f}"}
            variants.append(row | {"at 4/4": f"{narrow:,.0f}", "ratio": f"{narrow / wide:.3f}"})
    return latencies, parts, variants


def breakdown(name: str, layers: Sequence[Layer], price: Price) -> list[dict]:
    """Where the cycles go, by kind of layer and width."""
    rows = []
    for kind, some in kinds(layers).items():
        whole = total(some, 8, price)[0]
        for bits in (8, 4):
            cycles, useful, *busy = total(some, bits, price)
            bound = dict.fromkeys(FIGURES[2:], 0.0)
            for layer in some:
                of_layer = price(layer, bits)
                bound[FIGURES[2 + int(of_layer[2:].argmax())]] += of_layer[0] / cycles
            rows.append(
                {
                    "accelerator": name,
                    "layers": kind,
                    "bits": f"{bits}/{bits}",
                    "share of cycles": f"{cycles / total(layers, bits, price)[0]:.1%}",
                    "ratio to 8/8": f"{cycles / whole:.3f}",
                    "utilization": f"{useful / cycles:.1%}",
                    **{figure: f"{part / cycles:.0%}" for figure, part in zip(FIGURES[2:], busy, strict=True)},
                    "busiest part": ", ".join(f"{part} {share:.0%}" for part, share in bound.items() if share),
                }
            )
    return rows


def mobilenet_v2() -> tuple[list[dict], list[dict]]:
    """Rows of ratios on the cloud machine, and of where the cycles go."""
    accelerator, layers = load_accelerator("bitserial-cloud"), images("mobilenetv2", 16)
    base, own, more = pricing(accelerator), pricing(accelerator, own_width=True), pricing(accelerator, ports=16)
    whole, rows = total(layers, 8, base)[0], []
    for bits in (8, *V2):
        cycles, pinned = total(layers, bits, base)[0], total(layers, bits, base, pinned=True)[0]
        known = V2.get(bits, 1.0)
        rows.append(
            {
                "bits": f"{bits}/{bits}",
                "cycles": f"{cycles:,.0f}",
                "ms": f"{cycles / accelerator.clock_mhz / 1e3:.2f}",
                "ratio": f"{cycles / whole:.3f}",
                "HAQ, ratio": f"{known:.3f}",
                "gap": gap(cycles / whole, known),
                "first and last 8/8": f"{pinned / whole:.3f}",
                OWN_WIDTH: f"{total(layers, bits, own)[0] / total(layers, 8, own)[0]:.3f}",
                "sixteen ports": f"{total(layers, bits, more)[0] / total(layers, 8, more)[0]:.3f}",
            }
        )
    return rows, breakdown(accelerator.name, layers, base)


def networks() -> list[dict]:
    """Rows of every network of ImageNet's size: layers, weights, multiplications, latency on the edge machine."""
    accelerator = load_accelerator("bitserial-edge")
    price, rows = pricing(accelerator), []
    for name in network_names():
        if default_data(name) != "imagenet":
            continue
        layers = images(name, 1)
        wide, narrow = total(layers, 8, price), total(layers, 4, price)
        row = {
            "network": name,
            "layers": len(layers),
            "depthwise": sum(layer.groups > 1 for layer in layers),
            "weights": f"{sum(layer.weight_count for layer in layers):,}",
            "multiplications": f"{sum(layer.macs for layer in layers):,}",
        }
        for bits, (cycles, useful, *_) in ((8, wide), (4, narrow)):
            row[f"cycles at {bits}/{bits}"] = f"{cycles:,.0f}"
            row[f"ms at {bits}/{bits}"] = f"{cycles / accelerator.clock_mhz / 1e3:.2f}"
            row[f"utilization at {bits}/{bits}"] = f"{useful / cycles:.1%}"
        rows.append(row | {"ratio": f"{narrow[0] / wide[0]:.3f}"})
    return rows


CONDITIONS = """\
HAQ (Wang et al., CVPR 2019, arXiv 1811.08886) prices MobileNets on two bit-serial machines after BISMO: *edge*, a
Zynq-7020, batch 1, 8x8 units, four 64-bit ports, 140 block RAMs; *cloud*, a VU9P, batch 16, 16x16 units, four 256-bit
ports. **Its figures are recalled**, not checked against the paper; the ratios of MobileNet-V2 are those of sums over
the one cost table that its authors released. How wide its units are, its buffers, clocks and memory are not known to
us; ours are in `hardware/presets/bitserial-edge.yaml` and `bitserial-cloud.yaml`, **clocks and memory latency
assumed**: 100 MHz and 150 MHz turn cycles into milliseconds, so only ratios can be compared.

Every layer is priced, pools and additions are not. Outputs are written as 8-bit planes whatever width the next layer
takes (`codesign cost` prices so, because then layers add up). Whether HAQ's rows of fixed widths keep the first and
the last layer at 8 bits, as its search does, is not known: both are shown. The cycle model is exact for every machine
that was simulated; of the cloud one that is an array a quarter as wide, 16x64x16 (`tests/sim/test_machine.py`)."""

LEGEND = """\
*Utilization*: products of a weight's and an activation's bit, over what the array could have made. *array*, *reads*,
*writes*: part of the cycles in which the array multiplies (padding included), in which a port reads, in which the first
port writes; they overlap. *Busiest part*: cycles of the layers in which that part is the busiest of the three."""

VARIANTS = """\
The same layers on machines that differ in one thing; all but the memory's speed and the outputs' width are no machines
that can be built today, and the cycle model alone prices them. The instruction has room for four ports, so the cloud
preset has a quarter of the bandwidth of HAQ's: the last rows are what the rest would bring."""


def shapes() -> str:
    """What kind of curve the published ratios are, as a paragraph."""
    edge, cloud = ({4: narrow / wide} for _, wide, narrow in V1.values())
    (on_edge, _), (on_cloud, _), (v2, error) = (linear_share(one) for one in (edge, cloud, V2))
    return (
        "Plane products fall with the square of the width, to 0.250 at 4 bits; operands that are fetched fall with the "
        "width, to 0.500. As a sum of both, the published ratios say that at 8 bits HAQ's machines spend "
        f"{on_edge:.0%} (edge, V1), {on_cloud:.0%} (cloud, V1) and {v2:.0%} (cloud, V2) of the time in what falls with "
        f"the width alone. One number fits all three ratios of V2 to {error:.4f}, so their table seems to be such a "
        "sum; our machine fetches, computes and writes at the same time, and takes about as long as the longest."
    )


NETWORKS = """\
Traced from `codesign/networks`: 224x224 pixels, one image, on `bitserial-edge`; its 100 MHz are assumed. Weights are
without biases and batch norm."""


GAPS = """\
**Edge, MobileNet-V1: {edge} against 0.472 ({edge_gap}).** At 4 bits too our array multiplies for most of the time:
{edge_depthwise} of the depthwise layers' cycles, {edge_pointwise} of the pointwise ones'. So its ratio is near the 0.25
of plane products; HAQ's is near the 0.5 of fetched operands. BISMO v2 fetches a row tile of weights anew for every
column tile, while ours keeps several column tiles and uses a row tile for all of them. With BISMO's order our machine
has {edge_anew}, with one fetch for two column tiles {edge_twice}: HAQ's figure lies between. That HAQ's machine fetches
so is a guess.

**Cloud, MobileNet-V1: {cloud} against 0.381 ({cloud_gap}).** The figures agree, but perhaps not the causes. What keeps
ours from 0.25 does not shrink with the width: the outputs' 8-bit planes, which one port writes. With outputs of the
layer's width the ratio is {cloud_own}. Sixteen ports that read, instead of four, leave it at {cloud_sixteen}, and both
together give {cloud_both}: where four ports are what holds the machine up, the one that writes comes next.

**Cloud, MobileNet-V2: {gap_4} at 4 bits, {gap_5} at 5, {gap_6} at 6.** At 4 bits the pointwise layers take {v2_share}
of the cycles, and their busiest part is: {v2_busiest}. They have few products per output, and what is written is as
much as at 8 bits. With outputs of the layer's width the ratio is {v2_own}, below HAQ's. At 6 bits the array binds more
of the layers, and its work falls with the square of the width, HAQ's (see below) for the most part with the width.

**First and last layer at 8 bits** raise the ratios, towards HAQ's on the edge machine and away from them on the cloud
one. Nearly all of it is the first layer, 3 channels in words of 64: {first_share} of the cloud's cycles at 8 bits.

**Depthwise layers** take {depthwise_share} of MobileNet-V1's cycles on the edge machine at 8 bits, at a utilization of
{depthwise_use}: the array multiplies words of 64 channels where one channel's products count. That is slow, but it
falls with the square of the width like all that the array does: it pulls the ratio down."""


def gaps(v1: list[dict], parts: list[dict], variants: list[dict], v2: list[dict], v2_parts: list[dict]) -> str:
    """What every gap is made of, with figures from the rows of the tables."""
    edge, cloud = ({row["the machine"]: row["ratio"] for row in variants if row["accelerator"] == name} for name in V1)
    anew, twice, *_ = (label for label in edge if "anew" in label)
    part = {(row["accelerator"], row["layers"], row["bits"]): row for row in parts}
    of_v2 = {(row["layers"], row["bits"]): row for row in v2_parts}["pointwise", "4/4"]
    narrow = {row["bits"]: row for row in v2}
    return GAPS.format(
        edge=edge[AS_IT_IS],
        edge_gap=v1[1]["gap"],
        edge_depthwise=part["bitserial-edge", "depthwise", "4/4"]["array"],
        edge_pointwise=part["bitserial-edge", "pointwise", "4/4"]["array"],
        edge_anew=edge[anew],
        edge_twice=edge[twice],
        cloud=cloud[AS_IT_IS],
        cloud_gap=v1[4]["gap"],
        cloud_own=cloud[OWN_WIDTH],
        cloud_sixteen=cloud["sixteen ports"],
        cloud_both=cloud["sixteen ports, and outputs of the layer's width"],
        gap_4=narrow["4/4"]["gap"],
        gap_5=narrow["5/5"]["gap"],
        gap_6=narrow["6/6"]["gap"],
        v2_share=of_v2["share of cycles"],
        v2_busiest=of_v2["busiest part"],
        v2_own=narrow["4/4"][OWN_WIDTH],
        first_share=part["bitserial-cloud", "first", "8/8"]["share of cycles"],
        depthwise_share=part["bitserial-edge", "depthwise", "8/8"]["share of cycles"],
        depthwise_use=part["bitserial-edge", "depthwise", "8/8"]["utilization"],
    )


def main() -> None:
    v1, v2 = mobilenet_v1(), mobilenet_v2()
    latencies, parts, variants, ratios, v2_parts = (markdown(pd.DataFrame(rows)) for rows in (*v1, *v2))
    text = [CONDITIONS, "## MobileNet-V1, 4 against 8 bits", latencies, "## MobileNet-V2 on the cloud machine", ratios]
    text += ["## What the gaps are made of", gaps(*v1, *v2), shapes()]
    text += ["## Where the cycles go", LEGEND, "MobileNet-V1:", parts, "MobileNet-V2:", v2_parts]
    text += ["## What MobileNet-V1's ratio hangs on", VARIANTS, variants, "## Networks", NETWORKS]
    text += [markdown(pd.DataFrame(networks())), *validation_section()]
    write_report("validation", "Published latencies beside ours", text, TABLES.parent)


if __name__ == "__main__":
    main()
