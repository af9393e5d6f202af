"""What a study wants to know and what came of it: lines of plans, scored from finished cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from saccade.evaluation.comparison import check_plans
from saccade.evaluation.ledger import Spent
from saccade.evaluation.results import Evaluation, Prediction, score
from saccade.evaluation.runner import BLIND, DENSE, mean_cost, prediction, real_cost, stock_cost
from saccade.evaluation.statistics import Interval, paired_difference
from saccade.plans.plan import Plan
from saccade.research.studies.bench import StudyBench
from saccade.research.studies.cells import Column
from saccade.research.studies.store import Cell

SPENT = ("gflops", "kv_bytes", "equivalent_tokens")
"""What a cell notes of the cost of a prompt."""


@dataclass(frozen=True)
class Line:
    """One line of a study.

    Attributes:
        name: Its name, once in a study.
        plan: The resolved plan, or one for every task; None where there is none.
        about: What tables and figures sort it by: method, title, budget, ...
        reason: Why there is no plan.
    """

    name: str
    plan: Plan | Mapping[str, Plan] | None
    about: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""

    def plan_of(self, task: str) -> Plan | None:
        """The plan it runs a task under."""
        return self.plan if isinstance(self.plan, Plan) or self.plan is None else self.plan[task]

    def specs(self, tasks: Sequence[str]) -> dict[str, str]:
        """The plans it runs tasks under as spec strings; of tasks without one nothing."""
        return {task: plan.spec for task in tasks if (plan := self.plan_of(task)) is not None}

    @property
    def spec(self) -> str:
        """The plan as a spec string; empty where there is none or one for every task."""
        return self.plan.spec if isinstance(self.plan, Plan) else ""


def columns(bench: StudyBench, lines: Sequence[Line]) -> dict[str, list[Column]]:
    """The cells that lines need, by task: dense and blind first, each once.

    Raises:
        ValueError: If a plan cannot be applied to the model.
    """
    distinct = {p.spec: p for line in lines for task in bench.tasks if (p := line.plan_of(task)) is not None}
    check_plans(bench.loaded, distinct)
    wanted: dict[str, list[Column]] = {}
    for task in bench.tasks:
        wanted[task] = [bench.column(task, DENSE), bench.column(task, BLIND, blind=True)]
        specs = dict.fromkeys(p.spec for line in lines if (p := line.plan_of(task)) is not None and p.methods)
        wanted[task] += [bench.column(task, spec, distinct[spec]) for spec in specs]
    return wanted


class Book:
    """Finished cells of a study, read as scores.

    Args:
        bench: The model and the questions.
        lines: What the study wanted; all their cells are in the store.
    """

    def __init__(self, bench: StudyBench, lines: Sequence[Line]) -> None:
        self.bench, self.lines, self.tasks = bench, {line.name: line for line in lines}, bench.tasks
        self._cells: dict[tuple[str, str], Cell] = {}
        self._read: dict[tuple[str, str], tuple[Prediction, ...]] = {}

    def cell(self, task: str, name: str) -> Cell:
        """A finished cell."""
        if (task, name) not in self._cells:
            found = self.bench.store.get(self.bench.column(task, name).key)
            assert found is not None, f"{task} under {name} was not asked"
            self._cells[task, name] = found
        return self._cells[task, name]

    def predictions(self, task: str, name: str) -> tuple[Prediction, ...]:
        """Answers to a task under a plan (its spec), or of ``dense`` or ``blind``."""
        name = name or DENSE
        if (task, name) not in self._read:
            cell = self.cell(task, name)
            text = dict(zip(cell.ids, cell.texts, strict=True))
            asked = self.bench.asked(task)
            self._read[task, name] = tuple(prediction(sample, text[sample.id]) for sample in asked)
        return self._read[task, name]

    def evaluation(self, name: str, plans: Mapping[str, str], tasks: Sequence[str] = ()) -> Evaluation:
        """Scores plans by task (their specs), paired with the dense and the blind model.

        Args:
            name: What to call it.
            plans: The spec of every task; empty or ``dense`` for the stock model.
            tasks: Tasks to look at; all if omitted.
        """
        chosen = list(tasks or self.tasks)

        def said(of: Mapping[str, str]) -> list[Prediction]:
            return [one for task in chosen for one in self.predictions(task, of[task])]

        specs = list(dict.fromkeys(plans[task] or DENSE for task in chosen))
        told = specs[0] if len(specs) == 1 else "one plan per task"
        dense, blind = (said(dict.fromkeys(chosen, key)) for key in (DENSE, BLIND))
        return score(name, told, said(plans), dense, blind, self._price(plans, chosen))

    def of_line(self, line: Line, tasks: Sequence[str] = ()) -> Evaluation:
        """Scores a line that has a plan."""
        return self.evaluation(line.name, line.specs(self.tasks), tasks)

    def against(self, first: str, second: str, tasks: Sequence[str] = ()) -> Interval:
        """Mean score of one line minus that of another on the same questions, tasks of equal weight."""
        specs = [self.lines[name].specs(tasks or self.tasks) for name in (first, second)]
        return paired_difference(self.paired(*specs))

    def paired(self, first: Mapping[str, str], second: Mapping[str, str]) -> list[list[tuple[float, float]]]:
        """Scores of the same questions under two plans for each task (their specs), task by task."""
        assert first and first.keys() == second.keys(), "a line has no plan"
        both = ((self.predictions(task, first[task]), self.predictions(task, second[task])) for task in first)
        return [[(a.score, b.score) for a, b in zip(*sides, strict=True)] for sides in both]

    def flops_ratio(self, name: str) -> float:
        """Share of the dense model's FLOPs that a line took."""
        return self._price(self.lines[name].specs(self.tasks), self.tasks)["flops_ratio"]

    def same(self, first: str, second: str) -> bool:
        """Whether two lines run every task under the same plan."""
        return self.lines[first].specs(self.tasks) == self.lines[second].specs(self.tasks)

    def entries(self) -> list[dict[str, Any]]:
        """Every line as plain data, lines that could not run included."""
        found = []
        for line in self.lines.values():
            scored = self.of_line(line).to_dict() if line.plan is not None else {}
            told = {"name": line.name, "spec": line.spec, **line.about, "reason": line.reason}
            found.append(scored | told)
        return found

    def whole(self) -> dict[str, Any]:
        """The stock model, seeing and blind."""
        return {
            name: self.evaluation(name, dict.fromkeys(self.tasks, name)).to_dict() for name in (DENSE, BLIND)
        }

    def _price(self, plans: Mapping[str, str], tasks: Sequence[str]) -> dict[str, float]:
        stock = stock_cost(
            self.bench.loaded, self._prompts(tasks), [self._spent(dict.fromkeys(tasks, DENSE), tasks)]
        )
        priced = real_cost(stock, [self._spent(plans, tasks)])
        assert priced is not None
        return priced

    def _spent(self, plans: Mapping[str, str], tasks: Sequence[str]) -> Spent:
        """Mean cost of a prompt over tasks."""
        costs = []
        for task in tasks:
            cell = self.cell(task, plans[task] or DENSE)
            # Cells of a stock model without a plan of its own note no cost: it is the closed form.
            noted = cell.spent or mean_cost(self.bench.loaded, Plan(), self._prompts((task,)))
            costs.append((len(cell.ids), {key: noted[key] for key in SPENT}))
        total = sum(count for count, _ in costs)
        return {key: sum(n * cost[key] for n, cost in costs) / total for key in SPENT}

    def _prompts(self, tasks: Sequence[str] = ()) -> Counter[tuple[int, int]]:
        found: Counter[tuple[int, int]] = Counter()
        for task in tasks or self.tasks:
            found.update({(v, t): n for v, t, n in self.cell(task, DENSE).prompts})
        return found
