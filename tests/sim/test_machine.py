"""The whole simulated machine against the integer reference and, to the cycle, against the cycle model."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from codesign.execution import LayerResult, run_on_rtl
from codesign.sampling import random_operands
from hardware.accelerator import Accelerator, Memory, load_accelerator
from hardware.cycles import LATENCIES
from hardware.layer import Layer
from hardware.operands import Operands
from hardware.passes import Pass
from hardware.schedule import schedule
from sim.reference import reference_sums

MEMORIES = [(0, 1), (1, 1), (0, 7), (200, 1), (33, 3), (1000, 64)]  # latency, cycles per word


@pytest.fixture(scope="module")
def machines(tiny, machine) -> dict[str, Accelerator]:
    """The preset, one in whose small buffers few layers find all their weights, one of another shape, other kinds."""
    return {
        "preset": tiny,
        "small buffers": machine(ports=2, lhs_entries=32, rhs_entries=64),
        "four ports": machine(dm=4, dn=4, dk=128, ports=4, lhs_entries=256, rhs_entries=256, plane_words=16),
        "serial weights": machine(kind="serial_weight", dk=128, ports=2, lhs_entries=32, rhs_entries=16),
        "fusion units": machine(kind="bit_fusion", dk=128, ports=2, lhs_entries=32, rhs_entries=64),
    }


MACHINES = ("preset", "small buffers", "four ports", "serial weights", "fusion units")


@pytest.fixture(scope="module")
def draw() -> Callable[..., list[Operands]]:
    def operands(accelerator: Accelerator, seed: int, count: int) -> list[Operands]:
        rng = np.random.default_rng(seed)
        return [random_operands(rng, accelerator, number) for number in range(count)]

    return operands


def check(work: list[Operands], results: tuple[LayerResult, ...]) -> None:
    """No wrong output and no wrong cycle."""
    assert len(work) == len(results)
    for operands, result in zip(work, results, strict=True):
        assert result.outputs.dtype == np.int64
        assert (result.outputs == reference_sums(operands)).all(), operands.layer
        assert result.rtl_cycles == result.model_cycles, operands.layer


def passes_of(operands: Operands, accelerator: Accelerator) -> tuple[Pass, ...]:
    layer, bits = operands.layer, operands.activation_bits
    return schedule(layer, operands.weight_bits, bits, accelerator, operands.signed_weights, operands.bipolar).passes


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize(("latency", "cycles_per_word"), MEMORIES)
def test_random_layers_are_exact_behind_any_memory(machines, draw, name, latency, cycles_per_word):
    accelerator = machines[name]
    ports = accelerator.memory.ports
    work = draw(accelerator, 10_000 * ports + 10 * latency + cycles_per_word, 6)
    memory = Memory(ports=ports, latency=latency, cycles_per_word=cycles_per_word)
    check(work, run_on_rtl(work, accelerator, memory).layers)


@pytest.mark.parametrize("name", MACHINES)
def test_layers_of_every_kind_are_exact(machines, draw, name):
    accelerator = machines[name]
    ports = accelerator.memory.ports
    work = draw(accelerator, 100 + ports, 40)
    plans = [passes_of(operands, accelerator) for operands in work]
    kinds = {
        "groups": any(1 < operands.layer.groups < operands.layer.in_channels for operands in work),
        "depthwise": any(1 < operands.layer.groups == operands.layer.in_channels for operands in work),
        "dilation": any(max(operands.layer.dilation) > 1 for operands in work),
        "bipolar": any(operands.bipolar for operands in work) or name == "fusion units",
        "pruned": any(0 in operands.weight_bits for operands in work),
        "kernel-wise": any(len(plan[0].segments) > 1 for plan in plans) or name == "fusion units",
        "unsigned": any(not operands.signed_weights for operands in work),
        "signed": any(operands.layer.signed_activations for operands in work),
        "streamed": any(not one.lhs_resident for plan in plans for one in plan),
        "refetched": any(not one.lhs_resident and one.group_tiles < one.column_tiles for plan in plans for one in plan),
        "resident": any(one.lhs_resident and one.column_tiles > 1 for plan in plans for one in plan),
        "too few columns": any(one.last_columns < ports for plan in plans for one in plan) or ports == 1,
    }
    if ports == 1:  # 1024 entries hold nearly everything
        del kinds["refetched"]
    assert all(kinds.values()), [kind for kind, drawn in kinds.items() if not drawn]
    check(work, run_on_rtl(work, accelerator).layers)


@pytest.mark.parametrize(("latency", "cycles_per_word"), [(0, 12), (0, 16), (0, 64), (3, 64)])
def test_a_pass_that_follows_while_the_read_channel_is_still_taken_is_exact(tiny, integers, latency, cycles_per_word):
    # The last words of a pass are computed with and written before their time on the channel is over.
    rng = np.random.default_rng(0)
    layer = Layer("groups", "conv", 140, 140, 1, 1, groups=140)
    weights = integers(rng, (140, 1, 1, 1), 2, True)
    work = [Operands(layer, weights, integers(rng, (1, 140, 1, 1), 3, False), (2,) * 140, 3)]
    assert [len(one.kernels) for one in passes_of(work[0], tiny)] == [64, 64, 12]
    check(work, run_on_rtl(work, tiny, Memory(latency=latency, cycles_per_word=cycles_per_word)).layers)


def test_bipolar_weights_are_odd_numbers_of_twice_the_step(tiny):
    layer = Layer("signs", "linear", in_channels=70, out_channels=2, images=2, signed_activations=True)
    weights = np.stack([np.zeros((70, 1, 1), dtype=np.int64), np.full((70, 1, 1), -1)])  # 2 w + 1: all 1, all -1
    activations = np.stack([np.arange(-35, 35), np.full(70, -64)]).reshape(2, 70, 1, 1)
    work = [Operands(layer, weights, activations, (1, 1), 7, bipolar=True)]
    (result,) = run_on_rtl(work, tiny).layers
    assert result.outputs.reshape(2, 2).tolist() == [[-35, 35], [-64 * 70, 64 * 70]]
    check(work, (result,))


def test_bipolar_layers_are_exact_where_a_window_does_not_fill_its_last_entry(machines, integers):
    rng = np.random.default_rng(0)
    full, half = (Layer("fc", "linear", in_channels=channels, out_channels=4, images=4) for channels in (128, 64))
    work = [
        Operands(
            layer, integers(rng, (4, channels, 1, 1), 2, True), np.full((4, channels, 1, 1), 3), (2,) * 4, 2, **kind
        )
        for layer, channels, kind in ((full, 128, {}), (half, 64, {"bipolar": True}))
    ]
    check(work, run_on_rtl(work, machines["four ports"]).layers)


def test_a_pruned_layer_is_zero_and_free_between_others(tiny, draw):
    first, second = draw(tiny, 5, 2)
    pruned = replace(first, weights=0 * first.weights, weight_bits=(0,) * first.layer.out_channels)
    work = [first, pruned, second]
    results = run_on_rtl(work, tiny).layers
    check(work, results)
    assert (results[1].rtl_cycles, results[1].outputs.any()) == (0, False)
    alone = run_on_rtl([pruned], tiny)
    check([pruned], alone.layers)
    assert (alone.rtl_cycles, alone.seconds) == (0, 0.0)


@pytest.mark.parametrize("value", ["least", "most"])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", ["preset", "serial weights", "fusion units"])
def test_the_extreme_integers_are_exact(machines, name, value, signed):
    layer = Layer("extreme", "linear", in_channels=256, out_channels=3, images=3, signed_activations=signed)
    low, high = (-128, 127) if signed else (0, 255)
    constant = low if value == "least" else high
    weights, activations = np.full((3, 256, 1, 1), constant), np.full((3, 256, 1, 1), constant)
    work = [Operands(layer, weights, activations, (8, 8, 8), 8, signed_weights=signed)]
    (result,) = run_on_rtl(work, machines[name]).layers
    assert (result.outputs == 256 * constant**2).all()
    check(work, (result,))


def test_two_runs_are_equal_bit_for_bit(tiny, draw):
    work = draw(tiny, 3, 4)
    one, two = run_on_rtl(work, tiny), run_on_rtl(work, tiny)
    for first, second in zip(one.layers, two.layers, strict=True):
        assert (first.outputs == second.outputs).all()
        assert first.rtl_cycles == second.rtl_cycles
    assert one.rtl_cycles == sum(layer.rtl_cycles for layer in one.layers) > 0
    assert one.cycles_per_second == one.rtl_cycles / one.seconds


def test_a_wrong_reference_and_a_wrong_model_are_noticed(tiny, draw, monkeypatch):
    work = draw(tiny, 4, 3)
    results = run_on_rtl(work, tiny).layers
    for wrong in (replace(work[0], weights=work[0].weights ^ 1), replace(work[0], bipolar=not work[0].bipolar)):
        with pytest.raises(AssertionError):
            check([wrong, *work[1:]], results)
    later = LATENCIES._replace(response_to_end=LATENCIES.response_to_end + 1)
    monkeypatch.setattr("hardware.cycles.LATENCIES", later)
    again = run_on_rtl(work, tiny).layers
    assert [one.rtl_cycles for one in again] == [one.rtl_cycles for one in results]
    with pytest.raises(AssertionError):
        check(work, again)


@pytest.mark.slow  # every array is compiled
@pytest.mark.parametrize(
    "changes",
    [
        {"dk": 128, "dn": 3},
        {"dm": 4, "dk": 256},
        {"dm": 8, "dn": 1},
        {"dk": 512},
        {"dm": 16, "dn": 2, "ports": 2},
        {"dm": 16, "dn": 16, "ports": 4},  # bitserial-cloud, a quarter as wide
        {"kind": "serial_weight", "dm": 4, "dn": 4, "ports": 4},
        {"kind": "serial_weight", "dk": 256, "dn": 3},
        {"kind": "bit_fusion", "dm": 4, "dn": 4, "ports": 4},
        {"kind": "bit_fusion", "dk": 256, "dn": 3},
        {"kind": "bit_fusion", "dk": 512, "dn": 1},
    ],
    ids=str,
)
def test_odd_arrays_are_exact(machine, draw, changes):
    accelerator = machine(**{"lhs_entries": 64, "rhs_entries": 64} | changes)
    work = draw(accelerator, 11, 40)
    for latency, cycles_per_word in ((0, 1), (33, 3)):
        memory = accelerator.memory.model_copy(update={"latency": latency, "cycles_per_word": cycles_per_word})
        check(work, run_on_rtl(work, accelerator, memory).layers)


@pytest.mark.slow  # its array is compiled
def test_the_preset_with_bismos_array_is_exact(draw):
    accelerator = load_accelerator("bitserial-small")
    work = draw(accelerator, 0, 15)
    check(work, run_on_rtl(work, accelerator).layers)
