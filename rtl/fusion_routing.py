"""How packed operands reach the bricks of `rtl.fusion.FusionUnit`: which brick multiplies which digits in which mode.

The units of a row take the same weights, those of a column the same activations: what depends on one operand alone is
done once for all of them, by a router.
"""

from itertools import product

from amaranth.hdl import Array, C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data
from amaranth.lib.wiring import Component, In, Out

WORD_BITS = 32
"""Bits of packed weights, or activations, that a unit takes per cycle at most."""
SUM_BITS = 17
"""Unsigned 8 x 8 bits give up to 65,025 and signed by unsigned ones down to -32,640; all other modes give less."""
FUSION_STAGES = 5
"""Cycles from the packed operands at the routers to their sum; one of them is the routers'."""
WIDTHS = (2, 4, 8)

_DIGITS = WORD_BITS // 2
QUADS = [range(4 * quad, 4 * quad + 4) for quad in range(4)]
FOURTH, FIFTH, SIXTH = range(16, 19), range(19, 21), range(21, 22)  # the six bricks whose place never changes
BRICKS = 22
_DELAYS = [1 if brick in (0, 4, 8, 12, 16) else 3 if brick in (20, 21) else 2 for brick in range(BRICKS)]
"""Cycles from the packed operands to a brick's digits: a brick adds to a sum that is made of earlier ones."""


def _places(weight_digits: int, activation_digits: int) -> list[range | list[int]]:
    """The bricks that work, by place."""
    first, second, third, fourth = QUADS
    match sorted((weight_digits, activation_digits)):
        case [4, 4]:
            return [first[:1], second[:2], third[:3], fourth, FOURTH, FIFTH, SIXTH]
        case [2, 4]:
            return [first[:2], second, third, fourth, FOURTH[:2]]
        case [1, 4]:
            return [first, second, third, fourth]
        case [2, 2]:
            return [first, [*second, *fourth], third]
        case [1, 2]:
            return [[*first, *third], [*second, *fourth]]
        case _:
            return [range(16)]


def _assign() -> dict[tuple[int, int], dict[int, tuple[int, int]]]:
    """Which digits of the packed weights and activations a brick multiplies: by widths, by brick.

    Any brick of the right place will do: it gets digits that it has in other modes, too, which keeps routers small.
    """
    known: list[tuple[set[int], set[int]]] = [(set(), set()) for _ in range(BRICKS)]
    assigned = {}
    for widths in product(reversed(WIDTHS), reversed(WIDTHS)):
        weight_digits, activation_digits = (bits // 2 for bits in widths)
        waiting: dict[int, list[tuple[int, int]]] = {}
        for weight in range(_DIGITS // activation_digits):
            value, digit = divmod(weight, weight_digits)
            for other in range(activation_digits):
                waiting.setdefault(digit + other, []).append((weight, value * activation_digits + other))
        assigned[widths] = mode = {}
        for place, bricks in enumerate(_places(weight_digits, activation_digits)):
            free = list(bricks)
            while free:
                choices = product(free, waiting[place])
                brick, digits = max(choices, key=lambda c: sum(d in k for d, k in zip(c[1], known[c[0]], strict=True)))
                free.remove(brick)
                waiting[place].remove(digits)
                mode[brick] = digits
                for digit, those in zip(digits, known[brick], strict=True):
                    those.add(digit)
    return assigned


_ASSIGNED = _assign()


def brick_digits(weight_bits: int, activation_bits: int) -> list[tuple[int, int] | None]:
    """Of every brick which digits of the packed weights and activations it multiplies; None if it does not work."""
    mode = _ASSIGNED[weight_bits, activation_bits]
    return [mode.get(brick) for brick in range(BRICKS)]


def _choices(side: int) -> list[list[int | None]]:
    """The digits among which a router chooses for each brick; None is for a brick that does not work.

    It needs no activation then: its weight is 0.
    """
    chosen = [[mode[brick][side] if brick in mode else None for mode in _ASSIGNED.values()] for brick in range(BRICKS)]
    return [list(dict.fromkeys(d for d in digits if side == 0 or d is not None)) for digits in chosen]


_WEIGHT_CHOICES, _ACTIVATION_CHOICES = _choices(0), _choices(1)


def _select_layout(choices: list[list[int | None]]) -> data.StructLayout:
    return data.StructLayout({f"brick_{brick}": (len(those) - 1).bit_length() for brick, those in enumerate(choices)})


ROW_CONTROL = data.StructLayout(
    {
        "select": _select_layout(_WEIGHT_CHOICES),
        "signed": BRICKS,
        "invert": 4,
        "second": 1,
        "rest": 1,
        "far": 1,
        "near": 1,
        "scale": 2,
        "constant": signed(SUM_BITS),
    }
)
"""What a `WeightRouter` is told: one for all rows.

select: each brick's digit, an index of its choices; signed: bricks with a sign digit. For the correction: ``invert``
the upper bits of digits 0 to 3, 4 to 7 and so on; there are digits 4 to 7 (``second``) and 8 to 15 (``rest``); digits
0 and 2 are of one value (``far``), digits 0 and 1 are (``near``); ``scale`` 1, 2 or 3: signed activations of 2, 4 or 8
bits; ``constant``.
"""
COLUMN_CONTROL = data.StructLayout({"select": _select_layout(_ACTIVATION_CHOICES), "invert": 4})
"""What an `ActivationRouter` is told: one for all columns."""
UNIT_CONTROL = data.StructLayout({"quad_2": 1, "quad_3": 1, "odd_quads": 1})
"""Which sums are shifted: quad 2 by two digits to quad 0, quad 3 by two to quad 1, both odd ones by one."""
WEIGHT_DIGIT = data.StructLayout({"digit": 2, "signed": 1})
"""``digit`` in two's complement if ``signed``, which is a setting and changes with the mode only."""


def fusion_control(
    weight_bits: int, activation_bits: int, signed_weights: bool, signed_activations: bool
) -> dict[str, dict[str, object]]:
    """Control bits of a mode: ``row`` (`ROW_CONTROL`), ``column`` (`COLUMN_CONTROL`) and ``unit`` (`UNIT_CONTROL`).

    Raises
    ------
    ValueError
        A width is not one of `WIDTHS`.
    """
    if not {weight_bits, activation_bits} <= set(WIDTHS):
        raise ValueError(f"a fusion unit takes 2, 4 or 8 bits, got {weight_bits} x {activation_bits}")
    mode = _ASSIGNED[weight_bits, activation_bits]
    weight_digits = weight_bits // 2
    products = WORD_BITS * 2 // (weight_bits * activation_bits)
    sign_bricks = [
        b for b, (weight, _) in mode.items() if signed_weights and weight % weight_digits == weight_digits - 1
    ]
    # The sum of weights from which the correction is made has their sign bits inverted, too.
    too_large = signed_activations << activation_bits - 1 + weight_bits - 1
    excess = (1 << activation_bits) - 1 << weight_bits - 1  # 6 times the places of a product's sign bricks
    return {
        "row": {
            "select": {
                f"brick_{brick}": choices.index(mode[brick][0] if brick in mode else None)
                for brick, choices in enumerate(_WEIGHT_CHOICES)
            },
            "signed": sum(1 << brick for brick in sign_bricks),
            "invert": _sign_digits(weight_bits) if signed_weights else 0,
            "second": activation_bits < 8,
            "rest": activation_bits < 4,
            "far": weight_bits == 8,
            "near": weight_bits > 2,
            "scale": activation_bits.bit_length() - 1 if signed_activations else 0,
            "constant": products * (too_large - excess) if signed_weights else 0,
        },
        "column": {
            "select": {
                f"brick_{brick}": choices.index(mode[brick][1]) if brick in mode else 0
                for brick, choices in enumerate(_ACTIVATION_CHOICES)
            },
            "invert": _sign_digits(activation_bits) if signed_activations else 0,
        },
        "unit": {
            "quad_2": weight_bits * activation_bits > 8,
            "quad_3": max(weight_bits, activation_bits) == 8,
            "odd_quads": weight_bits * activation_bits > 4,
        },
    }


def _sign_digits(bits: int) -> int:
    """Which of four digits are the uppermost ones of values."""
    return {2: 0b1111, 4: 0b1010, 8: 0b1000}[bits]


class WeightRouter(Component):
    """Hands a row's weights to the bricks of its units, and works out what corrects their sums.

    Members
    -------
    control: constant while weights pass.
    weights: packed values, the first one in the lowest bits; bits above the last one do not matter.
    digits: per brick, in the cycle in which the units need it.
    correction: for the units.
    """

    control: In(ROW_CONTROL)
    weights: In(WORD_BITS)
    digits: Out(data.ArrayLayout(WEIGHT_DIGIT, BRICKS))
    correction: Out(signed(SUM_BITS))

    def elaborate(self, platform):
        m = Module()
        for brick, digit in enumerate(_route(m, self.weights, self.control.select, _WEIGHT_CHOICES)):
            m.d.comb += self.digits[brick].digit.eq(digit)
            m.d.comb += self.digits[brick].signed.eq(self.control.signed[brick])

        control, there = self.control, [C(1, 1), self.control.second, self.control.rest, self.control.rest]
        classes = []  # sums of every fourth digit: in all modes they are of one place
        for place in range(4):
            flipped = [
                (self.weights.word_select(4 * group + place, 2) ^ Cat(0, control.invert[place])) & exists.replicate(2)
                for group, exists in enumerate(there)
            ]
            total = fit(flipped[0], 4)
            for digit in flipped[1:]:
                total = add(total, digit, 4)
            classes.append(register(m, total, f"class_{place}"))
        even, odd = (
            register(m, add(low, Mux(control.far, high << 4, high), 8), name)
            for low, high, name in ((*classes[::2], "even"), (*classes[1::2], "odd"))
        )
        total = register(m, add(even, Mux(control.near, odd << 2, odd), 10), "total")
        offset = Array([C(0, SUM_BITS), total << 1, total << 3, total << 7])[control.scale]
        m.d.sync += self.correction.eq(control.constant - offset)
        return m


class ActivationRouter(Component):
    """Hands a column's activations to the bricks of its units.

    Members
    -------
    control: constant while activations pass.
    activations: packed values, the first one in the lowest bits; bits above the last one do not matter.
    digits: per brick, in the cycle in which the units need it; sign bits are inverted.
    """

    control: In(COLUMN_CONTROL)
    activations: In(WORD_BITS)
    digits: Out(data.ArrayLayout(2, BRICKS))

    def elaborate(self, platform):
        m = Module()
        invert = Cat(Cat(C(0, 1), self.control.invert[digit % 4]) for digit in range(_DIGITS))
        flipped = Signal(WORD_BITS)
        m.d.comb += flipped.eq(self.activations ^ invert)
        for brick, digit in enumerate(_route(m, flipped, self.control.select, _ACTIVATION_CHOICES)):
            m.d.comb += self.digits[brick].eq(digit)
        return m


def _route(m: Module, word: Value, select, choices: list[list[int | None]]) -> list[Value]:
    """Every brick's digit of a word, `_DELAYS` cycles later."""
    routed = []
    for brick, those in enumerate(choices):
        digits = Array(C(0, 2) if digit is None else word.word_select(digit, 2) for digit in those)
        digit = digits[select[f"brick_{brick}"]]
        for stage in range(_DELAYS[brick]):
            digit = register(m, digit, f"digit_{brick}_{stage}")
        routed.append(digit)
    return routed


def add(plain: Value, logic: Value, width: int) -> Value:
    """``plain + logic``, unsigned, with the adder and the logic of up to five inputs in one LUT per bit.

    Xilinx' carry chain takes one of the addends beside its LUT, where logic costs a LUT of its own. Open synthesis
    takes the addends of a sum in an order of its own, but not those of a difference. The column in front takes the 1
    that is missing in the complement, and keeps synthesis from turning several adders into trees.
    """
    return (Cat(C(0, 1), fit(plain, width)) - Cat(C(1, 1), ~fit(logic, width)))[1 : width + 1]


def fit(value: Value, width: int) -> Value:
    return Cat(value, C(0, width))[:width]


def register(m: Module, value: Value, name: str) -> Signal:
    """The value one cycle later."""
    register = Signal(len(value), name=name)
    m.d.sync += register.eq(value)
    return register
