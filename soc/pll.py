"""The clock of an ECP5 from the board's oscillator."""

from dataclasses import dataclass

from amaranth.hdl import Const, Instance, Signal

OSCILLATOR_MHZ = (8.0, 400.0)
PHASE_MHZ = (10.0, 400.0)
VCO_MHZ = (400.0, 800.0)
"""What the PLL takes, compares at, and runs at inside (Lattice FPGA-DS-02012, sysCLOCK PLL timing)."""
LARGEST_DIVIDER = 128


@dataclass(frozen=True)
class Pll:
    """Dividers of an EHXPLLL whose output is fed back: output = input * ``feedback`` / ``reference``."""

    reference: int
    feedback: int
    output: int

    @property
    def parameters(self) -> dict[str, int | str]:
        """Of the cell; its only output is fed back, so that its phase is the input's whatever CPHASE says."""
        return {
            "CLKI_DIV": self.reference,
            "CLKFB_DIV": self.feedback,
            "CLKOP_DIV": self.output,
            "CLKOP_CPHASE": (self.output - 1) // 2,
            "CLKOP_FPHASE": 0,
            "CLKOP_ENABLE": "ENABLED",
            "FEEDBK_PATH": "CLKOP",
            "OUTDIVIDER_MUXA": "DIVA",
            "PLLRST_ENA": "DISABLED",
            "INTFB_WAKE": "DISABLED",
            "STDBY_ENABLE": "DISABLED",
            "DPHASE_SOURCE": "DISABLED",
        }

    @classmethod
    def find(cls, oscillator_mhz: float, clock_mhz: float) -> "Pll":
        """Dividers for a clock, with the slowest comparison that is exact and the fastest oscillator inside.

        Raises
        ------
        ValueError
            No dividers give that clock within 0.01 %.
        """
        for reference in range(1, LARGEST_DIVIDER + 1):
            compared = oscillator_mhz / reference
            feedback = round(clock_mhz / compared)
            if not (PHASE_MHZ[0] <= compared <= PHASE_MHZ[1] and 1 <= feedback <= LARGEST_DIVIDER):
                continue
            if abs(feedback * compared / clock_mhz - 1) > 1e-4:
                continue
            output = min(LARGEST_DIVIDER, int(VCO_MHZ[1] // clock_mhz))
            if output >= 1 and output * clock_mhz >= VCO_MHZ[0]:
                return cls(reference, feedback, output)
        raise ValueError(f"no divider makes {clock_mhz:g} MHz of {oscillator_mhz:g} MHz")

    def instance(self, oscillator: Signal, clock: Signal, locked: Signal, mhz: tuple[float, float]) -> Instance:
        """The cell; ``mhz`` of oscillator and clock, which place-and-route reads as attributes."""
        zero, one = Const(0, 1), Const(1, 1)
        pins = {"RST": zero, "STDBY": zero, "PHASESEL0": zero, "PHASESEL1": zero, "PHASEDIR": one, "PHASESTEP": one}
        pins |= {"PHASELOADREG": one, "PLLWAKESYNC": zero, "ENCLKOP": zero}
        return Instance(
            "EHXPLLL",
            a_FREQUENCY_PIN_CLKI=f"{mhz[0]:g}",
            a_FREQUENCY_PIN_CLKOP=f"{mhz[1]:g}",
            a_ICP_CURRENT="12",
            a_LPF_RESISTOR="8",
            a_MFG_ENABLE_FILTEROPAMP="1",
            a_MFG_GMCREF_SEL="2",
            **{f"p_{key}": value for key, value in self.parameters.items()},
            **{f"i_{pin}": value for pin, value in pins.items()},
            i_CLKI=oscillator,
            i_CLKFB=clock,
            o_CLKOP=clock,
            o_LOCK=locked,
        )
