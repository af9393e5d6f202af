"""How many samples a calibration needs: VIG bands and accuracy over draws of 5, 10, 20 and 50."""

from __future__ import annotations

from typing import Any

from saccade.report.markdown import markdown
from saccade.report.text import percent
from saccade.research.studies import charts, sampled
from saccade.research.studies.base import (
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
from saccade.research.studies.draws import DRAWS, drawn, spread
from saccade.research.studies.lines import Book
from saccade.research.studies.skips import published

SIZES = (5, 10, 20, 50)
ALL = "all tasks"


def design(bench: StudyBench) -> Design:
    """V-Skip with the layers of every draw from the mixture; VIG bands of every task too."""
    pools = {task: bench.pool("vig", task) for task in bench.tasks} | {ALL: bench.pooled("vig")}
    budget, seed = published(bench.depth), bench.questions.seed
    bands = {
        name: {
            str(size): spread(pool, drawn(pool, size, "global", seed), budget)
            for size in sizes(len(pool.samples))
        }
        for name, pool in pools.items()
    }
    groups = {
        f"{size} samples": drawn(pools[ALL], size, "global", seed) for size in sizes(len(pools[ALL].samples))
    }
    lines = sampled.lines(groups, budget, pools[ALL])
    return Design(lines, {"bands": bands, "layers": budget, "pool": len(pools[ALL].samples)})


def sizes(pool: int) -> list[int]:
    """Sizes of draws that a pool can give."""
    return [size for size in SIZES if size < pool] or [pool]


def judge(book: Book, design: Design) -> dict[str, Any]:
    """Accuracy over draws, and whether 20 samples are enough."""
    groups = sampled.groups(book)
    bands = design.facts["bands"][ALL]
    last = list(bands)[-1]
    enough = "20" if "20" in bands else last
    group = groups[f"{enough} samples"]
    names = [name for name, line in book.lines.items() if line.about["group"] == f"{enough} samples"]
    gaps = [book.against(name, sampled.POOL) for name in names]
    near, below = sum(map(is_harmless, gaps)), directions(gaps).count(-1)
    pool = book.of_line(book.lines[sampled.POOL]).mean.accuracy.value
    found = (
        f"Over {group['draws']} draws of {enough} samples the plans lie between {percent(group['least'])} "
        f"and {percent(group['most'])}, mean {percent(group['mean'])} with an sd of {100 * group['sd']:.1f} "
        f"points; {bands[enough]['sets']} different sets of layers. Held against the plan of all "
        f"{design.facts['pool']} samples, one set of layers that keeps {percent(pool)}: "
        f"{near} lose less than a point and {below} lose measurably, {corrected(len(gaps))}."
    )
    claim = Finding(
        f"{enough} samples are enough to choose layers by VIG",
        "V-Skip, section on calibration",
        is_free(gaps),
        found,
    )
    return {"groups": groups, "findings": [claim.to_dict()]}


def draw(result: Result) -> dict[str, bytes]:
    """VIG bands by sample count, and the accuracy of every draw."""
    return {
        "bands": charts.bands(result["bands"][ALL]),
        "draws": sampled.dots(result),
    }


def tell(result: Result) -> str:
    """Bands and accuracies by sample count."""
    rows = [
        [
            name, size, f"{one['rank_correlation']:.2f}", f"{one['shared']:.1f} of {one['layers']}",
            str(one["least_shared"]), str(one["sets"]),
        ]
        for name, band in result["bands"].items()
        for size, one in band.items()
    ]  # fmt: skip
    head = (
        "samples of",
        "size",
        "rank correlation with the pool",
        "layers shared",
        "least",
        "different sets",
    )
    told = f"{DRAWS} draws of each size; the pool holds {result['pool']} samples of all tasks."
    return "\n\n".join([sampled.table(result), markdown(head, rows), told])


STUDY = Study(
    "seeds",
    "How many samples a calibration needs",
    "How far do VIG, the layers it chooses and their accuracy vary over draws of 5, 10, 20 and 50 samples?",
    design,
    judge,
    draw,
    tell,
    each_task=True,
)
