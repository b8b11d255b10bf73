"""``codesign synth``: complete figures, reports, and one sentence for bad input."""

import json
import sys
from pathlib import Path

import pytest

import codesign.synth
import sim.place
import sim.synthesis
from codesign.cli import main
from codesign.synth import default_device, path_summary
from hardware.accelerator import load_accelerator
from rtl.verilog import rtl_hash
from sim.place import Placement
from sim.synthesis import Resources

KEYS = {"command", "version", "hardware", "rtl_hash", "seed", "wall_s", "lut", "ff", "bram36", "dsp", "fits"}
KEYS |= {"lut_per_binary_mac", "fmax_mhz", "device", "tools", "array"}

CELLS = {"LUT6": 2000, "INV": 48, "FDRE": 500, "RAMB36E1": 8, "RAMB18E1": 1, "CARRY4": 30}
ARRAY_CELLS = {"LUT6": 512, "FDRE": 100}


class Cli:
    """Runs `codesign synth` in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], directory: Path):
        self.monkeypatch, self.capsys, self.directory = monkeypatch, capsys, directory
        monkeypatch.chdir(directory)
        monkeypatch.setenv("COLUMNS", "200")

    def __call__(self, options: str) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        self.monkeypatch.setattr(sys, "argv", ["codesign", "synth", *options.split()])
        with pytest.raises(SystemExit) as ended:
            main()
        output = self.capsys.readouterr()
        return int(ended.value.code or 0), output.out, output.err


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    return Cli(monkeypatch, capsys, tmp_path)


@pytest.fixture
def no_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known cells instead of minutes of synthesis."""
    monkeypatch.setattr(codesign.synth, "machine_cells", lambda *arguments: CELLS)
    monkeypatch.setattr(codesign.synth, "array_cells", lambda accelerator, device, fresh: ARRAY_CELLS)


@pytest.fixture
def no_placer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known clocks instead of place-and-route; the clock of a seed is in the list, its path lies between two names."""
    clocks = {0: 80.0, 1: 90.0, 2: 70.0, 3: 85.0}
    path = [{"at": "fetch.words", "logic_ns": 1.0, "routing_ns": 2.5}]
    path.append({"at": "array.sums", "logic_ns": 0.5, "routing_ns": 8.5})

    def place(text, top, seeds, jobs, fresh, progress, routed):
        assert f"module {top}(" in text
        runs = [{"seed": seed, "fmax_mhz": clocks[seed], "critical_path": path, "utilization": {}} for seed in seeds]
        return Placement({"LUT4": 5000}, Resources(lut=6144, ff=700, bram36=8, dsp=0), runs)

    monkeypatch.setattr(codesign.synth, "array_cells", lambda accelerator, device, fresh: {"LUT4": 700, "CCU2C": 34})
    monkeypatch.setattr(codesign.synth, "place", place)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--device ecp5-85", "unknown device 'ecp5-85': did you mean 'ecp5-85k'"),
        ("--device xcvu9p", "unknown device 'xcvu9p'"),
        ("--hardware bitserial-tinny", "unknown hardware 'bitserial-tinny': did you mean 'bitserial-tiny'"),
        ("--hardware absent.yaml", "cannot read absent.yaml"),
        ("--hardware broken.yaml", "broken.yaml is not a valid Accelerator: array: Value error, dm must"),
        (
            "--hardware other.yaml",
            "is meant for xcvu9p, which open tools do not support here: pass --device xc7z020 or",
        ),
        ("--device ecp5-85k --seeds 0", "expected at least 1 seed, got 0"),
        ("--placed-only", "expected --device ecp5-85k with --placed-only, got xc7z020"),
        ("--device ecp5-85k --jobs 0", "expected at least 1 job, got 0"),
        ("--out file", "cannot write file/utilization.txt"),
        ("--json folder", "cannot write folder: it is a folder"),
    ],
)
def test_bad_input_is_one_sentence(cli: Cli, monkeypatch: pytest.MonkeyPatch, options: str, sentence: str):
    def refuse(*arguments):
        pytest.fail("a tool ran before the input was looked at")

    for module in (sim.synthesis, sim.place):
        monkeypatch.setattr(module, "run_yosys", refuse)
    good = (Path(codesign.__file__).parent.parent / "hardware" / "presets" / "bitserial-tiny.yaml").read_text()
    (cli.directory / "broken.yaml").write_text(good.replace("dm: 2", "dm: 3"))
    (cli.directory / "other.yaml").write_text(good.replace("xc7z020", "xcvu9p"))
    (cli.directory / "file").write_text("in the way")
    (cli.directory / "folder").mkdir()
    code, out, err = cli(options)
    assert (code, out) == (2, "")
    assert sentence in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.usefixtures("no_tools")
def test_7_series_figures(cli: Cli):
    code, out, err = cli("--hardware bitserial-tiny --json result.json --out reports")
    assert code == 0, err
    result = json.loads((cli.directory / "result.json").read_text())
    assert result.keys() >= KEYS
    assert (result["command"], result["hardware"]) == ("synth", "bitserial-tiny")
    assert result["rtl_hash"] == rtl_hash(load_accelerator("bitserial-tiny"))
    assert (result["lut"], result["ff"], result["bram36"], result["dsp"]) == (2048, 500, 8.5, 0)
    assert result["fits"] is True
    assert result["lut_per_binary_mac"] == 2048 / (2 * 64 * 2)
    assert result["array"] == {"lut": 512, "ff": 100, "lut_per_binary_mac": 2.0}
    assert (result["fmax_mhz"], result["seed"], result["seeds"]) == (None, None, [])
    assert result["device"] == "xc7z020"
    assert set(result["tools"]) == {"yosys"}
    assert "no clock: no open place-and-route for xc7z020 can be installed with pip" in out
    assert "no clock" in (cli.directory / "reports" / "timing.txt").read_text()
    utilization = (cli.directory / "reports" / "utilization.txt").read_text()
    for line in ("lut            2,048 of   53,200     3.8%", "bram36           8.5 of      140     6.1%"):
        assert line in utilization
    assert "CARRY4                    30" in utilization


@pytest.mark.usefixtures("no_tools")
def test_what_is_too_big_does_not_fit(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(codesign.synth, "machine_cells", lambda *arguments: CELLS | {"RAMB36E1": 140})
    code, out, _ = cli("--json result.json")
    assert code == 0
    assert json.loads((cli.directory / "result.json").read_text())["fits"] is False
    assert "does not fit" in out


@pytest.mark.usefixtures("no_placer")
def test_ecp5_figures(cli: Cli):
    code, out, err = cli("--device ecp5-85k --seeds 4 --json result.json --out reports")
    assert code == 0, err
    result = json.loads((cli.directory / "result.json").read_text())
    assert result.keys() >= KEYS
    assert (result["fmax_mhz"], result["fmax_best_mhz"], result["seed"]) == (82.5, 90.0, 0)
    assert [(run["seed"], run["fmax_mhz"]) for run in result["seeds"]] == [(0, 80.0), (1, 90.0), (2, 70.0), (3, 85.0)]
    assert (result["lut"], result["lut_per_binary_mac"]) == (6144, 24.0)
    assert result["array"]["lut"] == 700 + 2 * 34
    assert set(result["tools"]) == {"yosys", "nextpnr-ecp5"}
    line = "fetch.words -> array.sums: 12.50 ns, 1.50 logic and 11.00 routing"
    assert line in out
    assert "clock: median 82.50 MHz, best 90.00 MHz" in out
    timing = (cli.directory / "reports" / "timing.txt").read_text()
    assert timing.count(line) == 4
    assert "    0.50 logic     8.50 routing  array.sums" in timing


@pytest.mark.usefixtures("no_placer")
@pytest.mark.parametrize(("options", "routed"), [("", True), ("--placed-only", False)])
def test_an_estimate_says_that_it_is_one(cli: Cli, options: str, routed: bool):
    code, out, err = cli(f"--device ecp5-85k --seeds 2 --json result.json --out reports {options}")
    assert code == 0, err
    result = json.loads((cli.directory / "result.json").read_text())
    assert (result["routed"], result["fmax_mhz"]) == (routed, 85.0)
    for text in (out, (cli.directory / "reports" / "timing.txt").read_text()):
        assert ("best 90.00 MHz, estimated after placement, not routed\n" in text) is not routed


@pytest.mark.usefixtures("no_placer")
def test_seeds_start_where_they_are_told(cli: Cli):
    assert cli("--device ecp5-85k --seeds 2 --seed 2 --json result.json")[0] == 0
    result = json.loads((cli.directory / "result.json").read_text())
    assert [run["seed"] for run in result["seeds"]] == [2, 3]
    assert result["seed"] == 2


@pytest.mark.usefixtures("no_placer")
def test_what_does_not_fit_has_no_clock(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    too_big = Placement({"LUT4": 90_000}, Resources(lut=90_000, ff=0, bram36=0, dsp=0), [])
    monkeypatch.setattr(codesign.synth, "place", lambda *arguments: too_big)
    code, out, _ = cli("--device ecp5-85k --json result.json")
    result = json.loads((cli.directory / "result.json").read_text())
    assert (code, result["fits"], result["fmax_mhz"], result["fmax_best_mhz"]) == (0, False, None, None)
    assert "no clock: it does not fit, so it was not placed" in out


def test_the_edge_preset_is_for_the_zynq():
    edge = load_accelerator("bitserial-edge")
    assert (edge.array.dm, edge.array.dk, edge.array.dn) == (8, 256, 8)
    assert default_device(edge, None) == "xc7z020"
    assert default_device(edge, "ecp5-85k") == "ecp5-85k"


def test_summary_of_a_path_within_one_signal():
    assert path_summary([{"at": "a", "logic_ns": 1.5, "routing_ns": 1.0}]) == (
        "a -> a: 2.50 ns, 1.50 logic and 1.00 routing"
    )


@pytest.mark.parametrize(
    "device",
    ["xc7z020", pytest.param("ecp5-85k", marks=pytest.mark.slow)],  # slow: place-and-route takes minutes
)
def test_the_whole_machine(cli: Cli, monkeypatch: pytest.MonkeyPatch, device: str):
    monkeypatch.setenv("CODESIGN_CACHE", str(cli.directory / "cache"))
    options = f"--device {device} --seeds 1 --json result.json"
    assert cli(options)[0] == 0
    first = json.loads((cli.directory / "result.json").read_text())
    assert first["fits"] is True
    # 2 x 1024 entries of 2 x 64 bits are 256 Kbit: 8 blocks that hold 32 Kbit of data each. Two columns are requantized
    # with 4 + 2 products of 16 bits each; one more product is the words of a pixel's bit planes.
    assert (first["bram36"], first["dsp"]) == (8, 13)
    assert 0 < first["array"]["lut"] < first["lut"]
    assert 0 < first["array"]["ff"] < first["ff"]
    assert (first["fmax_mhz"] is None) == (device == "xc7z020")

    def refuse(*arguments):
        pytest.fail("measured again")

    for module in (sim.synthesis, sim.place):
        monkeypatch.setattr(module, "run_yosys", refuse)
    assert cli(options)[0] == 0
    second = json.loads((cli.directory / "result.json").read_text())
    assert {key: second[key] for key in second if key != "wall_s"} == {
        key: first[key] for key in first if key != "wall_s"
    }
