"""Verilog of a machine, and the hash that names it."""

import hashlib
from functools import lru_cache

from amaranth.back import verilog

from hardware.accelerator import Accelerator
from rtl.engine import Engine

TOP = "codesign_engine"


@lru_cache(maxsize=8)
def engine_verilog(accelerator: Accelerator) -> str:
    """Verilog of the whole engine; the top module is ``codesign_engine``."""
    return verilog.convert(Engine(accelerator), name=TOP, emit_src=False, strip_internal_attrs=True)


def rtl_hash(accelerator: Accelerator) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the machine's Verilog."""
    return hashlib.sha256(engine_verilog(accelerator).encode()).hexdigest()[:16]
