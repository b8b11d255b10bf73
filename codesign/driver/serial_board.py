"""Self-test of a package on a board behind a serial line: ``python3 driver/serial_board.py /dev/ttyUSB0``.

Load the bitstream first. The network and the package's images go over the line; scores are compared with the expected
ones, cycles and other counters are left in ``measured.json``. It needs pyserial and NumPy.
"""

import json
import sys
from pathlib import Path

import serial
from line import Line, SerialMemory, SerialRegisters
from machine import Machine, MachineFault

HERE = Path(__file__).resolve().parent.parent


def load(package: Path, line: Line) -> Machine:
    """The machine at the end of a line, with the package's network."""
    manifest = json.loads((package / "manifest.json").read_text(encoding="utf-8"))
    memory = SerialMemory(line, manifest["line"]["memory_words"])
    return Machine(package, SerialRegisters(line), memory, 0)


def main(arguments: list[str], package: Path = HERE) -> int:
    """Exit code: 0 if every score is as expected, 1 if not, 2 if nothing could run."""
    if len(arguments) != 1:
        print("error: expected the serial port, for example /dev/ttyUSB0 or COM3: pass it.", file=sys.stderr)
        return 2
    try:
        settings = json.loads((package / "manifest.json").read_text(encoding="utf-8"))["line"]
        with serial.Serial(arguments[0], settings["baud"], timeout=2) as port:
            line = Line(port)
            try:
                machine = load(package, line)
            except ConnectionError:  # somebody else may have spoken before
                line.recover()
                machine = load(package, line)
            wrong = machine.self_test(settings["clock_mhz"])
    except (MachineFault, OSError) as error:  # pyserial's own errors are OSErrors
        print(f"error: {error}", file=sys.stderr)
        return 2
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
