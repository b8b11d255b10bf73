"""The resource law of a kind of accelerators on the xc7z020: fitted to some machines that Yosys synthesised, judged on
others.

python benchmarks/resource_law.py [--kind KIND] [FITTED [HELD_OUT]]: of bit-serial machines both sets are drawn with
seeds of their own; machines of the other kinds are few, because most of their law is that of bit-serial ones. They are
synthesised one after another, a minute to ten each. What is in the cache is not synthesised again: a run that was
interrupted goes on where it was, and one with other numbers of machines adds to what is there.
"""

import argparse
from dataclasses import asdict

import numpy as np
import pandas as pd
import yaml
from array_parts import DEVICE, array_parts
from common import markdown, write_report

from hardware.accelerator import Accelerator, Array, Buffers, Memory, load_accelerator
from hardware.calibration import FOLDER
from hardware.files import write_text
from hardware.kinds import KINDS
from hardware.resource_law import GIVEN, ResourceLaw, Sample, fit, load_resource_law
from hardware.resources import Resources
from rtl.verilog import TOP, engine_verilog, gateware_hash
from sim.synthesis import machine_cells, resources, tool_version

ANCHORS = (((2, 64, 1), (1024, 1024, 512)), ((4, 64, 2), (1024, 1024, 512)), ((2, 64, 2), (512, 4096, 1024)))
"""Small machines that are always among the fitted ones: array and depths of the buffers."""
FITTED, FITTED_SEED = 4, 1
HELD_OUT, HELD_OUT_SEED = 10, 2
HELD_OUT_DEEPEST = (512, 512, 512)
"""Depths of their buffers at most: deep memories cost Yosys' frontend minutes, and blocks are counted, not fitted."""
POOL = 400
"""Machines from which the fitted ones are chosen."""
MOST_MACS = 4096
"""Binary multiply-accumulates per cycle of the largest machine that is drawn: Yosys takes minutes for it."""
BLOCKS = 130
"""36 Kbit blocks of buffer bits at most: larger ones need not be synthesised to see that they do not fit."""


OTHERS_FITTED = (((2, 64, 1), (512, 512, 64)),)
OTHERS_HELD_OUT = {
    "serial_weight": (((4, 64, 4), (1024, 1024, 512)),),
    "bit_fusion": (((4, 64, 2), (512, 512, 64)),),
}
"""Of the other kinds: array and depths of the buffers."""


def draw(rng: np.random.Generator, name: str, deepest: tuple[int, int, int] = (4096, 4096, 2048)) -> Accelerator:
    """A machine that an xc7z020 may hold; every size is drawn independently of the others.

    ``deepest`` is the greatest depth of each buffer: weights, activations, bit planes.
    """
    while True:
        array = {
            "dm": int(rng.choice([2, 4, 8, 16, 32], p=[0.2, 0.25, 0.3, 0.15, 0.1])),
            "dk": int(rng.choice([64, 128, 256, 512], p=[0.35, 0.3, 0.25, 0.1])),
            "dn": int(rng.choice([1, 2, 3, 4, 5, 6, 8, 10, 12, 16])),
        }
        ports = int(rng.choice([1, 2, 4]))
        lhs, rhs, planes = (1 << int(rng.integers(4, depth.bit_length())) for depth in deepest)
        bits = (array["dm"] * lhs + array["dn"] * rhs) * array["dk"] + 8 * 64 * planes
        if array["dm"] % ports or array["dn"] % ports or bits > BLOCKS * 36864:
            continue
        if array["dm"] * array["dn"] * array["dk"] <= MOST_MACS:
            return _machine("bit_serial", name, Array(**array), (lhs, rhs, planes), ports)


def _machine(kind: str, name: str, array: Array, depths: tuple[int, int, int], ports: int = 1) -> Accelerator:
    return Accelerator(
        name=name,
        kind=kind,
        array=array,
        buffers=Buffers(lhs_entries=depths[0], rhs_entries=depths[1], plane_words=depths[2]),
        memory=Memory(ports=ports, latency=32, cycles_per_word=1),
        clock_mhz=100,
        device=DEVICE,
    )


def _row(machine: Accelerator) -> tuple[list[float], float]:
    """What may count, relative to about how large the machine is, and that size."""
    array, buffers, ports = machine.array, machine.buffers, machine.memory.ports
    dm, dk, dn = array.dm, array.dk, array.dn
    rows, columns = (entries.bit_length() for entries in (buffers.lhs_entries, buffers.rhs_entries))
    size = 7000 + 1500 * ports + 1.6 * dm * dn * dk + 60 * dm * dn + 3 * (dm + dn) * dk + 300 * dm
    terms = [1, ports, dm * dn * dk, dm * dn, dn * dk, dm * dk, dm, dn]
    terms += [ports * max(rows, columns), ports * columns, buffers.plane_words.bit_length()]
    return [term / size for term in terms], size


def fitted_machines(count: int) -> list[Accelerator]:
    """The anchors, `bitserial-small`, and a greedy D-optimal choice of ``count`` from a pool.

    Each next one is where a law would be least certain, for its size.
    """
    anchors = [
        _machine("bit_serial", f"anchor-{n}", Array(dm=dm, dk=dk, dn=dn), depths)
        for n, ((dm, dk, dn), depths) in enumerate(ANCHORS)
    ]
    rng = np.random.default_rng(FITTED_SEED)
    pool = [draw(rng, f"fitted-{i}") for i in range(POOL)]
    amounts = np.array([_row(machine)[0] for machine in anchors + pool])
    sizes = np.array([_row(machine)[1] for machine in pool])
    amounts /= np.abs(amounts[len(anchors) :]).max(axis=0)
    known, among = amounts[: len(anchors)], amounts[len(anchors) :]
    information, chosen = 1e-4 * np.eye(amounts.shape[1]) + known.T @ known, list[int]()
    for _ in range(count):
        gain = np.log1p(np.einsum("ij,jk,ik->i", among, np.linalg.inv(information), among)) / np.sqrt(1 + sizes / 15000)
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
        information += np.outer(among[chosen[-1]], among[chosen[-1]])
    drawn = [pool[i].model_copy(update={"name": f"fitted-{n}"}) for n, i in enumerate(chosen)]
    return [*anchors, load_accelerator("bitserial-small"), *drawn]


def held_out_machines(count: int) -> list[Accelerator]:
    """As they come."""
    rng = np.random.default_rng(HELD_OUT_SEED)
    return [draw(rng, f"held-out-{i}", HELD_OUT_DEEPEST) for i in range(count)]


def other_machines(kind: str) -> tuple[list[Accelerator], list[Accelerator]]:
    """The fitted and the held-out machines of a kind that is not bit-serial."""
    fitted, held_out = (
        [
            _machine(kind, f"{name}-{n}", Array(dm=dm, dk=dk, dn=dn), depths)
            for n, ((dm, dk, dn), depths) in enumerate(among)
        ]
        for name, among in (("fitted", OTHERS_FITTED), ("held-out", OTHERS_HELD_OUT[kind]))
    )
    return fitted, held_out


def measure(machine: Accelerator) -> Resources:
    """What Yosys counts; minutes, if it is not in the cache."""
    found = resources(machine_cells(engine_verilog(machine), TOP, DEVICE), DEVICE)
    print(machine.name, found, flush=True)
    return found


def sample(law: ResourceLaw, machine: Accelerator, measured: Resources) -> Sample:
    """The machine as the calibration keeps it."""
    lut_error, ff_error = (round(error, 4) for error in law.error(machine, measured))
    shape = {name: getattr(machine, name) for name in ("name", "kind", "array", "buffers", "memory")}
    return Sample(**shape, **asdict(measured), lut_error=lut_error, ff_error=ff_error)


def rows(law: ResourceLaw, samples: list[Sample]) -> pd.DataFrame:
    """Of every machine, what was measured and by how much the law is off."""
    return pd.DataFrame(
        {
            "machine": one.name,
            "dm x dk x dn": f"{one.array.dm} x {one.array.dk} x {one.array.dn}",
            "ports": one.memory.ports,
            "entries, plane words": ", ".join(str(depth) for _, depth in one.buffers),
            "LUT": f"{one.lut:,}",
            "error": f"{one.lut_error:+.1%}",
            "FF": f"{one.ff:,}",
            "error ": f"{one.ff_error:+.1%}",
            "BRAM36, law": f"{one.bram36:g}, {law.predict(one.accelerator).bram36:g}",
            "DSP, law": f"{one.dsp}, {law.predict(one.accelerator).dsp}",
        }
        for one in samples
    )


def part_rows(law: ResourceLaw) -> pd.DataFrame:
    """What synthesis made of the array's parts."""
    return pd.DataFrame(
        {"part": place, "dk": dk, "LUT": f"{lut:,}", "FF": f"{ff:,}"}
        for place, sizes in law.parts
        for dk, (lut, ff) in sizes.items()
    )


def main() -> None:
    """Write ``hardware/calibrations/resources-<kind>-xc7z020.yaml`` and ``docs/benchmarks/resource_law*.md``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", type=int, nargs="*", help="bit-serial machines to fit and to hold out")
    parser.add_argument("--kind", default="bit_serial", choices=KINDS)
    options = parser.parse_args()
    kind, given, terms = options.kind, ({}, {}), []
    if kind == "bit_serial":
        fitted_count, held_out_count = [*options.numbers, *(FITTED, HELD_OUT)[len(options.numbers) :]]
        machines, others = fitted_machines(fitted_count), held_out_machines(held_out_count)
    else:
        known = load_resource_law(DEVICE)
        terms, given = list(GIVEN), tuple({name: law[name] for name in GIVEN} for law in (known.lut, known.ff))
        machines, others = other_machines(kind)
    fitted, held_out = ([(machine, measure(machine)) for machine in among] for among in (machines, others))
    parts = array_parts(kind)
    lut, ff = fit(machines, [measured for _, measured in fitted], parts, given)
    law = ResourceLaw(
        gateware=gateware_hash(kind),
        tools={"yosys": tool_version("yosys")},
        renew="python benchmarks/resource_law.py" + ("" if kind == "bit_serial" else f" --kind {kind}"),
        device=DEVICE,
        parts=parts,
        given=terms,
        lut=lut,
        ff=ff,
        fitted=[],
        held_out=[],
    )
    sets = {"fitted": fitted, "held_out": held_out}
    law = law.model_copy(update={name: [sample(law, *one) for one in among] for name, among in sets.items()})
    text = yaml.safe_dump(law.model_dump(mode="json"), sort_keys=False, default_flow_style=None, width=120)
    write_text(FOLDER / f"resources-{kind}-{DEVICE}.yaml", text)
    report(kind, law)


def report(kind: str, law: ResourceLaw) -> None:
    """Write ``docs/benchmarks/resource_law.md``, or that of another kind."""
    factors = pd.DataFrame(
        {
            "term": name,
            "LUT": f"{law.lut[name]:,.3f}",
            "FF": f"{law.ff[name]:,.3f}",
            **({"from": "bit_serial" if name in law.given else "fitted"} if law.given else {}),
        }
        for name in law.lut
    )
    worst = {name: max(abs(getattr(one, f"{name}_error")) for one in law.held_out) for name in ("lut", "ff")}
    others = kind != "bit_serial"
    write_report(
        "resource_law" + (f"_{kind}" if others else ""),
        f"The resource law of the {DEVICE}" + (f" for machines of kind {kind}" if others else ""),
        [
            "Resources of the whole machine as `codesign synth --device xc7z020` counts them, and what "
            "`hardware.resource_law` says of it in microseconds. The law was fitted to the first set of machines and "
            "has seen nothing of the second one"
            + ("" if others else ", which was drawn with another seed")
            + f". Errors are prediction over measurement, less 1. Yosys {law.tools['yosys']}, gateware {law.gateware}.",
            f"Largest error on {len(law.held_out)} held-out machines: LUT {worst['lut']:.1%}, FF {worst['ff']:.1%}.",
            "## Held-out machines",
            markdown(rows(law, law.held_out)),
            "## Fitted machines",
            markdown(rows(law, law.fitted)),
            "## Factors",
            "LUTs and flip-flops of each term (`hardware.resource_law.TERMS`), beside the buffers, which are counted, "
            "and the array's parts, which were synthesised alone. Block RAM and multipliers are counted altogether."
            + (" Where nothing differs from bit-serial machines, the factors are theirs." if others else ""),
            markdown(factors),
            *(["## Parts of the array", markdown(part_rows(law))] if others else []),
        ],
    )


if __name__ == "__main__":
    main()
