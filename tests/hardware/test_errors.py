"""Messages for unknown names."""

import pytest

from hardware.errors import InputError, unknown


@pytest.mark.parametrize(
    ("name", "known", "message"),
    [
        ("hak", ["random", "haq"], "unknown agent 'hak': did you mean 'haq'? Known: haq, random."),
        ("zzz", ["random", "haq"], "unknown agent 'zzz': Known: haq, random."),
        ("ab1", ["ab2", "ab3", "c"], "unknown agent 'ab1': did you mean 'ab3' or 'ab2'? Known: ab2, ab3, c."),
        (7, ["a"], "unknown agent 7: Known: a."),
    ],
)
def test_the_message_holds_what_came_the_nearest_and_all_known(name, known, message):
    error = unknown("agent", name, known)
    assert isinstance(error, InputError)
    assert str(error) == message
