"""Runs an agent on a task, episode after episode, and survives being killed at any moment.

After every episode all that the next one depends on is written to ``checkpoint.pt``, by renaming: a run that was
killed continues from its last finished episode and ends exactly where an uninterrupted run ends. ``results.csv`` is
derived from the checkpoint's rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock, Timeout

from codesign.checkpoint import save_tensors
from hardware.errors import InputError
from hardware.files import replacing
from policies.agent import Agent
from policies.task import Task

CHECKPOINT = "checkpoint.pt"
RESULTS = "results.csv"


@dataclass(frozen=True)
class SearchResult:
    """All episodes of a run.

    Parameters
    ----------
    rows:
        One per episode, see `search`.
    best:
        Index of the row with the highest reward; of equals, the one that costs least, then the earliest.
    """

    rows: list[dict[str, Any]]
    best: int

    @classmethod
    def of(cls, rows: list[dict[str, Any]]) -> "SearchResult":
        """The result of these episodes."""
        return cls(rows, min(range(len(rows)), key=lambda index: (-rows[index]["reward"], rows[index]["cost"], index)))


def search(
    task: Task,
    agent: Agent,
    episodes: int,
    directory: Path,
    settings: dict[str, Any],
    resume: bool = False,
    progress: Callable[[SearchResult], None] | None = None,
) -> SearchResult:
    """Play ``episodes`` episodes.

    Parameters
    ----------
    directory:
        Gets `CHECKPOINT` and `RESULTS`: columns ``episode, evaluations`` (policies asked for so far), then those of
        `policies.task.Outcome.row`.
    settings:
        All that the run depends on (names, seed, budget, ...): numbers and strings. A resumed run must have the same.
    resume:
        Continue the run that ``directory`` holds, if it holds one.
    progress:
        Called with what has been found so far, at the start (if that is a resumed run) and after every episode.

    Raises
    ------
    InputError
        ``directory`` holds a run and ``resume`` is off, or a run with other settings, or one that is still at work.
    """
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(directory / ".lock", timeout=0):
            return _search(task, agent, episodes, directory, settings, resume, progress)
    except Timeout:
        raise InputError(f"another search is at work in {directory}: wait for it, or choose another --out.") from None


def _search(
    task: Task,
    agent: Agent,
    episodes: int,
    directory: Path,
    settings: dict[str, Any],
    resume: bool,
    progress: Callable[[SearchResult], None] | None,
) -> SearchResult:
    checkpoint = directory / CHECKPOINT
    rows: list[dict[str, Any]] = []
    if checkpoint.exists():
        saved = _read_checkpoint(checkpoint, settings, resume)
        rows = saved["rows"]
        agent.load_state_dict(saved["agent"])
        task.evaluations, task.asked = saved["evaluations"], set(saved["asked"])
        _write_results(rows, directory)  # the last run may have died between its two files
    if progress and rows:
        progress(SearchResult.of(rows))
    for episode in range(len(rows), episodes):
        rows.append(play(task, agent, episode))
        state = {
            "settings": settings,
            "rows": rows,
            "agent": agent.state_dict(),
            "evaluations": task.evaluations,
            "asked": sorted(task.asked),
        }
        save_tensors(state, checkpoint)
        _write_results(rows, directory)
        if progress:
            progress(SearchResult.of(rows))
    return SearchResult.of(rows)


def play(task: Task, agent: Agent, episode: int) -> dict[str, Any]:
    """One episode and its row."""
    outcome = agent.episode()
    return {"episode": episode, "evaluations": len(task.asked)} | outcome.row(task.space)


def _write_results(rows: list[dict[str, Any]], directory: Path) -> None:
    with replacing(directory / RESULTS) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)


def check_directory(directory: Path, settings: dict[str, Any], resume: bool) -> None:
    """Raise the `InputError` that `search` would raise, before any long work; ``settings`` may still lack some."""
    if (directory / CHECKPOINT).exists():
        _read_checkpoint(directory / CHECKPOINT, settings, resume)


def _read_checkpoint(checkpoint: Path, settings: dict[str, Any], resume: bool) -> dict[str, Any]:
    directory = checkpoint.parent
    if not resume:
        raise InputError(f"{directory} holds a run already: pass --resume to continue it, or choose another --out.")
    try:
        saved = torch.load(checkpoint, weights_only=True)
        theirs = dict(saved["settings"])
        if not {"rows", "agent", "evaluations", "asked"} <= saved.keys():
            raise ValueError("it is incomplete")
    except Exception as error:  # torch.load raises nearly anything for a damaged file
        raise InputError(f"{checkpoint} cannot be read ({error}): choose another --out and start again.") from None
    differing = [
        f"{name} {theirs.get(name)!r}, now {settings.get(name)!r}"
        for name in sorted(settings)
        if theirs.get(name) != settings[name]
    ]
    if differing:
        raise InputError(
            f"the run in {directory} had other settings ({'; '.join(differing)}): repeat them, or choose another --out."
        )
    return dict(saved)
