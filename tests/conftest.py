"""Fixtures of all tests: machines, random integers, the Amaranth simulator."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import settings

from hardware.accelerator import Accelerator, load_accelerator

# The same examples in every run, and none of them can fail because the computer is slow.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def tiny() -> Accelerator:
    """The preset for tests: 2x64x2."""
    return load_accelerator("bitserial-tiny")


@pytest.fixture(scope="session")
def machine(tiny) -> Callable[..., Accelerator]:
    """``machine(dn=3, lhs_entries=32, latency=0)``: `tiny` with other numbers."""

    def build(**changes) -> Accelerator:
        description = tiny.model_dump()
        for part in ("array", "buffers", "memory"):
            for field in description[part]:
                description[part][field] = changes.pop(field, description[part][field])
        return Accelerator.model_validate(description | {"name": "variant"} | changes)

    return build


@pytest.fixture(scope="session")
def integers() -> Callable[..., np.ndarray]:
    """``integers(rng, shape, bits, signed)``: every integer of that width is drawn, the extremes included."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...], bits: int, signed: bool) -> np.ndarray:
        low = -(1 << (bits - 1)) if signed else 0
        return rng.integers(low, low + (1 << bits), size=shape, dtype=np.int64)

    return draw


@pytest.fixture
def simulate() -> Callable[..., None]:
    """``simulate(dut, testbench, ...)``: runs gateware under Amaranth's simulator until all testbenches have ended."""
    from amaranth.sim import Simulator

    def run(dut, *testbenches) -> None:
        simulator = Simulator(dut)
        simulator.add_clock(1e-6)
        for testbench in testbenches:
            simulator.add_testbench(testbench)
        simulator.run()

    return run
