"""The file users keep: methods with their layers, how they were chosen, and the model they were made for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from saccade.core.host import on_host
from saccade.core.layout import Layout
from saccade.core.program import Program, in_order
from saccade.core.route import Route, compose
from saccade.core.text import short
from saccade.methods import Method
from saccade.plans import spec
from saccade.plans.adapter import AdapterRef
from saccade.plans.names import looks_like_file
from saccade.plans.schema import PLAIN, SCHEMA, check, read_method
from saccade.system.files import read_json, write_json


@dataclass(frozen=True)
class Plan:
    """Methods to run together on a model, with their provenance.

    Attributes:
        methods: The methods, in order of composition.
        model: Fingerprint of the model's configuration the plan was made for; empty means any model.
        calibration: How the layers were chosen: scores, order, samples, seed, versions. Empty if by hand.
        file: The plan file that it was read from, if it was.
        adapter: Changes of weights that it brings with it, where it was healed.
    """

    methods: tuple[Method, ...] = ()
    model: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    file: str = field(default="", compare=False, repr=False)
    adapter: AdapterRef | None = None

    @property
    def is_resolved(self) -> bool:
        """Whether every method knows its layers."""
        return all(m.is_resolved for m in self.methods)

    @property
    def shortening(self) -> tuple[Method, ...]:
        """Methods that work at the processor: the prompt itself is shorter under them."""
        return tuple(method for method in self.methods if method.shortens)

    @property
    def spec(self) -> str:
        """The methods as a spec string."""
        return spec.write(self.methods)

    @property
    def key(self) -> str:
        """The spec string and the adapter, if any: what answers under the plan are filed under."""
        return self.spec if self.adapter is None else f"{self.spec} [healed {self.adapter.digest[:8]}]"

    @on_host
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
        narrow = next((n for n in range(first, num_layers) if route.layers[n].visibility != "causal"), None)
        if narrow is not None:
            raise ValueError(
                f"{self.spec}: in layer {narrow} visual rows see text and themselves alone, which needs "
                f"every row there, but rows are dropped before layer {first}; leave one of the two out"
            )
        rewriter = None
        late = next((stage for stage in stages[1:] if stage.look.pruned), None)
        if late is not None:
            raise ValueError(
                f"{self.spec}: rows that the vision tower leaves out hold nothing, so they have to go before "
                f"anything else is decided: write {late.by} first"
            )
        for stage in stages:
            if rewriter is not None and (stage.places or stage.look.tower is not None):
                raise ValueError(
                    f"{stage.by} takes rows for the patches at their places, but {rewriter} has put other "
                    "contents into them by then; write it first, leave one out, or (where padding of tiles "
                    "took their places) take share=image"
                )
            rewriter = stage.by if stage.rewrites or (stage.unseen and layout.padded) else rewriter
        return Program(route, stages)

    @on_host
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

    def for_any(self) -> Plan:
        """The methods, and the adapter of a healed plan: a plan that is not tied to a model."""
        adapter = None if self.adapter is None else replace(self.adapter, any_weights=True)
        return Plan(self.methods, adapter=adapter)

    def over(self, own: Plan) -> Plan:
        """This plan on a model with one of its own: that comes first, but for methods that both have."""
        mine = {method.name for method in self.methods}
        return replace(self, methods=(*(m for m in own.methods if m.name not in mine), *self.methods))

    def check_shape(self, fingerprint: Mapping[str, Any], *, part: bool = False) -> None:
        """Refuses a model of another shape than the one the plan was made for, if it was made for one.

        Args:
            fingerprint: Of the model (``Family.identity``).
            part: The fingerprint is not complete (of a preset shape): only what it says is compared.

        Raises:
            ValueError: If they differ, naming the fields.
        """
        mine = _shared(self.model, fingerprint) if part else self.model
        if not mine or mine == fingerprint:
            return
        changes = Plan(model=mine).diff(Plan(model=dict(fingerprint)))
        fields = ", ".join(
            f"{key}: {short(a)} in the plan, {short(b)} here" for key, (a, b) in changes.items()
        )
        if fields:
            raise ValueError(f"this plan was made for another model ({fields}); make a new one, or use force")

    def to_dict(self, path: str | os.PathLike | None = None) -> dict[str, Any]:
        """Plain dictionary for JSON.

        Args:
            path: The plan file that it will be, from which the adapter's folder is found.
        """
        methods = [{"name": m.name} | m.parameters() for m in self.methods]
        told = {"schema": PLAIN, "methods": methods, "model": self.model, "calibration": self.calibration}
        if self.adapter is None:
            return told
        return told | {"schema": SCHEMA, "adapter": self.adapter.to_dict(path)}

    @classmethod
    def from_dict(cls, data: Any, source: str = "plan") -> Plan:
        """Reads what ``to_dict`` wrote.

        Raises:
            ValueError: If the data are not a plan, or of a newer schema, naming the wrong field by its path.
        """
        data = _listed(data, source)
        check(data, source)
        methods = tuple(read_method(one, f"{source}: methods[{i}]") for i, one in enumerate(data["methods"]))
        adapter = AdapterRef(**data["adapter"]) if data.get("adapter") else None
        return cls(methods, data.get("model", {}), data.get("calibration", {}), adapter=adapter)

    def save(self, path: str | os.PathLike) -> Path:
        """Writes the plan file, whole or not at all."""
        return write_json(path, self.to_dict(path))

    @classmethod
    def load(cls, path: str | os.PathLike) -> Plan:
        """Reads a plan file.

        Raises:
            ValueError: If it is missing, not JSON or not a plan.
        """
        name = short(path)
        try:
            data = read_json(path)
        except OSError as error:
            raise ValueError(f"cannot read {name}: {error.strerror}") from None
        found = cls.from_dict(data, name)
        return replace(found, file=name, adapter=found.adapter and found.adapter.beside(path))

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
        if isinstance(what, os.PathLike) or (isinstance(what, str) and looks_like_file(what)):
            return cls.load(what)
        if isinstance(what, str):
            return cls(spec.parse(what))
        if isinstance(what, type) and issubclass(what, Method):
            raise ValueError(
                f"{what.__name__} is a class: a plan takes {what.__name__}(...) or {what.name!r}"
            )
        if isinstance(what, (list, tuple)):
            kinds = ", ".join(sorted({type(one).__name__ for one in what if not isinstance(one, Method)}))
            raise ValueError(f"a list of methods makes a plan, and this one has {kinds}; join specs with '+'")
        raise ValueError(
            f"a plan is a Plan, a method, a plan file or a spec string, got {type(what).__name__}"
        )

    def diff(self, other: Plan) -> dict[str, tuple[Any, Any]]:
        """What differs between two plans, as ``{dotted field: (mine, theirs)}``."""
        return dict(_differences(self.to_dict(), other.to_dict(), ""))


PlanLike = Plan | Method | Sequence[Method] | str | os.PathLike
"""Everything that is taken where a plan is wanted."""


def _listed(data: Any, source: str) -> Any:
    """The data with lists for tuples, as JSON writes them."""
    try:
        if isinstance(data, dict):
            return {key: _listed(value, source) for key, value in data.items()}
        return [_listed(value, source) for value in data] if isinstance(data, (list, tuple)) else data
    except RecursionError:
        raise ValueError(f"{source} is nested too deeply") from None


def _shared(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """What both say, of mine."""
    both = {key: (mine[key], theirs[key]) for key in theirs if key in mine}
    return {
        key: _shared(a, b) if isinstance(a, Mapping) and isinstance(b, Mapping) else a
        for key, (a, b) in both.items()
    }


def _differences(mine: Any, theirs: Any, where: str) -> Iterator[tuple[str, tuple[Any, Any]]]:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key in sorted({*mine, *theirs}, key=str):
            yield from _differences(mine.get(key), theirs.get(key), f"{where}.{key}" if where else str(key))
    elif isinstance(mine, list) and isinstance(theirs, list) and len(mine) == len(theirs):
        for i, pair in enumerate(zip(mine, theirs, strict=True)):
            yield from _differences(*pair, f"{where}[{i}]")
    elif mine != theirs:
        yield where, (mine, theirs)
