"""The resource law where it is used: commands report it, refuse what does not fit, and do not trust a stale one."""

import json
import sys
from pathlib import Path

import pytest
import yaml

import codesign.resources
from codesign.cli import main
from codesign.resources import accelerator_resources, resource_law
from hardware.accelerator import accelerator_names, load_accelerator
from hardware.device import DEVICES, load_device
from hardware.errors import InputError
from rtl.verilog import TOP, engine_verilog, gateware_hash
from sim.synthesis import machine_cells, resources


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Runs a command in this process: exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(command: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["codesign", *command.split()])
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out, output.err

    return run


def write(accelerator, path: Path) -> None:
    path.write_text(yaml.safe_dump(accelerator.model_dump()))


@pytest.mark.parametrize("kind", ["bit_serial", "serial_weight"])
def test_the_law_was_fitted_to_the_gateware_of_today(kind):
    law = resource_law("xc7z020", kind)
    assert law is not None
    assert law.gateware == gateware_hash(kind)


@pytest.mark.parametrize("name", accelerator_names())
def test_every_built_in_accelerator_fits_its_device(name):
    accelerator = load_accelerator(name)
    used = accelerator_resources(accelerator)
    if accelerator.device not in DEVICES or resource_law(accelerator.device, accelerator.kind) is None:
        assert used is None  # nothing is known of it, and nothing refused
    else:
        assert used is not None
        assert used.fits(load_device(accelerator.device))


def test_cost_reports_what_the_law_says(cli, tiny):
    code, out, err = cli("cost --bits 4 --json result.json")
    assert code == 0, err
    reported = json.loads(Path("result.json").read_text())["resources"]
    law = resource_law("xc7z020", "bit_serial")
    assert law is not None
    assert reported.items() >= vars(law.predict(tiny)).items()
    assert reported["fits"] is True
    assert f"fits the xc7z020: {reported['lut']:,} of 53,200 lut" in out


@pytest.mark.parametrize("command", ["cost --bits 4", "search --episodes 1", "export --bits 4 --out package"])
def test_commands_refuse_a_machine_that_its_device_cannot_hold(cli, machine, command):
    write(machine(dm=64, lhs_entries=8192), Path("large.yaml"))
    code, out, err = cli(f"{command} --hardware large.yaml")
    assert (code, out) == (2, "")
    assert "variant does not fit the xc7z020: " in err
    assert "bram36 " in err
    assert " of 140 (make buffers.lhs_entries, buffers.rhs_entries or buffers.plane_words smaller)" in err
    assert "dsp 385 of 220 (make array.dm smaller)" in err
    assert not Path("package").exists()


@pytest.mark.parametrize("device", ["ecp5-85k", "xcvu9p"])
def test_a_device_without_a_law_is_not_checked_and_says_so(cli, machine, device):
    write(machine(dm=64, device=device), Path("other.yaml"))
    code, out, err = cli("cost --bits 4 --hardware other.yaml --json result.json")
    assert code == 0, err
    reported = json.loads(Path("result.json").read_text())["resources"]
    assert [reported[name] for name in ("lut", "ff", "bram36", "dsp", "fits")] == [None] * 5
    assert f"resources: no law for bit_serial on {device}, so not checked" in out


def test_a_law_of_another_gateware_is_refused_with_the_command_that_renews_it(monkeypatch, tiny):
    monkeypatch.setattr(codesign.resources, "gateware_hash", lambda kind: "0" * 16)
    with pytest.raises(InputError, match=r"law of the xc7z020 was .* renew it with `python benchmarks/resource"):
        accelerator_resources(tiny)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bit_serial", "serial_weight", "bit_fusion"])
def test_the_law_is_within_5_percent_of_yosys_on_a_machine_that_it_was_not_fitted_to(machine, kind):
    other = machine(kind=kind, dm=2, dk=128, dn=1, lhs_entries=256, rhs_entries=64, plane_words=256)
    law = resource_law("xc7z020", kind)
    assert law is not None
    assert all((other.array, other.buffers) != (one.array, one.buffers) for one in law.fitted)
    found = resources(machine_cells(engine_verilog(other), TOP, "xc7z020"), "xc7z020")
    said = law.predict(other)
    assert (said.bram36, said.dsp) == (found.bram36, found.dsp)
    assert said.lut == pytest.approx(found.lut, rel=0.05)
    assert said.ff == pytest.approx(found.ff, rel=0.05)
