"""Which result files are of the same model (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from saccade.report.results.model import ModelId, Result


@dataclass
class Group:
    """Results of one model.

    Attributes:
        name: The model's name.
        weights: Digest of its weights; empty where no file has one.
        results: Its files, in the order they were given.
        assumed: Paths of files that have no digest and were put here by their model's name alone.
    """

    name: str
    weights: str
    results: list[Result] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The model's name, with its digest where there is one."""
        return f"{self.name} ({self.weights})" if self.weights else self.name

    @property
    def layers(self) -> int | None:
        """Decoder layers, where a file tells."""
        return next((r.model.layers for r in self.results if r.model.layers), None)

    def prompt(self) -> tuple[int, int]:
        """Visual and text rows of a typical prompt, for pictures of routes."""
        models = [r.model for r in self.results if r.model.visual and r.model.text]
        return next(((m.visual or 0, m.text or 0) for m in models), (100, 10))

    def fits(self, model: ModelId) -> bool:
        """Whether a model without a digest may be this one: its name is known here, its depth no other."""
        depths = {self.layers, model.layers} - {None}
        return any(r.model.name == model.name for r in self.results) and len(depths) < 2


def by_model(results: Sequence[Result]) -> list[Group]:
    """Results by model, models and files in the order given.

    Files with a digest of the weights belong together if it is the same. A file without one belongs to the
    model of its name, if there is one such model and its depth agrees; else it stands for itself.
    """
    groups: list[Group] = []
    for result in results:
        if not result.model.weights:
            continue
        group = next((g for g in groups if g.weights == result.model.weights), None)
        if group is None:
            group = Group(result.model.name, result.model.weights)
            groups.append(group)
        group.results.append(result)
    known = list(groups)
    for group in known:
        # A plan file knows the model's type only; an evaluation knows its name.
        group.name = next((r.model.name for r in group.results if r.planned is None), group.name)
    for result in results:
        if result.model.weights:
            continue
        fitting = [g for g in known if g.fits(result.model)]
        if len(fitting) == 1:
            fitting[0].results.append(result)
            fitting[0].assumed.append(result.path)
            continue
        group = next((g for g in groups if g not in known and g.fits(result.model)), None)
        if group is None:
            group = Group(result.model.name, "")
            groups.append(group)
        group.results.append(result)
    order = {id(result): place for place, result in enumerate(results)}
    for group in groups:
        group.results.sort(key=lambda r: order[id(r)])
    return sorted(groups, key=lambda g: order[id(g.results[0])])
