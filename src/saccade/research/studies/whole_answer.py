"""What VIG should look at: the first token of an answer, as the papers do, or all of them."""

from __future__ import annotations

from typing import Any

from saccade.report.markdown import markdown
from saccade.report.text import difference
from saccade.research.studies import charts
from saccade.research.studies.base import (
    ASKED,
    Design,
    Finding,
    Result,
    Study,
    corrected,
    directions,
    is_better,
)
from saccade.research.studies.bench import StudyBench
from saccade.research.studies.draws import ONE_DRAW
from saccade.research.studies.lines import Book, Line
from saccade.research.studies.skips import budgets, first
from saccade.research.studies.tables import against, plan_table, unlike

FIRST, WHOLE = "first token", "whole answer"
OWN, MIXTURE = "own task", "mixture"


def name_of(looked: str, source: str, budget: int) -> str:
    """Name of a line."""
    return f"VIG of the {looked}, {source}, {budget} layers"


def design(bench: StudyBench) -> Design:
    """V-Skip by both scores, calibrated on every task and on the mixture, at several numbers of layers."""
    lines, orders, means = [], {}, {}
    for looked, tokens in ((FIRST, 1), (WHOLE, bench.tokens)):
        own = {task: bench.own("vig", task, tokens) for task in bench.tasks}
        mixture = bench.calibrated(("vig",), tokens)["vig"]
        means[looked] = {task: found.mean for task, found in own.items()}
        orders[looked] = {task: list(found.order) for task, found in {**own, MIXTURE: mixture}.items()}
        for budget in budgets(bench.depth):
            about = {"method": "vskip", "title": "V-Skip", "looked": looked, "budget": budget}
            plans = {task: first(found.order, budget) for task, found in own.items()}
            lines.append(Line(name_of(looked, OWN, budget), plans, {**about, "source": OWN}))
            plan = first(mixture.order, budget)
            lines.append(Line(name_of(looked, MIXTURE, budget), plan, {**about, "source": MIXTURE}))
    return Design(tuple(lines), {"orders": orders, "vig": means, "answer_tokens": bench.tokens})


def judge(book: Book, design: Design) -> dict[str, Any]:
    """The whole answer against its first token, by source of the samples, number of layers and task."""
    sizes = budgets(book.bench.depth)
    findings, pairs = [], []
    for source in (OWN, MIXTURE):
        told = [against(book, name_of(WHOLE, source, n), name_of(FIRST, source, n)) for n in sizes]
        gaps, alike = unlike(book, told)
        pairs += [{"source": source, "budget": n, **row} for n, row in zip(sizes, told, strict=True)]
        seen = directions(gaps)
        findings.append(
            Finding(
                f"Calibrated on {'its own task' if source == OWN else 'a mixture'}, VIG of the whole answer "
                "chooses better layers than VIG of the first token",
                ASKED,
                is_better(gaps),
                f"At {', '.join(map(str, sizes))} of {book.bench.depth} layers: "
                f"{', '.join(difference(row) for row in told)} points of mean accuracy; "
                f"it keeps more in {seen.count(1)} of {len(gaps)} comparisons and less in "
                f"{seen.count(-1)}, {corrected(len(gaps))}{alike}. {ONE_DRAW}",
            ).to_dict()
        )
    tasks = {
        task: [against(book, name_of(WHOLE, OWN, n), name_of(FIRST, OWN, n), (task,)) for n in sizes]
        for task in book.tasks
    }
    return {"pairs": pairs, "tasks": tasks, "budgets": list(sizes), "findings": findings}


def draw(result: Result) -> dict[str, bytes]:
    """Accuracy against the number of layers, a line per score and source."""
    series: dict[str, list[tuple[int, Any]]] = {}
    for entry in result["plans"]:
        name = f"{entry['looked']}, {entry['source']}"
        series.setdefault(name, []).append((entry["budget"], entry["mean"]))
    return {"accuracy": charts.accuracy_lines(series, result["dense"]["mean"], "layers that V-Skip skips")}


def tell(result: Result) -> str:
    """Differences by task, the scores and the orders they give."""
    depth = result["model"]["layers"]
    layers = [str(n) for n in range(depth)]
    gains = [[task, *map(difference, row)] for task, row in result["tasks"].items()]
    both = [[row["source"], str(row["budget"]), difference(row)] for row in result["pairs"]]
    vig = [
        [task, looked, *(f"{value:.3g}" for value in result["vig"][looked][task])]
        for task in result["vig"][FIRST]
        for looked in (FIRST, WHOLE)
    ]
    orders = [
        [task, looked, ", ".join(map(str, result["orders"][looked][task]))]
        for task in result["orders"][FIRST]
        for looked in (FIRST, WHOLE)
    ]
    return "\n\n".join(
        [
            plan_table(result),
            "## Whole answer minus first token",
            markdown(("calibrated on", "layers", "difference in points"), both),
            "## Task by task, calibrated on the task itself",
            markdown(("task", *(f"{n} layers" for n in result["budgets"])), gains),
            "## VIG (nats), summed over the tokens that are looked at",
            markdown(("task", "looks at", *layers), vig, right_from=2),
            "## Orders, from the first layer that is skipped",
            markdown(("task", "looks at", "order"), orders, right_from=3),
        ]
    )


STUDY = Study(
    "whole-answer",
    "Which token: VIG of the first or of the whole answer",
    "Does V-Skip keep more when layers are scored over all tokens of the model's own answer?",
    design,
    judge,
    draw,
    tell,
    each_task=True,
)
