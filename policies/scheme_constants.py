"""Steps that make the mean squared error of a unit normal least, for `policies.schemes`.

Derived by minimizing the error, an exact sum over the normal's cells, and checked so in the tests. ``CLIP`` is Max's
table (IRE Trans. Information Theory 6(1), 1960) and, to four digits, the constants of AutoQNN's and VecQ's code.
"""

from typing import Literal

Constants = Literal["optimal", "paper"]
"""``optimal`` for a normal distribution, or those of AutoQNN's code, where they differ."""

QUATERNARY = 0.9957
"""Step of the levels +-1/2, +-3/2; of `CLIP` at 2 bits, rounded as in VecQ's code."""

CLIP: dict[int, float] = {2: 0.995687, 3: 0.586019, 4: 0.335201, 5: 0.188139, 6: 0.104063, 7: 0.056868, 8: 0.030762}
"""By bits: the step of the levels +-1/2, +-3/2, ..., in standard deviations."""

CLIP_UNSIGNED: dict[int, float] = {
    2: 0.650770, 3: 0.353411, 4: 0.193249, 5: 0.105488, 6: 0.057261, 7: 0.030870, 8: 0.016528
}  # fmt: skip
"""By bits: the step of the levels 0, 1, 2, ..., in deviations of the normal before a ReLU."""

POT: dict[Constants, dict[int, float]] = {
    "optimal": {2: 0.7379, 3: 0.2695, 4: 0.0328},
    "paper": {2: 0.9, 3: 0.4, 4: 0.03},
}
"""By bits: the unit of the levels +-1/2, +-2, +-4, ..., in standard deviations.

The paper's at 2 and 3 bits are what is best for a Laplace distribution (within 2 %), not for a normal one.
"""

POT_UNSIGNED: dict[int, float] = {2: 0.51813, 3: 0.06553, 4: 0.00205}
"""By bits: the unit of the levels 0, 1, 2, 4, ..., in deviations of the normal before a ReLU. Ours: AutoQNN has only
the signed levels. Flat at 4 bits, whose levels reach further than any value: each half of it is as good."""
