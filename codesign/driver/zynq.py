"""Self-test of a package on a Zynq board with PYNQ: ``sudo bash -lc 'python3 driver/zynq.py'`` in the package's folder.

Loads the bitstream, runs the package's images, compares their scores with the expected ones, and leaves cycles and
other counters in ``measured.json``. Cycles differ from the manifest's as far as this board's memory differs from the
model's. ``driver/zynq.py BITSTREAM`` loads one that openXC7 has made, which comes without a description.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pynq
from machine import Machine, SharedMemory

HERE = Path(__file__).resolve().parent.parent
CELL = "machine"
"""The machine's name in the block design."""
PORT = {"phys_addr": 0x4000_0000, "addr_range": 0x1000}
"""Where its registers are without one: at the processor's port GP0."""


def load(package: Path, bitstream: str | None = None) -> Machine:
    """The machine on this board, with the package's network."""
    manifest = json.loads((package / "manifest.json").read_text(encoding="utf-8"))
    if bitstream is None:
        cell = pynq.Overlay(str(package / manifest["bitstream"])).ip_dict[CELL]
    else:
        pynq.Clocks.fclk0_mhz = manifest["accelerator"]["clock_mhz"]
        pynq.Bitstream(bitstream).download()
        cell = PORT
    memory = pynq.allocate(shape=(manifest["program"]["memory_words"],), dtype=np.uint64)
    registers = pynq.MMIO(cell["phys_addr"], cell["addr_range"])
    return Machine(package, registers, SharedMemory(memory), memory.device_address)


def main(package: Path = HERE, bitstream: str | None = None) -> int:
    """Exit code: 0 if every score is as expected, 1 if not, 2 if nothing could run."""
    try:
        wrong = load(package, bitstream).self_test(float(pynq.Clocks.fclk0_mhz))
    except (RuntimeError, OSError) as error:  # a fault of the machine; PYNQ without a device or a file
        print(f"error: {error}", file=sys.stderr)
        return 2
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(HERE, *sys.argv[1:2]))
