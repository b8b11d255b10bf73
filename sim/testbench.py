"""The cocotb side of the bench: runs a list of jobs, one event each. Runs inside the simulator process."""

import json
import os
from pathlib import Path
from typing import Any

import cocotb
from cocotb.triggers import RisingEdge, Timer

from sim.job import COUNTERS

READ = (
    *("hung", "memory_fault", "stray_write", "status", "first_status", "error_code", "error_address"),
    *("error_instruction", "build_hash", "cycles", *COUNTERS),
)
"""The bench's public signals that hold what came of a job."""


@cocotb.test()
async def run_jobs(dut: Any) -> None:
    """For every job in ``jobs.json``: set its parameters, start, wait for the end, note the counters."""
    directory = Path(os.environ["CODESIGN_JOBS"])
    rows = []
    for number, job in enumerate(json.loads((directory / "jobs.json").read_text())):
        dut.job.value = number
        for name, value in job.items():
            getattr(dut, name).value = value
        await Timer(10, unit="ns")
        dut.run.value = 1
        await RisingEdge(dut.finished)
        rows.append({name: int(getattr(dut, name).value) for name in READ})
        (directory / "progress").write_text(str(number + 1))
        dut.run.value = 0
        await Timer(10, unit="ns")
    (directory / "rows.json").write_text(json.dumps(rows))
