"""Holds a reducer, on the engine, against its plain account: same rows, same contents, same logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch

import saccade
from saccade.core.layout import Layout
from saccade.core.stages import Evidence
from saccade.families.turning import rotate
from support.decoder_reference import Run
from support.models import FACTORIES, SQUARE, TALL, WIDE, Segment, Tiny

LAYERS = 8
SCENES = {
    "llava": [[3, SQUARE, 6], [2, SQUARE, 1, SQUARE, 9], [4]],
    "qwen": [[3, WIDE, 6], [2, TALL, 1, SQUARE, 9], [4]],
}
"""One image, two images, none."""

Reference = Callable[[Any, dict[str, torch.Tensor]], Run]


def scenes(name: str) -> Sequence[Sequence[Segment]]:
    """Samples for a family."""
    return SCENES["llava" if name.startswith("llava") else "qwen"]


@cache
def twins(name: str) -> tuple[Tiny, Tiny]:
    """The same model twice: one for the plain account (eager), one for the engine."""
    return FACTORIES[name](layers=LAYERS, attn="eager"), FACTORIES[name](layers=LAYERS)


def check(
    name: str, spec: str, reference: Reference, samples: Sequence[Sequence[Segment]] | None = None
) -> list[Run]:
    """Runs singles and ragged batches under both paddings; returns the plain accounts."""
    plain, fast = twins(name)
    samples = scenes(name) if samples is None else samples
    runs = [reference(plain.model, one) for one in plain.singles(samples)]
    for one, run in zip(fast.singles(samples), runs, strict=True):
        _same(fast, spec, one, [run])
    for padding in ("left", "right"):
        _same(fast, spec, fast.batch(samples, padding), runs)
    return runs


def _same(tiny: Tiny, spec: str, inputs: dict[str, torch.Tensor], runs: Sequence[Run]) -> None:
    with torch.no_grad(), saccade.apply(tiny.model, spec) as handle, handle.tracing() as traces:
        logits = tiny.model(**inputs).logits
    first = inputs["attention_mask"].argmax(1).tolist()
    if any(run.alive for run in runs):
        (trace,) = traces
    for b, run in enumerate(runs):
        for layer, alive in run.alive.items():
            assert [n - first[b] for n in trace.kept(layer)[b]] == alive, (spec, b, layer)
            after = max((k for k in run.alive if k <= layer), default=layer)
            assert trace.kept(layer)[b] == trace.kept(after)[b]
            sources = trace.sources(layer)[b]
            for seat, made_of in zip(alive, run.made[layer], strict=True):
                wanted = torch.zeros(sources.shape[1])
                for source, weight in made_of.items():
                    wanted[source + first[b]] = weight
                torch.testing.assert_close(sources[seat + first[b]], wanted, rtol=0, atol=1e-6)
        if run.alive:
            assert [n - first[b] for n in trace.kept(LAYERS - 1)[b]] == run.alive[max(run.alive)]
        mine = logits[b, [seat + first[b] for seat in run.seats]]
        worst = float((mine - run.logits).abs().max() / run.logits.abs().max())
        assert worst < 1e-5, (spec, b, worst)


def blank(stage: Any, layout: Layout, heads: int = 4, width: int = 16, depth: int = 64) -> Evidence:
    """Evidence of the right shapes on a device that holds no numbers: whoever asks for one fails."""
    batch, rows = layout.visual_BN.shape
    found = layout.counts
    keep = tuple(tuple(stage.by.kept(stage, n, n, n) for n in sample) for sample in found)

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    asking = 1 if stage.look.ask == "last" else 5
    return Evidence(
        layout=layout,
        alive_BN=empty(batch, rows, dtype=torch.bool),
        image_BN=empty(batch, rows, dtype=torch.long),
        found=found,
        keep=keep,
        hidden_BND=empty(batch, rows, depth),
        weights_BHRN=empty(batch, heads, asking, rows),
        asks_BR=empty(batch, asking, dtype=torch.bool),
        asking_BR=empty(batch, asking, dtype=torch.long),
        read_B2N=empty(batch, 2, rows),
        keys_BGNW=empty(batch, heads, rows, width),
        rotary=(empty(batch, rows, width), empty(batch, rows, width)),
        turn=rotate,
        norm=lambda x: x,
    )


def check_never_waits(method: Any) -> None:
    """Holds that a method decides without asking the device for a number: here it has none."""
    visual_BN = torch.zeros(3, 60, dtype=torch.bool)
    visual_BN[0, 3:35] = visual_BN[1, 2:18] = visual_BN[1, 20:52] = True
    layout = Layout.from_mask(visual_BN)
    for stage in method.stages(LAYERS):
        evidence = blank(stage, layout)
        assert evidence.keep != evidence.found
        choice = stage.by.choose(stage, evidence)
        assert choice.keep_BN.shape == visual_BN.shape and choice.keep_BN.is_meta and choice.counts is None
        if stage.look.ask == "chosen":
            assert stage.by.asking(evidence).is_meta
