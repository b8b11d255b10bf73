"""Calibration finds no error in the machine, and finds one that is put there."""

import json

import numpy as np
import pytest
from amaranth.back import verilog

from codesign.calibrate import calibrate
from codesign.sampling import random_operands
from hardware.cycles import layer_cycles
from hardware.errors import InputError
from hardware.schedule import schedule
from rtl.accelerator import BitSerialAccelerator
from rtl.popcount import Popcount
from rtl.verilog import TOP
from sim.reference import reference_sums


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
        plan = schedule(layer, widths, operands.activation_bits, tiny, operands.signed_weights, operands.bipolar)
        assert row["rtl_cycles"] == row["model_cycles"] == layer_cycles(plan)
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


@pytest.mark.slow
def test_a_fault_in_the_gateware_is_found(tiny, monkeypatch):
    class ForgetsTheLastBit(Popcount):
        def elaborate(self, platform):
            self.left = self.left[:-1]
            if self._masked:
                self.left_again = self.left_again[:-1]
            return super().elaborate(platform)

    monkeypatch.setattr("rtl.array.Popcount", ForgetsTheLastBit)
    faulty = verilog.convert(BitSerialAccelerator(tiny), name=TOP, emit_src=False)
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
