"""Dropping rows and skipping layers together, against each alone at equal FLOPs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from saccade.evaluation.matched import first_layer, kind_of
from saccade.evaluation.statistics import Interval
from saccade.methods import METHODS
from saccade.methods.kinds import SKIPPING
from saccade.plans.budget import SLACK, flops_ratio, reach_flops
from saccade.plans.plan import Plan
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
    is_free,
)
from saccade.research.studies.bench import StudyBench, orders_of, told_of
from saccade.research.studies.lines import Book, Line
from saccade.research.studies.lineup import tried
from saccade.research.studies.skips import published
from saccade.research.studies.tables import against, interval_of, plan_table, task_table

RATIOS = (0.7, 0.5)
DROPS = ("fastv", "pyramiddrop", "divprune", "visionzip")
BOOSTED, BOOSTER = "FastV, K = 3, half", "FastV + V-Skip, K = 3, half; N = 19 of 32"


def drop(name: str, depth: int, setting: str) -> str:
    """Spec of a method that drops rows, its positions kept."""
    layer = first_layer(METHODS[name], depth)
    at = "" if layer is None else f"layer={layer},"
    kept = "position_policy=keep," if getattr(METHODS[name], "compacts", False) else ""
    return f"{name}({at}{kept}{setting})"


def name_of(parts: tuple[str, ...], ratio: float) -> str:
    """Name of a line."""
    return f"{' + '.join(METHODS[part].title for part in parts)} at {100 * ratio:.0f} %"


def design(bench: StudyBench) -> Design:
    """Every method alone and every pair at each ratio; the papers' FastV with and without V-Skip."""
    scored = bench.calibrated()
    orders, depth = orders_of(scored), bench.depth
    layouts, weights = bench.prompts()
    half, layer = max(1, depth // 2), first_layer(METHODS["fastv"], depth)
    lines: list[Line] = []
    shape = bench.loaded.shape
    alone = {
        one: flops_ratio(Plan.of(f"{one}(budget={half})").resolve(depth, orders), shape, layouts, weights)
        for one in SKIPPING
    }

    def add(parts: tuple[str, ...], ratio: float, spec: str) -> None:
        about = {
            "method": "+".join(parts),
            "title": " + ".join(METHODS[p].title for p in parts),
            "asked": ratio,
        }
        about["kind"] = "composed" if len(parts) > 1 else "layers" if parts[0] in SKIPPING else "decoder"
        name = name_of(parts, ratio)
        if len(parts) > 1 and alone[parts[1]] <= ratio + SLACK:
            left = f"{METHODS[parts[1]].title} in {half} layers alone is at {100 * alone[parts[1]]:.1f} %"
            lines.append(Line(name, None, about, f"{left}: nothing is left to drop"))
            return
        try:
            plan = reach_flops(Plan.of(spec), shape, layouts, orders, weights)
        except ValueError as error:
            lines.append(Line(name, None, about, str(error)))
            return
        lines.append(tried(bench, Line(name, plan, about)))

    for ratio in RATIOS:
        for one in DROPS:
            add((one,), ratio, drop(one, depth, f"flops={ratio}"))
        for other in SKIPPING:
            add((other,), ratio, f"{other}(flops={ratio})")
        for one in DROPS:
            for other in SKIPPING:
                add((one, other), ratio, f"{drop(one, depth, f'flops={ratio}')}+{other}(budget={half})")
    booster = f"fastv(layer={layer},keep=0.5)"
    for name, spec in ((BOOSTED, booster), (BOOSTER, f"{booster}+vskip(budget={published(depth)})")):
        plan = Plan.of(spec).resolve(depth, orders)
        names = [method.name for method in plan.methods]
        about: dict[str, Any] = {"method": "+".join(names), "title": name, "asked": None}
        about["kind"] = kind_of(names[0], depth) if len(names) == 1 else "composed"
        lines.append(Line(name, plan, about))
    facts = {
        "ratios": list(RATIOS),
        "skipped_layers": half,
        "calibration": told_of(scored),
    }
    return Design(tuple(lines), facts)


def judge(book: Book, design: Design) -> dict[str, Any]:
    """Every pair against each of its parts at the same FLOPs, and the papers' booster."""
    ran = {line.name for line in design.lines if line.plan is not None}
    pairs = []
    gaps: dict[str, list[Interval]] = {"drops": [], "skips": []}
    for ratio, one, other in itertools.product(RATIOS, DROPS, SKIPPING):
        both = name_of((one, other), ratio)
        for part in (one, other):
            alone = name_of((part,), ratio)
            if both in ran and alone in ran:
                found = against(book, both, alone)
                pairs.append({"pair": [one, other], "asked": ratio, "alone": part} | found)
                gaps["drops" if part == one else "skips"].append(interval_of(found))
    findings = []
    for kind, what in (("drops", "the method that drops rows"), ("skips", "the method that skips layers")):
        mine = gaps[kind]
        seen = directions(mine)
        partners = ""
        if kind == "skips":
            partners = _partners(book, [row for row in pairs if row["alone"] in SKIPPING], seen)
        findings.append(
            Finding(
                f"Dropping rows and skipping layers together beats {what} alone at equal FLOPs",
                ASKED,
                is_better(mine),
                f"Of {len(mine)} comparisons at {', '.join(f'{100 * r:.0f} %' for r in RATIOS)} of the FLOPs "
                f"pairs are better in {seen.count(1)} and worse in {seen.count(-1)}, "
                f"{corrected(len(mine))}{partners}.",
            )
        )
    best = _best(book, ran)
    if best:
        findings.append(
            Finding(
                "The best pair keeps more than the best method alone at equal FLOPs",
                ASKED,
                is_better([interval_of(one) for one in best]),
                "; ".join(
                    f"at {100 * one['asked']:.0f} % {one['first'].split(' at ')[0]} against "
                    f"{one['second'].split(' at ')[0]}: {difference(one)} points"
                    for one in best
                )
                + "; both are the best of these very questions.",
            )
        )
    boost = against(book, BOOSTER, BOOSTED)
    findings.append(
        Finding(
            "V-Skip on top of FastV costs no accuracy",
            "V-Skip, booster: 99.27 % against 98.86 %",
            is_free([interval_of(boost)]),
            f"It changes mean accuracy by {difference(boost)} points.",
        )
    )
    return {"pairs": pairs, "best": best, "findings": [finding.to_dict() for finding in findings]}


def _partners(book: Book, rows: Sequence[Mapping[str, Any]], seen: Sequence[int]) -> str:
    """What the pairs were held against, and how each of these fared."""
    sides: dict[str, list[int]] = {}
    for row, side in zip(rows, seen, strict=True):
        sides.setdefault(row["second"], []).append(side)
    told = []
    for name, its in sides.items():
        plan = book.lines[name].plan
        layers = getattr(plan.methods[0], "layers", None) if isinstance(plan, Plan) else None
        where = f" ({len(layers)} of {book.bench.depth} layers)" if isinstance(layers, tuple) else ""
        told.append(f"{name}{where} {its.count(1)} better and {its.count(-1)} worse of {len(its)}")
    absent = [METHODS[one].title for one in SKIPPING if one not in {row["alone"] for row in rows}]
    none = f"; none against {', '.join(absent)}" if absent else ""
    return f": against {'; '.join(told)}{none}" if told else none


def _best(book: Book, ran: set[str]) -> list[dict[str, Any]]:
    """The most accurate pair of each ratio minus the most accurate method alone there."""
    found = []
    for ratio in RATIOS:
        singles = [name_of((one,), ratio) for one in (*DROPS, *SKIPPING)]
        both = [name_of(pair, ratio) for pair in itertools.product(DROPS, SKIPPING)]
        tops = [
            max(names, key=lambda name: book.of_line(book.lines[name]).mean.accuracy.value or 0.0)
            for names in ([n for n in both if n in ran], [n for n in singles if n in ran])
            if names
        ]
        if len(tops) == 2:
            found.append({"asked": ratio, **against(book, *tops)})
    return found


def draw(result: Result) -> dict[str, bytes]:
    """Accuracy at every ratio, a panel per method that drops rows: alone, and with each that skips layers."""
    ran = {(e["method"], e["asked"]): e["mean"] for e in result["plans"] if e.get("mean")}

    def line(method: str) -> list[tuple[float, Any]]:
        return [(ratio, ran[method, ratio]) for ratio in result["ratios"] if (method, ratio) in ran]

    panels = {
        METHODS[one].title: {
            "alone": line(one),
            **{f"with {METHODS[other].title}": line(f"{one}+{other}") for other in SKIPPING},
        }
        for one in DROPS
    }
    skips = {f"with {METHODS[other].title}": line(other) for other in SKIPPING}
    return {"pairs": charts.pairs(panels, skips, result["dense"]["mean"])}


def tell(result: Result) -> str:
    """What is left, pairs against their parts, and task by task."""
    rows = [[row["first"], row["second"], difference(row)] for row in result["pairs"]]
    return "\n\n".join(
        [
            plan_table(result),
            "## A pair minus one of its methods alone, at the same FLOPs",
            markdown(("pair", "alone", "difference in points"), rows, right_from=2),
            "## Task by task",
            task_table(result),
        ]
    )


STUDY = Study(
    "compose",
    "Dropping rows and skipping layers together",
    "At equal FLOPs, is a pair of a method that drops rows and one that skips layers better than either "
    "alone?",
    design,
    judge,
    draw,
    tell,
    layers=3,
)
