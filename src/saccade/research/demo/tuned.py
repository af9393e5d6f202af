"""How the demo ends: the plan that ``saccade tune`` found for its model, beside single methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saccade.evaluation.orders import resolve_all
from saccade.inputs.samples import Sample
from saccade.models import Loaded
from saccade.opening.digest import weights_digest
from saccade.plans.plan import Plan
from saccade.system.embedded import EMBEDDED

HALF = 0.5
"""Share of the dense FLOPs that they may cost."""

SINGLES = {
    "ShortV": f"shortv(flops={HALF})",
    "VisPruner": f"vispruner(flops={HALF},position_policy=keep)",
    "DivPrune": f"divprune(flops={HALF},position_policy=keep)",
}
"""The single methods that do best there, one that skips layers and two that drop rows."""

FOUND = "found by saccade tune"
KEPT = Path(__file__).parent / "found"
"""Where the tuned plans of embedded models lie, as `saccade tune` wrote them."""


def tuned_plan(loaded: Loaded) -> Plan | None:
    """The plan that was tuned for an embedded model; None for others, and for other weights of it.

    It was made by ``saccade tune MODEL --flops 0.5``, and is in the package.
    """
    kept = KEPT / f"{loaded.name}.json"
    if loaded.name not in EMBEDDED or not kept.is_file():
        return None
    plan = Plan.load(kept)
    same = weights_digest(loaded.model) == plan.calibration["weights_hash"]
    return plan if same and loaded.family.identity(loaded.model) == plan.model else None


def at_half(
    loaded: Loaded, questions: Sequence[Sample], orders: Mapping[str, Sequence[int]]
) -> dict[str, Plan]:
    """That plan and the single methods by name, as they are on these questions; empty where none was tuned.

    Args:
        loaded: The model.
        questions: What will be asked.
        orders: Calibrated orders by score name.
    """
    found = tuned_plan(loaded)
    if found is None:
        return {}
    plans = {title: Plan.of(spec) for title, spec in SINGLES.items()}
    return {FOUND: Plan(found.methods)} | resolve_all(loaded, plans, orders, questions)


def told(loaded: Loaded, entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """What the page says of them, as plain data: the tuned plan first, then the best single methods first.

    Args:
        loaded: The model.
        entries: What each of ``at_half`` answered, by name.
    """
    plan = tuned_plan(loaded)
    if plan is None:
        return None
    ours, *others = entries
    others.sort(key=lambda name: -entries[name]["mean"]["accuracy"])
    asked = plan.calibration["tuned"]["search"]
    return {
        "share": HALF,
        "samples": len(plan.calibration["samples"]),
        "passes": asked["passes"],
        "plans": [{**entries[name], "title": name} for name in (ours, *others)],
    }
