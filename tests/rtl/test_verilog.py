"""The Verilog of a machine and the hash that names it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import rtl.verilog
from rtl.arrays import OWN_SOURCES
from rtl.verilog import TOP, engine_verilog, gateware_hash, rtl_hash

GENERATE = """
import hashlib, sys
from hardware.accelerator import Accelerator
from rtl.verilog import engine_verilog, rtl_hash
accelerator = Accelerator.model_validate_json(sys.argv[1])
print(rtl_hash(accelerator), hashlib.sha256(engine_verilog(accelerator).encode()).hexdigest())
"""


@pytest.fixture(autouse=True)
def _forget_what_is_patched():
    yield
    _forget()
    engine_verilog.cache_clear()


def _forget() -> None:
    gateware_hash.cache_clear()
    rtl_hash.cache_clear()


def test_two_processes_generate_the_same_verilog(machine, tmp_path):
    accelerator = machine(lhs_entries=16, rhs_entries=16)
    results = []
    for seed in ("1", "2"):  # of Python's string hashes, which order its sets
        environment = os.environ | {"PYTHONHASHSEED": seed, "CODESIGN_CACHE": str(tmp_path / seed)}
        command = [sys.executable, "-c", GENERATE, accelerator.model_dump_json()]
        results.append(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    assert results[0] == results[1]
    assert results[0].split()[0] == rtl_hash(accelerator)


@pytest.mark.parametrize(
    "changes",
    [{"dm": 4}, {"dk": 128}, {"dn": 3}, {"lhs_entries": 512}, {"rhs_entries": 512}, {"plane_words": 128}, {"ports": 2}],
    ids=str,
)
def test_another_array_buffer_or_port_is_another_machine(tiny, machine, changes):
    assert rtl_hash(machine(**changes)) != rtl_hash(tiny)


@pytest.mark.parametrize(
    "changes",
    [{"latency": 99}, {"cycles_per_word": 2}, {"clock_mhz": 250.0}, {"name": "other"}, {"device": "xc7z010"}],
    ids=str,
)
def test_memory_clock_and_names_are_not_part_of_the_machine(tiny, machine, changes):
    assert rtl_hash(machine(**changes)) == rtl_hash(tiny)


def test_a_changed_source_or_amaranth_is_another_machine(tiny, monkeypatch, tmp_path):
    before = rtl_hash(tiny)
    assert any(str(source).endswith("timing.py") for source in rtl.verilog._SOURCES)
    with monkeypatch.context() as patch:
        more = tmp_path / "more.py"
        patch.setattr("rtl.verilog._SOURCES", (*rtl.verilog._SOURCES, more))
        hashes = {}
        for source in (
            '"""A unit."""',
            '"""A unit.\n\nX."""\n# with a comment\n\n',
            "if a:\n    b\nc\n",
            "if a:\n    b\n    c\n",
        ):
            more.write_text(source)
            _forget()
            hashes[source] = rtl_hash(tiny)
        of_words, again, of_code, of_other_code = hashes.values()
        assert before == of_words == again
        assert len({before, of_code, of_other_code}) == 3
    with monkeypatch.context() as patch:
        patch.setattr("rtl.verilog.version", lambda package: "0.0")
        _forget()
        assert rtl_hash(tiny) != before
    _forget()
    assert rtl_hash(tiny) == before


def test_what_only_other_kinds_are_made_of_does_not_make_another_machine(tiny, machine, monkeypatch, tmp_path):
    before = {kind: rtl_hash(machine(kind=kind)) for kind in ("bit_serial", "serial_weight")}
    assert len(set(before.values())) == 2
    more = tmp_path / "serial_weight.py"
    more.write_text("x = 1\n")
    monkeypatch.setattr("rtl.verilog._SOURCES", (*rtl.verilog._SOURCES, more))
    _forget()
    assert rtl_hash(tiny) == before["bit_serial"]
    assert rtl_hash(machine(kind="serial_weight")) != before["serial_weight"]


def test_every_source_of_a_kind_of_its_own_is_there():
    folder = {source.name for source in map(Path, rtl.verilog._SOURCES)}
    assert {name for names in OWN_SOURCES.values() for name in names} <= folder


def test_verilog_is_generated_once_and_then_read_from_the_cache(machine, monkeypatch, tmp_path):
    accelerator = machine(lhs_entries=16, rhs_entries=16)
    monkeypatch.setenv("CODESIGN_CACHE", str(tmp_path))
    engine_verilog.cache_clear()
    first = engine_verilog(accelerator)
    assert f"module {TOP}(" in first
    kept = tmp_path / "verilog" / f"{rtl_hash(accelerator)}.v"
    assert {path.name for path in kept.parent.iterdir()} == {kept.name, kept.with_suffix(".sha256").name}

    kept.write_text(first + "// changed by somebody\n")
    engine_verilog.cache_clear()
    assert engine_verilog(accelerator) == first, "a changed file was taken for the machine"

    def refuse(*arguments, **options):
        raise AssertionError("generated again")

    monkeypatch.setattr("rtl.verilog.verilog.convert", refuse)
    engine_verilog.cache_clear()
    assert engine_verilog(accelerator) == first
