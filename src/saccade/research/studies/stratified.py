"""Whether calibration samples should be drawn evenly over sub-tasks, or at random from all."""

from __future__ import annotations

from typing import Any, get_args

from saccade.calibration.drawing import Draw
from saccade.report.markdown import markdown
from saccade.research.studies import sampled
from saccade.research.studies.base import Design, Finding, Result, Study
from saccade.research.studies.bench import StudyBench
from saccade.research.studies.draws import drawn, spread
from saccade.research.studies.lines import Book
from saccade.research.studies.skips import published

SIZES = (10, 20)


def design(bench: StudyBench) -> Design:
    """V-Skip with the layers of draws of both kinds."""
    pool, budget, seed = bench.pooled("vig"), published(bench.depth), bench.questions.seed
    sizes = [size for size in SIZES if size < len(pool.samples)] or [len(pool.samples)]
    groups = {
        f"{how}, {size} samples": drawn(pool, size, how, seed) for size in sizes for how in get_args(Draw)
    }
    facts = {
        "bands": {name: spread(pool, found, budget) for name, found in groups.items()},
        "sizes": sizes,
        "layers": budget,
        "pool": len(pool.samples),
        "subtasks": len({(s.task, s.subtask) for s in pool.samples}),
    }
    return Design(sampled.lines(groups, budget, pool), facts)


def judge(book: Book, design: Design) -> dict[str, Any]:
    """Spread of both kinds of draws."""
    groups, bands = sampled.groups(book), design.facts["bands"]
    size = design.facts["sizes"][-1]
    names = {how: f"{how}, {size} samples" for how in get_args(Draw)}
    means = {how: groups[name]["mean"] for how, name in names.items()}
    gap = means["stratified"] - means["global"]
    # Draws share their questions: their spread, not the interval of an accuracy, says what is noise.
    noise = sum(groups[name]["sd"] ** 2 / groups[name]["draws"] for name in names.values()) ** 0.5
    verdict = "supported" if gap > 2 * noise else "not supported" if gap < -2 * noise else "undecided"
    found = (
        f"With {size} samples of {design.facts['subtasks']} sub-tasks, drawn evenly: mean accuracy "
        f"{100 * means['stratified']:.1f} % (sd over draws {100 * groups[names['stratified']]['sd']:.1f}), "
        "rank "
        f"correlation with the pool {bands[names['stratified']]['rank_correlation']:.2f}; drawn from all: "
        f"{100 * means['global']:.1f} % (sd {100 * groups[names['global']]['sd']:.1f}), "
        f"{bands[names['global']]['rank_correlation']:.2f}."
    )
    claim = Finding(
        "Drawing evenly over sub-tasks gives better plans than drawing from all",
        "V-Skip, calibration",
        verdict,
        found,
    )
    return {"groups": groups, "findings": [claim.to_dict()]}


def draw(result: Result) -> dict[str, bytes]:
    """Accuracy of every draw."""
    return {"draws": sampled.dots(result)}


def tell(result: Result) -> str:
    """Spread of accuracies, of scores and of layers."""
    rows = [
        [
            name, f"{one['rank_correlation']:.2f}", f"{one['shared']:.1f} of {one['layers']}",
            str(one["least_shared"]), str(one["sets"]),
        ]
        for name, one in result["bands"].items()
    ]  # fmt: skip
    head = ("draws", "rank correlation with the pool", "layers shared", "least", "different sets")
    return sampled.table(result) + "\n\n" + markdown(head, rows)


STUDY = Study(
    "stratified",
    "Drawing calibration samples evenly or at random",
    "Does a calibration that draws evenly over sub-tasks choose better layers, or more steadily, than one "
    "that "
    "draws from all?",
    design,
    judge,
    draw,
    tell,
    each_task=True,
)
