"""Set bits of a vector by carry-save compression: far fewer LUTs than a tree of adders.

Bits of equal weight form a column. A level of counters turns six bits of a column into a three-bit number, one bit in
each of three columns, until no column holds more than three; one adder sums what is left. Up to there every bit is
logic of at most six others between two registers: one LUT6, and open synthesis finds no adder to rebuild. A column is
one value and its counters work side by side on slices of it, which keeps the Verilog short and its simulation fast.
The 6:3 counters are those of BISMO (arXiv 1901.00370), without placing anything by hand.
"""

from amaranth.hdl import C, Cat, Module, Signal, Value, signed
from amaranth.lib.wiring import Component, In, Out

_ADDER_ROWS = 3
"""Bits per column that the adder takes."""

_LOW = 12
"""Bits in the tallest column from which on columns of four are reduced: 6:3 counters alone would leave them behind."""


class Popcount(Component):
    """Counts the set bits of ``left & right``, or of ``left`` alone, and negates the count on demand.

    Parameters
    ----------
    width:
        Bits of each vector.
    stages:
        Registers from the vectors to the count.
    masked:
        There is a ``right``.

    Members
    -------
    left, right: vectors of ``width`` bits.
    left_again, right_again: the same, one cycle later. (Many units share these registers.)
    negate: in the cycle before the count, ``stages - 1`` after the vectors.
    count: the number of set bits, or negated its complement, ``-1 - number``: whoever adds it up adds the missing 1.

    Latency: ``stages`` cycles. Throughput: one count per cycle.

    Raises
    ------
    ValueError
        ``stages`` are fewer than `popcount_stages`.
    """

    def __init__(self, width: int, stages: int, masked: bool = True):
        if stages < popcount_stages(width, masked):
            raise ValueError(
                f"the popcount of {width} bits takes {popcount_stages(width, masked)} stages, got {stages}"
            )
        self._width, self._stages, self._masked = width, stages, masked
        vectors = ("left", "right", "left_again", "right_again") if masked else ("left",)
        ports = {"negate": In(1), "count": Out(signed(width.bit_length() + 1))}
        super().__init__(dict.fromkeys(vectors, In(width)) | ports)

    def elaborate(self, platform):
        m = Module()
        width = self._width.bit_length()
        columns, carries, levels = [self.left], None, self._stages - 1
        if self._masked:
            # Three products (six inputs) become a two-bit count: its low bit first and the carry, from the same vectors
            # again, a cycle later. Together they would share the products, and a mapper that is not short of time then
            # takes three LUTs for the two bits instead of two.
            a, b, c, rest = _thirds(_net(m, self.left & self.right, "products"))
            columns = [_register(m, Cat(a ^ b ^ c, rest), "totals")]
            a, b, c, _ = _thirds(_net(m, self.left_again & self.right_again, "products_again"))
            carries = a & b | c & (a ^ b)
            levels -= 1
        for level in range(levels):
            columns = _level(m, columns, width, f"level_{level}")
            if level == 0 and carries is not None:
                columns[1:2] = [Cat(*columns[1:2], carries)]
            columns = [_register(m, column, f"level_{level}_ones_{1 << i}") for i, column in enumerate(columns)]

        # -1 - (total + carry) = ~total + ~carry + 1: the adder's own LUTs have inputs left for the complement. The sign
        # is left to the carry chain too: every unit gets one of its own, near its accumulator.
        rows = [Cat(column[i] if i < len(column) else C(0, 1) for column in columns) for i in range(_ADDER_ROWS)]
        total, carry = _full_adder(m, rows, "rows")
        flip = self.negate.replicate(width + 1)
        number = add(_fit(carry << 1, width) ^ flip, _fit(total, width) ^ flip, self.negate)
        m.d.comb += self.count.eq(_register(m, number[: width + 1], "count").as_signed())
        return m


def add(plain: Value, logic: Value, carry: Value) -> Value:
    """``plain + logic + carry`` on one carry chain.

    The carry enters as a column of its own, which costs no LUT. Xilinx' chain takes ``plain`` beside its LUT: registers
    are free there and logic costs a LUT per bit. Logic that makes ``logic`` from up to five inputs is free.
    """
    return (Cat(carry, plain) + Cat(carry, logic))[1:]


def popcount_stages(width: int, masked: bool = True) -> int:
    """Fewest registers from the vectors to the count, the adder's included."""
    heights, stages = [width], 1
    if masked:
        products = [width // 3 + width % 3]
        heights, stages = _next_heights(products, width.bit_length()), 3
        heights[1] += width // 3
    while max(heights) > _ADDER_ROWS:
        heights = _next_heights(heights, width.bit_length())
        stages += 1
    return stages


def _groups(height: int, tallest: int) -> list[tuple[int, int]]:
    """How many counters of how many bits a column gets, as (bits, counters); the bits that are left wait.

    Sixes; a five that is left; towards the end a three in a column of four, which would wait for ever.
    """
    if tallest <= _ADDER_ROWS:
        return []
    groups = []
    for size in (6, 5, 3):
        count = height // size
        if count and (size > 3 or (height == 4 and tallest < _LOW)):
            groups.append((size, count))
            height -= size * count
    return groups


def _next_heights(heights: list[int], width: int) -> list[int]:
    """Bits per column after a level; no bit of a weight beyond the width is ever set."""
    following = [0] * (len(heights) + 2)
    for weight, height in enumerate(heights):
        groups = _groups(height, max(heights))
        following[weight] += height - sum(size * count for size, count in groups)
        for size, count in groups:
            for place in range(size.bit_length()):
                following[weight + place] += count
    return following[:width]


def _level(m: Module, columns: list[Value], width: int, name: str) -> list[Value]:
    """One level of counters: `_next_heights` with the bits themselves."""
    compressed: list[list[Value]] = [[] for _ in range(len(columns) + 2)]
    for weight, column in enumerate(columns):
        taken = 0
        for size, count in _groups(len(column), max(map(len, columns))):
            bits = [column[taken + i * count : taken + (i + 1) * count] for i in range(size)]
            for place, digit in enumerate(_counter(m, bits, f"{name}_of_{size}_ones_{1 << weight}")):
                compressed[weight + place].append(digit)
            taken += size * count
        compressed[weight].append(column[taken:])
    merged = [Cat(parts) for parts in compressed[:width]]
    return [_net(m, column, f"{name}_next_{1 << i}") for i, column in enumerate(merged) if len(column)]


def _counter(m: Module, bits: list[Value], name: str) -> list[Value]:
    """The binary number of set bits among three, five or six, least significant digit first; bitwise for vectors."""
    total, carry = _full_adder(m, bits[:3], f"{name}_first")
    if len(bits) == 3:
        return [total, carry]
    other_total, other_carry = _full_adder(m, bits[3:], f"{name}_second")
    return [total ^ other_total, *_full_adder(m, [carry, other_carry, total & other_total], f"{name}_carries")]


def _full_adder(m: Module, bits: list[Value], name: str) -> tuple[Value, Value]:
    """Sum and carry of two or three bits; bitwise for vectors."""
    a, b, *rest = bits
    total, carry = a ^ b, a & b
    for c in rest:
        total, carry = total ^ c, carry | c & total
    return _net(m, total, f"{name}_total"), _net(m, carry, f"{name}_carry")


def _thirds(bits: Value) -> tuple[Value, Value, Value, Value]:
    """Three equal parts and the bits that are left."""
    third = len(bits) // 3
    return bits[:third], bits[third : 2 * third], bits[2 * third : 3 * third], bits[3 * third :]


def _fit(value: Value, width: int) -> Value:
    return Cat(value, C(0, width))[:width]


def _net(m: Module, value: Value, name: str) -> Signal:
    """The value under a name: it is written once however often it is used."""
    net = Signal(len(value), name=name)
    m.d.comb += net.eq(value)
    return net


def _register(m: Module, value: Value, name: str) -> Signal:
    """The value one cycle later."""
    register = Signal(len(value), name=name)
    m.d.sync += register.eq(value)
    return register
