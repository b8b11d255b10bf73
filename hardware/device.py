"""The FPGA devices that open tools synthesise for, and what each of them has."""

from hardware.board import Device
from hardware.errors import unknown

DEVICES = {
    # Xilinx DS190, XC7Z020.
    "xc7z020": Device(part="xc7z020", lut=53_200, ff=106_400, bram36=140, dsp=220),
    # Lattice FPGA-DS-02012, LFE5U-85: LUTs of 4 inputs, 208 block RAMs of 18 Kbit (half a bram36), 18 x 18 multipliers.
    "ecp5-85k": Device(part="LFE5U-85F", lut=83_640, ff=83_640, bram36=104, dsp=156),
}


def load_device(name: str) -> Device:
    """The device of that name; `InputError` names the known ones."""
    if name not in DEVICES:
        raise unknown("device", name, DEVICES)
    return DEVICES[name]
