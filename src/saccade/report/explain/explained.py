"""What a plan did to one question, as data: what the figure and the page are made of (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from saccade.report.explain.marks import Slot, slot_colours
from saccade.report.explain.stages import Moment, View


@dataclass(frozen=True, eq=False)
class ExplainedAnswer:
    """What a plan did to one question.

    Attributes:
        question: The question.
        model: What the user called the model.
        plan: Spec of the plan as it ran.
        answers: ``dense`` and ``planned``.
        views: The images as the model saw them.
        moments: What the model saw, then what every stage left.
        alive: Visual rows alive in every layer.
        active: For ``attention`` and ``ffn``: the share of those rows that do it, layer by layer.
        cost: The price of the route that ran, as ``saccade.core.pricing.cost`` states it; ratios are over the
            stock model on the full prompt.
    """

    question: str
    model: str
    plan: str
    answers: Mapping[str, str]
    views: tuple[View, ...]
    moments: tuple[Moment, ...]
    alive: tuple[int, ...]
    active: Mapping[str, Sequence[float]]
    cost: Mapping[str, Any]

    @property
    def same(self) -> bool:
        """Whether the plan left the answer as it was."""
        return self.answers["dense"] == self.answers["planned"]

    @property
    def full(self) -> int:
        """Visual rows of the prompt without the plan."""
        return sum(left.found for left in self.moments[0].images)

    @cached_property
    def colours(self) -> dict[Slot, str]:
        """Colours of the rows that hold several patches."""
        return slot_colours(self.moments)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON; rows are numbered as they stand in the prompt."""
        return {
            "question": self.question,
            "model": self.model,
            "plan": self.plan,
            "answers": dict(self.answers),
            "images": [
                {
                    "width": view.picture.width,
                    "height": view.picture.height,
                    "rows": list(view.boxes),
                    "boxes": list(view.boxes.values()),
                    "planes": [view.planes.get(row) for row in view.boxes],
                }
                for view in self.views
            ],
            "stages": [
                {
                    "method": moment.method,
                    "before": moment.before,
                    "images": [
                        left.to_dict(view) for left, view in zip(moment.images, self.views, strict=True)
                    ],
                }
                for moment in self.moments[1:]
            ],
            "alive": list(self.alive),
            "active": {name: list(shares) for name, shares in self.active.items()},
            "cost": dict(self.cost),
        }
