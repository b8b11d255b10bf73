"""The resource law: exact counts, factors that follow from the samples, refusals that say what is too large."""

from itertools import pairwise

import numpy as np
import pytest

from hardware.calibration import FOLDER
from hardware.device import DEVICES, load_device
from hardware.errors import InputError
from hardware.kinds import KINDS
from hardware.memories import memory_cells
from hardware.resource_law import GIVEN, TERMS, fit, load_resource_law
from hardware.resources import REMEDIES, Resources, check_fit, counted

LAWS = {kind: law for kind in KINDS if (law := load_resource_law("xc7z020", kind))}
LAW = LAWS["bit_serial"]
SAMPLES = [pytest.param(law, one, id=f"{kind}-{one.name}") for kind, law in LAWS.items() for one in law.held_out]
ALL_SAMPLES = SAMPLES + [
    pytest.param(law, one, id=f"{kind}-{one.name}") for kind, law in LAWS.items() for one in law.fitted
]


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_the_factors_are_the_fit_of_the_fitted_samples_alone(law):
    given = tuple({name: factors[name] for name in law.given} for factors in (law.lut, law.ff))
    again = fit([one.accelerator for one in law.fitted], [one.measured for one in law.fitted], law.parts, given)
    for factors, found in zip((law.lut, law.ff), again, strict=True):
        assert found == pytest.approx(factors, rel=1e-3, abs=1e-3)
        assert tuple(factors) == TERMS
        assert min(factors.values()) >= 0


@pytest.mark.parametrize("kind", sorted(set(LAWS) - {"bit_serial"}))
def test_what_is_the_same_around_every_array_is_given_by_the_bit_serial_law(kind):
    law = LAWS[kind]
    assert tuple(law.given) == GIVEN
    for name in GIVEN:
        assert (law.lut[name], law.ff[name]) == (LAW.lut[name], LAW.ff[name])


def test_the_bit_serial_law_is_given_nothing():
    assert LAW.given == []


@pytest.mark.parametrize(("law", "one"), ALL_SAMPLES)
def test_the_stored_errors_follow_from_the_samples(law, one):
    said = law.predict(one.accelerator)
    assert one.lut_error == pytest.approx(said.lut / one.lut - 1, abs=2e-4)
    assert one.ff_error == pytest.approx(said.ff / one.ff - 1, abs=2e-4)


@pytest.mark.parametrize(("law", "one"), ALL_SAMPLES)
def test_block_ram_and_multipliers_are_exact(law, one):
    said = law.predict(one.accelerator)
    assert (said.bram36, said.dsp) == (one.bram36, one.dsp)


@pytest.mark.parametrize(("law", "one"), SAMPLES)
def test_luts_and_flip_flops_of_a_held_out_machine_are_within_5_percent(law, one):
    said = law.predict(one.accelerator)
    assert said.lut == pytest.approx(one.lut, rel=0.05)
    assert said.ff == pytest.approx(one.ff, rel=0.05)


@pytest.mark.parametrize("kind", LAWS)
def test_no_held_out_machine_was_fitted(kind):
    law = LAWS[kind]
    fitted, held_out = (
        {(one.array, one.buffers, one.memory.ports) for one in among} for among in (law.fitted, law.held_out)
    )
    assert len(held_out) >= (10 if kind == "bit_serial" else 1)
    assert not fitted & held_out
    assert {one.kind for one in law.fitted + law.held_out} == {kind}


def test_many_machines_at_once_are_as_many_single_ones(machine):
    machines = [machine(dm=dm, dn=dn, dk=dk) for dm in (2, 8) for dn in (1, 3) for dk in (64, 512)]
    together = LAW.predict_all(machines)
    assert together.shape == (8, 4)
    for one, row in zip(machines, together, strict=True):
        np.testing.assert_allclose(row, list(vars(LAW.predict(one)).values()), atol=0.5)
    assert LAW.predict_all([]).shape == (0, 4)


@pytest.mark.parametrize("kind", LAWS)
@pytest.mark.parametrize("field", ["dm", "dk", "dn", "lhs_entries", "rhs_entries", "plane_words", "ports"])
def test_a_larger_machine_never_takes_less_of_everything(machine, field, kind):
    sizes = {"dm": 4, "dk": 128, "dn": 4, "lhs_entries": 1024, "rhs_entries": 1024, "plane_words": 512, "ports": 1}
    small, large = (vars(LAWS[kind].predict(machine(kind=kind, **sizes | {field: sizes[field] * k}))) for k in (1, 2))
    assert all(large[name] >= small[name] for name in small)
    assert small != large


@pytest.mark.parametrize(
    ("memory", "cells"),
    [
        ((64, 16, 64), (44, 0)),  # 11 RAM32M
        ((64, 64, 64), (88, 0)),  # 22 RAM64M
        ((64, 512, 64), (0, 1)),
        ((64, 1024, 64), (0, 2)),
        ((128, 1024, 64), (0, 4)),
        ((64, 512, 8), (0, 1)),
        ((64, 512, 2), (0, 4)),  # nine bits under an enable are two of the memory's
    ],
)
def test_memories_take_what_yosys_0_70_made_of_them(memory, cells):
    assert memory_cells(*memory) == cells


def test_the_counted_part_is_buffers_sums_and_multipliers(machine):
    # Plane buffers in 256 RAM64M with 512 bits behind them, the ring of columns in 11 RAM32M, 4 + 2 sums of 32 bits.
    luts = 4 * (256 + 11) + 512 + 6 * 32
    # Three registers behind each of four vectors of 64 bits, two for each sum.
    assert counted(machine()) == Resources(lut=luts, ff=3 * 4 * 64 + 2 * 6 * 32, bram36=8, dsp=13)
    assert counted(machine(dm=8, dn=8, ports=4)).dsp == 50


def test_planes_side_by_side_are_wider_buffers_and_a_mask_for_every_word_but_the_first(machine):
    luts = 4 * (256 + 11) + 512 + 6 * 32 + 7 * 64
    # Two registers behind two vectors of 64 bits and two of 512; two blocks for every 64 bits of 1024 entries.
    expected = Resources(lut=luts, ff=2 * (2 * 64 + 2 * 512) + 2 * 6 * 32, bram36=2 * 2 + 2 * 16, dsp=13)
    assert counted(machine(kind="serial_weight")) == expected
    more_lanes = counted(machine(kind="serial_weight", dk=128, ports=2)).lut
    assert more_lanes - luts == 2 * 15 * 64 - 7 * 64


def test_fusion_units_have_no_counters_of_columns(machine):
    luts = 4 * (256 + 11) + 512 + 4 * 32
    expected = Resources(lut=luts, ff=2 * 4 * 64 + 2 * 4 * 32, bram36=8, dsp=13)
    assert counted(machine(kind="bit_fusion")) == expected


@pytest.mark.parametrize("kind", LAWS)
def test_every_depth_of_units_has_its_parts(kind):
    for part in (LAWS[kind].parts.unit, LAWS[kind].parts.column):
        assert tuple(part) == (64, 128, 256, 512)
        for (lut, ff), (more_lut, more_ff) in pairwise(part.values()):
            assert 1.8 * lut < more_lut < 2.2 * lut
            assert 1.8 * ff < more_ff < 2.2 * ff


def test_a_machine_that_does_not_fit_hears_of_every_resource_with_numbers_and_a_remedy(machine):
    giant = machine(dm=64, dn=64, dk=512, lhs_entries=4096)
    device = load_device("xc7z020")
    used = LAW.predict(giant)
    with pytest.raises(InputError) as refusal:
        check_fit(giant, device, used)
    text = str(refusal.value)
    assert text.startswith("variant does not fit the xc7z020: ")
    for name, remedy in REMEDIES.items():
        needed, available = getattr(used, name), getattr(device, name)
        assert f"{name} {needed:,.10g} of {available:,} (make {remedy} smaller)" in text


def test_only_what_is_too_large_is_named(machine):
    deep = machine(lhs_entries=32768, rhs_entries=32768)
    with pytest.raises(InputError, match=r"fit the xc7z020: bram36 [\d.]+ of 140 \(make buffers\.[^;]*\)\.$"):
        check_fit(deep, load_device("xc7z020"), LAW.predict(deep))


def test_all_of_a_device_fits_and_half_a_block_more_does_not(machine):
    device = load_device("xc7z020")
    all_of_it = {name: getattr(device, name) for name in ("lut", "ff", "bram36", "dsp")}
    check_fit(machine(), device, Resources(**all_of_it))
    with pytest.raises(InputError, match=r"bram36 140\.5 of 140"):
        check_fit(machine(), device, Resources(**all_of_it | {"bram36": 140.5}))


def test_a_device_without_measurements_has_no_law():
    assert load_resource_law("xcvu9p") is None
    assert load_resource_law("asic-45nm", "bit_fusion") is None
    laws = [path.stem.split("-", 2) for path in FOLDER.glob("resources-*.yaml")]
    assert laws
    assert {device for _, _, device in laws} <= set(DEVICES)
