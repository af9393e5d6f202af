"""Which way of choosing layers is best: VIG against cosine, LC, random layers and simply the last ones."""

from __future__ import annotations

from typing import Any

from saccade.calibration.measures import shuffled
from saccade.report.markdown import markdown
from saccade.report.text import difference
from saccade.research.studies import charts
from saccade.research.studies.base import Design, Finding, Result, Study, corrected, directions, is_better
from saccade.research.studies.bench import StudyBench
from saccade.research.studies.draws import ONE_DRAW
from saccade.research.studies.lines import Book, Line
from saccade.research.studies.skips import budgets, first
from saccade.research.studies.tables import against, plan_table, unlike

TITLES = {
    "vig": "VIG",
    "cosine": "cosine distance",
    "lc": "layer contribution (LC)",
    "last": "the last layers",
    "random": "random layers",
}
RANDOM = 3
"""Random orders."""
OWN = "vig"


def name_of(way: str, budget: int) -> str:
    """Name of a line."""
    return f"{way}, {budget} layers"


def design(bench: StudyBench) -> Design:
    """V-Skip with the layers of every way of choosing, at several numbers of layers."""
    scored = bench.calibrated(("vig", "cosine", "lc"))
    orders = {name: found.order for name, found in scored.items()}
    orders["last"] = tuple(reversed(range(bench.depth)))
    for number in range(RANDOM):
        orders[f"random {number + 1}"] = shuffled(bench.depth, bench.questions.seed + number)
    lines = [
        Line(
            name_of(way, budget),
            first(order, budget),
            {"method": "vskip", "title": TITLES[way.split()[0]], "way": way, "budget": budget},
        )
        for way, order in orders.items()
        for budget in budgets(bench.depth)
    ]
    facts = {
        "calibration": {n: s.to_dict() for n, s in scored.items()},
        "orders": {name: list(order) for name, order in orders.items()},
    }
    return Design(tuple(lines), facts)


def judge(book: Book, design: Design) -> dict[str, Any]:
    """VIG against every other way at equal numbers of layers."""
    ways = [way for way in design.facts["orders"] if way != OWN]
    sizes = budgets(book.bench.depth)
    pairs = [
        {"way": way, "budget": n} | against(book, name_of(OWN, n), name_of(way, n))
        for way in ways
        for n in sizes
    ]
    findings = []
    for kind in ("cosine", "lc", "last", "random"):
        gaps, alike = unlike(book, [row for row in pairs if row["way"].split()[0] == kind])
        seen = directions(gaps)
        findings.append(
            Finding(
                f"VIG chooses better layers than {TITLES[kind]}",
                "V-Skip, identification of layers",
                is_better(gaps),
                f"At {', '.join(map(str, sizes))} of {book.bench.depth} layers "
                f"VIG keeps more accuracy in {seen.count(1)} of {len(gaps)} comparisons and less in "
                f"{seen.count(-1)}, {corrected(len(gaps))}{alike}. {ONE_DRAW}",
            ).to_dict()
        )
    return {"pairs": pairs, "findings": findings}


def draw(result: Result) -> dict[str, bytes]:
    """Accuracy against the number of layers, a line per way."""
    series: dict[str, list[tuple[int, Any]]] = {}
    for entry in result["plans"]:
        series.setdefault(entry["way"], []).append((entry["budget"], entry["mean"]))
    return {"accuracy": charts.accuracy_lines(series, result["dense"]["mean"], "layers that V-Skip skips")}


def tell(result: Result) -> str:
    """What each way chose and kept."""
    orders = [[way, ", ".join(map(str, order))] for way, order in result["orders"].items()]
    rows = [[row["way"], str(row["budget"]), difference(row)] for row in result["pairs"]]
    return "\n\n".join(
        [
            plan_table(result),
            "## VIG minus another way, at equal numbers of layers",
            markdown(("way", "layers", "difference in points"), rows),
            "## Orders, from the first layer that is skipped",
            markdown(("way", "order"), orders, right_from=2),
        ]
    )


STUDY = Study(
    "identify",
    "Which layers: VIG against other choices",
    "At equal numbers of layers, does V-Skip keep more with layers chosen by VIG than by cosine distance, "
    "LC, chance, or from the end?",
    design,
    judge,
    draw,
    tell,
)
