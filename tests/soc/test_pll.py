"""Dividers of the PLL."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soc.pll import PHASE_MHZ, VCO_MHZ, Pll


@given(st.sampled_from([12, 25, 48, 50, 100]), st.integers(10, 400))
def test_the_dividers_give_the_clock_within_the_data_sheets_limits(oscillator: int, clock: int) -> None:
    possible = any(
        feedback * oscillator == clock * reference and oscillator / reference >= PHASE_MHZ[0]
        for reference in range(1, 129)
        for feedback in range(1, 129)
    )  # some multiple of 10 to 400 MHz is always between 400 and 800
    if not possible:
        with pytest.raises(ValueError, match="no divider makes"):
            Pll.find(oscillator, clock)
        return
    pll = Pll.find(oscillator, clock)
    assert oscillator * pll.feedback / pll.reference == pytest.approx(clock)
    assert PHASE_MHZ[0] <= oscillator / pll.reference <= PHASE_MHZ[1]
    assert VCO_MHZ[0] <= clock * pll.output <= VCO_MHZ[1]


@pytest.mark.parametrize(
    ("oscillator", "clock", "dividers"), [(25, 50, (1, 2, 16)), (25, 62.5, (2, 5, 12)), (100, 50, (2, 1, 16))]
)
def test_dividers_found_by_hand(oscillator: float, clock: float, dividers: tuple[int, int, int]) -> None:
    pll = Pll.find(oscillator, clock)
    assert (pll.reference, pll.feedback, pll.output) == dividers


def test_a_clock_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(ValueError, match="no divider makes 51 MHz of 25 MHz"):
        Pll.find(25, 51)
