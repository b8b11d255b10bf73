"""The instruction word: an independent decoder gets back every field."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.errors import InputError
from hardware.instruction import FIELDS, INSTRUCTION_WORDS, MAX_PORTS, OPCODE_MAXIMUM, OPCODES, SEGMENTS, encode

ZEROS = dict.fromkeys(FIELDS, 0)


def decode(words: np.ndarray) -> dict[str, int]:
    """Fields by cutting a string of bits, least significant first; what is left over is called ``rest``."""
    bits = "".join(f"{int(word):064b}"[::-1] for word in words)
    fields = {}
    for name, width in FIELDS.items():
        fields[name], bits = int(bits[:width][::-1], 2), bits[width:]
    return fields | {"rest": int(bits or "0", 2)}


def at_its_limits(width: int) -> st.SearchStrategy[int]:
    top = (1 << width) - 1
    return st.sampled_from([0, 1, top - 1, top]) | st.integers(0, top)


@given(st.fixed_dictionaries({name: at_its_limits(width) for name, width in FIELDS.items()}))
def test_every_field_comes_back_and_the_padding_is_zero(fields):
    words = encode(fields)
    assert words.dtype == np.uint64
    assert words.shape == (INSTRUCTION_WORDS,)
    assert decode(words) == fields | {"rest": 0}


@pytest.mark.parametrize("name", FIELDS)
def test_a_full_field_touches_no_other(name):
    top = (1 << FIELDS[name]) - 1
    assert decode(encode(ZEROS | {name: top})) == ZEROS | {name: top, "rest": 0}


def test_the_first_fields_lie_where_the_documentation_says():
    first = {"opcode": OPCODE_MAXIMUM, "last": 1, "signed_activations": 1, "activation_bits": 8, "chunks": 0xABC}
    words = encode(ZEROS | first | {"row_tiles": 0x1234})
    # opcode 8 bits, five flags, activation_bits 4, chunks 16, row_tiles 16
    assert words[0] == 3 | 1 << 8 | 1 << 10 | 8 << 13 | 0xABC << 17 | 0x1234 << 33
    assert not words[1:].any()


def test_there_is_a_field_for_everything_that_comes_several_times():
    for part in ("bits", "tiles", "entries"):
        assert {f"segment_{i}_{part}" for i in range(SEGMENTS)} == {
            name for name in FIELDS if name.startswith("segment_") and name.endswith(part)
        }
    assert len(range(8 + 1)) == SEGMENTS  # one per width, pruned kernels included
    assert {name for name in FIELDS if name[-5:] == "start"} == {f"port_{p}_start" for p in range(MAX_PORTS)}
    assert len(set(OPCODES)) == len(OPCODES) == 3
    assert 0 not in OPCODES  # empty memory is no instruction


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("beyond", [-1, 0, 12345])
def test_a_value_that_does_not_fit_is_refused_by_name(name, beyond):
    value = beyond if beyond < 0 else (1 << FIELDS[name]) + beyond
    with pytest.raises(InputError, match=rf"needs {name} = {value}, .* {FIELDS[name]} bits .*: split the layer"):
        encode(ZEROS | {name: value})


def test_a_missing_and_a_strange_field_are_refused():
    with pytest.raises(ValueError, match="expected the fields"):
        encode({name: 0 for name in FIELDS if name != "taps"})
    with pytest.raises(ValueError, match="expected the fields"):
        encode(ZEROS | {"colour": 0})
