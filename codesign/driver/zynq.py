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
from machine import Machine, MachineFault, SharedMemory

HERE = Path(__file__).resolve().parent.parent
CELL = "machine"
"""The machine's name in the block design."""


def load(package: Path) -> Machine:
    """The machine on this board, with the package's network."""
    manifest = json.loads((package / "manifest.json").read_text(encoding="utf-8"))
    cell = pynq.Overlay(str(package / manifest["bitstream"])).ip_dict[CELL]
    memory = pynq.allocate(shape=(manifest["program"]["memory_words"],), dtype=np.uint64)
    registers = pynq.MMIO(cell["phys_addr"], cell["addr_range"])
    return Machine(package, registers, SharedMemory(memory), memory.device_address)


def main(package: Path = HERE) -> int:
    """Exit code: 0 if every score is as expected, 1 if not, 2 if nothing could run."""
    try:
        wrong = load(package).self_test(float(pynq.Clocks.fclk0_mhz))
    except (MachineFault, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
