"""Every method at equal FLOPs, beside plain baselines, with closed-up and with kept positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from saccade.evaluation.matched import FINE, KINDS
from saccade.evaluation.results import Evaluation
from saccade.evaluation.statistics import Interval
from saccade.methods.kinds import PLAIN
from saccade.report import figures
from saccade.report.markdown import markdown
from saccade.report.text import difference, percent
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
from saccade.research.studies.bench import StudyBench, orders_of, told_of
from saccade.research.studies.lines import Book
from saccade.research.studies.lineup import KEPT, closes_up, matched
from saccade.research.studies.tables import against, interval_of, opposite, plan_table, task_table

CHANCE = "random"
APART = 0.02
"""Most that the FLOPs ratios of two lines may differ by for them to be at equal FLOPs."""
WHERE = {True: "closed up", False: "kept", None: ""}


def design(bench: StudyBench) -> Design:
    """The line-up at 70, 60, 50, 40 and 30 % of the FLOPs."""
    scored = bench.calibrated()
    facts = {
        "ratios": list(FINE),
        "calibration": told_of(scored),
    }
    return Design(tuple(matched(bench, orders_of(scored), FINE)), facts)


def judge(book: Book, design: Design) -> dict[str, Any]:
    """Every method against random rows at the same ratio, and positions kept against closed up."""
    ran = [line for line in design.lines if line.plan is not None]
    chance = {line.about["asked"]: line.name for line in ran if line.about["method"] == CHANCE}
    names = {line.name for line in ran}
    beside, positions, far = [], [], []
    gaps: dict[bool, list[Interval]] = {True: [], False: []}
    for line in ran:
        shuts = closes_up(book.bench, line)
        told = {key: line.about[key] for key in ("method", "title", "kind", "asked", "positions")}
        partner = chance.get(line.about["asked"])
        if partner is not None and partner != line.name:
            mine, theirs = book.flops_ratio(line.name), book.flops_ratio(partner)
            counts = line.about["kind"] != "plain" and abs(mine - theirs) <= APART
            row = against(book, line.name, partner)
            beside.append({**told, "closed": shuts, "counts": counts, **row})
            if counts:
                gaps[bool(shuts)].append(interval_of(row))
            elif line.about["kind"] != "plain":
                far.append(f"{line.name} ({percent(mine)} against {percent(theirs)})")
        kept = line.name + KEPT
        if kept in names and shuts:
            seeing = any(map(_sees, (book.of_line(line), book.of_line(book.lines[kept]))))
            positions.append({**told, "counts": seeing, **against(book, kept, line.name)})
    claims = [found.to_dict() for found in (against_chance(gaps, far), against_kept(positions))]
    return {"against_random": beside, "positions": positions, "findings": claims}


def _sees(found: Evaluation) -> bool:
    """Whether a line is above the blind model, outside its interval."""
    return (found.mean.retention_above_blind.low or 0.0) > 0


def against_chance(gaps: Mapping[bool, Sequence[Interval]], far: Sequence[str]) -> Finding:
    """Verdict on lines that place rows as random rows are placed; those that close positions up beside it."""
    kept, shut = gaps[False], gaps[True]
    seen, beside = directions(kept), directions(shut)
    ratios = ", ".join(f"{100 * ratio:.0f} %" for ratio in FINE)
    found = (
        f"Of {len(kept)} lines at {ratios} of the FLOPs that drop no rows, or whose rows keep their "
        f"positions as random rows do, {seen.count(1)} are above random rows and {seen.count(-1)} below, "
        f"{corrected(len(kept))}. Of {len(shut)} with positions closed up, which costs accuracy by itself "
        f"and is left out of the verdict, {beside.count(1)} are above and {beside.count(-1)} below."
    )
    if far:
        found += (
            f" Left out of both, being more than {100 * APART:.0f} points of FLOPs away from random rows: "
            f"{', '.join(far)}."
        )
    found += (
        " Random rows are one draw, the same rows in every image of one size: no interval includes the draw."
    )
    return Finding(
        "Methods that choose rows or layers beat random rows at equal FLOPs",
        "FastV and its kin",
        is_better(kept),
        found,
    )


def against_kept(positions: Sequence[Mapping[str, Any]]) -> Finding:
    """Verdict on pairs of which at least one line sees more than the blind model."""
    counted = [row for row in positions if row["counts"]]
    closed = [opposite(interval_of(row)) for row in counted]
    seen = directions(closed)
    blind = [row["second"] for row in positions if not row["counts"]]
    found = (
        f"Of {len(closed)} lines {seen.count(-1)} are worse with positions closed up and {seen.count(1)} "
        f"better, {corrected(len(closed))}; {sum(map(is_harmless, closed))} lose less than a point."
    )
    if blind:
        found += (
            " Left out, for neither way is above the blind model outside its interval, are "
            f"{len(blind)}: {', '.join(blind)}."
        )
    return Finding(
        "Closing positions up, as the authors do, costs nothing",
        "code of VisionZip, FasterVLM, PyramidDrop, SparseVLM 1.x",
        is_free(closed),
        found,
    )


def draw(result: Result) -> dict[str, bytes]:
    """Accuracy against FLOPs, a panel per method: as the authors did, and with positions kept."""
    blind, asked = result["dense"]["mean"]["blind"], result["data"]["questions"]
    own = [e for e in result["plans"] if e["positions"] == "authors"]
    kept = [e for e in result["plans"] if e["positions"] == "keep" or e["method"] in PLAIN]
    drawn = {"family": figures.accuracy_by_family(result["dense"], blind, own, asked)}
    if any(e["positions"] == "keep" and e.get("mean") for e in kept):
        named = [e | {"title": e["title"].removesuffix(KEPT)} for e in kept]
        drawn["kept"] = figures.accuracy_by_family(result["dense"], blind, named, asked, "positions kept")
    return drawn


def tell(result: Result) -> str:
    """What is left at each ratio, against random rows, positions, and task by task."""
    reached = {e["name"]: e["cost"]["flops_ratio"] for e in result["plans"] if e.get("mean")}
    rows = [
        [
            row["first"], KINDS[row["kind"]],
            # Files of earlier versions do not say it.
            WHERE[row.get("closed")],
            percent(reached[row["first"]]), difference(row),
        ]
        for row in sorted(
            result["against_random"], key=lambda r: (-(r["asked"] or 0), -(r["difference"] or 0))
        )
    ]  # fmt: skip
    parts = [
        plan_table(result),
        "## Against random rows at the same FLOPs",
        markdown(("plan", "kind", "positions", "FLOPs", "difference in points"), rows, right_from=3),
    ]
    if result["positions"]:
        rows = [[row["second"], difference(row)] for row in result["positions"]]
        parts += ["## Positions kept against closed up", markdown(("plan", "difference in points"), rows)]
    return "\n\n".join([*parts, "## Task by task", task_table(result)])


STUDY = Study(
    "iso-flops",
    "All methods at equal FLOPs",
    "What does every method keep when all are set to the same share of the FLOPs, beside random rows, a "
    "uniform grid, pooling and a lower resolution?",
    design,
    judge,
    draw,
    tell,
)
