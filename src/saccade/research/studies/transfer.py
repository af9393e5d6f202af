"""Whether a plan made for one task serves another, and whether one plan serves all."""

from __future__ import annotations

from typing import Any

from saccade.report.markdown import markdown
from saccade.report.text import difference, percent
from saccade.research.studies import charts
from saccade.research.studies.base import (
    Design,
    Finding,
    Result,
    Study,
    corrected,
    directions,
    is_better,
    is_free,
    is_harmless,
)
from saccade.research.studies.bench import StudyBench
from saccade.research.studies.draws import ONE_DRAW
from saccade.research.studies.lines import Book, Line
from saccade.research.studies.skips import budgets, first, published
from saccade.research.studies.tables import against, interval_of, opposite, plan_table

OWN, MIXTURE = "own", "mixture"


def name_of(source: str, budget: int) -> str:
    """Name of a line."""
    return f"calibrated on {source}, {budget} layers"


def chosen(depth: int) -> tuple[int, ...]:
    """Numbers of layers that are tried: half, and the papers' share."""
    return tuple(dict.fromkeys((max(1, depth // 2), published(depth))))


def design(bench: StudyBench) -> Design:
    """Plans of every task and of the mixture, on all tasks."""
    orders = {task: bench.own("vig", task).order for task in bench.tasks}
    mixture = bench.calibrated(("vig",))["vig"]
    lines = []
    for budget in chosen(bench.depth):
        about = {"method": "vskip", "title": "V-Skip", "budget": budget}
        own = {task: first(order, budget) for task, order in orders.items()}
        lines.append(Line(name_of(OWN, budget), own, {**about, "source": OWN}))
        for source, order in {MIXTURE: mixture.order, **orders}.items():
            lines.append(Line(name_of(source, budget), first(order, budget), {**about, "source": source}))
    facts = {
        "orders": {name: list(order) for name, order in {**orders, MIXTURE: mixture.order}.items()},
        "budgets": list(chosen(bench.depth)),
        "vig": {task: bench.own("vig", task).mean for task in bench.tasks},
    }
    return Design(tuple(lines), facts)


def judge(book: Book, design: Design) -> dict[str, Any]:
    """The matrix of tasks, and one plan for all against every task's own."""
    tasks, budget = book.tasks, design.facts["budgets"][-1]
    matrix = {
        source: {
            task: against(book, name_of(source, budget), name_of(OWN, budget), (task,)) for task in tasks
        }
        for source in (*tasks, MIXTURE)
    }
    universal = {s: against(book, name_of(s, budget), name_of(OWN, budget)) for s in (*tasks, MIXTURE)}
    gaps = {s: interval_of(row) for s, row in universal.items()}
    singles = [gaps[task] for task in tasks]
    worst = min(tasks, key=lambda task: gaps[task].value or 0.0)
    off = [interval_of(matrix[source][task]) for source in tasks for task in tasks if task != source]
    lost = directions(singles).count(-1)
    findings = [
        Finding(
            "One plan from one task serves all tasks as well as their own plans (V-Skip*)",
            "V-Skip, universal plan: 99.55 % against 100.31 %",
            is_free(singles),
            f"At {budget} layers {sum(map(is_harmless, singles))} of {len(tasks)} one-task plans lose less "
            f"than a point of mean accuracy and {lost} lose measurably, {corrected(len(singles))}; the "
            f"worst, of {worst}, differs by {difference(universal[worst])} points. {ONE_DRAW}",
        ),
        Finding(
            "A plan from a mixture of tasks serves all of them as well as their own plans",
            "V-Skip*, with a mixture in place of MME",
            is_free([gaps[MIXTURE]]),
            f"At {budget} layers mean accuracy differs by {difference(universal[MIXTURE])} points. "
            f"{ONE_DRAW}",
        ),
    ]
    if off:
        seen = directions(off)
        findings.append(
            Finding(
                "A task's own plan beats a plan of another task",
                "V-Skip, transfer from MME: 0.57 and 0.90 points",
                is_better(list(map(opposite, off))),
                f"Of {len(off)} transfers at {budget} layers {seen.count(-1)} lose and "
                f"{seen.count(1)} gain against the task's own plan, {corrected(len(off))}. {ONE_DRAW}",
            )
        )
    told = [finding.to_dict() for finding in findings]
    return {"matrix": matrix, "universal": universal, "layers": budget, "findings": told}


def draw(result: Result) -> dict[str, bytes]:
    """The matrix, and which layers each task gives up first."""
    return {
        "matrix": charts.matrix(result["matrix"], result["layers"]),
        "layers": charts.ranks(result["orders"], result["budgets"]),
    }


def tell(result: Result) -> str:
    """The matrix, one plan for all, and the layers chosen by task and budget."""
    tasks = list(result["dense"]["tasks"])
    rows = [
        [source, *(f"{100 * row[task]['difference']:+.1f}" for task in tasks)]
        for source, row in result["matrix"].items()
    ]
    own = {e["source"]: e for e in result["plans"] if e["budget"] == result["layers"]}
    one = [
        [source, percent(own[source]["mean"]["accuracy"]), difference(row)]
        for source, row in result["universal"].items()
    ]
    depth = result["model"]["layers"]
    sets = [
        [source, *(", ".join(map(str, sorted(order[:n]))) for n in budgets(depth))]
        for source, order in result["orders"].items()
    ]
    return "\n\n".join(
        [
            f"## Points against a task's own plan, {result['layers']} layers: calibrated on (rows), judged "
            "on (columns)",
            markdown(("calibrated on", *tasks), rows),
            "## One plan for all tasks",
            markdown(("calibrated on", "mean accuracy", "against own plans, points"), one),
            "## Layers chosen",
            markdown(("task", *(f"{n} layers" for n in budgets(depth))), sets, right_from=9),
            "## All plans",
            plan_table(result),
        ]
    )


STUDY = Study(
    "transfer",
    "Plans across tasks, and one plan for all",
    "What does a V-Skip plan calibrated on one task keep on another, and what does one plan for all tasks "
    "lose?",
    design,
    judge,
    draw,
    tell,
    each_task=True,
)
