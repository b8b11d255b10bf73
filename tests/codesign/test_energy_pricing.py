"""Which machine's switching a price is based on, and that a stale one is refused."""

import pytest

from codesign.energy import MEASURED, energy_of, machine_energy, typical_operands
from codesign.energy_calibration import calibrate_energy, pins
from hardware.accelerator import load_accelerator
from hardware.cost import PRICED_OUTPUT
from hardware.errors import InputError
from hardware.layer import Layer
from hardware.schedule import schedule
from rtl.verilog import gateware_hash
from sim.activity import Activity
from sim.job import Outcome

TINY = MEASURED["bit_serial"]
LAYER = Layer("conv", "conv", 64, 32, 8, 8, kernel=(3, 3), padding=(1, 1))


def test_machines_of_fusion_units_are_scaled_from_the_one_that_was_measured():
    kind, large = "bit_fusion", "fusion-edge"
    own, other = (machine_energy(load_accelerator(name)) for name in (MEASURED[kind], large))
    assert own is not None
    assert other is not None
    assert own[0].kind == other[0].kind == kind
    assert (own[1], other[1]) == (
        f"switching measured on {MEASURED[kind]}",
        f"switching scaled from {MEASURED[kind]}: an estimate",
    )
    assert other[0].clock_pins > 3 * own[0].clock_pins


def test_the_measured_machine_is_priced_by_its_own_switching_and_others_by_an_estimate(machine):
    own = machine_energy(load_accelerator(TINY))
    assert own is not None
    assert own[1] == f"switching measured on {TINY}"
    other = machine_energy(load_accelerator("bitserial-edge"))
    assert other is not None
    assert other[1].endswith("an estimate")
    assert other[0].block_rams == 136
    assert other[0].clock_pins > 3 * own[0].clock_pins
    variant = machine_energy(machine(dn=4))  # its name is none of the presets'
    assert variant is not None
    assert variant[1].endswith("an estimate")


def test_switching_of_other_gateware_is_refused(monkeypatch):
    monkeypatch.setattr("codesign.energy.gateware_hash", lambda kind: "0" * 16)
    monkeypatch.setattr("codesign.energy.resource_law", lambda device, kind: None)
    with pytest.raises(
        InputError, match=rf"{gateware_hash('bit_serial')}.*renew it with `codesign calibrate .*--energy"
    ):
        machine_energy(load_accelerator(TINY))


@pytest.mark.parametrize("kind", ["bit_serial", "bit_fusion"])
def test_fewer_bits_take_less_energy_and_the_same_seed_the_same(kind):
    accelerator = load_accelerator(MEASURED[kind])
    priced = machine_energy(accelerator)
    assert priced is not None

    def dynamic(w: int, a: int, seed: int = 0) -> float:
        plan = schedule(LAYER, w, a, accelerator, output=PRICED_OUTPUT)
        operands = typical_operands(LAYER, (w,) * LAYER.out_channels, a, seed)
        return energy_of(plan, priced[0], operands, seed).dynamic

    assert dynamic(2, 2) < dynamic(4, 2) < dynamic(4, 4) < dynamic(8, 8)
    assert dynamic(4, 4) == dynamic(4, 4)
    assert dynamic(4, 4, seed=1) == pytest.approx(dynamic(4, 4), rel=0.05)


def test_units_are_summed_by_part():
    outcome = Outcome(*[0] * len(Outcome.__dataclass_fields__))
    activity = Activity(outcome, 1, {"array": 5, "lhs_buffer": 2, "rhs_buffer": 3, "fetch": 7, "rest": 11})
    assert [pins(activity, part) for part in ("array", "buffers", "rest")] == [5, 5, 18]


@pytest.mark.parametrize(("samples", "held_out"), [(19, 5), (20, 0)])
def test_too_few_layers_are_refused(tiny, samples, held_out):
    with pytest.raises(InputError, match="at least 20 samples and 1 held out"):
        calibrate_energy(tiny, samples, held_out, 0)
