"""Runs an agent in the environment, episode after episode, and survives being killed at any moment.

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
from policies.environment import BitWidthEnv

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

    def bits(self) -> list[tuple[int, int]]:
        """Weight and activation bits of the best policy's layers."""
        return [(int(pair[0]), int(pair[1])) for pair in self.rows[self.best]["bits"].split()]


def search(
    environment: BitWidthEnv,
    agent: Agent,
    episodes: int,
    directory: Path,
    settings: dict[str, Any],
    resume: bool = False,
    progress: Callable[[int], None] | None = None,
) -> SearchResult:
    """Play ``episodes`` episodes.

    Parameters
    ----------
    directory:
        Gets `CHECKPOINT` and `RESULTS`: columns ``episode, reward, accuracy, cost, cost_ratio, budget_used, cached,
        bits`` (one digit pair per layer, weight then activation bits).
    settings:
        All that the run depends on (names, seed, budget, ...): numbers and strings. A resumed run must have the same.
    resume:
        Continue the run that ``directory`` holds, if it holds one.

    Raises
    ------
    InputError
        ``directory`` holds a run and ``resume`` is off, or a run with other settings, or one that is still at work.
    """
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(directory / ".lock", timeout=0):
            return _search(environment, agent, episodes, directory, settings, resume, progress)
    except Timeout:
        raise InputError(f"another search is at work in {directory}: wait for it, or choose another --out.") from None


def _search(
    environment: BitWidthEnv,
    agent: Agent,
    episodes: int,
    directory: Path,
    settings: dict[str, Any],
    resume: bool,
    progress: Callable[[int], None] | None,
) -> SearchResult:
    checkpoint = directory / CHECKPOINT
    rows: list[dict[str, Any]] = []
    if checkpoint.exists():
        saved = _read_checkpoint(checkpoint, settings, resume)
        rows = saved["rows"]
        agent.load_state_dict(saved["agent"])
        environment.evaluations = saved["evaluations"]
        _write_results(rows, directory)  # the last run may have died between its two files
    if progress:
        progress(len(rows))
    for episode in range(len(rows), episodes):
        rows.append({"episode": episode} | _play(environment, agent))
        state = {
            "settings": settings,
            "rows": rows,
            "agent": agent.state_dict(),
            "evaluations": environment.evaluations,
        }
        save_tensors(state, checkpoint)
        _write_results(rows, directory)
        if progress:
            progress(episode + 1)
    best = min(range(len(rows)), key=lambda index: (-rows[index]["reward"], rows[index]["cost"], index))
    return SearchResult(rows, best)


def _write_results(rows: list[dict[str, Any]], directory: Path) -> None:
    with replacing(directory / RESULTS) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)


def check_directory(directory: Path, settings: dict[str, Any], resume: bool) -> None:
    """Raise the `InputError` that `search` would raise, before any long work; ``settings`` may still lack some."""
    if (directory / CHECKPOINT).exists():
        _read_checkpoint(directory / CHECKPOINT, settings, resume)


def _play(environment: BitWidthEnv, agent: Agent) -> dict[str, Any]:
    observation, _ = environment.reset()
    over = False
    while not over:
        observation, reward, over, _, info = environment.step(agent.act(observation))
    agent.finish_episode(reward)
    bits = " ".join(f"{e.weights.bits}{e.activations.bits}" for e in info.pop("policy").layers)
    return {"reward": float(reward), **info, "bits": bits}


def _read_checkpoint(checkpoint: Path, settings: dict[str, Any], resume: bool) -> dict[str, Any]:
    directory = checkpoint.parent
    if not resume:
        raise InputError(f"{directory} holds a run already: pass --resume to continue it, or choose another --out.")
    try:
        saved = torch.load(checkpoint, weights_only=True)
        theirs = dict(saved["settings"])
        if not {"rows", "agent", "evaluations"} <= saved.keys():
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
