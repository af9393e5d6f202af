"""What a plan is made of, for colours, names and maps (pure)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from saccade.core.layout import Layout
from saccade.evaluation.matched import KINDS, kind_of
from saccade.plans import spec as specs
from saccade.plans.budget import as_processed
from saccade.plans.plan import Plan
from saccade.report import style
from saccade.report.pieces import dot
from saccade.report.route_map import route_map

FEW = 6
"""Methods up to which each has a colour of its own."""
OTHER = "other"
KIND_NAMES = KINDS | {OTHER: "not known to this version"}


def parsed(spec: str) -> Plan | None:
    """The plan of a spec string; None where this version of the package cannot read it."""
    if spec in ("", "dense"):
        return None
    try:
        return Plan(specs.parse(spec))
    except ValueError:
        return None


def kind(spec: str, depth: int | None) -> str:
    """The kind of a plan: one of ``KIND_NAMES``."""
    plan = parsed(spec)
    if plan is None or not plan.methods:
        return OTHER
    return "composed" if len(plan.methods) > 1 else kind_of(plan.methods[0].name, depth or 32)


def method(spec: str) -> str:
    """The method of a plan, or the methods joined by ``+``; the spec itself where it cannot be read."""
    plan = parsed(spec)
    return spec if plan is None else "+".join(m.name for m in plan.methods)


def title(spec: str) -> str:
    """What people call the method of a plan."""
    plan = parsed(spec)
    return spec if plan is None else " + ".join(m.title for m in plan.methods)


@dataclass(frozen=True)
class Palette:
    """Colours of plans: one per method where there are few, else one per kind of method.

    Attributes:
        few: Whether every method has its own.
        depth: Decoder layers of the model, where known.
    """

    few: bool = False
    depth: int | None = None

    @classmethod
    def of(cls, specs: Iterable[str], depth: int | None) -> Palette:
        """The palette for these plans."""
        names = {method(spec) for spec in specs}
        return cls(len({style.color(name) for name in names}) == len(names) <= FEW, depth)

    def group(self, spec: str) -> str:
        """What a plan's colour stands for."""
        return title(spec) if self.few else KIND_NAMES[kind(spec, self.depth)]

    def colour(self, spec: str) -> str:
        """A plan's colour."""
        if self.few:
            return style.color(method(spec))
        return style.KIND_COLORS.get(kind(spec, self.depth), style.MUTED)

    def dot(self, spec: str) -> str:
        """A spot of it before a name, as the page's style sheet paints it."""
        return dot(style.paint(self.colour(spec)))


def layer_shares(spec: str, layers: int, visual: int, text: int) -> dict[str, list[float]] | None:
    """Shares of the image's rows that are alive, attend and pass the FFN, layer by layer.

    Args:
        spec: A resolved plan.
        layers: Depth of the model.
        visual: Visual rows of a prompt.
        text: Text rows of a prompt.

    Returns:
        ``alive``, ``attention`` and ``ffn``, a share per layer; None where the plan cannot be drawn.
    """
    plan = parsed(spec)
    if plan is None or not plan.is_resolved:
        return None
    full = Layout.single(visual, text)
    try:
        layout = as_processed(plan, full)
        found = route_map(plan.route(layout, layers))["image"]
    except ValueError:
        return None
    # A prompt that the processor made shorter is shown against the full one.
    left = found["rows"][0] / visual
    return {key: [left * share for share in found[key]] for key in ("alive", "attention", "ffn")}
