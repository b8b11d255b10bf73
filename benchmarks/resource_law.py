"""The resource law of the xc7z020: fitted to some machines that Yosys synthesised, judged on others.

python benchmarks/resource_law.py [FITTED [HELD_OUT]]: both sets are drawn with seeds of their own, then synthesised one
after another, a minute to ten each. What is in the cache is not synthesised again: a run that was interrupted goes on
where it was, and one with other numbers of machines adds to what is there.
"""

import sys
from dataclasses import asdict

import numpy as np
import pandas as pd
import yaml
from amaranth.back import verilog
from amaranth.hdl import Module
from amaranth.lib.wiring import Component, connect, flipped
from common import markdown, write_report

from hardware.accelerator import Accelerator, Array, Buffers, Memory, load_accelerator
from hardware.calibration import FOLDER
from hardware.files import write_text
from hardware.resources import Popcounts, ResourceLaw, Resources, Sample, fit
from hardware.timing import popcount_latency
from rtl.datapath import without_reset
from rtl.popcount import Popcount
from rtl.verilog import TOP, engine_verilog, gateware_hash
from sim.synthesis import machine_cells, resources, tool_version

DEVICE = "xc7z020"
POPCOUNT = "codesign_popcount"
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
            return _machine(name, Array(**array), (lhs, rhs, planes), ports)


def _machine(name: str, array: Array, depths: tuple[int, int, int], ports: int = 1) -> Accelerator:
    return Accelerator(
        name=name,
        kind="bit_serial",
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
        _machine(f"anchor-{n}", Array(dm=dm, dk=dk, dn=dn), depths) for n, ((dm, dk, dn), depths) in enumerate(ANCHORS)
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


def measure(machine: Accelerator) -> Resources:
    """What Yosys counts; minutes, if it is not in the cache."""
    found = resources(machine_cells(engine_verilog(machine), TOP, DEVICE), DEVICE)
    print(machine.name, found, flush=True)
    return found


class Alone(Component):
    """A popcount with nothing around it, without reset as in the array."""

    def __init__(self, dk: int, masked: bool):
        self._popcount = Popcount(dk, popcount_latency(dk), masked)
        super().__init__(dict(self._popcount.signature.members))

    def elaborate(self, platform):
        m = Module()
        m.submodules.popcount = without_reset(m, "operands")(self._popcount)
        connect(m, flipped(self), self._popcount)
        return m


def popcounts() -> Popcounts:
    """Those of every ``dk``, each synthesised alone."""

    def cells(dk: int, masked: bool) -> tuple[int, int]:
        text = verilog.convert(Alone(dk, masked), name=POPCOUNT, emit_src=False, strip_internal_attrs=True)
        found = resources(machine_cells(text, POPCOUNT, DEVICE), DEVICE)
        return found.lut, found.ff

    widths = (64, 128, 256, 512)
    return Popcounts(unit={dk: cells(dk, True) for dk in widths}, column={dk: cells(dk, False) for dk in widths})


def sample(law: ResourceLaw, machine: Accelerator, measured: Resources) -> Sample:
    """The machine as the calibration keeps it."""
    lut_error, ff_error = (round(error, 4) for error in law.error(machine, measured))
    shape = {"name": machine.name, "array": machine.array, "buffers": machine.buffers, "memory": machine.memory}
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


def main() -> None:
    """Write ``hardware/calibrations/resources-bit_serial-xc7z020.yaml`` and ``docs/benchmarks/resource_law.md``."""
    fitted_count = int(sys.argv[1]) if len(sys.argv) > 1 else FITTED
    held_out_count = int(sys.argv[2]) if len(sys.argv) > 2 else HELD_OUT
    fitted = [(machine, measure(machine)) for machine in fitted_machines(fitted_count)]
    held_out = [(machine, measure(machine)) for machine in held_out_machines(held_out_count)]
    machines, measured = zip(*fitted, strict=True)
    alone = popcounts()
    lut, ff = fit(machines, measured, alone)
    law = ResourceLaw(
        gateware=gateware_hash("bit_serial"),
        tools={"yosys": tool_version("yosys")},
        renew="python benchmarks/resource_law.py",
        device=DEVICE,
        popcounts=alone,
        lut=lut,
        ff=ff,
        fitted=[],
        held_out=[],
    )
    sets = {"fitted": fitted, "held_out": held_out}
    law = law.model_copy(update={name: [sample(law, *one) for one in among] for name, among in sets.items()})
    text = yaml.safe_dump(law.model_dump(mode="json"), sort_keys=False, default_flow_style=None, width=120)
    write_text(FOLDER / f"resources-bit_serial-{DEVICE}.yaml", text)
    factors = pd.DataFrame(
        {"term": name, "LUT": f"{law.lut[name]:,.3f}", "FF": f"{law.ff[name]:,.3f}"} for name in law.lut
    )
    worst = {name: max(abs(getattr(one, f"{name}_error")) for one in law.held_out) for name in ("lut", "ff")}
    write_report(
        "resource_law",
        f"The resource law of the {DEVICE}",
        [
            "Resources of the whole machine as `codesign synth --device xc7z020` counts them, and what "
            "`hardware.resources` says of it in microseconds. The law was fitted to the first set of machines and has "
            "seen nothing of the second one, which was drawn with another seed. Errors are prediction over "
            f"measurement, less 1. Yosys {law.tools['yosys']}, gateware {law.gateware}.",
            f"Largest error on {len(held_out)} held-out machines: LUT {worst['lut']:.1%}, FF {worst['ff']:.1%}.",
            "## Held-out machines",
            markdown(rows(law, law.held_out)),
            "## Fitted machines",
            markdown(rows(law, law.fitted)),
            "## Factors",
            "LUTs and flip-flops of each term (`hardware.resources.TERMS`), beside the buffers, which are counted, and "
            "the popcounts, which were synthesised alone. Block RAM and multipliers are counted altogether.",
            markdown(factors),
        ],
    )


if __name__ == "__main__":
    main()
