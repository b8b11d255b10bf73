"""Mutants of a machine, stage by stage, and which tests of the fast suite notice them.

On bitserial-tiny the stages are array, fetch, execute and result; on machines of other kinds, with ``--hardware``, what
no other machine is made of (`sim.mutation.GROUPS`).

The tests' own drawings and assertions are run, shortest first, on one simulator that holds all mutants; the first that
fails kills the mutant. What is known of a mutant is kept in ``--state``: a run goes on where it was, and a mutant that
survived meets only tests that are new. Delete it when tests have changed.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from common import markdown, write_report
from mutation_killers import FIRST, MACHINES, Killers, killers

from hardware.accelerator import Accelerator, load_accelerator
from hardware.files import cache_directory, write_text
from rtl.verilog import engine_verilog, rtl_hash
from sim.equivalence import proved_equivalent
from sim.mutation import GROUPS, Mutant, acting, draw_mutants, mutated_verilog

REASONS = Path(__file__).with_name("mutation_survivors.yaml")
NONE = "none"
BESIDE = (
    "Stages, and how the names of their instances in the engine begin: {stages}. All other modules are those of "
    "bitserial-tiny ([its mutants](mutation.md)). Tests are those that the fast suite runs on this machine, and the "
    "random layers and extreme integers of `test_machine.py`, which runs them on another machine of the kind."
)


def killed_by(tests: Killers, mutated: str, number: int) -> tuple[str, str]:
    """Name of the first test that fails with a mutant, and what it says; two empty strings: none fails."""
    with acting(mutated, number):
        for name, run in tests.items():
            try:
                run()
            except Exception as error:  # whatever fails a test
                return name, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return "", ""


class State:
    """What is known of the mutants of one machine: lines of a JSON file, the last one of a mutant counts."""

    def __init__(self, path: Path, key: dict[str, str]):
        self._path, self._key = path, key
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else ()
        self.rows: dict[str, dict] = {row["mutant"]: row for row in map(json.loads, lines) if row["key"] == key}

    def note(self, mutant: str, **what) -> None:
        """Add to what is known of a mutant."""
        row = self.rows[mutant] = self.rows.get(mutant, {}) | {"mutant": mutant, "key": self._key} | what
        lines = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        write_text(self._path, lines + json.dumps(row) + "\n")


def run_tests(state: State, mutants: Mapping[int, str], mutated: str, tests: Killers) -> None:
    """Try the tests that a mutant has not yet survived, if it is neither killed nor known to change nothing."""
    for number, mutant in mutants.items():
        row = {"killer": "", "survived": [], "seconds": 0.0} | state.rows.get(mutant, {})
        left = {name: run for name, run in tests.items() if name not in row["survived"]}
        if left and not row["killer"] and not row.get("equivalent"):
            begin = time.perf_counter()
            name, reason = killed_by(left, mutated, number)
            seconds = round(row["seconds"] + time.perf_counter() - begin, 1)
            survived = [*row["survived"], *(() if name else left)]
            state.note(mutant, killer=name, reason=reason, survived=survived, seconds=seconds)
            print(f"{number} of {len(mutants)}: {mutant}: {name or 'survives'}", flush=True)


def report(accelerator: Accelerator, mutants: list[Mutant], rows: dict[str, dict], tests: Killers) -> None:
    """Shares by group, tests by the mutants that they kill, and the survivors with their reasons."""
    reasons = yaml.safe_load(REASONS.read_text(encoding="utf-8")) or {} if REASONS.exists() else {}
    table, kind = [], accelerator.kind
    for group in (*GROUPS[kind], "all"):
        mine = [rows[str(one)] for one in mutants if group in (one.group, "all")]
        idle, dead = sum(row["equivalent"] for row in mine), sum(bool(row["killer"]) for row in mine)
        share = f"{dead / max(1, len(mine) - idle):.1%}"
        table.append(
            {"stage": group, "mutants": len(mine), "change nothing (proved)": idle, "killed": dead, "share": share}
        )
    killed = Counter(rows[str(one)]["killer"] for one in mutants)
    counts = [(name, killed[name]) for name in tests if killed[name]]
    alive = [one for one in mutants if not rows[str(one)]["killer"] and not rows[str(one)]["equivalent"]]
    survivors = [
        {"stage": one.group, "mutant": f"`{one}`", "why it survives": reasons.get(str(one), "not explained")}
        for one in alive
    ]
    seconds = [rows[str(one)]["seconds"] for one in mutants]
    first = accelerator.name == MACHINES[0]
    stages = ", ".join(f"{stage} ({', '.join(parts)})" for stage, parts in GROUPS[kind].items())
    write_report(
        "mutation" if first else f"mutation_{accelerator.name.removesuffix('-tiny')}",
        "Mutants of the machine" if first else f"Mutants of what only machines of kind `{kind}` are made of",
        [
            f"One bit of one cell's port, drawn evenly by Yosys' `mutate` from the flattened {accelerator.name} "
            f"({rtl_hash(accelerator)}): inverted, stuck at 0 or 1 (`const0`, `const1`), or inverted while another "
            "bit of the port is 0 or 1 (`cnot0`, `cnot1`). A mutant is killed when a test of the fast suite fails. "
            "It changes nothing if Yosys' SAT solver proves that for every state and input, of everything on which "
            "an output of the machine may depend; shares are of the others.",
            *([] if first else [BESIDE.format(stages=stages)]),
            markdown(pd.DataFrame(table)),
            "Tests, in the order in which they run; a mutant counts for the first one that fails.",
            markdown(pd.DataFrame(counts, columns=["test", "mutants killed"])),
            f"Survivors: {len(survivors)}.",
            *([markdown(pd.DataFrame(survivors))] if survivors else []),
            f"{np.mean(seconds):.1f} seconds per mutant on average, {np.median(seconds):.1f} in the middle.",
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hardware", choices=MACHINES, default=MACHINES[0])
    parser.add_argument("--state", type=Path, default=cache_directory() / "mutation.jsonl")
    options = parser.parse_args()
    accelerator = load_accelerator(options.hardware)
    verilog = engine_verilog(accelerator)
    mutants = draw_mutants(verilog, GROUPS[accelerator.kind], options.mutants, options.seed)
    mutated = mutated_verilog(verilog, mutants)
    tests = killers(accelerator)
    state = State(options.state, {"rtl_hash": rtl_hash(accelerator)})
    run_tests(state, {0: NONE}, mutated, tests)
    if state.rows[NONE]["killer"]:
        raise SystemExit(f"{state.rows[NONE]['killer']} fails without a mutant: {state.rows[NONE]['reason']}")
    names = {number: str(mutant) for number, mutant in enumerate(mutants, 1)}
    run_tests(state, names, mutated, dict(list(tests.items())[:FIRST]))
    rows = state.rows
    unknown = {n: name for n, name in names.items() if not rows[name]["killer"] and "equivalent" not in rows[name]}
    proved = proved_equivalent(verilog, {number: mutants[number - 1] for number in unknown})
    for number, name in unknown.items():
        state.note(name, equivalent=number in proved)
    run_tests(state, names, mutated, tests)
    report(accelerator, mutants, {name: {"equivalent": False} | row for name, row in rows.items()}, tests)


if __name__ == "__main__":
    main()
