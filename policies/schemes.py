"""AutoQNN's eight quantization schemes, for weights and for activations.

After Gong et al., "AutoQNN: An End-to-End Framework for Automatically Quantizing Neural Networks", JCST 39(2), 2024
(arXiv 2304.03782); formulas and constants are those of the author's public code, its defects left out. `a` is a
scheme's scale, mostly a multiple of the mean magnitude or of the standard deviation.

==========  ======  ====  ==================================================  ==========================================
            letter  bits  levels                                              planes of a bit-serial machine
==========  ======  ====  ==================================================  ==========================================
binary      B       1     +-a                                                 1 bipolar, 2 in two's complement
ternary     T       2     0, +-a                                              2
quaternary  Q       2     +-a/2, +-3a/2                                       2 bipolar, 3 in two's complement
fixed       F       2-8   0, +-a, .., +-(2**(bits-1) - 1) a; a a power of 2   bits
res         R       2-8   every sum +-a1 +-a2 .. of bits scales               none: one pass per scale
zoom        Z       2-8   mid-points of 2**bits intervals from least to most  none: an offset
clip        C       2-8   +-a/2, +-3a/2, .., +-(2**(bits-1) - 1/2) a          bits bipolar, bits + 1 two's complement
pot         P       2-4   +-a/2, +-2a, +-4a, .., +-2**(2**(bits-1) - 1) a     4 at 2 bits, 6 at 3; 10 at 4: none
==========  ======  ====  ==================================================  ==========================================

Activations that are not negative have levels of their own: fixed and clip ``k * a`` with k up to ``2**bits - 1``, pot
``0, a, 2a, 4a, ..`` of ``2**bits`` levels, the nearest one; res starts at the mean instead of zero, which is worth a
bit; zoom has an offset anyway. Pot's and res's are ours.

Zero has the sign of a negative number wherever there is no level for it, but quaternary and clip round it up.
"""

from hardware.errors import InputError, unknown
from policies.grid_schemes import Binary, Clip, Fixed, Pot, Quaternary, Ternary
from policies.real_schemes import Res, Zoom
from policies.scheme_base import Scheme
from policies.scheme_constants import POT, Constants

_SCHEMES: tuple[type[Scheme], ...] = (Binary, Ternary, Quaternary, Fixed, Res, Zoom, Clip, Pot)
_ACTIVATIONS: tuple[type[Scheme], ...] = (Fixed, Res, Zoom, Clip, Pot)
WEIGHT_SCHEMES = tuple(scheme.name for scheme in _SCHEMES)
ACTIVATION_SCHEMES = tuple(scheme.name for scheme in _ACTIVATIONS)


def weight_scheme(name: str, constants: Constants = "optimal") -> Scheme:
    """A scheme for weights, by name; ``constants`` are those of pot.

    Raises
    ------
    InputError
        No such scheme, or no such constants.
    """
    return _find(name, WEIGHT_SCHEMES, True, constants)


def activation_scheme(name: str, signed: bool, constants: Constants = "optimal") -> Scheme:
    """A scheme for activations, by name; not ``signed`` after a ReLU. ``constants`` are those of signed pot.

    Raises
    ------
    InputError
        No such scheme, one that is for weights alone, or no such constants.
    """
    if name in WEIGHT_SCHEMES and name not in ACTIVATION_SCHEMES:
        raise InputError(
            f"expected a scheme for activations ({', '.join(ACTIVATION_SCHEMES)}), got {name!r}, whose few levels on "
            "both sides of zero are for weights alone: choose one of these."
        )
    return _find(name, ACTIVATION_SCHEMES, signed, constants)


def _find(name: str, known: tuple[str, ...], signed: bool, constants: Constants) -> Scheme:
    if constants not in POT:
        raise unknown("set of constants", constants, POT)
    if name not in known:
        raise unknown("scheme", name, known)
    if name == Pot.name:
        return Pot(signed, constants)
    return _SCHEMES[WEIGHT_SCHEMES.index(name)](signed)
