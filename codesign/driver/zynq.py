"""Self-test of a package on a Zynq board with PYNQ: ``sudo python3 driver/zynq.py`` in the package's folder.

Loads the bitstream, runs the package's images, compares their scores with the expected ones, and leaves cycles and
other counters in ``measured.json``. Cycles differ from the manifest's as far as this board's memory differs from the
model's.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pynq
from machine import Machine, MachineFault

HERE = Path(__file__).resolve().parent.parent
CELL = "machine"
"""The machine's name in the block design."""


def load(package: Path) -> Machine:
    """The machine on this board, with the package's network."""
    manifest = json.loads((package / "manifest.json").read_text(encoding="utf-8"))
    cell = pynq.Overlay(str(package / manifest["bitstream"])).ip_dict[CELL]
    memory = pynq.allocate(shape=(manifest["program"]["memory_words"],), dtype=np.uint64)
    registers = pynq.MMIO(cell["phys_addr"], cell["addr_range"])
    return Machine(package, registers, memory, memory.device_address)


def main(package: Path = HERE) -> int:
    """Exit code: 0 if every score is as expected, 1 if not, 2 if nothing could run."""
    try:
        machine = load(package)
        images, expected = (np.load(package / f"selftest/{name}.npy") for name in ("images", "scores"))
        runs = [machine.run(image) for image in images]
    except (MachineFault, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    wrong = sum(int((run.scores != scores).any()) for run, scores in zip(runs, expected, strict=True))
    cycles = [run.cycles for run in runs]
    clock = float(pynq.Clocks.fclk0_mhz)
    measured = {key: machine.manifest[key] for key in ("network", "rtl_hash", "board")}
    measured |= {"clock_mhz": clock, "expected_cycles": machine.manifest["cycles"], "wrong_images": wrong}
    measured["runs"] = [run.counters for run in runs]
    (package / "measured.json").write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    print(f"{len(runs) - wrong} of {len(runs)} images have the expected scores")
    print(f"{min(cycles):,} to {max(cycles):,} cycles at {clock:g} MHz, the model's {machine.manifest['cycles']:,}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
