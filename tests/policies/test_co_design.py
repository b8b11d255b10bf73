"""Choosing the machine together with the bits: against pricing every machine on its own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware.accelerator import load_accelerator
from hardware.device import load_device
from hardware.errors import InputError
from hardware.layer import Layer
from hardware.oracle import Oracle
from hardware.resource_law import load_resource_law
from policies.co_design import MachineChoice, candidates
from policies.space import Space

LAYERS = (
    Layer("stem", "conv", 3, 16, 12, 12, (3, 3), (1, 1), (1, 1)),
    Layer("wide", "conv", 16, 32, 6, 6, (3, 3), (1, 1), (1, 1)),
    Layer("head", "linear", 200, 10),
)


def machine(name, dm, dk, dn, entries=1024, ports=1):
    tiny = load_accelerator("bitserial-tiny")
    return type(tiny).model_validate(
        tiny.model_dump()
        | {
            "name": name,
            "array": {"dm": dm, "dk": dk, "dn": dn},
            "buffers": {"lhs_entries": entries, "rhs_entries": entries, "plane_words": 512},
            "memory": {"ports": ports, "latency": 32, "cycles_per_word": 1},
        }
    )


MACHINES = [
    machine(name, *shape)
    for name, shape in {
        "tall": (8, 64, 2),
        "flat": (2, 64, 8),
        "deep": (2, 256, 2),
        "worse": (2, 64, 2),
        "ports": (4, 64, 4, 1024, 2),
    }.items()
]


@pytest.fixture(scope="module")
def choice():
    return MachineChoice(Space("net", LAYERS), Oracle(LAYERS, load_accelerator("bitserial-tiny")), MACHINES)


@pytest.fixture(scope="module")
def oracles():
    return [Oracle(LAYERS, one) for one in MACHINES]


@settings(max_examples=100, deadline=None)
@given(bits=st.lists(st.integers(2, 8), min_size=6, max_size=6))
def test_a_policy_costs_what_it_costs_on_the_best_machine(choice, oracles, bits):
    vector = np.array(bits)
    prices = [float(oracle.cost(vector.reshape(-1, 2))) for oracle in oracles]
    assert choice.cost("latency", vector) == min(prices)
    assert prices[MACHINES.index(choice.machine(vector))] == min(prices)
    assert choice.cost("latency", np.stack([vector, vector])).tolist() == [min(prices)] * 2


def test_what_another_machine_always_beats_is_dropped(choice):
    kept = [one.name for one in choice.machines]
    assert "worse" not in kept
    assert len(kept) >= 2


def test_other_metrics_are_the_policys_and_energy_is_not_known(choice):
    vector = np.full(6, 4)
    assert choice.ratio("bits", vector) == choice.ratio("size", vector) == 0.5
    with pytest.raises(InputError, match="no energies are known"):
        choice.check("energy")


def test_candidates_fit_their_device_and_vary_what_may_vary():
    reference, law, device = load_accelerator("bitserial-edge"), load_resource_law("xc7z020"), load_device("xc7z020")
    found = candidates(reference, law, device)
    assert all(law.predict(one).fits(device) for one in found)
    assert {one.memory.ports for one in found} == {1, 2, 4}
    assert {one.array.dk for one in found} == {64, 128, 256, 512}
    assert all(one.clock_mhz == reference.clock_mhz and one.device == "xc7z020" for one in found)
    largest = max(one.peak_binary_macs for one in found)
    assert reference.peak_binary_macs <= largest < 2 * reference.peak_binary_macs  # 16,384 nearly fill it


def test_no_machine_and_single_kernels_are_refused():
    reference = Oracle(LAYERS, load_accelerator("bitserial-tiny"))
    with pytest.raises(InputError, match="choose a larger device"):
        MachineChoice(Space("net", LAYERS), reference, [])
    with pytest.raises(InputError, match="search with one width per layer"):
        MachineChoice(Space("net", LAYERS, group=1), reference, MACHINES)
