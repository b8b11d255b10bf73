"""The one exception that means "your input is wrong": the command line prints it and exits with 2."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input. The message is one sentence: what was expected, what came, what to do next."""


def unknown(kind: str, name: object, known: Iterable[str]) -> InputError:
    """The error for a name that is not in a list, with the nearest known names.

    >>> unknown("agent", "hak", ["haq", "random"]).args[0]
    "unknown agent 'hak': did you mean 'haq'? Known: haq, random."
    """
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=2, cutoff=0.5)
    guess = f" did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    return InputError(f"unknown {kind} {name!r}:{guess} Known: {', '.join(names)}.")
