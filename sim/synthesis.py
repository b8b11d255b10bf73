"""Resources of Verilog after synthesis by Yosys, and the cache that synthesis and place-and-route share.

How cells become resources on 7-series: LUT1 to LUT6 count one each, an INV too (Yosys leaves them in front of carry
chains only, where no LUT can absorb them), a distributed RAM or a shift register the LUTs it occupies. Not modelled:
two small LUTs that Vivado puts into one, and LUTs that a carry chain's inputs merely pass through. On ECP5:
one for a LUT4, two for a CCU2C (two bits of carry), six for a TRELLIS_DPR16X4.
"""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from amaranth.back import verilog

from hardware.accelerator import Accelerator
from hardware.files import cache_directory, write_text
from hardware.resources import Resources
from rtl.arrays import ARRAYS
from rtl.verilog import rtl_hash
from sim.flat import Flat
from sim.yosys import run_yosys

ARRAY = "codesign_array"

# No pads on 7-series, because the machine lies inside a system; `check -assert` refuses a net with two drivers.
SCRIPTS = {
    "xc7z020": "synth_xilinx -family xc7 -flatten -noiopad -noclkbuf -top {top}; check -assert",
    # abc9 trips over vectors that are there bit by bit as well, by their bits' names: fields of arrays.
    "ecp5-85k": "hierarchy -top {top}; rename -hide */w:*[*; synth_ecp5 -top {top}; check -assert",
}
"""Yosys' commands by device."""

# LUTs by cell: on 7-series after UG474 (table "Distributed RAM Configuration") and UG953.
LUTS = {
    "xc7z020": {
        **{f"LUT{inputs}": 1 for inputs in range(1, 7)},
        **{"INV": 1, "SRL16E": 1, "SRLC32E": 1},
        **{"RAM32X1S": 1, "RAM32X1D": 2, "RAM64X1S": 1, "RAM64X1D": 2, "RAM128X1S": 2, "RAM128X1D": 4, "RAM256X1S": 4},
        **{"RAM32M": 4, "RAM64M": 4},
    },
    "ecp5-85k": {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 6},
}
COUNTING = {
    "xc7z020": "LUTs are LUT1 to LUT6 and INV, and those in distributed RAM and shift registers; "
    "two small ones that Vivado may put into one count as two",
    "ecp5-85k": "LUTs are LUT4, two per CCU2C, six per TRELLIS_DPR16X4, and nextpnr's own at the ends of carry chains",
}
"""How LUTs are counted, for people."""
FLIP_FLOPS = {"xc7z020": ("FDRE", "FDSE", "FDCE", "FDPE"), "ecp5-85k": ("TRELLIS_FF",)}
BLOCK_RAMS = {"xc7z020": {"RAMB36E1": 1.0, "RAMB18E1": 0.5}, "ecp5-85k": {"DP16KD": 0.5, "PDPW16KD": 0.5}}
MULTIPLIERS = {"xc7z020": ("DSP48E1",), "ecp5-85k": ("MULT18X18D",)}
# Wide multiplexers and carry chains come with the slices of the LUTs they join; nobody else wants a PLL.
FREE = {"xc7z020": ("CARRY4", "MUXF7", "MUXF8", "BUFG"), "ecp5-85k": ("PFUMX", "L6MUX21", "EHXPLLL")}


def resources(cells: Mapping[str, int], device: str) -> Resources:
    """What the cells of a netlist take of a device, by the rules above.

    Raises
    ------
    ValueError
        A cell whose cost is not known: a count without it would be too small.
    """
    known = {*LUTS[device], *FLIP_FLOPS[device], *BLOCK_RAMS[device], *MULTIPLIERS[device], *FREE[device]}
    if strange := [cell for cell in cells if cell not in known]:
        raise ValueError(f"cells of unknown cost on {device}: {', '.join(strange)}")
    return Resources(
        lut=sum(count * cells.get(cell, 0) for cell, count in LUTS[device].items()),
        ff=sum(cells.get(cell, 0) for cell in FLIP_FLOPS[device]),
        bram36=sum(count * cells.get(cell, 0) for cell, count in BLOCK_RAMS[device].items()),
        dsp=sum(cells.get(cell, 0) for cell in MULTIPLIERS[device]),
    )


def synthesize(text: str, top: str, device: str) -> dict[str, int]:
    """Cells by type of a Verilog text's module ``top`` on a device of `hardware.device`, flattened.

    Raises
    ------
    InputError
        Yosys failed, or found a net with two drivers.
    """
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        (work / "machine.v").write_text(text, encoding="utf-8")
        script = SCRIPTS[device].format(top=top)
        run_yosys(work, f"read_verilog machine.v; {script}; {WRITE_STATISTICS}")
        return cell_counts(work)[top]


WRITE_STATISTICS = "tee -q -o statistics.json stat -json"


def cell_counts(directory: Path) -> dict[str, dict[str, int]]:
    """Cells by type of every module in what `WRITE_STATISTICS` left in a folder."""
    modules = json.loads((directory / "statistics.json").read_text())["modules"]
    return {
        name.removeprefix("\\"): {
            cell: count
            for cell, count in module["num_cells_by_type"].items()
            if cell != "$scopeinfo"  # names, not cells
        }
        for name, module in modules.items()
    }


def array_cells(accelerator: Accelerator, device: str, fresh: bool = False) -> dict[str, int]:
    """Cells of the accelerator's array alone (products, popcount, accumulators, control bits), kept by `rtl_hash`."""
    key = cache_key(rtl_hash(accelerator), ARRAY, device, SCRIPTS[device], tool_version("yosys"))
    kept = None if fresh else recall(key)
    if kept is None:
        shape = accelerator.array
        array = ARRAYS[accelerator.kind](shape.dm, shape.dk, shape.dn)
        text = verilog.convert(Flat(array), name=ARRAY, emit_src=False, strip_internal_attrs=True)
        kept = keep(key, synthesize(text, ARRAY, device))
    return kept


def machine_cells(text: str, top: str, device: str, fresh: bool = False) -> dict[str, int]:
    """`synthesize`, kept by the content of the Verilog."""
    key = cache_key(text, top, device, SCRIPTS[device], tool_version("yosys"))
    kept = None if fresh else recall(key)
    return keep(key, synthesize(text, top, device)) if kept is None else kept


def tool_version(tool: str) -> str:
    """Version of ``yosys`` or ``nextpnr-ecp5``, as packaged by YoWASP."""
    return version(f"yowasp-{tool}")


def cache_key(*parts: str) -> str:
    """24 hexadecimal digits that name what the parts give."""
    return hashlib.sha256(b"\0".join(part.encode() for part in parts)).hexdigest()[:24]


def recall(key: str) -> dict[str, Any] | None:
    """What `keep` kept under a key; None if nothing was, or if it is damaged."""
    try:
        kept = json.loads(_kept(key).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return kept if isinstance(kept, dict) else None


def keep(key: str, value: dict[str, Any]) -> dict[str, Any]:
    """Keep a result in the cache; returns it."""
    write_text(_kept(key), json.dumps(value) + "\n")
    return value


def _kept(key: str) -> Path:
    return cache_directory() / "synthesis" / f"{key}.json"
