"""Tests of the fast suite as plain functions, for `mutation.py`: each fails if the machine is wrong.

They draw what the tests draw and make the tests' own assertions, many layers or networks to a simulator process. On the
smallest machines of other kinds than bit_serial, they are the tests that the fast suite runs on these, and the random
layers that `test_machine.py` draws for another machine of the kind.
"""

import contextlib
import importlib.util
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from codesign.execution import run_on_rtl
from codesign.networks import create_network
from codesign.program import build_program
from codesign.sampling import random_operands
from hardware.accelerator import Accelerator
from hardware.cycles import layer_cycles
from hardware.schedule import schedule
from sim.run import simulate_jobs

TESTS = Path(__file__).parent.parent / "tests"
sys.path.append(str(TESTS / "support"))  # as pytest does
FIRST_LAYERS = 20  # the shortest ones, which kill most
FIRST = 2  # tests, which kill nearly all, come before the proofs that mutants change nothing, the others behind them
MACHINES = ("bitserial-tiny", "stripes-tiny", "fusion-tiny")
"""Machines for which tests can be gathered: those of the tests' fixture ``smallest``, as their names have it."""
ON_ALL = ("codesign/test_requantized.py", "sim/test_faults.py")
ON_FIRST = (
    "codesign/test_requantized.py",
    "sim/test_addresses.py",
    "sim/test_faults.py",
    "codesign/test_program.py::test_pools_of_one_row_tile_of_large_windows_and_of_as_many_channels_as_a_pass_holds",
    "sim/test_queues.py::test_tiles_that_wait_for_the_queue_of_fetch_are_exact",
)
Killers = dict[str, Callable[[], None]]


def load_test(name: str) -> ModuleType:
    """A file of the suite as a module."""
    specification = importlib.util.spec_from_file_location(Path(name).stem, TESTS / name)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def killers(accelerator: Accelerator) -> Killers:
    """By the test's name: what fails if the machine is wrong. Cheap ones that kill many come first."""
    layers = dict(_layers(accelerator, load_test("sim/test_machine.py")))
    (first, shortest), *others = layers.items()
    large = dict(_large_numbers(accelerator, load_test("sim/test_large_numbers.py")))
    networks, disturbed = dict(_networks(accelerator)), dict(_disturbed(accelerator))
    files = ON_FIRST if accelerator.name == MACHINES[0] else ON_ALL
    by_pytest = dict(_by_pytest(tests, accelerator.name) for tests in files)
    if accelerator.traits.packed:
        cut = load_test("sim/test_packed_tiles.py")
        large["test_packed_tiles"] = lambda: cut.check(accelerator)
    return {first: shortest} | networks | large | by_pytest | dict(others) | disturbed


def _by_pytest(tests: str, machine: str) -> tuple[str, Callable[[], None]]:
    """Tests that share fixtures: of a file, or of one test in it, those of the machine that is mutated."""
    chosen = machine if machine != MACHINES[0] else " and ".join(f"not {other}" for other in MACHINES[1:])

    def run() -> None:
        options = ["-qx", "--tb=line", "-p", "no:cacheprovider", "-m", "not slow", "-k", chosen]
        with contextlib.redirect_stdout(io.StringIO()) as said:
            code = pytest.main([*options, str(TESTS / tests)])
        assert code == 0, said.getvalue()[-2000:]

    return tests.split("/")[-1].replace(".py", "").replace("::", ": "), run


def _layers(accelerator: Accelerator, suite: ModuleType) -> Iterator[tuple[str, Callable[[], None]]]:
    def draw(seed: int, count: int):
        rng = np.random.default_rng(seed)
        return [random_operands(rng, accelerator, number) for number in range(count)]

    def cycles(one) -> int:
        plan = schedule(one.layer, one.weight_bits, one.activation_bits, accelerator, one.signed_weights, one.bipolar)
        return layer_cycles(plan)

    def run(work, memory=None) -> None:
        suite.check(work, run_on_rtl(work, accelerator, memory).layers)

    name = "test_machine: layers of every kind"
    work = sorted(draw(100 + accelerator.memory.ports, 40), key=cycles)
    yield f"{name}, the shortest", lambda: run(work[:FIRST_LAYERS])
    yield name, lambda: run(work)
    ports = accelerator.memory.ports
    for latency, interval in suite.MEMORIES:
        some = draw(10_000 * ports + 10 * latency + interval, 6)
        memory = accelerator.memory.model_copy(update={"latency": latency, "cycles_per_word": interval})
        yield (
            f"test_machine: random layers, memory {latency}, {interval}",
            lambda some=some, memory=memory: run(some, memory),
        )
    for value in ("least", "most"):
        for signed in (False, True):
            yield (
                f"test_machine: the extreme integers, {value}, {'signed' if signed else 'unsigned'}",
                lambda value=value, signed=signed: suite.test_the_extreme_integers_are_exact(
                    {accelerator.name: accelerator}, accelerator.name, value, signed
                ),
            )


def _large_numbers(accelerator: Accelerator, suite: ModuleType) -> Iterator[tuple[str, Callable[[], None]]]:
    yield "test_large_numbers: counts", lambda: suite.test_large_counts_are_exact(accelerator)
    yield (
        "test_large_numbers: rings",
        lambda: suite.test_buffers_that_are_filled_again_and_again_are_exact(accelerator),
    )
    yield (
        "test_large_numbers: steps",
        lambda: suite.test_tiles_of_as_many_steps_as_a_count_has_bits_are_exact(accelerator),
    )
    if accelerator.name != MACHINES[0]:
        return
    yield "test_large_numbers: row tiles", lambda: suite.test_the_most_row_tiles_of_a_pass_are_exact(accelerator)
    yield (
        "test_large_numbers: images and groups",
        lambda: suite.test_the_largest_images_and_groups_are_exact(accelerator),
    )
    for origin in suite.ORIGINS:
        yield (
            f"test_large_numbers: all addresses from {origin:#x}",
            lambda origin=origin: suite.test_high_addresses_change_nothing(accelerator, origin),
        )


def _networks(accelerator: Accelerator) -> Iterator[tuple[str, Callable[[], None]]]:
    suite = load_test("codesign/test_program.py")
    shape = suite.SHAPE
    image = suite.image_of(shape)

    def prepare(networks, image):
        programs = [build_program(one[0], accelerator, tuple(image.shape[1:])) for one in networks]
        jobs = [suite.job_of(program, image) for program in programs]

        def run() -> None:
            outcomes = simulate_jobs(jobs, accelerator).outcomes
            for (network, before), program, outcome in zip(networks, programs, outcomes, strict=True):
                suite.check(network, program, image, outcome, before=before)

        return run

    listed = [
        (suite.quantized_network(module, shape, weights, activations), before[0] if before else None)
        for module, weights, activations, *before in suite.NETWORKS.values()
    ]
    yield "test_program: a network gives the values of integer inference", prepare(listed, image)
    widths = [(suite.quantized_network(suite.Chain, shape, bits, 9 - bits, bits), None) for bits in range(1, 9)]
    widths += [(suite.quantized_network(suite.Chain, shape, bits, bits, bits), None) for bits in (1, 8)]
    yield "test_program: every width of weights and activations", prepare(widths, image)
    yield (
        "test_program: tiles of one step",
        lambda: suite.test_tiles_of_one_step_with_constants_behind_it(accelerator),
    )
    lenet = suite.quantized_network(lambda: create_network("lenet", seed=0), (1, 8, 8), 4, 4)
    yield "test_program: lenet", prepare([(lenet, None)], suite.image_of((1, 8, 8)))


def _disturbed(accelerator: Accelerator) -> Iterator[tuple[str, Callable[[], None]]]:
    suite = load_test("sim/test_stalls.py")
    for seed in (2, 3):
        yield f"test_stalls: all channels, {seed}", lambda seed=seed: suite.check(accelerator, seed, 15, **suite.ALL)
    for channel in suite.ALL if accelerator.name == MACHINES[0] else ():
        yield f"test_stalls: {channel}", lambda channel=channel: suite.check(accelerator, 1, 6, **{channel: 240})
