"""The calibration store: what is committed is of today's gateware and model, and what is not is refused."""

import io

import pandas as pd
import pytest

from codesign.calibrate import calibrate, draw_samples, variants
from codesign.cycle_calibration import CycleCalibration, check_cycle_calibration, cycle_calibration, store_path
from hardware.accelerator import accelerator_names, load_accelerator
from hardware.cycles import layer_cycles
from hardware.errors import InputError
from hardware.schedule import schedule
from rtl.verilog import gateware_hash

STORED = [name for name in accelerator_names() if store_path(name).exists()]


def stored(name: str) -> CycleCalibration:
    return CycleCalibration.from_yaml(store_path(name))


def test_the_presets_are_calibrated():
    assert {"bitserial-tiny", "bitserial-small", "bitserial-edge"} <= set(STORED)


@pytest.mark.parametrize("name", STORED)
def test_what_is_stored_is_of_todays_gateware_and_without_error(name):
    assert check_cycle_calibration(load_accelerator(name)) is None
    calibration = stored(name)
    assert calibration.gateware == gateware_hash("bit_serial")
    assert (calibration.max_abs_cycle_error, calibration.mean_abs_cycle_error) == (0, 0)
    assert calibration.output_mismatches == 0
    assert calibration.latencies == (0, 200)
    assert calibration.samples == (20 if name == "bitserial-edge" else 200)
    assert calibration.tools.keys() == {"amaranth", "cocotb", "verilator"}
    assert calibration.as_yaml() == store_path(name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", STORED)
def test_the_model_of_today_still_counts_the_cycles_that_were_measured(name):
    calibration = stored(name)
    rows = iter(pd.read_csv(io.StringIO(calibration.measured)).to_dict("records"))
    for machine in variants(load_accelerator(name), calibration.ports):
        for operands, memory in draw_samples(machine, calibration.samples, calibration.seed, calibration.latencies):
            row = next(rows)
            plan = schedule(
                *(operands.layer, operands.weight_bits, operands.activation_bits, machine),
                *(operands.signed_weights, operands.bipolar),
            )
            assert (row["ports"], row["latency"]) == (memory.ports, memory.latency)
            assert layer_cycles(plan, memory) == row["rtl_cycles"] == row["model_cycles"], row["layer"]
    assert next(rows, None) is None


def test_it_reads_what_it_writes_and_names_the_command_that_measures_again(tiny, tmp_path):
    report = calibrate(tiny, 4, 9, latencies=(3, 5))
    made = cycle_calibration(tiny, report, 9, (3, 5), (1,), "bitserial-tiny")
    made.save(tmp_path / "calibration.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["calibration.yaml"]
    assert CycleCalibration.from_yaml(tmp_path / "calibration.yaml") == made
    assert made.renew == (
        "codesign calibrate --hardware bitserial-tiny --samples 4 --seed 9 --latencies 3,5 --ports 1 --store"
    )
    assert made.measured.count("\n") == 5
    assert made.constants["ADDRESS_TO_WORD"] == 1
    assert made.constants["ARRAY_LATENCY"] == 10
    mine = cycle_calibration(tiny, report, 9, None, (), "mine.yaml")
    assert mine.renew == "codesign calibrate --hardware mine.yaml --samples 4 --seed 9"
    assert mine.latencies == (16, 16)


@pytest.fixture
def store(monkeypatch, tmp_path):
    """``store("gateware", "0" * 16)``: the store holds the calibration of `tiny` with another value in a field."""

    def change(field: str, value: object) -> None:
        changed = stored("bitserial-tiny").model_copy(update={field: value})
        monkeypatch.setattr("codesign.cycle_calibration.FOLDER", tmp_path)
        changed.save(store_path("bitserial-tiny"))

    return change


def test_a_calibration_of_other_gateware_is_refused(tiny, store):
    store("gateware", "0" * 16)
    sentence = (
        f"the calibration of bitserial-tiny was measured on gateware {'0' * 16}, but this is "
        f"{gateware_hash('bit_serial')}: "
        "renew it with `codesign calibrate --hardware bitserial-tiny --samples 200 --seed 0 --latencies 0,200 "
        "--ports 1,2 --store`."
    )
    with pytest.raises(InputError) as refused:
        check_cycle_calibration(tiny)
    assert str(refused.value) == sentence


@pytest.mark.parametrize(("field", "change"), [("array", {"dk": 128}), ("buffers", {"lhs_entries": 512})])
def test_a_calibration_of_another_machine_is_refused(tiny, store, field, change):
    store(field, getattr(tiny, field).model_copy(update=change))
    with pytest.raises(InputError, match=r"measured on another array, .*: renew it with `codesign calibrate"):
        check_cycle_calibration(tiny)


def test_a_calibration_of_other_ports_alone_is_refused(tiny, store):
    store("ports", (2,))
    with pytest.raises(InputError, match=r"other memory ports: renew it with `codesign calibrate"):
        check_cycle_calibration(tiny)


def test_a_damaged_calibration_is_named(tiny, store):
    store("seed", 0)
    path = store_path("bitserial-tiny")
    path.write_text(path.read_text().replace("seed: 0", "seed: some"))
    with pytest.raises(InputError, match=r"cycles-bitserial-tiny\.yaml is not a valid CycleCalibration: seed"):
        check_cycle_calibration(tiny)


def test_a_machine_that_nobody_measured_gets_a_note(machine):
    note = check_cycle_calibration(machine(dk=128))
    assert note
    assert note.startswith("not calibrated: no machine like variant was measured")
