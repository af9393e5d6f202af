"""The file users keep: methods with their layers, how they were chosen, and the model they were made for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from saccade import spec
from saccade.files import read_json, write_json
from saccade.layout import Layout
from saccade.methods import METHODS, Method
from saccade.program import Program, in_order
from saccade.route import Route, compose

SCHEMA = 1
"""Version of the plan file; files of a newer schema are refused."""


@dataclass(frozen=True)
class Plan:
    """Methods to run together on a model, with their provenance.

    Attributes:
        methods: The methods, in order of composition.
        model: Fingerprint of the model's configuration the plan was made for; empty means any model.
        calibration: How the layers were chosen: scores, order, samples, seed, versions. Empty if by hand.
    """

    methods: tuple[Method, ...] = ()
    model: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)

    @property
    def is_resolved(self) -> bool:
        """Whether every method knows its layers."""
        return all(m.is_resolved for m in self.methods)

    @property
    def shortening(self) -> tuple[Method, ...]:
        """Methods that work at the processor (``visual_rows``): the prompt itself is shorter under them."""
        return tuple(method for method in self.methods if hasattr(method, "visual_rows"))

    @property
    def spec(self) -> str:
        """The methods as a spec string."""
        return spec.write(self.methods)

    def program(self, layout: Layout, num_layers: int) -> Program:
        """What all methods together do to a batch: fixed row sets, and decisions on the way.

        Raises:
            ValueError: If a method is unresolved or does not fit the depth, or two cannot go together.
        """
        if not self.methods:
            return Program(Route.dense(layout, num_layers))
        route = compose([m.route(layout, num_layers) for m in self.methods]).check()
        stages = in_order([stage for m in self.methods for stage in m.stages(num_layers)])
        first = min((stage.before for stage in stages), default=num_layers)
        if any(layer.visibility != "causal" for layer in route.layers[first:]):
            raise ValueError(
                f"{self.spec}: vskip(reading=mask) needs every row in its layers, but rows are dropped "
                f"before layer {first}; use the bypass reading there"
            )
        rewriter = None
        for stage in stages:
            if rewriter is not None and (stage.places or stage.look.tower is not None):
                raise ValueError(
                    f"{stage.by} takes rows for the patches at their places, but {rewriter} has put other "
                    "contents into them by then; write it first, leave one out, or (where padding of tiles "
                    "took their places) take share=image"
                )
            rewriter = stage.by if stage.rewrites or (stage.unseen and layout.padded) else rewriter
        return Program(route, stages)

    def route(self, layout: Layout, num_layers: int) -> Route:
        """The composed route of all methods for a batch, for prices and pictures.

        Where rows are decided on the way, it has the right number of them, chosen without looking.

        Raises:
            ValueError: As ``program``.
        """
        return self.program(layout, num_layers).nominal()

    def resolve(self, num_layers: int, orders: dict[str, Sequence[int]] | None = None) -> Plan:
        """The same plan with budgets turned into layers.

        Args:
            num_layers: Depth of the model.
            orders: Calibrated order of layers by score name (``vig``, ``ffn``, ``lc``, ``withdrawal``).

        Raises:
            ValueError: If layers do not fit the depth or an order is missing.
        """
        orders = orders or {}
        return replace(
            self, methods=tuple(m.resolve(num_layers, orders.get(m.score or "")) for m in self.methods)
        )

    def over(self, own: Plan) -> Plan:
        """This plan on a model with one of its own: that comes first, but for methods that both have."""
        mine = {method.name for method in self.methods}
        return replace(self, methods=(*(m for m in own.methods if m.name not in mine), *self.methods))

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON."""
        methods = [{"name": m.name} | m.parameters() for m in self.methods]
        return {"schema": SCHEMA, "methods": methods, "model": self.model, "calibration": self.calibration}

    @classmethod
    def from_dict(cls, data: Any, source: str = "plan") -> Plan:
        """Reads what ``to_dict`` wrote.

        Raises:
            ValueError: If the data are not a plan, or of a newer schema, naming what is wrong.
        """
        if not isinstance(data, dict) or "methods" not in data or "schema" not in data:
            raise ValueError(f"{source} is not a plan: it needs 'schema' and 'methods'")
        if type(data["schema"]) is not int or not 1 <= data["schema"] <= SCHEMA:
            raise ValueError(
                f"{source} has schema {data['schema']!r}; this version of saccade reads up to {SCHEMA}"
            )
        unknown = set(data) - {"schema", "methods", "model", "calibration"}
        if unknown:
            raise ValueError(f"{source} has unknown fields: {', '.join(sorted(unknown))}")
        if not isinstance(data["methods"], list):
            raise ValueError(f"{source}: methods is a list")
        methods = tuple(_read_method(entry, source) for entry in data["methods"])
        parts = {key: data.get(key, {}) for key in ("model", "calibration")}
        for key, part in parts.items():
            if not isinstance(part, dict):
                raise ValueError(f"{source}: {key} is an object")
        return cls(methods, **parts)

    def save(self, path: str | os.PathLike) -> Path:
        """Writes the plan file, whole or not at all."""
        return write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike) -> Plan:
        """Reads a plan file.

        Raises:
            ValueError: If it is missing, not JSON or not a plan.
        """
        return cls.from_dict(read_json(path), str(path))

    @classmethod
    def of(cls, what: PlanLike) -> Plan:
        """A plan from a plan, a method, methods, a plan file or a spec string.

        Raises:
            ValueError: If it is none of these.
        """
        if isinstance(what, Plan):
            return what
        if isinstance(what, Method):
            return cls((what,))
        if isinstance(what, (list, tuple)) and all(isinstance(m, Method) for m in what):
            return cls(tuple(what))
        if isinstance(what, os.PathLike) or (isinstance(what, str) and _looks_like_file(what)):
            return cls.load(what)
        if isinstance(what, str):
            return cls(spec.parse(what))
        raise ValueError(
            f"a plan is a Plan, a method, a plan file or a spec string, got {type(what).__name__}"
        )

    def diff(self, other: Plan) -> dict[str, tuple[Any, Any]]:
        """What differs between two plans, as ``{dotted field: (mine, theirs)}``."""
        return dict(_differences(self.to_dict(), other.to_dict(), ""))


PlanLike = Plan | Method | Sequence[Method] | str | os.PathLike
"""Everything that is taken where a plan is wanted."""


def _looks_like_file(text: str) -> bool:
    return text.endswith(".json") or (os.sep in text and "(" not in text) or Path(text).is_file()


def _read_method(entry: Any, source: str) -> Method:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or entry["name"] not in METHODS:
        name = entry.get("name") if isinstance(entry, dict) else entry
        raise ValueError(f"{source} asks for method {name!r}; known: {', '.join(sorted(METHODS))}")
    values: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in entry.items() if k != "name"
    }
    try:
        return METHODS[entry["name"]](**values)
    except TypeError:
        raise ValueError(f"{source}: {entry['name']} does not take {', '.join(sorted(values))}") from None


def _differences(mine: Any, theirs: Any, where: str) -> Iterator[tuple[str, tuple[Any, Any]]]:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key in sorted({*mine, *theirs}, key=str):
            yield from _differences(mine.get(key), theirs.get(key), f"{where}.{key}" if where else str(key))
    elif isinstance(mine, list) and isinstance(theirs, list) and len(mine) == len(theirs):
        for i, pair in enumerate(zip(mine, theirs, strict=True)):
            yield from _differences(*pair, f"{where}[{i}]")
    elif mine != theirs:
        yield where, (mine, theirs)
