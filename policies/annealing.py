"""Simulated annealing on vectors of widths.

After Kirkpatrick, Gelatt and Vecchi, "Optimization by simulated annealing", Science 220 (1983): a neighbour that is
better is always taken, one that is worse by ``d`` with probability ``exp(-d / temperature)``, and the temperature falls
geometrically. Constants, chosen here:

- The start is the widest policy, which the task backs off into the budget.
- A neighbour is one variable a step up or down, or two different ones, one up and one down, each kind in half of the
  draws. Neighbours over the budget are drawn again. In spaces finer than layers it is blocks of kernels that step
  (`policies.moves.blocks`).
- The first temperature is `FIRST` times the median change of the reward by the first neighbours, a tenth of the run,
  of which only better ones are taken; the last is `LAST` times it.
- A neighbour known from before is answered from memory and takes no episode. When `PATIENCE` draws in a row bring
  nothing new, a random policy is asked for and the walk goes on from the best one.
"""

from typing import ClassVar

import numpy as np

from policies.moves import blocks, make_units
from policies.replay import ReplayAgent, Search
from policies.task import Task

FIRST, LAST = 0.3, 0.03
PATIENCE = 200


class AnnealingAgent(ReplayAgent):
    """Walks from neighbour to neighbour, ever less willing to get worse."""

    name: ClassVar[str] = "annealing"

    def __init__(self, task: Task, episodes: int, seed: int) -> None:
        super().__init__(task, episodes, seed)
        self._units = make_units(self.space)

    def search(self, generator: np.random.Generator) -> Search:
        """The walk."""
        here = yield self.space.widest
        warm_up, drawn = max(2, self.episodes // 10), 0
        changes: list[float] = []
        while True:
            drawn += 1
            if drawn > PATIENCE:
                yield from self.ask_any(generator)
                here, drawn = max(self.answers.values(), key=lambda answer: answer.reward), 0
                continue
            vector = self._neighbour(self.ranks.of(here.vector), generator)
            if vector is None:
                continue
            asked = len(self._history)
            answer = yield from self.ask(vector)
            loss = here.reward - answer.reward
            if len(self._history) > asked:
                drawn = 0
                changes.append(abs(loss))
            progress = min(1.0, max(0, len(self._history) - warm_up) / max(1, self.episodes - warm_up))
            temperature = float(np.median(changes[:warm_up] or [0.0])) * FIRST * (LAST / FIRST) ** progress
            hot = len(changes) >= warm_up and temperature > 0
            if loss <= 0 or (hot and generator.random() < np.exp(-loss / temperature)):
                here = answer

    def _neighbour(self, ranks: np.ndarray, generator: np.random.Generator) -> np.ndarray | None:
        """A vector that fits next to the ranks; None if the draw does not give one."""
        moving = blocks(self._units, len(ranks), 1 + int(generator.integers(2)), generator)
        signs = [1, -1] if generator.random() < 0.5 else [-1, 1]
        vector = self.ranks.vectors(ranks + np.array(signs[: len(moving)]) @ moving)
        return vector if self.task.limits.used(vector) <= 1 else None
