"""The part of a search run that comes before the bits: which scheme every layer gets; done once, then read back."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from codesign.plots import scheme_probabilities
from codesign.scheme_learning import SchemeLearner, scheme_search
from codesign.search import check_settings
from codesign.training import FineTuneEvaluator
from hardware.errors import InputError
from hardware.files import replacing, write_text
from policies.budget import Budget
from policies.hardware_loss import HardwareLoss, budget_targets
from policies.space import Schemes
from policies.task import Task

SCHEMES = "schemes.json"
CURVES = "schemes.csv"
PICTURE = "schemes.png"


def check_scheme_budgets(budgets: Sequence[Budget]) -> None:
    """Raise `InputError` if a budget counts a policy's bits and not the machine's planes, which schemes differ in."""
    for metric, _ in (share for budget in budgets for share in budget.shares):
        if metric not in ("latency", "energy"):
            raise InputError(
                f"schemes are chosen by what they cost on the machine: budget latency or energy, not {metric}."
            )


def choose_schemes(
    task: Task,
    evaluator: FineTuneEvaluator,
    directory: Path,
    epochs: int,
    bits: int,
    coarse: bool,
    seed: int,
    settings: Mapping[str, Any],
    resume: bool,
    progress: Callable[[int], None],
) -> list[Schemes]:
    """Learn the schemes, or, to resume, read what was learned here before with the same settings.

    Parameters
    ----------
    task:
        Its budgets, which `check_scheme_budgets` lets pass, are kept, on average over the mixtures.
    directory:
        Gets `SCHEMES`, `CURVES` (probabilities by epoch, vertex and scheme) and `PICTURE`.
    bits, coarse:
        As of `codesign.scheme_learning.scheme_search`.
    settings:
        Of the whole run: numbers and strings.

    Raises
    ------
    InputError
        ``directory`` holds schemes and ``resume`` is off, or some that were learned with other settings, or a file that
        cannot be read.
    """
    path = directory / SCHEMES
    if path.exists():
        return _read(path, json.loads(json.dumps(settings)), resume)
    directory.mkdir(parents=True, exist_ok=True)
    layers = evaluator.traced.layers
    budgets = task.limits.budgets
    learner = SchemeLearner(
        evaluator.traced,
        scheme_search(layers, bits, seed, coarse=coarse),
        evaluator.calibration,
        evaluator.train,
        seed,
        HardwareLoss(budget_targets(budgets, task.costs)) if budgets else None,
    )
    rows: list[dict[str, Any]] = []
    for epoch in range(epochs):
        for vertex, shares in learner.epoch(epoch, epochs).items():
            rows += [{"epoch": epoch, "vertex": vertex, "scheme": name, "share": p} for name, p in shares.items()]
        progress(epoch + 1)
    with replacing(directory / CURVES) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)
    scheme_probabilities(rows, directory / PICTURE)
    found = learner.schemes()
    write_text(path, json.dumps({"settings": dict(settings), "schemes": found}, indent=1) + "\n")
    return found


def _read(path: Path, settings: dict[str, Any], resume: bool) -> list[Schemes]:
    if not resume:
        raise InputError(f"{path.parent} holds a run already: pass --resume to continue it, or choose another --out.")
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        theirs, found = saved["settings"], [(str(w), str(a)) for w, a in saved["schemes"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} cannot be read ({error}): choose another --out.") from None
    check_settings(path.parent, theirs, settings)
    return found
