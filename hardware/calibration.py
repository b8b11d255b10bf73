"""Measured constants, and what they were measured on: stale ones are refused, never used silently."""

from pydantic import Field

from hardware.errors import InputError
from hardware.specification import PACKAGE, Specification

FOLDER = PACKAGE / "calibrations"
"""Committed calibrations, one YAML file each."""


class Calibration(Specification):
    """What every calibration carries beside its constants.

    Parameters
    ----------
    gateware:
        `rtl.verilog.gateware_hash` of the sources that were measured.
    tools:
        Tool and version.
    renew:
        The command that measures it again.
    """

    gateware: str = Field(pattern=r"^[0-9a-f]{16}$")
    tools: dict[str, str]
    renew: str

    def check(self, gateware: str, what: str) -> None:
        """Raise `InputError` if the gateware is no longer the one that was measured.

        Parameters
        ----------
        gateware:
            Hash of the gateware of today.
        what:
            What was measured, for the sentence.
        """
        if self.gateware != gateware:
            raise InputError(
                f"{what} was measured on gateware {self.gateware}, but this is {gateware}: "
                f"renew it with `{self.renew}`."
            )
