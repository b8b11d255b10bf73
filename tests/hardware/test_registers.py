"""The register map: sound in itself, and the committed documentation says what it says."""

import json
from pathlib import Path

import pytest

from hardware.instruction import ERROR_ILLEGAL_INSTRUCTION, ERROR_NONE
from hardware.registers import (
    ADDRESS_BITS,
    INTERRUPT_ENABLE,
    MAGIC,
    REGISTERS,
    Access,
    ErrorCode,
    driver_constants,
    register_json,
    register_table,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "registers.md"


def test_the_documentation_is_up_to_date():
    assert DOCUMENT.read_text(encoding="utf-8") == register_table(), (
        "write it anew: python -m hardware.registers > docs/registers.md"
    )


def test_no_two_registers_share_a_place_and_no_two_fields_a_bit():
    places = [register.offset + 4 * place for register in REGISTERS for place in range(register.places)]
    assert len(places) == len(set(places))
    assert all(place % 4 == 0 and place < 1 << ADDRESS_BITS for place in places)
    for register in REGISTERS:
        bits = [bit for field in register.fields for bit in range(field.low, field.low + field.bits)]
        assert len(bits) == len(set(bits))


def test_every_field_fits_its_place_and_only_values_that_are_read_are_wide():
    for register in REGISTERS:
        for field in register.fields:
            assert field.reset < 1 << field.bits
            assert register.places <= 2
            assert register.places == 1 or field.access is Access.READ


def test_ports_are_unique_and_the_interrupt_has_its_enable():
    ports = [register.port(field) for register in REGISTERS for field in register.fields]
    assert len(ports) == len(set(ports))
    assert INTERRUPT_ENABLE in ports


def test_the_decoder_and_the_map_agree_on_error_codes():
    assert ErrorCode.NONE == ERROR_NONE
    assert ErrorCode.ILLEGAL_INSTRUCTION == ERROR_ILLEGAL_INSTRUCTION


def test_the_driver_has_every_place_every_mask_and_every_error():
    driver: dict = {}
    exec(driver_constants(), driver)
    assert driver["MAGIC_VALUE"].to_bytes(4, "big") == b"CDSN"
    assert driver["ERRORS"] == {code.value: code.name for code in ErrorCode}
    assert (driver["STATUS"], driver["STATUS_DONE"], driver["STATUS_ERROR"]) == (0x14, 0b10, 0b100)
    assert (driver["CONTROL"], driver["CONTROL_START"], driver["CONTROL_INTERRUPT_ENABLE"]) == (0x10, 1, 1 << 8)
    assert driver["CYCLES_HIGH"] == driver["CYCLES"] + 4
    places = {register.offset + 4 * place for register in REGISTERS for place in range(register.places)}
    assert places <= {value for name, value in driver.items() if isinstance(value, int)}


def test_the_json_holds_what_the_table_holds():
    read = json.loads(register_json())
    assert read["magic"] == MAGIC
    assert [r["name"] for r in read["registers"]] == [r.name for r in REGISTERS]
    start = read["registers"][3]["fields"][0]
    assert (start["name"], start["low"], start["bits"], start["access"]) == ("start", 0, 1, "W1")


@pytest.mark.parametrize("name", ["0x14 | `status`", "| `done` | W1C |", "| 4 | ADDRESS_RANGE |", "| 0x40 | `cycles`"])
def test_the_table_names_what_a_driver_looks_up(name):
    assert name in register_table()
