"""Kinds of arrays, and what schedule, memory and buffers must know of each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind of array.

    Parameters
    ----------
    planes:
        Bit planes of the activations that it takes side by side; the others come one after another.
    widths:
        Bits of operands that it takes. Others are padded to the next.
    packed:
        Operands lie in memory value by value, not plane by plane; all kernels of a pass have the widest one's bits.
    """

    planes: int = 1
    widths: tuple[int, ...] = tuple(range(1, 9))
    packed: bool = False

    @property
    def products(self) -> int:
        """Pairs of bits that a step multiplies per bit of a weight entry. A fusion unit takes 64, on 32 bits."""
        return 2 if self.packed else self.planes

    def padded(self, bits: int) -> int:
        """The width at which operands of so many bits are stored and computed; 0, a pruned kernel's, stays 0."""
        return next(width for width in (0, *self.widths) if width >= bits)

    def weight_entries(self, bits: int, window_words: int, lanes: int) -> int:
        """Entries of ``lanes`` words that one kernel's weights take.

        Parameters
        ----------
        window_words:
            Words of one bit plane of a window.
        """
        return -(-bits * window_words // lanes) if self.packed else bits * -(-window_words // lanes)

    def activation_entries(self, bits: int, window_words: int, lanes: int) -> int:
        """Entries that one window's activations take."""
        return -(-bits * window_words // lanes) if self.packed else -(-bits // self.planes) * -(-window_words // lanes)

    def steps(self, weight_bits: int, activation_bits: int, window_words: int, lanes: int) -> int:
        """Array steps of one output tile."""
        entries = self.activation_entries(activation_bits, window_words, lanes)
        if not self.packed:
            return weight_bits * entries
        # A step takes 2 / bits of the other operand's entries; behind the end of either there is but padding.
        return min(self.weight_entries(weight_bits, window_words, lanes) * activation_bits, entries * weight_bits) // 2


KINDS = {"bit_serial": Kind(), "serial_weight": Kind(planes=8), "bit_fusion": Kind(widths=(2, 4, 8), packed=True)}
"""By name.

``bit_serial`` takes one plane of each operand per cycle (after BISMO, arXiv 1806.08862); ``serial_weight`` one plane of
the weights and whole activations (ReLeQ's accelerator, arXiv 1811.01704, after Stripes, MICRO 2016); ``bit_fusion``
values of both, 64 bits' worth of their products of 2, 4 or 8 bits per fusion unit (BitFusion, arXiv 1712.01507).
"""
