"""Every method at its paper's operating point, task by task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from saccade.evaluation.matched import first_layer, kind_of
from saccade.methods import METHODS
from saccade.methods.kinds import SKIPPING
from saccade.plans.plan import Plan
from saccade.report import figures
from saccade.report.text import difference, interval, percent
from saccade.research.studies.base import Design, Finding, Result, Study, is_better, is_free
from saccade.research.studies.bench import StudyBench, orders_of, told_of
from saccade.research.studies.lines import Book, Line
from saccade.research.studies.lineup import closes_up, tried
from saccade.research.studies.skips import first, published
from saccade.research.studies.tables import against, interval_of, kept_table, plan_table, task_table

TOKENS = {"192 of 576": 1 / 3, "64 of 576": 1 / 9}
"""What papers keep of the 576 rows of LLaVA-1.5, as a share of the rows there are."""
OWN = "V-Skip, each task its own layers"
REPORTED = {
    "vskip": "99.55 % (V-Skip*)",
    "ffn_skip": "99.16 %",
    "shortv": "97.73 %",
    "vtw": "88.71 %",
    "pyramiddrop": "99.76 %",
    "sparsevlm": "99.88 %",
}
"""Mean retention at the methods' points on LLaVA-1.5-7B, as the V-Skip paper has it."""
CONTEXTUAL = 10 / 64
"""Share of VisionZip's rows that are merged ones."""


def points_of(depth: int) -> list[tuple[str, str]]:
    """Operating points as (what the paper does, spec), for a model of this depth.

    Depths are those of 32 layers, scaled; counts of rows are shares of the rows of LLaVA-1.5.
    """
    budget, layer = published(depth), first_layer(METHODS["fastv"], depth)
    found = [
        *((f"N = 19 of 32, here {budget}", f"{name}(budget={budget})") for name in SKIPPING),
        ("K = 16 of 32", f"vtw(layer={depth // 2})"),
        ("K = 3, half", f"fastv(layer={layer},keep=0.5)"),
        ("K = 3, half; N = 19 of 32", f"fastv(layer={layer},keep=0.5)+vskip(budget={budget})"),
        ("half at 8, 16, 24 of 32", "pyramiddrop()"),
        ("K = 5, 128 of 576", f"dart(layer={first_layer(METHODS['dart'], depth)},keep=0.222)"),
        ("the picture decides", "prumerge()"),
        ("the picture decides", "prumerge_plus()"),
        ("the authors' share of the rows in every layer", "fitprune()"),
        ("16 pairs in every layer of the tower", "tome()"),
        ("16 pairs in every layer of the tower, put back behind it", "tome(unmerge=true)"),
        ("2 by 2", "pool(factor=2)"),
        ("half the side", "resize(scale=0.5)"),
    ]
    for at, share in TOKENS.items():
        keep = round(share, 3)
        found += [(at, f"{name}(tokens={keep})") for name in ("sparsevlm", "sparsevlm_plus")]
        merged = round(share * CONTEXTUAL, 3)
        found.append((at, f"visionzip(dominant={round(keep - merged, 3)},contextual={merged})"))
        found += [
            (at, f"{name}(keep={keep})")
            for name in ("fastervlm", "vispruner", "divprune", "cdpruner", "hiprune", "random", "uniform")
        ]
    return found


def design(bench: StudyBench) -> Design:
    """The operating points, in the order of the methods' kinds."""
    scored = bench.calibrated()
    orders, depth = orders_of(scored), bench.depth
    lines = []
    for at, spec in points_of(depth):
        plan = Plan.of(spec)
        names = [method.name for method in plan.methods]
        title = " + ".join(METHODS[name].title for name in names)
        kind = kind_of(names[0], depth) if len(names) == 1 else "composed"
        about = {"method": "+".join(names), "title": title, "kind": kind, "point": at}
        name = f"{title}, {at}"
        try:
            plan = plan.resolve(depth, orders)
        except ValueError as error:
            lines.append(Line(name, None, about, str(error)))
            continue
        lines.append(tried(bench, Line(name, plan, about)))
    lines.append(own_layers(bench))
    kinds = ("layers", "decoder", "before", "composed", "plain")
    lines.sort(key=lambda line: kinds.index(line.about["kind"]))
    return Design(tuple(lines), {"calibration": told_of(scored)})


def own_layers(bench: StudyBench) -> Line:
    """V-Skip as its paper runs it: every task with the layers that 20 of its own samples choose."""
    budget = published(bench.depth)
    plans = {task: first(bench.own("vig", task).order, budget) for task in bench.tasks}
    about = {"method": "vskip", "title": OWN, "kind": "layers", "point": f"N = 19 of 32, here {budget}"}
    return Line(f"{OWN}, {about['point']}", plans, about)


def judge(book: Book, design: Design) -> dict[str, Any]:
    """The papers' order of the methods that skip layers, and whether any method is free at its point."""
    ran = [line for line in design.lines if line.plan is not None]
    own = next(line for line in ran if line.about["title"] == OWN)
    kept = book.of_line(own).mean
    findings = [
        Finding(
            "V-Skip at N = 19 of 32, each task its own layers, costs nothing",
            "V-Skip, table 1: 100.31 % of LLaVA-1.5-7B",
            is_free([kept.difference]),
            f"{own.about['point']}: {_told(book, own)}.",
        )
    ]
    alone: dict[str, list[Line]] = {}
    for line in ran:
        if line is not own and line.about["kind"] not in ("plain", "composed"):
            alone.setdefault(line.about["method"], []).append(line)
    (one,) = alone["vskip"]
    for other in ("shortv", "vtw"):
        (theirs,) = alone[other]
        gap = against(book, one.name, theirs.name)
        beside = against(book, own.name, theirs.name)
        title = METHODS[other].title
        findings.append(
            Finding(
                f"V-Skip keeps more accuracy than {title} at the papers' points, one plan for all tasks each",
                f"V-Skip, table 1: 100.31 % (each task its own layers) against {REPORTED[other]} of "
                "LLaVA-1.5-7B",
                is_better([interval_of(gap)]),
                f"Paired difference {difference(gap)} points, at {percent(book.flops_ratio(one.name))} of "
                f"the FLOPs against {percent(book.flops_ratio(theirs.name))}. With layers of its own for "
                f"each task V-Skip differs from {title}, which has one plan for all, by {difference(beside)} "
                "points.",
            )
        )
    findings += [_point(book, lines) for lines in alone.values()]
    return {"findings": [finding.to_dict() for finding in findings]}


def _point(book: Book, lines: Sequence[Line]) -> Finding:
    """Verdict on the claim that a method is free at the points its paper argues for."""
    method = lines[0].about["method"]
    told = [f"{line.about['point']}: {_told(book, line)}" for line in lines]
    shut = " Positions close up, as in its authors' code." if closes_up(book.bench, lines[0]) else ""
    known = REPORTED.get(method)
    return Finding(
        f"{METHODS[method].title} costs nothing at its paper's operating point"
        + ("s" if len(lines) > 1 else ""),
        "its own paper's setting" + (f"; V-Skip reports {known} of LLaVA-1.5-7B" if known else ""),
        is_free([book.of_line(line).mean.difference for line in lines]),
        "; ".join(told) + "." + shut,
    )


def _told(book: Book, line: Line) -> str:
    """What a line kept, and at what cost."""
    kept, share = book.of_line(line).mean.to_dict(), percent(book.flops_ratio(line.name))
    return (
        f"mean accuracy changes by {difference(kept)} points; it keeps {interval(kept, 'retention')}, "
        f"{interval(kept, 'retention_above_blind')} above blind, at {share} of the FLOPs"
    )


def draw(result: Result) -> dict[str, bytes]:
    """Accuracy against FLOPs, a panel per method."""
    blind = result["dense"]["mean"]["blind"]
    asked = result["data"]["questions"]
    return {"family": figures.accuracy_by_family(result["dense"], blind, result["plans"], asked)}


def tell(result: Result) -> str:
    """What is left, and task by task: accuracy, retention and retention above blind."""
    return "\n\n".join([plan_table(result), task_table(result), kept_table(result)])


STUDY = Study(
    "main",
    "All methods at their papers' operating points",
    "What does every method keep, task by task, at the setting its paper argues for (depths and counts of "
    "rows scaled to this model)?",
    design,
    judge,
    draw,
    tell,
    each_task=True,
)
