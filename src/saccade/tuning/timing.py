"""Seconds to the first token here, from a table of measured steps."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from saccade import models
from saccade.core.stages import Stage
from saccade.engine import apply
from saccade.evaluation.ledger import sample_digest
from saccade.evaluation.runner import refusal
from saccade.identity import model_digest
from saccade.inputs.samples import Sample
from saccade.measure.clock import now
from saccade.measure.provenance import device_name
from saccade.methods import Method
from saccade.methods.base import write_value
from saccade.methods.uniform import Uniform
from saccade.models import Loaded
from saccade.plans.plan import Plan
from saccade.system.journal import Journal
from saccade.tuning.price import Meter, Pricer, Rows, visual_sets
from saccade.tuning.space import keeping

KEEPS = (1.0, 0.75, 0.5, 0.25, 0.1)
"""Shares of the rows at which steps are timed; between them times are interpolated."""

Kind = tuple[bool, bool]
"""What a layer does with visual rows: whether they attend, and whether they pass the FFN."""

STOCK: Kind = (True, True)
SKIPPED: dict[Kind, str] = {
    STOCK: "",
    (False, True): "vskip(layers={layers})",
    (True, False): "ffn_skip(layers={layers})",
    (False, False): "shortv(layers={layers})",
}
"""Plan in which layers do so."""

WITHDRAWN = "vtw(layer={layer})"
"""Plan whose layers from one on have no visual rows."""

ONE = 0.0
"""In place of a share: the last layer alone."""

REPEATS = 5

VERSION = 2
"""Raised when times are measured otherwise; what was kept of the former is then not used again."""

UNIFORM = Uniform(keep=0.5)
"""Whose decision leaves the rows of the table."""

MILD = (0.97, 0.9, 0.75, 0.5)
"""Shares of the rows that a decision leaves when its own time is measured: the largest that drops any."""


def no_time(method: Method) -> float:
    """Seconds of a decision that takes none."""
    return 0.0


@dataclass(frozen=True)
class TimedMeter(Meter):
    """Seconds to the first token here, from a table of measured steps.

    A plan is taken to need the mean over its layers of what a prompt takes in which all layers do as each of
    them does, so what comes before and after the layers is in the table too; beside it what its decisions
    take, whatever they leave, and once a prompt what it takes that some layers are not as the others.

    Attributes:
        layers: Depth of the decoder.
        visual: Visual rows of the prompt that was timed.
        table: Seconds of a prompt at every share of ``KEEPS``, by what all layers do, without what the
            decision took that left those rows.
        decide: Seconds that a decision of a method takes.
        bare: Seconds of a prompt without visual rows in any layer; as the table goes on if None.
        parting: Seconds that it takes once to part rows for layers that do so, by what they do.
        leaving: Seconds that it takes to withdraw all visual rows.
    """

    name = "time here"

    layers: int
    visual: int
    table: Mapping[Kind, Sequence[float]]
    decide: Callable[[Method], float] = no_time
    bare: float | None = None
    parting: Mapping[Kind, float] = field(default_factory=dict)
    leaving: float = 0.0

    def decision(self, method: Method, visual: int, text: int) -> float:
        return self.decide(method)

    def prompt(self, visual: int, text: int, plan: Plan) -> float:
        sets = visual_sets(plan, self.layers)
        if sets is None:
            return 0.0
        kinds = {(query, ffn) for here, query, ffn in sets if here} - {STOCK}
        # Layers that skip in several ways share their sets of rows.
        parting = max((self.parting.get(kind, 0.0) for kind in kinds), default=0.0)
        return parting + (0.0 if all(here for here, _, _ in sets) else self.leaving)

    def layer(self, rows: Rows) -> float:
        times, places = self.table[rows.query, rows.ffn][::-1], sorted(KEEPS)
        if self.bare is not None:
            times, places = [self.bare, *times], [0.0, *places]
        # Prompts with more rows than the one that was timed go on as the last of its steps do.
        share = rows.visual / self.visual
        after = min(max(bisect_left(places, share), 1), len(places) - 1)
        low, high = places[after - 1], places[after]
        part = (share - low) / (high - low)
        return max(0.0, times[after - 1] + part * (times[after] - times[after - 1])) / self.layers


def timed(
    loaded: Loaded,
    sample: Sample,
    repeats: int = REPEATS,
    clock: Callable[[torch.device], float] = now,
    journal: Journal | None = None,
) -> TimedMeter:
    """Measures the table on one prompt: every kind of step at several shares of the rows, in turn.

    What the journal holds is not timed again: by other times plans of the same cost are others, and a search
    that was interrupted would find nothing of what it had measured.
    """
    section = None if journal is None else journal.section(_timed_for(loaded, sample, repeats))
    kept = {} if section is None else {name: entry["seconds"] for name, entry in section.by("of").items()}

    def once(name: str, measure: Callable[[], Any]) -> Any:
        if name not in kept:
            kept[name] = measure()
            if section is not None:
                section.append({"of": name, "seconds": kept[name]})
        return kept[name]

    layers = loaded.shape.layers

    def counted(plan: Plan) -> tuple[int, int]:
        tokens = models.inputs(loaded, [sample], plan)["input_ids"]
        shown = int(loaded.family.visual_mask(loaded.model, tokens).sum())
        return shown, int(tokens.shape[1]) - shown

    def measured(*plans: Plan) -> list[float]:
        asked = [(models.inputs(loaded, [sample], plan), plan) for plan in plans]
        return prefills(loaded, asked, repeats, clock)

    visual, text = counted(Plan())
    dense, planned = once("thinning", lambda: measured(Plan(), Plan((mildest(UNIFORM, visual, layers),))))
    able = {kind: _able(loaded, spec, sample) for kind, spec in SKIPPED.items()}
    plans = _plans(loaded, sample, able)
    found = dict(zip(plans, once("steps", lambda: measured(*plans.values())), strict=True))
    free = _meter(found, able, layers, visual, own=max(0.0, planned - dense))
    pricer = Pricer(free, loaded.shape, {(visual, text): 1.0}, shorter=lambda plan: {counted(plan): 1.0})

    def decision(method: Method) -> float:
        alone = Plan((method,))
        if not alone.shortening:
            alone = Plan((mildest(method, visual, layers),))
        dense, planned = measured(Plan(), alone)
        # What the rows that it leaves take is in the table.
        beyond = planned - dense * pricer.ratio(alone)
        return max(0.0, beyond) / max(1, len(deciding(alone.methods[0], visual, layers)))

    def decide(method: Method) -> float:
        # Measured when a plan first has it.
        return float(once(method.name, lambda: decision(method)))

    return replace(free, decide=decide)


def _plans(
    loaded: Loaded, sample: Sample, able: Mapping[Kind, Sequence[int]]
) -> dict[tuple[str, float], Plan]:
    """What is timed: every kind of step in all layers that can, at several shares of the rows, and in one.

    Two plans beside them withdraw the rows early and late, where the model lets them.
    """
    plans, layers = {}, loaded.shape.layers
    for kind, spec in SKIPPED.items():
        for keep in KEEPS if able[kind] else ():
            parts = [f"uniform(keep={keep})" if keep < 1 else "", _in(spec, able[kind])]
            plans[spec, keep] = Plan.of("+".join(filter(None, parts)) or "dense")
        if spec and len(able[kind]) > 1:
            plans[spec, ONE] = Plan.of(_in(spec, able[kind][-1:]))
    ends = {layer: Plan.of(WITHDRAWN.format(layer=layer)) for layer in {1, layers - 1} if layer}
    if ends and not refusal(loaded, next(iter(ends.values())), sample):
        plans |= {(WITHDRAWN, float(layer)): plan for layer, plan in ends.items()}
    return plans


def _meter(
    found: Mapping[tuple[str, float], float],
    able: Mapping[Kind, Sequence[int]],
    layers: int,
    visual: int,
    own: float,
) -> TimedMeter:
    """The meter of measured seconds, for which decisions take none.

    Args:
        found: Seconds of what ``_plans`` names.
        able: Layers that can do as each kind does.
        layers: Depth of the decoder.
        visual: Visual rows of the prompt.
        own: Seconds of the decision that left fewer rows.
    """
    times = {
        kind: [found[spec, keep] - (own if keep < 1 else 0.0) for keep in KEEPS]
        for kind, spec in SKIPPED.items()
        if able[kind]
    }
    stock, parting = times[STOCK], dict[Kind, float]()
    table = {STOCK: stock}
    for kind in times.keys() - {STOCK}:
        count = len(able[kind])
        # One layer saves its share of what all save, but for what parting rows takes.
        beyond = found.get((SKIPPED[kind], ONE), 0.0) - stock[0] + (stock[0] - times[kind][0]) / count
        parting[kind] = max(0.0, beyond) * count / (count - 1) if count > 1 else 0.0
        saved = [dense - some + parting[kind] for some, dense in zip(times[kind], stock, strict=True)]
        table[kind] = [dense - one * layers / count for one, dense in zip(saved, stock, strict=True)]
    bare, leaving = None, 0.0
    if (WITHDRAWN, 1.0) in found:
        bare, leaving = _withdrawn(stock[0], found[WITHDRAWN, 1.0], found[WITHDRAWN, layers - 1.0], layers)
    return TimedMeter(layers, visual, table, bare=bare, parting=parting, leaving=leaving)


def _in(spec: str, layers: Sequence[int]) -> str:
    return spec.format(layers=write_value(tuple(layers)))


def _able(loaded: Loaded, spec: str, sample: Sample) -> tuple[int, ...]:
    """Layers that can do what a plan asks of them; none where it is refused in all."""
    if not spec:
        return tuple(range(loaded.shape.layers))
    every, recurrent = tuple(range(loaded.shape.layers)), loaded.shape.recurrent_layers
    for layers in (every, tuple(layer for layer in every if layer not in recurrent)):
        if layers and not refusal(loaded, Plan.of(_in(spec, layers)), sample):
            return layers
    return ()


def _withdrawn(stock: float, early: float, late: float, layers: int) -> tuple[float, float]:
    """Seconds of a prompt without visual rows in any layer, and of withdrawing them.

    Args:
        stock: Seconds of the stock model.
        early: Of a plan that withdraws them before layer 1.
        late: Of one that does before the last.
        layers: Depth of the decoder.
    """
    if layers == 2:
        return max(0.0, 2 * early - stock), 0.0
    bare = max(0.0, stock - (late - early) * layers / (layers - 2))
    return bare, max(0.0, late - (stock * (layers - 1) + bare) / layers)


def mildest(method: Method, visual: int, layers: int) -> Method:
    """The method as it drops least and yet decides, for a prompt of so many visual rows.

    One that is not turned by a share alone (a recipe) as it is.
    """
    for keep in MILD:
        try:
            found: Method = keeping(method, keep)
        except ValueError:
            return method
        if deciding(found, visual, layers):
            return found
    return method


def deciding(method: Method, visual: int, layers: int) -> list[Stage]:
    """Stages at which a method drops some of a prompt's visual rows."""
    found, alive = [], visual
    for stage in method.stages(layers):
        kept = stage.by.kept(stage, alive, visual, visual, ())
        if kept < alive:
            found.append(stage)
            alive = kept
    return found


def _timed_for(loaded: Loaded, sample: Sample, repeats: int) -> dict[str, Any]:
    """What measured times depend on."""
    return {
        "timed": repeats,
        "how": VERSION,
        "weights": model_digest(loaded),
        "dtype": str(loaded.model.dtype),
        "sample": sample_digest([sample]),
        "device": device_name(loaded.device),
        "threads": torch.get_num_threads(),
    }


@torch.inference_mode()
def prefills(
    loaded: Loaded,
    asked: Sequence[tuple[Any, Plan]],
    repeats: int = REPEATS,
    clock: Callable[[torch.device], float] = now,
) -> list[float]:
    """Least seconds of every prefill (inputs, plan), in turn, after one round that is not timed."""
    model, least = loaded.model, [float("inf")] * len(asked)

    def once(inputs: Any) -> float:
        start = clock(model.device)
        model(**inputs, use_cache=True, logits_to_keep=1)
        return clock(model.device) - start

    for round_number in range(repeats + 1):
        for place, (inputs, plan) in enumerate(asked):
            with apply(model, plan):
                seconds = once(inputs)
            if round_number:
                least[place] = min(least[place], seconds)
    return least
