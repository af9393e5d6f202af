"""Which meter a tuning counts with: FLOPs, KV cache, time measured here, or time predicted elsewhere."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

import torch

from saccade import models
from saccade.core.cards import Card, card
from saccade.core.pricing import scoring_flops
from saccade.core.shapes import ModelShape
from saccade.core.stages import Scoring
from saccade.engine import apply
from saccade.evaluation.ledger import sample_digest
from saccade.identity import model_digest
from saccade.inputs.samples import Sample
from saccade.measure.clock import now
from saccade.measure.devices import Eye, around_seconds, eyes, layer_seconds
from saccade.measure.provenance import device_name
from saccade.methods import Method
from saccade.models import Loaded
from saccade.plans.plan import Plan
from saccade.system.journal import Journal
from saccade.tuning.price import CacheMeter, FlopsMeter, Meter, Rows, at_size
from saccade.tuning.settings import Settings
from saccade.tuning.space import keeping

KEEPS = (1.0, 0.75, 0.5, 0.25, 0.1)
"""Shares of the rows at which steps are timed; between them times are interpolated."""

SKIPPED = {
    (True, True): "",
    (False, True): "vskip(layers={all})",
    (True, False): "ffn_skip(layers={all})",
    (False, False): "shortv(layers={all})",
}
"""Plan in which every layer does the same, by whether visual rows attend and pass the FFN."""

REPEATS = 5

MILD = 0.97
"""Share of the rows that a decision leaves when its own time is measured."""


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
    them does, so what comes before and after the layers is in the table too; and beside it what its decisions
    take, whatever they leave.
    """

    name = "time here"

    def __init__(
        self,
        layers: int,
        visual: int,
        table: dict[tuple[bool, bool], list[float]],
        decide: Callable[[Method], float] = lambda method: 0.0,
    ) -> None:
        """Takes what was measured.

        Args:
            layers: Depth of the decoder.
            visual: Visual rows of the prompt that was timed.
            table: Seconds of a prompt at every share of ``KEEPS``, by whether visual rows attend and pass the
                FFN, without what the decision took that left those rows.
            decide: Seconds that the decision of a method takes.
        """
        self.layers, self.visual, self.table, self._decide = layers, visual, table, decide

    def decision(self, method: Method, visual: int, text: int) -> float:
        return self._decide(method)

    def layer(self, rows: Rows) -> float:
        places = sorted(KEEPS)
        times = [self.table[rows.query, rows.ffn][KEEPS.index(place)] for place in places]
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

    inputs = models.inputs(loaded, [sample])
    every = f"0-{loaded.shape.layers - 1}" if loaded.shape.layers > 1 else "0"
    plans: dict[tuple[tuple[bool, bool], float], Plan] = {}
    for kind, spec in SKIPPED.items():
        for keep in KEEPS:
            parts = [f"uniform(keep={keep})" if keep < 1 else "", spec.format(all=every)]
            plans[kind, keep] = Plan.of("+".join(filter(None, parts)) or "dense")
    asked = [(inputs, plan) for plan in plans.values()]
    seconds = once("steps", lambda: prefills(loaded, asked, repeats, clock))
    found = dict(zip(plans, seconds, strict=True))
    visual = int(loaded.family.visual_mask(loaded.model, inputs["input_ids"]).sum())

    def decision(method: Method) -> float:
        mild = Plan((keeping(method, MILD),))
        dense, planned = prefills(loaded, [(inputs, Plan()), (inputs, mild)], repeats, clock)
        return max(0.0, planned - dense)

    def decide(method: Method) -> float:
        # Measured when a plan first has it; what it leaves is all but what it must drop to decide at all.
        return float(once(method.name, lambda: decision(method)))

    own = decide(next(method for method in Plan.of("uniform(keep=0.5)").methods))
    table = {kind: [found[kind, keep] - (own if keep < 1 else 0.0) for keep in KEEPS] for kind in SKIPPED}
    return TimedMeter(loaded.shape.layers, visual, table, decide)


def _timed_for(loaded: Loaded, sample: Sample, repeats: int) -> dict[str, Any]:
    """What measured times depend on."""
    return {
        "timed": repeats,
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
