"""What an accelerator takes of its FPGA by the fitted law, and whether it fits: asked before long work."""

from dataclasses import asdict

from hardware.accelerator import Accelerator
from hardware.device import load_device
from hardware.errors import InputError
from hardware.resource_law import ResourceLaw, load_resource_law
from hardware.resources import Resources, check_fit
from policies.co_design import candidates
from rtl.verilog import gateware_hash


def resource_law(device: str, kind: str) -> ResourceLaw | None:
    """The law of a kind of accelerators on a device; None if there is none. `InputError` if it was fitted to another
    gateware."""
    law = load_resource_law(device, kind)
    if law is not None:
        law.check(gateware_hash(kind), f"the resource law of the {device}")
    return law


def accelerator_resources(accelerator: Accelerator) -> Resources | None:
    """What the accelerator takes of its own device; None if there is no law for both, so that nothing is known.

    Raises
    ------
    InputError
        The device has less of something; or its law was fitted to another gateware.
    """
    law = resource_law(accelerator.device, accelerator.kind)
    if law is None:
        return None
    used = law.predict(accelerator)
    check_fit(accelerator, load_device(accelerator.device), used)
    return used


def fitting_machines(reference: Accelerator) -> list[Accelerator]:
    """The accelerators of `policies.co_design.candidates` that fit the reference's device.

    Raises
    ------
    InputError
        That device has no law to tell, or one of another gateware.
    """
    law = resource_law(reference.device, reference.kind)
    if law is None:
        raise InputError(
            f"nothing tells which {reference.kind} accelerators fit a {reference.device}: choose another, for example "
            "bitserial-edge."
        )
    return candidates(reference, law, load_device(reference.device))


def resources_text(accelerator: Accelerator, used: Resources | None) -> str:
    """One line: what the accelerator takes of its device."""
    if used is None:
        return f"resources: no law for {accelerator.kind} on {accelerator.device}, so not checked"
    device = load_device(accelerator.device)
    shares = (f"{amount:,.10g} of {getattr(device, name):,} {name}" for name, amount in asdict(used).items())
    return f"fits the {device.part}: {', '.join(shares)} (fitted law)"
