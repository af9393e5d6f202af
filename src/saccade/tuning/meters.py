"""Which meter a tuning counts with: FLOPs, KV cache, time measured here, or time predicted elsewhere."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from saccade import models
from saccade.core.cards import Card, card
from saccade.core.pricing import scoring_flops
from saccade.core.shapes import ModelShape
from saccade.core.stages import Scoring
from saccade.engine import apply
from saccade.evaluation.ledger import sample_digest
from saccade.evaluation.runner import refusal
from saccade.identity import model_digest
from saccade.inputs.samples import Sample
from saccade.measure.clock import now
from saccade.measure.devices import Eye, around_seconds, eyes, layer_seconds
from saccade.measure.provenance import device_name
from saccade.methods import Method
from saccade.methods.base import write_value
from saccade.models import Loaded
from saccade.plans.plan import Plan
from saccade.system.journal import Journal
from saccade.tuning.price import CacheMeter, FlopsMeter, Meter, Rows, at_size, visual_sets
from saccade.tuning.settings import Settings
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

REPEATS = 5

VERSION = 2
"""Raised when times are measured otherwise; what was kept of the former is then not used again."""

MILD = (0.97, 0.9, 0.75, 0.5)
"""Shares of the rows that a decision leaves when its own time is measured: the largest that drops any."""


def meter_of(loaded: Loaded, settings: Settings, sample: Sample, journal: Journal | None = None) -> Meter:
    """The meter for what is asked.

    Args:
        loaded: The model.
        settings: What is asked.
        sample: A question with an image, for times.
        journal: Keeps what was timed; its owner finishes it.

    Raises:
        ValueError: If the device is not known.
    """
    if settings.cost == "kv":
        return CacheMeter()
    if settings.cost == "flops":
        return FlopsMeter(loaded.shape)
    if settings.on is not None:
        return PredictedMeter(loaded.shape, card(settings.on), settings.on, eye_of(loaded, sample))
    return timed(loaded, sample, journal=journal)


class PredictedMeter(Meter):
    """Seconds to the first token on a device that is not here, at batch 1 in 16 bits."""

    def __init__(self, shape: ModelShape, on: Card, name: str, eye: Eye | None = None) -> None:
        """Prepares it.

        Args:
            shape: Sizes of the model.
            on: The device.
            name: What the device is called.
            eye: What every prompt's images cost; by their rows if None, which a lower resolution makes fewer.
        """
        self.shape, self.on, self.eye, self.name = shape, on, eye, f"time on {name}"

    def layer(self, rows: Rows) -> float:
        one = rows.size or self.shape.each_layer[0]
        mixing = 4.0 * one.query_width * rows.pairs
        mixing += 0 if one.recurrent is None else one.recurrent.chunk_flops(rows.alive)
        return layer_seconds(one, self.on, rows.alive, rows.asking, rows.fed, mixing)

    def scoring(self, scoring: Scoring) -> float:
        return scoring_flops(self.shape, scoring) / self.on.reached.flops_per_s

    def prompt(self, visual: int, text: int, plan: Plan) -> float:
        eye = eyes([at_size(plan)], self.shape, visual)[0] if self.eye is None else self.eye
        return around_seconds(self.shape, self.on, eye)


class TimedMeter(Meter):
    """Seconds to the first token here, from a table of measured steps.

    A plan is taken to need the mean over its layers of what a prompt takes in which all layers do as each of
    them does, so what comes before and after the layers is in the table too; beside it what its decisions
    take, whatever they leave, and once a prompt what it takes that some layers are not as the others.
    """

    name = "time here"

    def __init__(
        self,
        layers: int,
        visual: int,
        table: Mapping[Kind, Sequence[float]],
        decide: Callable[[Method], float] = lambda method: 0.0,
        *,
        bare: float | None = None,
        parting: Mapping[Kind, float] | None = None,
        leaving: float = 0.0,
    ) -> None:
        """Takes what was measured.

        Args:
            layers: Depth of the decoder.
            visual: Visual rows of the prompt that was timed.
            table: Seconds of a prompt at every share of ``KEEPS``, by what all layers do, without what the
                decision took that left those rows.
            decide: Seconds that the decision of a method takes.
            bare: Seconds of a prompt without visual rows in any layer; as the table goes on if None.
            parting: Seconds that it takes once to part rows for layers that do so, by what they do.
            leaving: Seconds that it takes to withdraw all visual rows.
        """
        self.layers, self.visual, self._decide = layers, visual, decide
        self.places = sorted(KEEPS)
        self.table = {kind: [times[KEEPS.index(p)] for p in self.places] for kind, times in table.items()}
        if bare is not None:
            self.places.insert(0, 0.0)
            self.table = {kind: [bare, *times] for kind, times in self.table.items()}
        self.parting, self.leaving = dict(parting or {}), leaving

    def decision(self, method: Method, visual: int, text: int) -> float:
        return self._decide(method)

    def prompt(self, visual: int, text: int, plan: Plan) -> float:
        sets = visual_sets(plan, self.layers)
        if sets is None:
            return 0.0
        kinds = {(query, ffn) for here, query, ffn in sets if here} - {STOCK}
        # Layers that skip in several ways share their sets of rows.
        parting = max((self.parting.get(kind, 0.0) for kind in kinds), default=0.0)
        return parting + (0.0 if all(here for here, _, _ in sets) else self.leaving)

    def layer(self, rows: Rows) -> float:
        places, times = self.places, self.table[rows.query, rows.ffn]
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

    inputs, layers = models.inputs(loaded, [sample]), loaded.shape.layers
    visual = int(loaded.family.visual_mask(loaded.model, inputs["input_ids"]).sum())
    plans: dict[tuple[str, float], Plan] = {}
    # Which layers do as a kind does: all that can, and the last of them alone.
    able = {
        kind: _able(loaded, spec, sample) if spec else tuple(range(layers)) for kind, spec in SKIPPED.items()
    }
    for kind, spec in SKIPPED.items():
        for keep in KEEPS if able[kind] else ():
            parts = [f"uniform(keep={keep})" if keep < 1 else "", _in(spec, able[kind])]
            plans[spec, keep] = Plan.of("+".join(filter(None, parts)) or "dense")
        if spec and len(able[kind]) > 1:
            plans[spec, 0.0] = Plan.of(_in(spec, able[kind][-1:]))
    ends = {layer: Plan.of(WITHDRAWN.format(layer=layer)) for layer in {1, layers - 1} if layer}
    if ends and not refusal(loaded, next(iter(ends.values())), sample):
        plans |= {(WITHDRAWN, float(layer)): plan for layer, plan in ends.items()}
    seconds = once(
        "steps", lambda: prefills(loaded, [(inputs, plan) for plan in plans.values()], repeats, clock)
    )
    found = dict(zip(plans, seconds, strict=True))

    def decision(method: Method) -> float:
        mild = Plan((mildest(method, visual, layers),))
        dense, planned = prefills(loaded, [(inputs, Plan()), (inputs, mild)], repeats, clock)
        return max(0.0, planned - dense)

    def decide(method: Method) -> float:
        # Measured when a plan first has it; what it leaves is all but what it must drop to decide at all.
        return float(once(method.name, lambda: decision(method)))

    own = decide(next(method for method in Plan.of("uniform(keep=0.5)").methods))
    stock = [found[SKIPPED[STOCK], keep] - (own if keep < 1 else 0.0) for keep in KEEPS]
    table, parting = {STOCK: stock}, dict[Kind, float]()
    for kind, spec in SKIPPED.items():
        count = len(able[kind])
        if not spec or not count:
            continue
        with_some = [found[spec, keep] - (own if keep < 1 else 0.0) for keep in KEEPS]
        saved = stock[0] - with_some[0]
        # One layer saves its share, but for what parting rows takes.
        parting[kind] = (
            0.0 if count == 1 else max(0.0, found[spec, 0.0] - stock[0] + saved / count) * count / (count - 1)
        )
        table[kind] = [
            some - parting[kind] - (1 - count / layers) * (dense - some + parting[kind]) * layers / count
            for some, dense in zip(with_some, stock, strict=True)
        ]
    bare, leaving = None, 0.0
    if (WITHDRAWN, 1.0) in found:
        bare, leaving = _withdrawn(stock[0], found[WITHDRAWN, 1.0], found[WITHDRAWN, layers - 1.0], layers)
    return TimedMeter(layers, visual, table, decide, bare=bare, parting=parting, leaving=leaving)


def _in(spec: str, layers: Sequence[int]) -> str:
    return spec.format(layers=write_value(tuple(layers)))


def _able(loaded: Loaded, spec: str, sample: Sample) -> tuple[int, ...]:
    """Layers that can do what a plan asks of them; none where it is refused in all."""
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
    """The method as it drops least and yet decides, for a prompt of so many visual rows."""
    for keep in MILD:
        found: Method = keeping(method, keep)
        stages = found.stages(layers)
        if any(stage.by.kept(stage, visual, visual, visual, ()) < visual for stage in stages):
            return found
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


def eye_of(loaded: Loaded, sample: Sample) -> Eye | None:
    """What the image of a sample costs before the decoder, where the tower's sizes are not known; else None.

    By its weights: all outside the decoder, once for every patch.
    """
    if loaded.shape.tower is not None:
        return None
    parts = loaded.family.parts(loaded.model)
    outside: Callable[[torch.nn.Module], int] = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    parameters = outside(parts.core) - outside(parts.decoder)
    inputs = models.inputs(loaded, [sample])
    patches = int(loaded.family.visual_mask(loaded.model, inputs["input_ids"]).sum())
    return Eye(float(parameters), 2.0 * parameters * patches)
