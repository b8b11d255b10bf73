"""Greedy bit descent, then greedy exchanges.

Start from the widest policy and take one step down after the other, each time the one that measures best. A budget
complicates that: a policy over the budget is never evaluated, so the start is the widest policy as the task backs it
off, and from there a step down that pays is one that makes room for a step up elsewhere. One move is thus a step down,
a step up, or an exchange: a step up, and steps down of one other variable until the policy fits. Every candidate fits.

Trying all moves in every round would take a run for a round. Instead the drop of accuracy is measured once for a step
down of every variable, and says in which order the moves are tried: the loss of a variable is predicted to fall by 4
per bit, as the power of quantization noise does, and losses add up. The first move whose measured reward is better is
made, and the moves are ordered anew from there (a lazy greedy: Minoux, 1978).

When the `PATIENCE` best predicted moves have been tried in vain, the search restarts from its best policy with `KICK`
of the variables at random widths (at least two), backed off; a restart that arrives nowhere better is forgotten.
With more than `SAMPLE` variables that many are drawn for every start, and only they move. In spaces finer than layers
it is `SAMPLE` blocks of kernels that step (`policies.moves.blocks`).
"""

from typing import ClassVar

import numpy as np

from policies.baselines import random_vector
from policies.moves import blocks, make_units
from policies.replay import Answer, ReplayAgent, Search
from policies.task import Task

SAMPLE = 40
PATIENCE = 30
KICK = 0.1
STEP = 4.0
"""How much of the noise one bit takes away."""


class GreedyAgent(ReplayAgent):
    """Makes the move that measures better, the most promising first."""

    name: ClassVar[str] = "greedy"

    def __init__(self, task: Task, episodes: int, seed: int) -> None:
        super().__init__(task, episodes, seed)
        self._units = make_units(self.space)
        self._unit = np.zeros(len(self.space.variables), dtype=int)
        for index, unit in enumerate(self._units):
            self._unit[unit.variables] = index

    def search(self, generator: np.random.Generator) -> Search:
        """Start, descend, restart."""
        sensitivity = np.full(len(self.ranks.counts), np.nan)
        here = yield self.space.widest
        while True:
            asked = len(self._history)
            moving = blocks(self._units, len(sensitivity), SAMPLE, generator)
            for block in moving[np.isnan(np.where(moving, sensitivity, 0.0)).any(axis=1)]:
                vector = self.ranks.vectors(self.ranks.of(here.vector) - block)
                if self.task.limits.used(vector) <= 1:
                    self._learn(sensitivity, here, (yield from self.ask(vector)))
            better: Answer | None = here
            while better:
                here, better = better, None
                vectors = self._moves(here.vector, moving)
                rewards = self._predict(here, vectors, sensitivity)
                for index in np.argsort(-rewards, kind="stable")[:PATIENCE]:
                    answer = yield from self.ask(vectors[index])
                    self._learn(sensitivity, here, answer)
                    if answer.reward > here.reward:
                        better = answer
                        break
            best = max(self.answers.values(), key=lambda answer: answer.reward)
            kicked = best.vector.copy()
            count = max(2, round(KICK * len(kicked)))
            places = generator.permutation(len(kicked))[:count]
            kicked[places] = random_vector(self.task, generator)[places]
            here = yield from self.ask(self.task.limits.back_off(kicked))
            if len(self._history) == asked:
                here = yield from self.ask_any(generator)

    def _learn(self, sensitivity: np.ndarray, here: Answer, answer: Answer) -> None:
        """Take the measured drop of a step of one block."""
        step = np.sign(answer.vector - here.vector)
        changed = np.flatnonzero(step)
        if len(changed) and len(np.unique(self._unit[changed])) == len(np.unique(step[changed])) == 1:
            noise = (STEP ** -answer.vector[changed].astype(float) - STEP ** -here.vector[changed].astype(float)).sum()
            sensitivity[changed] = max((here.accuracy - answer.accuracy) / noise, 0.0)

    def _moves(self, vector: np.ndarray, moving: np.ndarray) -> np.ndarray:
        """All policies one move of blocks away that fit: int, (policies, variables)."""
        ranks, count = self.ranks.of(vector), len(moving)
        raised = np.repeat(np.vstack([ranks + moving, ranks]), count, axis=0)
        lowered = np.tile(moving, (count + 1, 1))
        found = [self.ranks.vectors(ranks + moving)]
        for down in range(1, int(self.ranks.counts.max())):
            found.append(self.ranks.vectors(raised - down * lowered))
            open_ = self.task.limits.used(found[-1]) > 1
            raised, lowered = raised[open_], lowered[open_]
            if not len(raised):
                break
        moves = np.unique(np.concatenate(found), axis=0)
        moves = moves[(moves != vector).any(axis=1)]
        return moves[self.task.limits.used(moves) <= 1]

    def _predict(self, here: Answer, vectors: np.ndarray, sensitivity: np.ndarray) -> np.ndarray:
        """Rewards of vectors by the measured sensitivities; of known policies, the measured rewards: (policies,)."""
        known = sensitivity[~np.isnan(sensitivity)]
        sensitivity = np.where(np.isnan(sensitivity), known.mean() if len(known) else 0.0, sensitivity)
        losses = (STEP ** -vectors.astype(float) - STEP ** -here.vector.astype(float)) @ sensitivity
        accuracies = np.clip(here.accuracy - losses, 0.0, 1.0)
        ratios = {metric: self.task.costs.ratio(metric, vectors).tolist() for metric in self.task.costs.tables}
        rewards = np.empty(len(vectors))
        for index, (vector, accuracy) in enumerate(zip(vectors, accuracies.tolist(), strict=True)):
            answer = self.answers.get(self.space.text(vector))
            costs = {metric: values[index] for metric, values in ratios.items()}
            rewards[index] = (
                answer.reward if answer else self.task.reward(accuracy, self.task.reference_accuracy, costs)
            )
        return rewards
