"""V-Skip, FFN-Skip, ShortV and VTW over every number of layers: is visual attention what can be spared?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from saccade.methods import METHODS, BudgetMethod
from saccade.methods.kinds import LAYERWISE
from saccade.plans.budget import flops_ratio
from saccade.plans.plan import Plan
from saccade.report import figures
from saccade.report.text import difference, percent
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
    is_harmless,
)
from saccade.research.studies.bench import StudyBench, orders_of, told_of
from saccade.research.studies.lines import Book, Line
from saccade.research.studies.skips import published
from saccade.research.studies.tables import against, interval_of, plan_table, spans

SAME = "ffn_skip in V-Skip's layers"
NEAR = 0.01
"""Most that the FLOPs ratios of two lines may differ by for them to be at equal FLOPs."""


def name_of(method: str, budget: int) -> str:
    """Name of a line."""
    return f"{method} {budget}"


def nearest(ratios: Sequence[float], target: float) -> int:
    """The budget, at least 1, whose FLOPs ratio is nearest to the target."""
    return min(range(1, len(ratios)), key=lambda budget: abs(ratios[budget] - target))


def design(bench: StudyBench) -> Design:
    """Every method at every budget, each by its own order of layers, and FFN-Skip in V-Skip's layers too."""
    scored = bench.calibrated()
    orders, depth = orders_of(scored), bench.depth
    layouts, weights = bench.prompts()
    lines = []
    ratios: dict[str, list[float]] = {}
    for method in (*LAYERWISE, SAME):
        cls = METHODS[method.split()[0]]
        assert issubclass(cls, BudgetMethod)
        order = orders["vig"] if method == SAME else orders.get(cls.score or "")
        title = f"{cls.title} in V-Skip's layers" if method == SAME else cls.title
        for budget in range(depth + 1):
            plan = Plan()
            if budget:
                plan = Plan((cls().with_budget(budget).resolve(depth, order),))
            ratios.setdefault(method, []).append(flops_ratio(plan, bench.loaded.shape, layouts, weights))
            about = {"method": method, "title": title, "budget": budget}
            lines.append(Line(name_of(method, budget), plan, about))
    half = max(1, depth // 2)
    target = ratios["vskip"][half]
    near = {method: nearest(ratios[method], target) for method in LAYERWISE[1:]}
    headline = [name_of(m, half) for m in LAYERWISE] + [name_of(m, n) for m, n in near.items()]
    facts = {
        "calibration": told_of(scored),
        "headline": list(dict.fromkeys(headline)),
    }
    return Design(tuple(lines), facts)


def judge(book: Book, design: Design) -> dict[str, Any]:
    """V-Skip against FFN-Skip at every budget, in their own layers and in the same ones."""
    depth = book.bench.depth
    pairs = {}
    for other in ("ffn_skip", SAME, "shortv", "vtw"):
        pairs[other] = [
            {"budget": n} | against(book, name_of("vskip", n), name_of(other, n)) for n in range(1, depth + 1)
        ]
    findings = []
    for other, where in (("ffn_skip", "each in its own best layers"), (SAME, "in the same layers")):
        differences = [book.against(name_of("vskip", n), name_of(other, n)) for n in range(1, depth + 1)]
        seen = directions(differences)
        better = [n for n, side in enumerate(seen, start=1) if side > 0]
        worse = [n for n, side in enumerate(seen, start=1) if side < 0]
        findings.append(
            Finding(
                f"Visual attention can be spared in more layers than visual FFN, {where}",
                "V-Skip, tables 4 and 7",
                is_better(differences),
                f"Of {depth} budgets V-Skip keeps more accuracy at {spans(better)}, FFN-Skip at "
                f"{spans(worse)}, {corrected(depth)}; at the others the paired difference cannot be told "
                "from 0.",
            ).to_dict()
        )
    costs = [book.against(name_of("vskip", n), name_of("vskip", 0)) for n in range(1, depth + 1)]
    wanted = published(depth)
    free = next((n for n, cost in enumerate(costs) if not is_harmless(cost)), depth)
    hurt = next((n for n, side in enumerate(directions(costs), start=1) if side < 0), None)
    findings.append(
        Finding(
            f"About 60 % of the layers (here {wanted} of {depth}) can skip visual attention at no cost",
            "V-Skip, table 1",
            is_free([costs[wanted - 1]]),
            f"One plan for all tasks loses less than a point up to {free} of {depth} layers; the first "
            f"measurable loss, {corrected(depth)}, is at {'none' if hurt is None else hurt}; "
            f"{wanted} layers change mean accuracy by "
            f"{difference(against(book, name_of('vskip', wanted), name_of('vskip', 0)))} points.",
        ).to_dict()
    )
    equal = equal_flops(book)
    for others, source in (
        (("shortv", "vtw"), "V-Skip, iso-FLOPs: 100.31 % against 99.92 % and 99.91 %"),
        (("ffn_skip",), ASKED),
    ):
        rows = [row for row in equal if row["method"] in others]
        findings.append(_equal(rows, " and ".join(METHODS[one].title for one in others), source).to_dict())
    return {"pairs": pairs, "equal_flops": equal, "findings": findings}


def equal_flops(book: Book) -> list[dict[str, Any]]:
    """Every V-Skip line beside the line of each other method that is nearest in FLOPs, if one is near."""
    depth = book.bench.depth
    ratios = {m: [book.flops_ratio(name_of(m, n)) for n in range(depth + 1)] for m in LAYERWISE}
    found = []
    for other in LAYERWISE[1:]:
        for budget in range(1, depth + 1):
            ratio = ratios["vskip"][budget]
            near = nearest(ratios[other], ratio)
            if abs(ratios[other][near] - ratio) > NEAR:
                continue
            told = against(book, name_of("vskip", budget), name_of(other, near))
            sizes = {"budget": budget, "near": near, "flops": ratio, "near_flops": ratios[other][near]}
            found.append({"method": other, **sizes, **told})
    return found


def _equal(rows: Sequence[Mapping[str, Any]], others: str, source: str) -> Finding:
    gaps = [interval_of(row) for row in rows]
    seen = directions(gaps)
    told = "; ".join(
        f"{row['budget']} layers at {percent(row['flops'])} against {METHODS[row['method']].title} "
        f"{row['near']} at {percent(row['near_flops'])}: {difference(row)}"
        for row in rows
    )
    found = (
        f"Of {len(rows)} pairs within {100 * NEAR:.0f} point of FLOPs V-Skip keeps more accuracy in "
        f"{seen.count(1)} and less in {seen.count(-1)}, {corrected(len(rows))}"
    )
    claim = f"V-Skip keeps more accuracy than {others} at equal FLOPs"
    return Finding(claim, source, is_better(gaps), f"{found}. V-Skip minus the other, in points: {told}.")


def draw(result: Result) -> dict[str, bytes]:
    """Retention by budget, and accuracy by FLOPs."""
    plans = [entry for entry in result["plans"] if entry["budget"]]
    layers, asked = result["model"]["layers"], result["data"]["questions"]
    kin = [entry for entry in plans if entry["method"] != SAME]
    blind = result["dense"]["mean"]["blind"]
    return {
        "retention": figures.retention_by_budget(plans, layers, asked),
        "flops": figures.accuracy_by_flops(result["dense"], blind, kin, asked),
    }


def tell(result: Result) -> str:
    """Every budget of every method."""
    return plan_table(result)


STUDY = Study(
    "budget",
    "How many layers, attention or FFN",
    "How much accuracy is left when visual rows skip attention (V-Skip), the FFN (FFN-Skip), both (ShortV) "
    "or are withdrawn (VTW) in N layers, for every N?",
    design,
    judge,
    draw,
    tell,
)
