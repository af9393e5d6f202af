"""Tuned plans against the best single methods at equal FLOPs, and against narrower and blinder searches."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from saccade.calibration.measures import ascending
from saccade.inputs.samples import Sample
from saccade.report.markdown import markdown
from saccade.report.text import difference, percent
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
from saccade.research.studies.lines import Book, Line
from saccade.research.studies.tables import against, interval_of, plan_table, task_table
from saccade.system.journal import Journal
from saccade.tuning.prepare import Watch, prepared
from saccade.tuning.questions import Questions
from saccade.tuning.search import Search, Spent, Tried
from saccade.tuning.settings import FEWEST, Settings
from saccade.tuning.singles import ORDERED_BY, singles
from saccade.tuning.space import DENSE, Menu, State, fitted, keeping

RATIOS = (0.7, 0.6, 0.5, 0.4, 0.3)
"""Shares of the dense model's FLOPs."""

SAMPLES, PASSES = 260, 100
"""Samples of the search, and prompts that it runs for each of them at each ratio."""

SINGLE = 3
"""Single methods that are judged at each ratio: those that lose least on the samples of the search."""

TUNED, KEEPS, LAYERS, LUCK = "tuned", "keep ratios alone", "layers alone", "random search"
ALONE = "best single methods"
ROWS = ("drop", "withdraw", "reduce", "merge", "resize")
SKIPS = ("attention", "ffn", "freeze")
HAND = "vispruner(keep=0.74,position_policy=keep)+shortv(layers=6,8-11)"
"""What somebody composed by hand in one try, for the embedded model."""


@dataclass(frozen=True)
class TuningWay:
    """One way to look for a plan.

    Attributes:
        name: What it is called.
        allow: Operations that it may use.
    """

    name: str
    allow: tuple[str, ...]


WAYS = (TuningWay(TUNED, (*SKIPS, *ROWS)), TuningWay(KEEPS, ("reduce", "merge")), TuningWay(LAYERS, SKIPS))


def design(bench: StudyBench) -> Design:
    """At every ratio what each way finds with as many passes, and the single methods that lose least."""
    each = max(1, SAMPLES // len(bench.tasks))
    samples = tuple(s for task in bench.tasks for s in bench.questions.calibration(task, each))
    mixed = list(samples)
    random.Random(bench.questions.seed).shuffle(mixed)
    passes = PASSES * len(mixed)
    lines: dict[str, Line] = {}
    found: list[dict[str, Any]] = []

    def add(name: str, way: str, ratio: float, tried: Tried | None) -> None:
        about = {"method": way, "title": way, "asked": ratio, "way": way}
        if tried is None:
            lines[name] = Line(name, None, about, "nothing of what it may use is that cheap")
            return
        lines[name] = Line(name, tried.plan, about)
        found.append(
            {"name": name, "kl": tried.loss.mean, "agreement": tried.loss.agreement, "ratio": tried.ratio}
        )

    with Journal(bench.store.path / "tuned.jsonl") as journal:
        for way in WAYS:
            search = readied(bench, mixed, way, passes * len(RATIOS), journal)
            for ratio in RATIOS:
                bench.note(f"{way.name} at {percent(ratio, 0)}")
                add(f"{way.name} at {percent(ratio, 0)}", way.name, ratio, search.run(ratio, passes))
            if way.name != TUNED:
                continue
            for ratio in RATIOS:
                for title, tried in alone(search, ratio):
                    add(f"{title} at {percent(ratio, 0)}", ALONE, ratio, tried)
                luck = by_luck(search, ratio, passes, bench.questions.seed)
                add(f"{LUCK} at {percent(ratio, 0)}", LUCK, ratio, luck)
    facts = {
        "ratios": list(RATIOS),
        "search": {"samples": len(mixed), "passes": passes, "found": found, "fewest": FEWEST},
    }
    return Design(tuple(lines.values()), facts)


def readied(
    bench: StudyBench, samples: Sequence[Sample], way: TuningWay, passes: int, journal: Journal
) -> Search:
    """A search over samples of a study, in one order, that is ready to run."""
    settings = Settings(flops=min(RATIOS), allow=way.allow, passes=passes, tokens=bench.tokens)
    asked = Questions(tuple(samples), tuple(samples[:1]), False)
    return prepared(bench.loaded, asked, settings, journal, Watch(say=bench.note), bench.helpers)


def alone(search: Search, ratio: float) -> list[tuple[str, Tried]]:
    """Single methods at a ratio that lose least, positions closed up and kept."""
    orders = {
        ORDERED_BY[skip]: ascending([search.marginals[n, skip] for n in range(search.menu.layers)])
        for skip in search.menu.skips
    }
    plans = dict(singles(search.pricer, ratio, orders))
    for reducer in search.menu.reducers:
        made = fitted(replace(State.dense(search.menu.layers), reducer=reducer), search.pricer.ratio, ratio)
        if made is not None:
            plans[f"{type(reducer).title}, positions {reducer.position_policy}"] = made.plan
    every = range(len(search.judge.parts))
    search.judge.ahead((plan, part) for plan in plans.values() for part in every)
    measured = []
    for title, plan in plans.items():
        try:
            loss = search.judge.whole(plan)
        except ValueError:
            continue  # it does not run on this model
        measured.append((title, Tried(Known(plan), search.pricer.ratio(plan), loss, len(search.judge.parts))))  # type: ignore[arg-type]
    return sorted(measured, key=lambda one: fmean(map(search.score, one[1].loss.kl)))[:SINGLE]


@dataclass(frozen=True)
class Known:
    """A plan that no search made, in a state's place."""

    plan: Any


def by_luck(search: Search, ratio: float, passes: int, seed: int) -> Tried | None:
    """The best of random plans of the same space, with as many passes."""
    blind = replace(search, tried={}, passes=0, effort=replace(search.effort, passes=passes))
    states = drawn(search.menu, lambda state: fitted(state, search.pricer.ratio, ratio), passes, seed)
    try:
        most = max(1, passes // (2 * len(search.judge.parts[0])))
        blind.race(states[:most], 1, len(search.judge.parts))
    except Spent:
        pass
    return blind.best(ratio)


def drawn(menu: Menu, fit: Any, count: int, seed: int) -> list[State]:
    """Random states that cost what is asked, each once."""
    rng = random.Random(seed)
    found: dict[str, State] = {}
    for _ in range(3 * min(count, 2000)):
        share = rng.random()
        skips = tuple(
            rng.choice(menu.skips) if rng.random() < share and menu.skips else DENSE
            for _ in range(menu.layers)
        )
        reducer = rng.choice(menu.reducers) if menu.reducers and rng.random() < 0.8 else None
        state = State(skips, None if reducer is None else keeping(reducer, 0.5))
        made = fit(state)
        if made is not None:
            found.setdefault(made.plan.spec, made)
        if len(found) >= min(count, 2000):
            break
    return list(found.values())


def judge(book: Book, design: Design) -> dict[str, Any]:
    """Tuned plans against each other way, ratio by ratio."""
    rows, findings = [], []
    ran = [line for line in design.lines if line.plan is not None]
    tuned = {line.about["asked"]: line.name for line in ran if line.about["way"] == TUNED}
    for way in (ALONE, KEEPS, LAYERS, LUCK):
        told = []
        for ratio, mine in tuned.items():
            rivals = [line.name for line in ran if line.about["way"] == way and line.about["asked"] == ratio]
            if rivals:
                best = max(rivals, key=lambda name: book.of_line(book.lines[name]).mean.accuracy.value or 0.0)
                told.append({"asked": ratio, "way": way, **against(book, mine, best)})
        gaps = [interval_of(row) for row in told]
        seen = directions(gaps)
        rows += told
        findings.append(
            Finding(
                f"A tuned plan keeps more than {way} at equal FLOPs",
                ASKED,
                is_better(gaps),
                f"At {', '.join(percent(row['asked'], 0) for row in told)}: "
                f"{', '.join(difference(row) for row in told)} points; above in {seen.count(1)} of "
                f"{len(gaps)} and below in {seen.count(-1)}, {corrected(len(gaps))}.",
            ).to_dict()
        )
    return {"beside": rows, "findings": findings}


def draw(result: Result) -> dict[str, bytes]:
    """Accuracy against FLOPs, a line per way; of the single methods the best at each ratio."""
    series: dict[str, list[tuple[int, Any]]] = {}
    best: dict[float, Mapping[str, Any]] = {}
    for entry in result["plans"]:
        if not entry.get("mean"):
            continue
        if entry["way"] == ALONE:
            held = best.get(entry["asked"])
            if held is None or held["mean"]["accuracy"] < entry["mean"]["accuracy"]:
                best[entry["asked"]] = entry
            continue
        series.setdefault(entry["way"], []).append((round(100 * entry["asked"]), entry["mean"]))
    if best:
        series[ALONE] = [(round(100 * ratio), entry["mean"]) for ratio, entry in best.items()]
    return {"accuracy": charts.accuracy_lines(series, result["dense"]["mean"], "FLOPs, % of dense")}


def tell(result: Result) -> str:
    """What every way keeps, tuned against each, and task by task."""
    rows = [
        [percent(row["asked"], 0), row["way"], row["second"], difference(row)] for row in result["beside"]
    ]
    search = result["search"]
    return "\n\n".join(
        [
            f"Every way ran {search['passes']} prompts at every ratio, on {search['samples']} calibration "
            "samples.",
            plan_table(result),
            "## Tuned minus the best of each other way",
            markdown(("FLOPs", "way", "its best", "difference in points"), rows, right_from=3),
            "## Task by task",
            task_table(result),
        ]
    )


STUDY = Study(
    "tuned",
    "Tuned plans at equal FLOPs",
    "What does a plan keep that was searched over layers, rows and resolution together, beside the best "
    "single method, searches over one of them, and random search?",
    design,
    judge,
    draw,
    tell,
)
