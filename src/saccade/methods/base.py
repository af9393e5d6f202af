"""What a method is: a frozen dataclass that turns a layout into a route."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import torch

from saccade.core.bipartite import TowerMerge
from saccade.core.layout import Layout
from saccade.core.predicted import TowerPrune
from saccade.core.route import LayerRoute, Route
from saccade.core.stages import Stage
from saccade.core.text import short
from saccade.core.tower import TowerAbility

MOST = 4_000_000
"""Largest number a method takes: rows of the longest prompt that is priced."""

MOST_LAYERS = 10_000
"""Layers a method can name, from 0."""

MOST_SEED = 2**63 - 1
"""Largest seed."""

STRENGTHS = 1000
"""Steps in which a fraction goes down from 1 to 0."""


@dataclass(frozen=True)
class Method(ABC):
    """A rule that says which rows each layer works on.

    Subclasses are frozen dataclasses, one per file; fields are the parameters a user writes in a spec string.
    A method overrides ``layer_route`` (fixed row sets), ``stages`` (rows decided on the way) or
    ``visual_rows`` (a shorter prompt); by itself it changes nothing.

    Attributes:
        flops: FLOPs ratio to reach; resolved to the setting that just reaches it.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str | None] = None
    """Link to the paper that introduced it; None where no paper did."""
    saves: ClassVar[tuple[str, ...]]
    score: ClassVar[str | None] = None
    """Calibration whose ascending order chooses layers, where the method chooses layers by one."""
    fitted: ClassVar[bool] = False
    """Whether how many rows leave where is fitted to what some samples attend to (``saccade calibrate``)."""
    version: ClassVar[int] = 1
    """Raised when answers under it come out otherwise; those that were kept are then not used again."""
    by_image: ClassVar[bool] = False
    """Whether it must know where one image ends and the next begins."""
    shortens: ClassVar[bool] = False
    """Whether it works at the processor: the prompt itself gets shorter (``visual_rows``)."""
    presets: ClassVar[dict[str, Any]] = {}
    """Published settings of ``preset=...``, by the model that they were published for."""
    dial: ClassVar[str | None] = None
    """Name of the parameter, a fraction of what stays, that a FLOPs ratio lowers; None where none does."""

    flops: float | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            _check_bounds(f"{self.name}: {each.name}", value, MOST_SEED if each.name == "seed" else MOST)
        if self.flops is not None and (not isinstance(self.flops, int | float) or not 0 < self.flops <= 1):
            raise ValueError(f"{self.name}: flops is a ratio in (0, 1], got {self.flops}")

    @property
    def is_resolved(self) -> bool:
        """Whether the layers are known, so that the method can run."""
        return self.flops is None

    @property
    def needs_order(self) -> bool:
        """Whether its layers, as it is written, can only be resolved with a calibrated order."""
        return False

    def resolve(self, num_layers: int, order: Sequence[int] | None = None) -> Method:
        """The same method with its layers known.

        Args:
            num_layers: Depth of the model.
            order: Layers in the order they should be touched, from a calibration.

        Raises:
            ValueError: If layers are out of range, or an order is needed and missing.
        """
        if self.flops is not None:
            raise self._without_a_prompt()
        return self

    def _without_a_prompt(self) -> ValueError:
        """The error of a FLOPs ratio where no prompt is at hand to find its setting on."""
        found = f"saccade cost MODEL --plan '{self}' tells it"
        if self.score is not None:
            command = f"saccade calibrate --method {self.name} --flops {self.flops:g}"
            found = f"{command} finds it and writes a plan file"
        return ValueError(f"{self}: flops needs a prompt, and here its setting is wanted: {found}")

    def max_strength(self, num_layers: int, order: Sequence[int] | None = None) -> int:
        """The strongest setting that a FLOPs ratio can lead to; settings are counted from 0 (no change).

        Args:
            num_layers: Depth of the model.
            order: Layers in the order they should be touched, from a calibration.
        """
        return STRENGTHS if self.dial else 0

    def at_strength(self, strength: int) -> Self:
        """The same method at one of these settings: a stronger one never costs more FLOPs."""
        changes: dict[str, Any] = {self.dial: (STRENGTHS - strength) / STRENGTHS} if self.dial else {}
        return replace(self, **changes, flops=None)

    def layer_route(self, layout: Layout, full_BN: torch.Tensor, number: int) -> LayerRoute | None:
        """Row sets of one layer, or None where the layer stays dense.

        Args:
            layout: Where the visual rows are.
            full_BN: The set of all rows; sets that are equal should be the same tensor.
            number: Index of the layer, from 0.
        """
        return None

    def visual_rows(self, rows: int) -> int:
        """Rows of an image that has so many in the stock prompt (``shortens``)."""
        return rows

    @property
    def releases(self) -> bool:
        """Whether rows leave the cache once the prompt is read."""
        return False

    @property
    def needs(self) -> TowerAbility | None:
        """What the vision tower must be able to do, which families say of theirs (``tower_can``)."""
        return None

    @property
    def tower_merge(self) -> TowerMerge | None:
        """How tokens merge inside the vision tower, which the engine then installs; None for not at all."""
        return None

    @property
    def tower_prune(self) -> TowerPrune | None:
        """Which patches leave before the vision tower, which the engine then installs; None for none."""
        return None

    @property
    def tower_part(self) -> float:
        """Share of the patches that pass the vision tower, for prices."""
        return 1.0

    def route(self, layout: Layout, num_layers: int) -> Route:
        """The program of all layers for a batch.

        Raises:
            ValueError: If the method is not resolved, or asks for layers the model does not have.
        """
        if not self.is_resolved:
            raise ValueError(
                f"{self} does not know its layers yet: give layers=..., or calibrate it (saccade calibrate)"
            )
        self.resolve(num_layers)
        full = torch.ones_like(layout.visual_BN)
        dense = LayerRoute(full, full, full)
        memo: dict[tuple, LayerRoute] = {}
        layers = []
        for number in range(num_layers):
            found = self.layer_route(layout, full, number) or dense
            sets = (found.alive_BN, found.query_BN, found.ffn_BN, found.cached_BN)
            key = (*map(id, sets), found.visibility)
            layers.append(memo.setdefault(key, found))
        return Route(layout, tuple(layers))

    def stages(self, num_layers: int) -> tuple[Stage, ...]:
        """Decisions that the method takes on the way; none for a method whose rows are known beforehand.

        Raises:
            ValueError: If the model does not have a stage's layer.
        """
        return ()

    def parameters(self) -> dict[str, Any]:
        """Parameters that differ from their defaults, as plain values."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}

    @classmethod
    def usual_values(cls) -> dict[str, str]:
        """What parameters come to whose default, None, stands for something, in words for tables."""
        return {}

    def __str__(self) -> str:
        inner = ",".join(f"{key}={write_value(value)}" for key, value in self.parameters().items())
        return f"{self.name}({inner})"


def _check_bounds(where: str, value: Any, most: int) -> None:
    """Refuses numbers that no model and no picture has, and those that are none."""
    if isinstance(value, (tuple, list)):
        if len(value) > MOST_LAYERS:
            raise ValueError(f"{where} holds at most {MOST_LAYERS} numbers, got {len(value)}")
        for one in value:
            _check_bounds(where, one, MOST_LAYERS - 1)
    elif isinstance(value, (int, float)) and not -most <= value <= most:
        raise ValueError(f"{where} is a finite number of at most {most}, got {short(value, 40)}")


def write_value(value: Any) -> str:
    """A parameter as it stands in a spec string; runs of layers become ranges."""
    if not isinstance(value, tuple):
        return str(value).lower() if isinstance(value, bool) else str(value)
    if any(isinstance(one, float) for one in value):
        return "/".join(map(str, value))
    parts, start = [], 0
    for i in range(1, len(value) + 1):
        if i < len(value) and value[i] == value[i - 1] + 1:
            continue
        parts.append(f"{value[start]}-{value[i - 1]}" if i - start > 1 else str(value[start]))
        start = i
    return ",".join(parts) or "none"


@dataclass(frozen=True)
class BudgetMethod(Method):
    """A method whose dial is the number of layers it touches.

    Attributes:
        budget: How many layers the method touches; resolved to layers by a calibration.
    """

    needs_budget: ClassVar[bool] = False
    """Whether a calibrated order leaves open how many of its layers are taken."""

    budget: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget is not None and (type(self.budget) is not int or self.budget < 0):
            raise ValueError(f"{self.name}: budget is a number of layers, got {self.budget}")

    @abstractmethod
    def with_budget(self, budget: int) -> Self:
        """The same method asked to touch this many layers."""

    @abstractmethod
    def touches(self, num_layers: int) -> int:
        """How many of so many layers it touches, once it is resolved."""

    @property
    def published(self) -> Any:
        """What its preset says; None where it names none."""
        return None

    def max_strength(self, num_layers: int, order: Sequence[int] | None = None) -> int:
        return num_layers if order is None else min(num_layers, len(order))

    def at_strength(self, strength: int) -> Self:
        return self.with_budget(strength)


@dataclass(frozen=True)
class LayerMethod(BudgetMethod):
    """A method that does the same thing in a chosen set of layers.

    Attributes:
        layers: Layers it is applied to, from 0.
        preset: Published layer order of a named model; with ``budget`` the first ``budget`` of it.
    """

    needs_budget = True
    presets: ClassVar[dict[str, tuple[int, ...]]] = {}

    layers: tuple[int, ...] | None = None
    preset: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layers is not None:
            given = tuple(self.layers)
            if any(type(n) is not int or n < 0 for n in given) or len(set(given)) != len(given):
                raise ValueError(f"{self.name}: layers are distinct numbers from 0, got {short(given)}")
            object.__setattr__(self, "layers", tuple(sorted(given)))
        if self.layers is not None and (self.budget is not None or self.flops is not None or self.preset):
            raise ValueError(
                f"{self.name}: give layers, or a budget, flops or preset to choose them, not both"
            )
        if self.budget is not None and self.flops is not None:
            raise ValueError(f"{self.name}: give a budget or flops, not both")
        if self.preset is not None and self.preset not in self.presets:
            known = ", ".join(sorted(self.presets)) or "none"
            raise ValueError(f"{self.name}: no preset {self.preset!r}; known: {known}")

    @property
    def is_resolved(self) -> bool:
        return self.layers is not None

    @property
    def needs_order(self) -> bool:
        return self.layers is None and self.preset is None

    @property
    def published(self) -> tuple[int, ...] | None:
        return None if self.preset is None else self.presets[self.preset]

    def touches(self, num_layers: int) -> int:
        return len(self.layers or ())

    def with_budget(self, budget: int) -> Self:
        return replace(self, layers=None, budget=budget, flops=None)

    def max_strength(self, num_layers: int, order: Sequence[int] | None = None) -> int:
        return super().max_strength(num_layers, order if self.published is None else self.published)

    def resolve(self, num_layers: int, order: Sequence[int] | None = None) -> LayerMethod:
        if self.layers is not None:
            if self.layers and self.layers[-1] >= num_layers:
                raise ValueError(
                    f"{self} names layer {self.layers[-1]}, "
                    f"but the model has {num_layers} (0-{num_layers - 1})"
                )
            return self
        if self.preset is not None:
            order = self.presets[self.preset]
            if max(order) >= num_layers:
                raise ValueError(
                    f"preset {self.preset} names layer {max(order)}, but the model has {num_layers} layers"
                )
        if self.flops is not None:
            raise self._without_a_prompt()
        budget = (
            len(order)
            if self.budget is None and self.preset is not None and order is not None
            else self.budget
        )
        if budget is None:
            raise ValueError(f"{self.name}: give layers=..., budget=..., flops=... or preset=...")
        if order is None:
            raise ValueError(
                f"{self} needs a calibration to choose its layers (saccade calibrate), or layers=..."
            )
        if budget > len(order):
            raise ValueError(f"{self}: a budget of {budget} layers, but only {len(order)} to choose from")
        return replace(self, layers=tuple(sorted(order[:budget])), budget=None, preset=None)

    @abstractmethod
    def touched(self, layout: Layout, full_BN: torch.Tensor) -> LayerRoute:
        """Row sets of a chosen layer."""

    def layer_route(self, layout: Layout, full_BN: torch.Tensor, number: int) -> LayerRoute | None:
        return self.touched(layout, full_BN) if number in (self.layers or ()) else None
