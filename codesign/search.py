"""Runs an agent on a task, episode after episode, and survives being killed at any moment.

After every episode all that the next one depends on is written to ``checkpoint.pt``, by renaming: a run that was
killed continues from its last finished episode and ends exactly where an uninterrupted run ends. ``results.csv`` is
derived from the checkpoint's rows. The scalars in ``tensorboard`` are there to be watched while it runs:
``tensorboard --logdir OUT``.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
SCALARS = "tensorboard"


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
        `policies.task.Outcome.row`; and `SCALARS`: reward, accuracy and costs per episode, and the best reward.
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
    if len(rows) == episodes:
        return SearchResult.of(rows)
    with _scalar_writer(directory / SCALARS, len(rows)) as write_scalars:
        for episode in range(len(rows), episodes):
            rows.append(play(task, agent, episode))
            write_scalars(rows)
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


@contextmanager
def _scalar_writer(directory: Path, episode: int) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    """Writes the scalars of the last row; what is there of ``episode`` and later ones is void from now on."""
    from torch.utils.tensorboard import SummaryWriter  # here, for it takes its time to import

    with SummaryWriter(directory, purge_step=episode) as writer:

        def write(rows: list[dict[str, Any]]) -> None:
            row = rows[-1]
            for name, value in row.items():
                if name in ("reward", "accuracy", "budget_used", "evaluations") or name.endswith("_ratio"):
                    writer.add_scalar(name, value, row["episode"])
            writer.add_scalar("best_reward", max(one["reward"] for one in rows), row["episode"])
            writer.flush()  # before the checkpoint: a killed run leaves all of them, or plays the episode again

        yield write


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
    check_settings(directory, theirs, settings)
    return dict(saved)


def check_settings(directory: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Raise `InputError` unless the run that ``directory`` holds had these settings; ``ours`` may lack some."""
    differing = [
        f"{name} {theirs.get(name)!r}, now {ours.get(name)!r}"
        for name in sorted(ours)
        if theirs.get(name) != ours[name]
    ]
    if differing:
        raise InputError(
            f"the run in {directory} had other settings ({'; '.join(differing)}): repeat them, or choose another --out."
        )
