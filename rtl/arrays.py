"""The array of every kind of accelerator."""

from rtl.array import BitSerialArray
from rtl.fusion_array import FusionArray
from rtl.serial_weight import SerialWeightArray

ARRAYS = {"bit_serial": BitSerialArray, "serial_weight": SerialWeightArray, "bit_fusion": FusionArray}
"""By `hardware.accelerator.Accelerator.kind`."""
OWN_SOURCES = {
    "bit_serial": (),
    "serial_weight": ("serial_weight.py",),
    "bit_fusion": ("fusion.py", "fusion_array.py", "fusion_routing.py", "packed_steps.py"),
}
"""Sources in this folder that machines of no other kind are made of; what all have is this folder's but this file."""
