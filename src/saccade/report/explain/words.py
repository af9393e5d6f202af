"""Sentences of an explanation, shared by the figure and the page (pure)."""

from __future__ import annotations

from collections.abc import Sequence

from saccade.methods.base import write_value
from saccade.report.explain.explained import ExplainedAnswer
from saccade.report.text import percent

STRIP = "decoder layer; filled: the image's rows do it, hollow: they skip it, dotted: none is left"


def said(answer: str) -> str:
    """An answer in quotes."""
    return f"“{answer}”" if answer else "(nothing)"


def verdict(shown: ExplainedAnswer) -> str:
    """Whether the plan changed the answer."""
    return " (same answer)" if shown.same else " (the answers differ)"


def summary(shown: ExplainedAnswer) -> str:
    """Model, plan and cost in one sentence."""
    cost = shown.cost
    return (
        f"{shown.model} under {shown.plan or 'no plan'}: {percent(cost['ratio'])} of the dense FLOPs, "
        f"{percent(cost['kv_ratio'])} of the KV cache; "
        f"{cost['visual_tokens']:g} visual and {cost['text_tokens']:g} text rows"
    )


def skipping(shown: ExplainedAnswer) -> str:
    """In which layers the rows of the images that are alive skip attention or the FFN, or are all gone."""
    found = []
    for name, what in (("attention", "attention"), ("ffn", "the FFN")):
        layers = [n for n, share in enumerate(shown.active[name]) if shown.alive[n] and not share]
        if layers:
            found.append(f"skip {what} in {_layers(layers)}")
    gone = [n for n, alive in enumerate(shown.alive) if not alive]
    if gone:
        found.append(f"are gone in {_layers(gone)}")
    if not found:
        return "the image's rows that are alive attend and pass the FFN in every layer"
    return f"the image's rows {', '.join(found[:-1])}{' and ' if found[:-1] else ''}{found[-1]}"


def steps(alive: Sequence[int], apart: int = 1) -> list[int]:
    """Layers where the number of rows changes, and the first; none closer than ``apart`` to the last."""
    found = [0]
    for layer in range(1, len(alive)):
        if alive[layer] != alive[layer - 1] and layer - found[-1] >= apart:
            found.append(layer)
    return found


def _layers(layers: list[int]) -> str:
    return f"{'layer' if len(layers) == 1 else 'layers'} {write_value(tuple(layers)).replace(',', ', ')}"
