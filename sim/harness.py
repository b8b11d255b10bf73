"""A wrapper that lets a module with more ports than a package has pins be placed and routed without losing logic."""

import json
from dataclasses import dataclass
from pathlib import Path

from hardware.errors import InputError
from sim.yosys import run_yosys

HARNESS = "harness"
INSTANCE = "machine"
CLOCK = "clk"


@dataclass(frozen=True)
class Port:
    """A port of a Verilog module; ``direction`` is ``input`` or ``output``, ``width`` in bits."""

    name: str
    direction: str
    width: int


def module_ports(directory: Path, source: str, top: str) -> list[Port]:
    """The ports of module ``top`` in the Verilog file ``source``, which lies in ``directory``, in their order."""
    run_yosys(directory, f"read_verilog {source}; blackbox {top}; hierarchy -top {top}; write_json ports.json")
    ports = json.loads((directory / "ports.json").read_text())["modules"][top]["ports"]
    return [Port(name, port["direction"], len(port["bits"])) for name, port in ports.items()]


def harness_verilog(top: str, ports: list[Port]) -> str:
    """Verilog of module ``harness`` around ``top``: pins ``clk``, ``serial_in`` and ``serial_out`` only.

    Every input of ``top`` but its clock comes from a shift register behind ``serial_in``. Every output is registered
    and then added (exclusive or) to a shift register that ends at ``serial_out``: each bit matters, so nothing can be
    optimized away, and every path from or to ``top`` starts or ends in a register, so no pin decides the clock.

    Raises
    ------
    InputError
        ``top`` has no one-bit clock ``clk``, no other input or no output, or a port of another direction.
    """
    inputs = [port for port in ports if port.direction == "input" and port.name != CLOCK]
    outputs = [port for port in ports if port.direction == "output"]
    if Port(CLOCK, "input", 1) not in ports or not inputs or not outputs or len(inputs) + len(outputs) + 1 < len(ports):
        raise InputError(
            f"cannot wrap module {top}: expected the input {CLOCK!r}, other inputs and outputs, and no inout ports."
        )
    # One bit more than the ports need, so that the slices below exist for ports of one bit, too.
    stimuli, responses = sum(port.width for port in inputs), sum(port.width for port in outputs)
    connections = [f".{CLOCK}({CLOCK})", *_connect(inputs, "stimulus"), *_connect(outputs, "response")]
    separator = ",\n    "
    return f"""\
module {HARNESS}(input {CLOCK}, input serial_in, output reg serial_out);
  reg [{stimuli}:0] stimulus;
  wire [{responses}:0] response;
  reg [{responses}:0] held, folded;
  assign response[{responses}] = stimulus[{stimuli}];
  always @(posedge {CLOCK}) begin
    stimulus <= {{stimulus[{stimuli - 1}:0], serial_in}};
    held <= response;
    folded <= held ^ {{folded[{responses - 1}:0], 1'b0}};
    serial_out <= folded[{responses}];
  end
  {top} {INSTANCE} (
    {separator.join(connections)}
  );
endmodule
"""


def _connect(ports: list[Port], vector: str) -> list[str]:
    """Named connections of the ports to consecutive bits of a vector."""
    connections, low = [], 0
    for port in ports:
        connections.append(f".\\{port.name} ({vector}[{low + port.width - 1}:{low}])")
        low += port.width
    return connections
