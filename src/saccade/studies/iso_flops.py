"""Every method at equal FLOPs, beside plain baselines, with closed-up and with kept positions."""

from __future__ import annotations

from typing import Any

from saccade.evaluation.matched import KINDS, PLAIN, RATIOS
from saccade.report import figures
from saccade.report.markdown import difference, markdown
from saccade.studies.base import (
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
from saccade.studies.bench import Bench, orders_of
from saccade.studies.lines import Book
from saccade.studies.lineup import KEPT, matched
from saccade.studies.tables import against, plan_table, task_table

SCORES = ("vig", "ffn", "lc")
CHANCE = "random"


def design(bench: Bench) -> Design:
    """The line-up at 70, 50 and 30 % of the FLOPs."""
    scored = bench.calibrated(SCORES)
    facts = {
        "ratios": list(RATIOS),
        "calibration": {"samples": len(scored["vig"].samples)} | {n: s.to_dict() for n, s in scored.items()},
    }
    return Design(tuple(matched(bench, orders_of(scored))), facts)


def judge(book: Book, design: Design) -> dict[str, Any]:
    """Every method against random rows at the same ratio, and positions kept against closed up."""
    ran = [line for line in design.lines if line.plan is not None]
    chance = {line.about["asked"]: line.name for line in ran if line.about["method"] == CHANCE}
    names = {line.name for line in ran}
    beside, gaps, positions, closed = [], [], [], []
    for line in ran:
        told = {key: line.about[key] for key in ("method", "title", "kind", "asked", "positions")}
        partner = chance.get(line.about["asked"])
        if partner is not None and partner != line.name:
            beside.append(told | against(book, line.name, partner))
            if line.about["kind"] != "plain":
                gaps.append(book.against(line.name, partner))
        kept = line.name + KEPT
        if kept in names:
            positions.append(told | against(book, kept, line.name))
            closed.append(book.against(line.name, kept))
    seen, beside_kept = directions(gaps), directions(closed)
    ratios = ", ".join(f"{100 * ratio:.0f} %" for ratio in RATIOS)
    findings = [
        Finding(
            "Methods that choose rows or layers beat random rows at equal FLOPs",
            "FastV and its kin",
            is_better(gaps),
            f"Of {len(gaps)} lines at {ratios} of the FLOPs {seen.count(1)} are above random "
            f"rows and {seen.count(-1)} below, {corrected(len(gaps))}.",
        ),
        Finding(
            "Closing positions up, as the authors do, costs nothing",
            "code of VisionZip, FasterVLM, PyramidDrop, SparseVLM 1.x",
            is_free(closed),
            f"Of {len(closed)} lines {beside_kept.count(-1)} are worse with positions closed up and "
            f"{beside_kept.count(1)} better, {corrected(len(closed))}; {sum(map(is_harmless, closed))} "
            "lose less than a point.",
        ),
    ]
    claims = [finding.to_dict() for finding in findings]
    return {"against_random": beside, "positions": positions, "findings": claims}


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
    rows = [
        [row["first"], KINDS[row["kind"]], difference(row)]
        for row in sorted(
            result["against_random"], key=lambda r: (-(r["asked"] or 0), -(r["difference"] or 0))
        )
    ]
    parts = [
        plan_table(result),
        "## Against random rows at the same FLOPs",
        markdown(("plan", "kind", "difference in points"), rows, right_from=2),
    ]
    if result["positions"]:
        rows = [[row["second"], difference(row)] for row in result["positions"]]
        parts += ["## Positions kept against closed up", markdown(("plan", "difference in points"), rows)]
    return "\n\n".join([*parts, "## Task by task", task_table(result)])


STUDY = Study(
    "iso-flops",
    "All methods at equal FLOPs",
    "What does every method keep when all are set to the same share of the FLOPs, beside random rows, a "
    "uniform "
    "grid, pooling and a lower resolution?",
    design,
    judge,
    draw,
    tell,
)
