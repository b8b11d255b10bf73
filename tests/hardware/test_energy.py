"""The energy model: linear in what switches, constants with ranges, estimates for machines that were not measured."""

from dataclasses import astuple, fields, replace

import pytest

from hardware.cost import PRICED_OUTPUT, count_events
from hardware.cycles import layer_cycles
from hardware.energy import (
    BLOCK_RAM_PICOJOULES,
    DRAM_PICOJOULES_PER_BIT,
    FEATURES,
    PIN_PICOJOULES,
    Constant,
    Energy,
    EnergyCalibration,
    Part,
    layer_energy,
    scaled,
)
from hardware.errors import InputError
from hardware.layer import Layer
from hardware.schedule import schedule

LAYER = Layer("conv", "conv", 64, 16, 6, 6, kernel=(3, 3), padding=(1, 1))


def part(features: tuple[str, ...], **coefficients: float) -> Part:
    named = {name: coefficients.get(name, 0.0) for name in features}
    return Part(coefficients=named, median_error=0.01, max_error=0.02)


@pytest.fixture
def calibration() -> EnergyCalibration:
    return EnergyCalibration(
        gateware="0" * 16,
        tools={},
        renew="nothing",
        hardware="bitserial-tiny",
        kind="bit_serial",
        ff=9_000,
        array=part(FEATURES["bit_serial"]["array"], unit_tiles=2.0, row_pins=0.5),
        buffers=part(FEATURES["bit_serial"]["buffers"], column_bits=3.0),
        rest=part(FEATURES["bit_serial"]["rest"], cycles=7.0, words_written=100.0),
        clock_pins=1_000.0,
        block_rams=8.0,
        dynamic_error=(0.01, 0.02),
        samples=20,
        held_out=20,
        seed=0,
    )


def energy(calibration, accelerator, w=4, a=4, switching=None, layer=LAYER) -> Energy:
    plan = schedule(layer, w, a, accelerator, output=PRICED_OUTPUT)
    return layer_energy(plan, layer_cycles(plan), switching or {}, calibration)


def test_energy_is_the_sum_of_its_parts(tiny, calibration):
    plan = schedule(LAYER, 4, 4, tiny, output=PRICED_OUTPUT)
    cycles, events = layer_cycles(plan), count_events(plan)
    one = energy(calibration, tiny, switching={"row_bits": 1_000.0, "column_bits": 10.0})
    pj = 1e-12 * PIN_PICOJOULES.value
    assert one.array == pytest.approx(pj * (2.0 * 4 * 8 * 18 + 0.5 * 2 * 1_000))  # 8 x 18 tiles of 4 units
    assert one.buffers == pytest.approx(pj * 3.0 * 10)
    assert one.rest == pytest.approx(pj * (7.0 * cycles + 100.0 * events.words_written))
    assert one.clock == pytest.approx(pj * 2 * 1_000 * cycles)
    assert one.block_ram == pytest.approx(1e-12 * BLOCK_RAM_PICOJOULES.value * 8 * cycles)
    words = events.words_read + events.words_written
    assert one.dram == pytest.approx(1e-12 * DRAM_PICOJOULES_PER_BIT.value * 64 * words)
    assert one.dynamic == pytest.approx(sum(astuple(one)[:6]))
    assert one.low < one.dynamic < one.high
    assert (one + one).dynamic == pytest.approx(2 * one.dynamic)


@pytest.mark.parametrize("constant", [PIN_PICOJOULES, BLOCK_RAM_PICOJOULES, DRAM_PICOJOULES_PER_BIT])
def test_constants_lie_in_their_ranges_and_have_a_source(constant: Constant):
    assert constant.low <= constant.value <= constant.high
    assert len(constant.source) > 20


def test_more_bits_cost_more_even_of_silent_data(tiny, calibration):
    assert energy(calibration, tiny, 2, 2).dynamic < energy(calibration, tiny, 4, 2).dynamic
    assert energy(calibration, tiny, 4, 2).dynamic < energy(calibration, tiny, 4, 4).dynamic


def test_a_machine_that_was_not_measured_is_estimated_by_its_size(calibration):
    estimate = scaled(calibration, ff=18_000, bram36=20.0)
    assert (estimate.clock_pins, estimate.block_rams) == (2_000.0, 20.0)
    assert (estimate.array, estimate.rest) == (calibration.array, calibration.rest)


@pytest.mark.parametrize(
    "change",
    [
        {"ff": 0},
        {"block_rams": float("nan")},
        {"kind": "serial_weight"},
        {"array": {"coefficients": {"cycles": 1.0}, "median_error": 0.0, "max_error": 0.0}},
    ],
    ids=str,
)
def test_a_damaged_calibration_is_refused(calibration, change):
    with pytest.raises(InputError, match="not a valid EnergyCalibration"):
        EnergyCalibration.from_mapping(calibration.model_dump() | change, "it")


def test_all_fields_of_an_energy_add_up():
    one = Energy(*range(1, 9))
    assert astuple(one + replace(one, dram=0.0))[5] == 6
    assert [f.name for f in fields(Energy)][-2:] == ["low", "high"]
