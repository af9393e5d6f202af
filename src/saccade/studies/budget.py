"""V-Skip, FFN-Skip, ShortV and VTW over every number of layers: is visual attention what can be spared?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from saccade.budget import flops_ratio
from saccade.methods import METHODS, BudgetMethod
from saccade.plan import Plan
from saccade.report import figures
from saccade.report.markdown import difference
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
from saccade.studies.lines import Book, Line
from saccade.studies.skips import published
from saccade.studies.tables import against, plan_table, spans

METHODS_HERE = ("vskip", "ffn_skip", "shortv", "vtw")
SAME = "ffn_skip in V-Skip's layers"
SCORES = ("vig", "ffn", "lc")


def name_of(method: str, budget: int) -> str:
    """Name of a line."""
    return f"{method} {budget}"


def nearest(ratios: Sequence[float], target: float) -> int:
    """The budget, at least 1, whose FLOPs ratio is nearest to the target."""
    return min(range(1, len(ratios)), key=lambda budget: abs(ratios[budget] - target))


def design(bench: Bench) -> Design:
    """Every method at every budget, each by its own order of layers, and FFN-Skip in V-Skip's layers too."""
    scored = bench.calibrated(SCORES)
    orders, depth = orders_of(scored), bench.depth
    layouts, weights = bench.prompts()
    lines = []
    ratios: dict[str, list[float]] = {}
    for method in (*METHODS_HERE, SAME):
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
    near = {method: nearest(ratios[method], target) for method in METHODS_HERE[1:]}
    headline = [name_of(m, half) for m in METHODS_HERE] + [name_of(m, n) for m, n in near.items()]
    facts = {
        "calibration": {"samples": len(scored["vig"].samples)} | {n: s.to_dict() for n, s in scored.items()},
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
    return {"pairs": pairs, "findings": findings}


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
    "or "
    "are withdrawn (VTW) in N layers, for every N?",
    design,
    judge,
    draw,
    tell,
)
