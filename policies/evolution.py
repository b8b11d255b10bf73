"""NSGA-II, the evolutionary search for a whole front of accuracy against cost.

Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", IEEE Transactions on Evolutionary
Computation 6 (2002), as pymoo has it (Blank and Deb, "pymoo: multi-objective optimization in Python", IEEE Access 8,
2020), by its ask-and-tell interface. Both objectives are minimized: the loss of accuracy, and what the policy costs: of
the budgets the share used, without any the metric that the reward has, and latency if it has none. The reward's best
policy lies on that front.

An individual is the vector's ranks, an integer per variable. Every individual is rounded and backed off into the
budget, as the task would do, before duplicates of the population are dropped. What had been asked for earlier is
answered from memory and takes no episode. The first population is the widest policy and random ones. Constants, chosen
here: `POPULATION`, `OFFSPRING`; crossover and mutation are pymoo's own for integers (simulated binary with eta 3,
polynomial with eta 3).

pymoo draws from the generator of its algorithm alone (from 0.6.2 on; earlier versions seed NumPy's global one). It is
imported when the first policy is asked for: the import takes a second.
"""

from typing import Any, ClassVar

import numpy as np

from policies.replay import Answer, ReplayAgent, Search

POPULATION, OFFSPRING = 20, 10


class Nsga2Agent(ReplayAgent):
    """Asks for one individual after the other."""

    name: ClassVar[str] = "nsga2"

    def search(self, generator: np.random.Generator) -> Search:
        """Generation by generation."""
        algorithm = self._algorithm(generator)
        while True:
            population, asked = algorithm.ask(), len(self._history)
            if population is None:  # no offspring that is not in the population
                yield from self.ask_any(generator)
                continue
            objectives = []
            for individual in population:
                answer = yield from self.ask(self.ranks.vectors(individual.X))
                objectives.append(self.objectives(answer))
            population.set("F", np.array(objectives))
            for individual in population:
                individual.evaluated.add("F")
            algorithm.tell(infills=population)
            if len(self._history) == asked:  # nothing new: a small space, or one that has converged
                yield from self.ask_any(generator)

    def objectives(self, answer: Answer) -> tuple[float, float]:
        """What is minimized: minus the accuracy, and the cost."""
        if self.task.limits.budgets:
            return -answer.accuracy, float(self.task.limits.used(answer.vector))
        metric = getattr(self.task.reward, "metric", "latency")
        return -answer.accuracy, float(self.task.costs.ratio(metric, answer.vector))

    def _algorithm(self, generator: np.random.Generator) -> Any:
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.core.problem import Problem
        from pymoo.core.repair import Repair
        from pymoo.core.termination import NoTermination
        from pymoo.operators.crossover.sbx import SBX
        from pymoo.operators.mutation.pm import PM

        agent = self

        class BackOff(Repair):
            def _do(self, problem: Any, X: np.ndarray, **_: Any) -> np.ndarray:
                ranks = np.clip(np.around(X).astype(int), 0, agent.ranks.counts - 1)
                vectors = map(agent.task.limits.back_off, agent.ranks.vectors(ranks))
                return agent.ranks.of(np.array(list(vectors)))

        first = generator.integers(0, self.ranks.counts, (POPULATION, len(self.ranks.counts)))
        first[0] = self.ranks.counts - 1
        problem = Problem(n_var=len(self.ranks.counts), n_obj=2, xl=0, xu=self.ranks.counts - 1, vtype=int)
        algorithm = NSGA2(
            pop_size=POPULATION,
            n_offsprings=OFFSPRING,
            sampling=first,
            crossover=SBX(prob=1.0, eta=3.0, vtype=float),
            mutation=PM(prob=1.0, eta=3.0, vtype=float),
            repair=BackOff(),
            seed=self.seed,
        )
        return algorithm.setup(problem, termination=NoTermination())
