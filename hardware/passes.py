"""One instruction's work: the part of a schedule that lowering, cycle model and event counts read.

`hardware.schedule` makes them and describes their loop nest.
"""

from dataclasses import dataclass
from typing import Literal

from hardware.instruction import VALUE_LANES
from hardware.kinds import KINDS


@dataclass(frozen=True)
class Output:
    """What becomes of a pass's sums: raw sums, or values and bit planes of the next layer's activations."""

    sums: bool = False
    values: bool = False
    plane_bits: int = 0

    @property
    def requantized(self) -> bool:
        """Whether kernels bring constants."""
        return not self.sums


RAW_SUMS = Output(sums=True)


@dataclass(frozen=True)
class Pass:
    """One instruction's work, without addresses.

    Units: a *word* is 64 memory bits, an *entry* one buffer row, a *tile* ``dm`` kernels or ``dn`` pixels.
    """

    operation: Literal["matrix", "sum", "maximum"]
    kernels: tuple[int, ...]
    """Output channels of this pass, in the order in which they lie in the row tiles."""
    segments: tuple[tuple[int, int], ...]
    """(weight bits, row tiles) in the order in which they run. A vector pass's row tiles are groups of channels."""
    activation_bits: int
    signed_weights: bool
    signed_activations: bool
    bipolar: bool
    chunks: int
    """Entries per bit plane of one window, or per as many planes as an entry holds side by side; of packed operands,
    per window."""
    column_tiles: int
    last_columns: int
    """Valid columns of the last column tile."""
    group_tiles: int
    """Column tiles resident together."""
    lhs_resident: bool
    channel_words: tuple[int, int]
    """First and behind the last word of a pixel's channels (of one bit plane, or of values) that this pass reads."""
    kernel: tuple[int, int]
    dense_rows: bool
    """Whether one kernel row is one run of contiguous words."""
    output: Output
    dm: int
    dn: int
    lanes: int
    kind: str
    """The array's, of `hardware.kinds.KINDS`."""
    ports: int
    lhs_depth: int
    rhs_depth: int

    @property
    def row_tiles(self) -> int:
        """Row tiles of all widths."""
        return sum([tiles for _, tiles in self.segments])

    @property
    def pixel_words(self) -> int:
        """Words of one bit plane (or the values) of one input pixel that are read."""
        return self.channel_words[1] - self.channel_words[0]

    @property
    def taps(self) -> int:
        """Pixels of a window."""
        return self.kernel[0] * self.kernel[1]

    @property
    def window_words(self) -> int:
        """Words of one bit plane of one window."""
        return self.taps * self.pixel_words

    def lhs_tile_entries(self, bits: int) -> int:
        """Entries of one row tile of a width in each row's memory."""
        return KINDS[self.kind].weight_entries(bits, self.window_words, self.lanes) + self.output.requantized

    @property
    def rhs_tile_entries(self) -> int:
        """Entries of one column tile in each column's memory."""
        return KINDS[self.kind].activation_entries(self.activation_bits, self.window_words, self.lanes)

    def lhs_tile_words(self, bits: int) -> int:
        """Memory words of one row tile of a width."""
        return self.dm * self.lhs_tile_entries(bits) * self.lanes

    @property
    def row_runs(self) -> int:
        """Runs of contiguous words that make up one kernel row of one window."""
        return 1 if self.dense_rows else self.kernel[1]

    @property
    def run_words(self) -> int:
        """Words of one such run."""
        return self.pixel_words * self.activation_bits * (self.kernel[1] if self.dense_rows else 1)

    @property
    def column_words(self) -> int:
        """Memory words of one output pixel's window."""
        return self.window_words * self.activation_bits

    def steps(self, bits: int) -> int:
        """Array steps (cycles) of one dm x dn output tile at a weight width, without the step for the constants.

        Vector passes: steps of one pixel's dm channels.
        """
        if self.operation != "matrix":
            return self.taps * max(1, self.dm // VALUE_LANES // self.lanes)
        return KINDS[self.kind].steps(bits, self.activation_bits, self.window_words, self.lanes)

    @property
    def groups(self) -> int:
        """Groups of column tiles."""
        return -(-self.column_tiles // self.group_tiles)

    def columns(self, column_tile: int) -> int:
        """Valid columns of a column tile."""
        return self.last_columns if column_tile == self.column_tiles - 1 else self.dn

    @property
    def result_words(self) -> int:
        """Words of raw sums or of values that a row tile leaves for one pixel."""
        if self.output.sums:
            return self.dm // 2
        return -(-self.dm // VALUE_LANES) if self.output.values else 0

    @property
    def plane_words(self) -> int:
        """Words of one bit plane of one output pixel."""
        return -(-self.row_tiles * self.dm // 64)
