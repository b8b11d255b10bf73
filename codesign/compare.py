"""Several agents, several seeds, one task: how good a policy each finds with how many evaluations.

An evaluation is a distinct policy that a run asks for; whatever it asks for again is free, but a run ends after
`EPISODES` episodes per evaluation, so that an agent that has converged does end. Every policy asked for counts as
found, also one asked for in the middle of an episode. Where brute force says what the best is, a run ends that finds
it. All runs share what is known of a policy's accuracy, so each is evaluated once, whoever asks first.

Accuracies and finished runs are appended to files as they come. A comparison that was killed plays its unfinished run
again, with accuracies from the file, and ends in the same table.
"""

import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from filelock import FileLock, Timeout

from codesign.comparison import EPISODES, EQUAL, Comparison, Run, brute_force, judge
from codesign.records import append_record, read_records
from codesign.search import check_settings
from hardware.errors import InputError
from hardware.files import write_text
from policies.agent import Agent, make_agent
from policies.policy import Policy
from policies.task import Evaluator, Outcome, Task

SETTINGS = "settings.json"
EVALUATIONS = "evaluations.jsonl"
RUNS = "runs.jsonl"


class Evaluations(dict[str, float]):
    """Accuracies by `policies.space.Space.text`, for `policies.task.Task.evaluations`, kept in a file.

    Itself an evaluator, which takes the time of the one it is given.

    Parameters
    ----------
    path:
        JSON lines: bits, accuracy, seconds. Appended to; what it holds already is known from the start.

    Attributes
    ----------
    seconds: dict[str, float]
        What each evaluation took.
    spent: float
        Seconds that evaluations have taken in this process.
    """

    def __init__(self, evaluator: Evaluator, path: Path) -> None:
        super().__init__()
        self.seconds: dict[str, float] = {}
        self.spent = self._last = 0.0
        self._evaluator, self._path = evaluator, path
        for record in read_records(path):
            super().__setitem__(record["bits"], record["accuracy"])
            self.seconds[record["bits"]] = record["seconds"]

    @property
    def reference_accuracy(self) -> float:
        """The evaluator's."""
        return self._evaluator.reference_accuracy

    def accuracy(self, policy: Policy) -> float:
        """The evaluator's answer."""
        begin = time.perf_counter()
        answer = self._evaluator.accuracy(policy)
        self._last = time.perf_counter() - begin
        self.spent += self._last
        return answer

    def __setitem__(self, bits: str, accuracy: float) -> None:
        append_record(self._path, {"bits": bits, "accuracy": accuracy, "seconds": round(self._last, 6)})
        super().__setitem__(bits, accuracy)
        self.seconds[bits] = self._last


class MakeAgent(Protocol):
    """As `policies.agent.make_agent`."""

    def __call__(self, name: str, task: Task, *, episodes: int, seed: int) -> Agent:
        """A new agent."""
        ...


class Spent(Exception):
    """A run asked for one policy more than it may, or has found the best that there is."""


class CountedTask(Task):
    """A task that writes down what it is asked for, and ends the run when that is enough: raises `Spent`.

    Parameters
    ----------
    most:
        Distinct policies.
    enough:
        Whoever has found a policy of this reward has nothing left to find.
    """

    def __init__(self, task: Task, evaluations: Evaluations, most: int, enough: float = np.inf) -> None:
        deviations = task.weight_deviation, task.kernel_deviations
        super().__init__(task.costs, evaluations, task.limits.budgets, task.reward, *deviations)
        self.evaluations = evaluations
        self.most, self.enough, self.episode = most, enough, 0
        self.policies: list[str] = []
        self.at_episode: list[int] = []
        self.at_second: list[float] = []
        self._known, self._begin = evaluations, time.perf_counter() - evaluations.spent

    def evaluate(self, vector: np.ndarray) -> Outcome:
        """As `policies.task.Task.evaluate`."""
        vector = self.limits.back_off(vector)
        text = self.space.text(vector)
        if text in self.asked:
            return super().evaluate(vector)
        if len(self.asked) == self.most:
            raise Spent
        outcome = super().evaluate(vector)
        self.policies.append(text)
        self.at_episode.append(self.episode)
        self.at_second.append(round(time.perf_counter() - self._begin - self._known.spent, 6))
        if outcome.reward > self.enough - EQUAL:
            raise Spent
        return outcome


def play(
    task: CountedTask,
    agent: str,
    seed: int,
    length: int,
    episodes: int,
    progress: Callable[[int], None] | None = None,
    make: MakeAgent = make_agent,
) -> Run:
    """One run.

    Parameters
    ----------
    length:
        How many episodes the agent is made for.
    episodes:
        After so many the run ends, if the task does not end it before.
    progress:
        Called with the number of policies asked for so far, after every episode.
    """
    try:
        player = make(agent, task, episodes=length, seed=seed)
        while task.episode < episodes and len(task.asked) < task.most:
            task.episode += 1
            player.episode()
            if progress:
                progress(len(task.asked))
    except Spent:
        pass
    return Run(agent, seed, task.policies, task.at_episode, task.at_second, task.episode)


def compare(
    task: Task,
    agents: Sequence[str],
    seeds: Sequence[int],
    most: int,
    directory: Path,
    settings: dict[str, Any],
    resume: bool = False,
    vectors: np.ndarray | None = None,
    progress: Callable[[int, str], None] | None = None,
    make: MakeAgent = make_agent,
) -> Comparison:
    """Let every agent search the task with every seed.

    Parameters
    ----------
    most:
        Evaluations per run, and how many episodes the agents are made for.
    directory:
        Gets `SETTINGS`, `EVALUATIONS` and `RUNS`.
    settings:
        All that the runs depend on but for agent and seed: a resumed comparison may have more of these.
    vectors:
        Every policy of the space: regret is then against the best of those that fit the budget.
    progress:
        Called with the evaluations of all runs so far, and a remark.
    make:
        Makes the agents by their names.

    Raises
    ------
    InputError
        ``directory`` holds a comparison and ``resume`` is off, or one with other settings, or one at work.
    """
    settings = settings | {"most_evaluations": most}
    check_comparison(directory, settings, resume)
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(directory / ".lock", timeout=0):
            write_text(directory / SETTINGS, json.dumps(settings, indent=2) + "\n")
            return _compare(task, agents, seeds, most, directory, vectors, progress, make)
    except Timeout:
        raise InputError(f"another comparison is at work in {directory}: wait, or choose another --out.") from None


def _compare(
    task: Task,
    agents: Sequence[str],
    seeds: Sequence[int],
    most: int,
    directory: Path,
    vectors: np.ndarray | None,
    progress: Callable[[int, str], None] | None,
    make: MakeAgent,
) -> Comparison:
    known = Evaluations(task.evaluator, directory / EVALUATIONS)
    enough = np.inf if vectors is None else brute_force(task, vectors)[0].reward
    texts = list(known)
    finished = {}
    for record in read_records(directory / RUNS):
        record["policies"] = [texts[index] for index in record["policies"]]
        finished[record["agent"], record["seed"]] = Run(**record)
    runs: list[Run] = []
    for agent, seed in itertools.product(agents, seeds):
        if (agent, seed) not in finished:

            def report(asked: int, done: int = len(runs) * most, who: str = f"{agent}, seed {seed}") -> None:
                if progress:
                    progress(done + asked, who)

            run = play(CountedTask(task, known, most, enough), agent, seed, most, EPISODES * most, report, make)
            number = {text: index for index, text in enumerate(known)}
            append_record(directory / RUNS, asdict(run) | {"policies": [number[text] for text in run.policies]})
            finished[agent, seed] = run
        runs.append(finished[agent, seed])
    return judge(task, runs, known, known.seconds, vectors)


def check_comparison(directory: Path, settings: dict[str, Any], resume: bool) -> None:
    """Raise the `InputError` that `compare` would raise, before any long work; ``settings`` may still lack some."""
    if not (directory / SETTINGS).exists():
        return
    if not resume:
        raise InputError(f"{directory} holds a comparison already: pass --resume, or choose another --out.")
    try:
        theirs = dict(json.loads((directory / SETTINGS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{directory / SETTINGS} cannot be read ({error}): choose another --out.") from None
    check_settings(directory, theirs, settings)
