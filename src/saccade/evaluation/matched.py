"""The whole family at matched FLOPs: which plans run, and why others cannot (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from saccade.core.layout import Layout
from saccade.core.shapes import ModelShape
from saccade.families import abilities
from saccade.methods import METHODS, BudgetMethod, Method
from saccade.methods.kinds import ADAPTIVE, PLAIN
from saccade.plans.budget import flops_ratio, reach_flops
from saccade.plans.plan import Plan

RATIOS = (0.7, 0.5, 0.3)
"""Shares of the dense model's FLOPs at which methods are compared."""
FINE = (0.7, 0.6, 0.5, 0.4, 0.3)
"""The same where there is time for more of them."""
MIDDLE = 0.5
"""The share at which compositions stand beside them."""
PUBLISHED_DEPTH = 32
"""Layers of the model that default layers of methods are of."""

KINDS = {
    "plain": "plain baselines",
    "before": "reduced before the decoder",
    "decoder": "reduced inside the decoder",
    "layers": "layers skipped",
    "composed": "composed",
}
"""Kinds of methods, in the order of the tables."""


@dataclass(frozen=True)
class LineupRow:
    """One line of the comparison.

    Attributes:
        name: Its name, for example ``FastV at 50 %``.
        method: Spec name, or names joined by ``+``.
        title: What people call it.
        kind: One of ``KINDS``.
        asked: FLOPs ratio that was asked for; None where the method decides itself.
        plan: The resolved plan; None where there is none.
        reason: Why there is none.
    """

    name: str
    method: str
    title: str
    kind: str
    asked: float | None
    plan: Plan | None
    reason: str = ""

    def without_plan(self, reason: str) -> LineupRow:
        """The same line as one that cannot run."""
        return replace(self, plan=None, reason=reason)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON."""
        told = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "plan"}
        return told | {"spec": "" if self.plan is None else self.plan.spec}


def first_layer(cls: type[Method], depth: int) -> int | None:
    """Layer at which a method with one stage inside the decoder begins: its default, scaled to the depth.

    Not before layer 2: the papers' layers are all past the first two.
    """
    default = next((f.default for f in fields(cls) if f.name == "layer"), None)
    if type(default) is not int or default < 1:
        return None
    return max(2, round(default * depth / PUBLISHED_DEPTH))


def kind_of(name: str, depth: int) -> str:
    """Which kind a registered method is of."""
    cls: Any = METHODS[name]
    if name in PLAIN:
        return "plain"
    if issubclass(cls, BudgetMethod):
        return "layers"
    return (
        "before"
        if all(stage.before == 0 for stage in cls().stages(max(depth, PUBLISHED_DEPTH)))
        else "decoder"
    )


def lineup(
    shape: ModelShape,
    layouts: Sequence[Layout],
    orders: Mapping[str, Sequence[int]],
    weights: Sequence[float] | None = None,
    family: str | None = None,
    ratios: Sequence[float] = RATIOS,
) -> tuple[LineupRow, ...]:
    """Every registered method at every ratio, and two compositions at the middle one.

    Args:
        shape: Sizes of the decoder.
        layouts: Prompts the ratios are taken over.
        orders: Calibrated orders by score name.
        weights: Weight of each layout.
        family: Model family, for methods that are made for some.
        ratios: Shares of the dense model's FLOPs, from dear to cheap.
    """
    # VTW withdraws from the end, whatever layers its own threshold allows.
    known = {name: order for name, order in orders.items() if name != "withdrawal"}
    can = abilities()
    found: list[LineupRow] = []
    for name, cls in sorted(METHODS.items(), key=lambda item: _place(item[0], shape.layers)):
        kind, layer = kind_of(name, shape.layers), first_layer(cls, shape.layers)
        at = "" if layer is None else f"layer={layer},"
        rows = [_row(name, cls.title, kind, r, f"{name}({at}flops={r})") for r in ratios]
        if name in ADAPTIVE:
            rows.append(_row(name, cls.title, kind, None, f"{name}()"))
        needs = cls().needs
        if needs is not None and family is not None and needs not in can.get(family, ()):
            served = [one for one, abilities_of in can.items() if needs in abilities_of]
            found += [
                row.without_plan(f"{name} is for {', '.join(served)}, not for {family}") for row in rows
            ]
            continue
        found += _steps(
            [_reached(row, shape, layouts, known, weights) for row in rows], shape, layouts, weights
        )
    middle, quarter = MIDDLE, max(1, shape.layers // 4)
    layer = first_layer(METHODS["fastv"], shape.layers)
    for method, spec in (
        ("fastv+vskip", f"fastv(layer={layer},flops={middle})+vskip(budget={quarter})"),
        ("pyramiddrop+ffn_skip", f"pyramiddrop(flops={middle})+ffn_skip(budget={quarter})"),
    ):
        title = " + ".join(METHODS[part].title for part in method.split("+"))
        found.append(_reached(_row(method, title, "composed", middle, spec), shape, layouts, known, weights))
    return tuple(found)


def _place(name: str, depth: int) -> tuple[int, int, str]:
    kind = kind_of(name, depth)
    return list(KINDS).index(kind), PLAIN.index(name) if name in PLAIN else 0, name


def _row(method: str, title: str, kind: str, asked: float | None, spec: str) -> LineupRow:
    at = "as the picture decides" if asked is None else f"at {100 * asked:.0f} %"
    return LineupRow(f"{title} {at}", method, title, kind, asked, Plan.of(spec))


def _reached(
    row: LineupRow,
    shape: ModelShape,
    layouts: Sequence[Layout],
    orders: Mapping[str, Sequence[int]],
    weights: Sequence[float] | None,
) -> LineupRow:
    assert row.plan is not None
    try:
        plan = reach_flops(row.plan, shape, layouts, dict(orders), weights)
        flops_ratio(plan, shape, layouts, weights)
    except ValueError as error:
        return row.without_plan(str(error))
    return replace(row, plan=plan)


def _steps(
    rows: Sequence[LineupRow], shape: ModelShape, layouts: Sequence[Layout], weights: Sequence[float] | None
) -> list[LineupRow]:
    """Drops a plan that an even lower ratio asks for too: the method's steps are wider than the ratios."""
    kept = []
    for number, row in enumerate(rows):
        later = next((r for r in reversed(rows[number + 1 :]) if r.plan == row.plan), None)
        if row.plan is not None and later is not None:
            ratio = flops_ratio(row.plan, shape, layouts, weights)
            row = row.without_plan(
                f"its steps are wide: the mildest setting at most there, {row.plan.spec}, is at "
                f"{100 * ratio:.0f} % and stands in the line for {100 * (later.asked or 0):.0f} %"
            )
        kept.append(row)
    return kept
