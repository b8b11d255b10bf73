"""Calibration finds no error in the machine, and finds one that is put there."""

import json

import numpy as np
import pytest
from amaranth.back import verilog

from codesign.calibrate import calibrate, draw_samples, relative_errors, residual_table, variants
from codesign.sampling import random_operands
from codesign.stalls import expected_cycles, hesitation, uniform_stalls
from hardware.accelerator import Accelerator, Memory
from hardware.cycles import layer_cycles
from hardware.errors import InputError
from hardware.operands import Operands
from hardware.schedule import Schedule, schedule
from rtl.accelerator import Machine
from rtl.popcount import Popcount
from rtl.verilog import TOP
from sim.job import Stalls
from sim.reference import reference_sums


def plan_of(operands: Operands, accelerator: Accelerator) -> Schedule:
    """The schedule of a random layer."""
    return schedule(
        *(operands.layer, operands.weight_bits, operands.activation_bits, accelerator),
        *(operands.signed_weights, operands.bipolar),
    )


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_thirty_random_layers_have_no_wrong_output_and_no_wrong_cycle(tiny, seed):
    counts: list[int] = []
    report = calibrate(tiny, samples=30, seed=seed, progress=counts.append)
    assert (report["max_abs_cycle_error"], report["mean_abs_cycle_error"], report["output_mismatches"]) == (0, 0.0, 0)
    assert report["samples"] == len(report["rows"]) == counts[-1] == 30
    assert report["cycles_per_second"] > 0
    assert json.loads(json.dumps(report)) == report


def test_rows_tell_the_layer_its_bits_and_both_counts(tiny):
    report = calibrate(tiny, samples=5, seed=4)
    rng = np.random.default_rng(4)
    for number, row in enumerate(report["rows"]):
        operands = random_operands(rng, tiny, number)
        layer = operands.layer
        assert row["layer"].startswith(f"{layer.kind} C{layer.in_channels} ")
        assert (row["m"], row["k"], row["n"]) == (layer.out_channels, layer.reduction, layer.pixels)
        widths = operands.weight_bits
        assert row["bits"] == [widths[0] if len(set(widths)) == 1 else list(widths), operands.activation_bits]
        assert row["signed"] == [operands.signed_weights, layer.signed_activations]
        assert f" d{layer.dilation[0]}x{layer.dilation[1]} g{layer.groups} images{layer.images}" in row["layer"]
        assert row["bipolar"] == operands.bipolar
        assert row["rtl_cycles"] == row["model_cycles"] == layer_cycles(plan_of(operands, tiny))
        assert row["mismatches"] == 0


def test_one_wrong_sum_of_the_reference_is_found(tiny, monkeypatch):
    def corrupted(operands):
        sums = reference_sums(operands)
        sums[0, -1, 0, 0] ^= 1
        return sums

    monkeypatch.setattr("codesign.calibrate.reference_sums", corrupted)
    report = calibrate(tiny, samples=4, seed=0)
    assert [row["mismatches"] for row in report["rows"]] == [1, 1, 1, 1]
    assert report["output_mismatches"] == 4
    assert report["max_abs_cycle_error"] == 0


def test_a_model_that_is_a_cycle_off_is_found(tiny, monkeypatch):
    errors = iter([0, -3, 1, 0])
    monkeypatch.setattr(
        "codesign.execution.layer_cycles", lambda plan, memory: layer_cycles(plan, memory) + next(errors)
    )
    report = calibrate(tiny, samples=4, seed=0)
    assert (report["max_abs_cycle_error"], report["mean_abs_cycle_error"]) == (3, 1.0)
    assert report["output_mismatches"] == 0


def test_every_layer_has_a_latency_of_its_own(tiny):
    plain, report = (calibrate(tiny, samples=12, seed=3, latencies=span) for span in (None, (0, 200)))
    assert {row["latency"] for row in plain["rows"]} == {tiny.memory.latency}
    latencies = [row["latency"] for row in report["rows"]]
    assert len(set(latencies)) > 8
    assert 0 <= min(latencies) < 50 < 150 < max(latencies) <= 200
    assert [row["layer"] for row in plain["rows"]] == [row["layer"] for row in report["rows"]]
    assert [row["rtl_cycles"] for row in plain["rows"]] != [row["rtl_cycles"] for row in report["rows"]]
    assert (report["max_abs_cycle_error"], report["output_mismatches"]) == (0, 0)
    for (operands, memory), row in zip(draw_samples(tiny, 12, 3, (0, 200)), report["rows"], strict=True):
        assert memory.latency == row["latency"]
        assert layer_cycles(plan_of(operands, tiny), memory) == row["rtl_cycles"]


@pytest.mark.slow  # compiles a machine with two ports
def test_machines_with_one_port_and_two_are_measured_one_after_the_other(tiny):
    counts: list[int] = []
    report = calibrate(tiny, 10, 0, counts.append, latencies=(0, 100), ports=(2, 1, 4, 2))
    assert [row["ports"] for row in report["rows"]] == [2] * 10 + [1] * 10
    assert report["samples"] == counts[-1] == 20
    assert counts == sorted(counts)
    assert (report["max_abs_cycle_error"], report["output_mismatches"]) == (0, 0)


def test_machines_are_those_whose_ports_divide_the_array(tiny, machine):
    assert variants(tiny) == [tiny]
    two = machine(ports=2).memory
    assert [one.memory for one in variants(tiny, (2, 1, 4, 2))] == [two, tiny.memory]
    assert [one.memory.ports for one in variants(machine(dm=4, dn=8), (1, 2, 4))] == [1, 2, 4]
    assert [one.memory.ports for one in variants(machine(dm=4, dn=6), (1, 2, 4))] == [1, 2]
    with pytest.raises(InputError, match=r"a machine has 1, 2 or 4 memory ports, got 3: change --ports"):
        variants(tiny, (1, 3))
    with pytest.raises(InputError, match=r"none of --ports 2,4 divides the 2x64x1 array of variant: add 1"):
        variants(machine(dn=1), (2, 4))


@pytest.mark.parametrize("span", [(5, 4), (-1, 3), (0, 1001)])
def test_latencies_out_of_order_or_range_are_refused(tiny, span):
    with pytest.raises(InputError, match=rf"the lower one first, of 0 to 1000 cycles, got {span[0]},{span[1]}"):
        calibrate(tiny, samples=1, seed=0, latencies=span)


def test_the_error_under_stalls_is_a_distribution(tiny):
    report = calibrate(tiny, samples=40, seed=2, stalls=0.2)
    errors, stalls = relative_errors(report["rows"]), report["stalls"]
    assert report["output_mismatches"] == 0
    assert stalls["probability"] == 0.2
    assert stalls["hesitation"] == pytest.approx(51 / 205)
    assert stalls["mean"] == pytest.approx(errors.mean())
    assert stalls["std"] == pytest.approx(errors.std())
    assert stalls["p5"] < stalls["p50"] < stalls["p95"]
    assert np.mean(errors < stalls["p5"]) == pytest.approx(0.05, abs=0.02)
    # The stalls cost some per cent, of which the statistics leave little.
    plain = np.array([layer_cycles(plan_of(operands, tiny)) for operands, _ in draw_samples(tiny, 40, 2)])
    rtl = np.array([row["rtl_cycles"] for row in report["rows"]])
    assert (rtl > plain).all()
    assert ((rtl - plain) / rtl).mean() > 0.025
    assert abs(stalls["mean"]) < 0.015
    assert 0 < stalls["std"] < 0.03
    assert json.loads(json.dumps(report)) == report
    assert calibrate(tiny, samples=8, seed=2, stalls=0.2)["rows"] == report["rows"][:8]


def test_expected_cycles_are_the_models_between_whole_numbers(tiny):
    operands = random_operands(np.random.default_rng(8), tiny, 0)
    plan = schedule(operands.layer, 3, 5, tiny)

    def model(latency: int, cycles_per_word: int) -> int:
        return layer_cycles(plan, Memory(latency=latency, cycles_per_word=cycles_per_word))

    memory, passes = tiny.memory, len(plan.passes)
    assert expected_cycles(plan, memory, 0.0) == model(16, 1)
    assert expected_cycles(plan, memory, 1.0) == model(18, 2) + 2 * passes
    assert expected_cycles(plan, memory, 0.5) == (model(17, 1) + model(17, 2)) / 2 + passes
    fast, slow = ((3 * model(16, words) + model(17, words)) / 4 for words in (1, 2))
    assert expected_cycles(plan, memory, 0.125) == pytest.approx((7 * fast + slow) / 8 + 0.25 * passes)


def test_stalls_are_alike_on_all_channels_and_of_a_probability_that_the_memory_has(tiny):
    assert uniform_stalls(0.5, 3) == Stalls(128, 128, 128, 128, 128, seed=3)
    assert hesitation(uniform_stalls(0.5, 0)) == 1
    assert hesitation(Stalls()) == 0
    for probability in (0.0, -0.1, 0.001, 0.91, 1.0, float("nan")):
        with pytest.raises(InputError, match=r"expected a probability of stalls of 0\.002 to 0\.9, got "):
            calibrate(tiny, samples=1, seed=0, stalls=probability)


def test_stalls_of_a_memory_whose_words_wait_anyway_are_not_predicted(machine):
    with pytest.raises(InputError, match=r"predicted for a memory of 1 cycle per word, got 2"):
        calibrate(machine(cycles_per_word=2), samples=1, seed=0, stalls=0.2)


def test_residuals_are_a_table_of_what_was_measured(tiny):
    rows = calibrate(tiny, samples=10, seed=1)["rows"]
    rows[3]["rtl_cycles"] += 5
    table = residual_table(rows)
    assert list(table.columns) == [
        *("layer", "bits", "latency", "ports", "rtl_cycles", "model_cycles", "error", "mismatches")
    ]
    assert table["error"].tolist() == [0, 0, 0, 5, 0, 0, 0, 0, 0, 0]
    for row, bits in zip(rows, table["bits"], strict=True):
        weights, activations = row["bits"]
        lowest, highest = (weights, weights) if isinstance(weights, int) else (min(weights), max(weights))
        assert bits == f"{lowest}-{highest},{activations}".replace(f"{lowest}-{lowest},", f"{lowest},")
        assert f" M{row['m']} " in row["layer"]
    assert any("-" in bits for bits in table["bits"])


@pytest.mark.slow
def test_a_fault_in_the_gateware_is_found(tiny, monkeypatch):
    class ForgetsTheLastBit(Popcount):
        def elaborate(self, platform):
            self.left = self.left[:-1]
            if self._masked:
                self.left_again = self.left_again[:-1]
            return super().elaborate(platform)

    monkeypatch.setattr("rtl.array.Popcount", ForgetsTheLastBit)
    faulty = verilog.convert(Machine(tiny), name=TOP, emit_src=False)
    monkeypatch.setattr("sim.run.engine_verilog", lambda accelerator: faulty)
    report = calibrate(tiny, samples=20, seed=0)
    assert report["output_mismatches"] == sum(row["mismatches"] for row in report["rows"]) > 0
    small = [row for row in report["rows"] if row["k"] < 64 and " g1 " in row["layer"]]
    assert small
    assert not any(row["mismatches"] for row in small)  # their bit planes do not reach the last bit
    assert report["max_abs_cycle_error"] == 0


@pytest.mark.parametrize("samples", [0, -1])
def test_no_sample_is_refused(tiny, samples):
    with pytest.raises(InputError, match=rf"expected at least 1 sample, got {samples}: raise --samples"):
        calibrate(tiny, samples=samples, seed=0)


def test_samples_are_of_every_kind_fit_the_machine_and_fill_their_widths(machine):
    accelerator = machine(lhs_entries=64, rhs_entries=32)
    rng = np.random.default_rng(0)
    drawn = [random_operands(rng, accelerator, number) for number in range(400)]
    for operands in drawn:
        layer, bits = operands.layer, operands.activation_bits
        assert schedule(
            layer, operands.weight_bits, bits, accelerator, operands.signed_weights, operands.bipolar
        ).passes
        assert operands.weights.shape == (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel)
        assert operands.activations.shape == (layer.images, layer.in_channels, layer.in_height, layer.in_width)
        assert len(operands.weight_bits) == layer.out_channels
        kernels = [
            (values, width, operands.signed_weights)
            for values, width in zip(operands.weights, operands.weight_bits, strict=True)
        ]
        for values, width, signed in (*kernels, (operands.activations, bits, layer.signed_activations)):
            low = -(1 << width) // 2 if signed and width else 0
            assert low <= values.min() <= values.max() < low + (1 << width)
    layers = [operands.layer for operands in drawn]
    assert {layer.kind for layer in layers} == {"conv", "linear"}
    assert {(o.signed_weights, o.layer.signed_activations) for o in drawn} == {
        (a, b) for a in (False, True) for b in (False, True)
    }
    assert {bits for o in drawn for bits in o.weight_bits} == set(range(9))
    assert {o.activation_bits for o in drawn} == set(range(1, 9))
    assert {o.weight_bits[0] for o in drawn if len(set(o.weight_bits)) == 1} >= set(range(1, 9))
    assert any(len(set(o.weight_bits)) > 3 for o in drawn)
    assert 50 < sum(o.bipolar for o in drawn) < 150
    assert not any(o.bipolar and o.layer.groups > 1 for o in drawn)
    assert any(layer.images > 1 and layer.kind == "conv" for layer in layers)
    assert any(max(layer.padding) and max(layer.stride) > 1 for layer in layers)
    assert any(max(layer.dilation) > 1 for layer in layers)
    assert any(1 < layer.groups < layer.in_channels for layer in layers)
    assert any(1 < layer.groups == layer.in_channels for layer in layers)
    assert any(layer.out_channels > layer.groups > 1 for layer in layers)


def test_one_seed_draws_one_sample(tiny):
    one, two, other = (random_operands(np.random.default_rng(seed), tiny, 0) for seed in (5, 5, 6))
    assert (one.layer, one.weight_bits, one.activation_bits) == (two.layer, two.weight_bits, two.activation_bits)
    assert (one.weights == two.weights).all()
    assert (one.activations == two.activations).all()
    assert one.layer != other.layer
