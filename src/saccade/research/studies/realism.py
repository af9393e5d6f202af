"""Whether a model behaves as released ones do: what methods keep of it, beside what papers print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from saccade.core.tower import merged_away
from saccade.evaluation.runner import DENSE
from saccade.evaluation.statistics import mean_retention
from saccade.methods import METHODS, BudgetMethod
from saccade.plans.plan import Plan
from saccade.report.markdown import markdown
from saccade.report.text import percent
from saccade.research.gate import rank_correlation
from saccade.research.published import LAYERS, ROWS, PublishedPoint, points
from saccade.research.studies import charts
from saccade.research.studies.base import ASKED, Design, Finding, Result, Study
from saccade.research.studies.bench import StudyBench, orders_of
from saccade.research.studies.lines import Book, Line
from saccade.research.studies.lineup import tried
from saccade.research.studies.tables import absent

NEAR = 0.04
"""Most that retention may lie from the published one to count as the same."""
WANTED = 2 / 3
"""Share of the points that are to lie so near."""
ALIKE = 0.6
"""Least rank correlation of the methods at a budget."""
FEWEST = 3
"""Methods of a budget below which their order says nothing."""
CONTEXTUAL = {192: 30, 144: 23, 128: 20, 64: 10}
"""Merged rows among those that VisionZip keeps (its README)."""


def titled(methods: str) -> str:
    """Titles of methods that are joined by ``+``."""
    return " + ".join(METHODS[name].title for name in methods.split("+"))


def layers_of(point: PublishedPoint, depth: int) -> int:
    """As many layers of this model, in proportion."""
    return round((point.layers or 0) * depth / LAYERS)


def before(point: PublishedPoint, depth: int) -> int:
    """The same depth in this model; not before layer 2: the papers' layers are past the first two."""
    return max(2, round((point.depth or 0) * depth / LAYERS))


def spec_of(point: PublishedPoint, depth: int, tower: int, patches: int) -> str:
    """The reducer or withdrawal of a point for this model.

    Args:
        point: The point; of one that skips layers too, only the rest.
        depth: Decoder layers.
        tower: Layers of the vision tower that make the features.
        patches: Visual rows of a picture.
    """
    share = round((point.rows or 0) / ROWS, 4)
    match point.method.split("+")[0]:
        case "vtw":
            return f"vtw(layer={before(point, depth)})"
        case "fastv":
            return f"fastv(layer={before(point, depth)},keep={share})"
        case "pyramiddrop":
            return f"pyramiddrop(keep={falling(share):.4f})"
        case "sparsevlm":
            return f"sparsevlm(tokens={share})"
        case "visionzip":
            merged = round(CONTEXTUAL[point.rows or 0] / ROWS, 4)
            return f"visionzip(dominant={round(share - merged, 4)},contextual={merged})"
        case "tome":
            return f"tome(r={pairs(share, tower, patches)})"
        case "pool":
            return f"pool(factor={round(share**-0.5)})"
        case name:
            return f"{name}(keep={share})"


def falling(share: float) -> float:
    """PyramidDrop's ratio with which four equal parts of the depth have this share of the rows on average."""
    low, high = 0.0, 1.0
    for _ in range(40):
        half = (low + high) / 2
        low, high = (half, high) if (1 + half + half**2 + half**3) / 4 < share else (low, half)
    return low


def pairs(share: float, tower: int, patches: int) -> int:
    """ToMe's pairs per layer that leave about this share of the patches."""

    def left(r: int) -> int:
        tokens = patches + 1
        for _ in range(tower):
            tokens -= merged_away(tokens, r, protected=1)
        return tokens - 1

    return min(range(patches), key=lambda r: abs(left(r) - share * patches))


def design(bench: StudyBench) -> Design:
    """Every published point at the same share of layers, of depth and of rows."""
    depth, scored = bench.depth, bench.calibrated()
    pooled = orders_of(scored)
    # A file may have questions without a picture among the others.
    patches = max(int(layout.visual_BN.sum()) for layout in bench.prompts()[0])
    vision = bench.loaded.family.tower(bench.loaded.model)
    tower = max(vision.states, default=0) if vision is not None else 0
    lines = []
    for point in points():
        about = {
            "method": point.method,
            "title": titled(point.method),
            "budget": point.budget,
            "published": point.retention,
            "source": point.source,
        }
        try:
            plan = plan_of(point, bench, pooled, depth, tower, patches)
        except ValueError as error:
            lines.append(Line(point.name, None, about, str(error)))
            continue
        lines.append(tried(bench, Line(point.name, plan, about)))
    facts = {"calibration": {name: found.to_dict() for name, found in scored.items()}}
    return Design(tuple(lines), facts)


def plan_of(
    point: PublishedPoint, bench: StudyBench, pooled: dict[str, Any], depth: int, tower: int, patches: int
) -> Plan | dict[str, Plan]:
    """A plan for all tasks, or, where layers are chosen for each, one per task."""
    names = point.method.split("+")
    skips = [METHODS[name] for name in names if issubclass(METHODS[name], BudgetMethod) and point.layers]
    if not skips:
        return Plan.of(spec_of(point, depth, tower, patches)).resolve(depth, pooled)
    cls: Any = skips[0]
    rest = () if len(names) == 1 else Plan.of(spec_of(point, depth, tower, patches)).methods

    def with_order(order: Sequence[int]) -> Plan:
        return Plan((*rest, cls(layers=tuple(order[: layers_of(point, depth)]))))

    # ShortV's authors choose layers once for a model; V-Skip's and FFN-Skip's for every task.
    if point.pooled or cls.name == "shortv":
        return with_order(pooled[cls.score])
    return {task: with_order(bench.own(cls.score, task).order) for task in bench.tasks}


def judge(book: Book, design: Design) -> dict[str, Any]:
    """Retention of every point beside the published one, and the order of the methods at each budget."""
    found = []
    for line in design.lines:
        about = line.about
        row = {"name": line.name, "budget": about["budget"], "method": about["method"]}
        row |= {"published": about["published"], "source": about["source"]}
        if line.plan is None:
            found.append(row | {"retention": None, "low": None, "high": None, "near": False})
            continue
        # Mean over tasks of accuracy over dense accuracy, as the papers count.
        kept = mean_retention(book.paired(line.specs(book.tasks), dict.fromkeys(book.tasks, DENSE)))
        off = None if kept.value is None else kept.value - about["published"]
        told = {"retention": kept.value, "low": kept.low, "high": kept.high}
        found.append(row | told | {"near": off is not None and abs(off) <= NEAR})
    ranks = rank(found)
    return {"points": found, "ranks": ranks, "findings": [f.to_dict() for f in findings(found, ranks)]}


def rank(found: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Spearman's rank correlation with the published retention, by budget."""
    by_budget: dict[str, list[Mapping[str, Any]]] = {}
    for row in found:
        if row["retention"] is not None:
            by_budget.setdefault(row["budget"], []).append(row)
    told = {}
    for budget, rows in by_budget.items():
        if len(rows) >= FEWEST:
            ours, theirs = (torch.tensor([row[k] for row in rows]) for k in ("retention", "published"))
            told[budget] = {"methods": len(rows), "spearman": rank_correlation(ours, theirs)}
    return told


def findings(found: Sequence[Mapping[str, Any]], ranks: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """Verdicts on the two targets."""
    near = [row for row in found if row["near"]]
    far = sorted(
        (row for row in found if not row["near"] and row["retention"] is not None),
        key=lambda row: -abs(row["retention"] - row["published"]),
    )
    missing = sum(row["retention"] is None for row in found)
    off = "; ".join(
        f"{row['name']}: {percent(row['retention'])} against {percent(row['published'])}" for row in far
    )
    same = [budget for budget, one in ranks.items() if one["spearman"] >= ALIKE]
    order = "; ".join(
        f"{budget}: {one['spearman']:.2f} ({one['methods']} points)" for budget, one in ranks.items()
    )
    told = "supported" if len(same) == len(ranks) > 0 else "mixed" if same else "not supported"
    return [
        Finding(
            "Two thirds of the published points of LLaVA-1.5-7B lie within 4 points of what is kept here",
            ASKED,
            "supported" if len(near) >= WANTED * len(found) else "not supported",
            f"{len(near)} of {len(found)} points do"
            + (f"; {missing} cannot run here" if missing else "")
            + (f". Farther off: {off}." if off else "."),
        ),
        Finding(
            "At every budget methods rank as they do in print (Spearman at least 0.6)",
            ASKED,
            told,
            f"Rank correlation by budget: {order or 'no budget has three methods'}.",
        ),
    ]


def draw(result: Result) -> dict[str, bytes]:
    """What is kept here against what is kept in print."""
    points = [{**point, "method": titled(point["method"])} for point in result["points"]]
    return {"points": charts.beside_published(points, result["model"]["name"], NEAR)}


def tell(result: Result) -> str:
    """All points, and the order of the methods at each budget."""
    name = result["model"]["name"]
    rows = []
    for row in result["points"]:
        if row["retention"] is None:
            continue
        off = 100 * (row["retention"] - row["published"])
        limits = f"{percent(row['retention'])} ({100 * row['low']:.1f} to {100 * row['high']:.1f})"
        near = "yes" if row["near"] else "no"
        rows.append([row["name"], percent(row["published"]), limits, f"{off:+.1f}", near, row["source"]])
    head = ("point", "LLaVA-1.5-7B, published", f"{name}, here", "apart", "within 4", "source")
    ranks = [[b, str(r["methods"]), f"{r['spearman']:.2f}"] for b, r in result["ranks"].items()]
    parts = [
        markdown(head, rows, right_from=1),
        markdown(("budget", "points", "Spearman with the published order"), ranks),
    ]
    return "\n\n".join(parts) + absent(result)


STUDY = Study(
    "realism",
    "Beside released models",
    "At the operating points that papers print for LLaVA-1.5-7B, does this model keep as much of its "
    "accuracy under the same share of layers, of depth and of visual rows?",
    design,
    judge,
    draw,
    tell,
    each_task=True,
)
