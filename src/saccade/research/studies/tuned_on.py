"""What a search must see: tuned plans of few samples, and of one half of the tasks judged on the other."""

from __future__ import annotations

import random
from typing import Any

from saccade.calibration import draw as drawn
from saccade.inputs.samples import Sample
from saccade.report.markdown import markdown
from saccade.report.text import difference, percent
from saccade.research.studies import charts, sampled
from saccade.research.studies.base import (
    ASKED,
    Design,
    Finding,
    Result,
    Study,
    corrected,
    directions,
    is_free,
    is_harmless,
)
from saccade.research.studies.bench import StudyBench
from saccade.research.studies.lines import Book, Line
from saccade.research.studies.tables import against, plan_table, task_table
from saccade.research.studies.tuned import WAYS, readied
from saccade.system.journal import Journal

RATIO = 0.5
"""Share of the dense model's FLOPs."""

SIZES, DRAWS = (20, 50, 200), 3
"""Samples of a search, and searches of each size."""

MOST = 390
"""Samples of the search that all others are held against."""

PASSES = 20_000
"""Prompts that every search runs under plans, at most: as many with few samples as with many."""

HALVES = "half of the tasks"


def half_name(number: int) -> str:
    """Name of the line that was tuned on a half."""
    return f"{HALVES}, {('first', 'second')[number]}"


def halves(tasks: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Every other task, and the others; one half where there is one task."""
    return tuple(half for half in (tasks[::2], tasks[1::2]) if half and len(tasks) > 1)


def searches(bench: StudyBench) -> dict[str, tuple[str, int, list[Sample]]]:
    """Group, number and samples of every search by its name; the one of most samples first."""
    pools = {task: bench.questions.calibration(task) for task in bench.tasks}
    whole = [sample for pool in pools.values() for sample in pool]
    seed = bench.questions.seed
    most = min(MOST, len(whole))
    found = {sampled.POOL: (sampled.POOL, 0, drawn(whole, most, "stratified", seed))}
    for size in (size for size in SIZES if size < most):
        for number in range(DRAWS):
            samples = drawn(whole, size, "stratified", seed + number + 1)
            found[f"{size} samples, draw {number + 1}"] = (f"{size} samples", number, samples)
    for number, half in enumerate(halves(bench.tasks)):
        mine = [sample for task in half for sample in pools[task]]
        found[half_name(number)] = (HALVES, number, drawn(mine, min(most, len(mine)), "stratified", seed))
    return found


def design(bench: StudyBench) -> Design:
    """A search at one cost on every set of samples, each with as many passes."""
    lines, facts = [], {}
    with Journal(bench.store.path / "tuned-on.jsonl") as journal:
        for name, (group, number, samples) in searches(bench).items():
            bench.note(f"{name}: {len(samples)} samples")
            # Parts of a search hold all kinds of samples.
            random.Random(bench.questions.seed).shuffle(samples)
            found = readied(bench, samples, WAYS[0], PASSES, journal).run(RATIO, PASSES)
            about = {"method": "tuned", "title": "tuned", "group": group, "draw": number}
            if found is None:
                lines.append(Line(name, None, about, "nothing of what it may use is that cheap"))
                continue
            lines.append(Line(name, found.plan, about))
            facts[name] = {
                "samples": len(samples),
                "tasks": sorted({sample.task for sample in samples}),
                "kl": found.loss.mean,
                "agreement": found.loss.agreement,
                "ratio": found.ratio,
            }
    return Design(tuple(lines), {"ratio": RATIO, "passes": PASSES, "searches": facts})


def judge(book: Book, design: Design) -> dict[str, Any]:
    """Plans of few samples against that of most; plans of a half on the tasks that it never saw."""
    ran = {name: line for name, line in book.lines.items() if line.plan is not None}
    groups = sampled.groups(book, HALVES)
    findings = []
    for group in groups:
        names = [name for name, line in ran.items() if line.about["group"] == group]
        gaps = [book.against(name, sampled.POOL) for name in names]
        near, below = sum(map(is_harmless, gaps)), directions(gaps).count(-1)
        one = groups[group]
        findings.append(
            Finding(
                f"A plan tuned on {group} keeps what one tuned on "
                f"{design.facts['searches'][sampled.POOL]['samples']} keeps",
                ASKED,
                is_free(gaps),
                f"{one['draws']} searches keep between {percent(one['least'])} and {percent(one['most'])}, "
                f"mean {percent(one['mean'])}; {near} lose less than a point and {below} lose measurably, "
                f"{corrected(len(gaps))}.",
            ).to_dict()
        )
    unseen = []
    parts = halves(book.tasks)
    for number, half in enumerate(parts):
        mine, others = half_name(number), parts[1 - number]
        if mine not in ran:
            continue
        rivals = [name for name in (half_name(1 - number), sampled.POOL) if name in ran]
        unseen += [against(book, mine, rival, others) | {"tasks": list(others)} for rival in rivals]
        unseen[-1] |= {"learnt": list(half)}
    if unseen:
        gaps = [
            book.against(row["first"], row["second"], row["tasks"])
            for row in unseen
            if row["second"] == sampled.POOL
        ]
        findings.append(
            Finding(
                "A plan tuned on one half of the tasks keeps as much on the other half as one tuned on all",
                ASKED,
                is_free(gaps),
                "On the tasks that it never saw: "
                + "; ".join(f"{row['first']} against {row['second']} {difference(row)}" for row in unseen)
                + f" points, {corrected(len(gaps))}.",
            ).to_dict()
        )
    return {"groups": groups, "unseen": unseen, "findings": findings}


def draw(result: Result) -> dict[str, bytes]:
    """The accuracy of every search's plan by the number of samples."""
    title = f"Accuracy of tuned plans at {percent(result['ratio'], 0)} of the FLOPs, by samples of the search"
    return {"draws": charts.dots(result["groups"], result["dense"]["mean"], title)}


def tell(result: Result) -> str:
    """What plans of few samples keep, what a half says of the other, and every plan."""
    rows = [
        [row["first"], row["second"], ", ".join(row["tasks"]), difference(row)] for row in result["unseen"]
    ]
    return "\n\n".join(
        [
            f"Every search ran at most {result['passes']} prompts under plans, at "
            f"{percent(result['ratio'], 0)} of the FLOPs.",
            "## By the number of samples",
            sampled.table(result),
            "## Judged on tasks that the search never saw",
            markdown(
                ("tuned on", "against the plan of", "judged on", "difference in points"), rows, right_from=3
            ),
            "## All plans",
            plan_table(result),
            "## Task by task",
            task_table(result),
        ]
    )


STUDY = Study(
    "tuned-on",
    "Tuned plans of few samples, and of other tasks",
    "How much does a tuned plan lose that was searched on few samples, or on one half of the tasks and is "
    "judged on the other?",
    design,
    judge,
    draw,
    tell,
)
