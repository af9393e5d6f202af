"""Reducers before the decoder, end to end: what is left is what a stock model makes of a shorter prompt.

LLaVA: the prompt really is shorter, a slow account of the method makes its embeddings from the tower's own
states. Qwen: rows keep their positions, so the stock model runs with the dropped rows hidden.

Shape letters: B batch, N rows, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.nn.functional import avg_pool2d

from saccade import apply
from support.looking import evidence_of
from support.models import FACTORIES, Tiny
from support.reference import gap
from support.rowwise import rowwise, sets_of
from support.shorter import RAGGED, Shown, compare, states_of
from support.tower_reference import (
    Pair,
    View,
    divprune,
    rows_fastervlm,
    rows_vispruner,
    tokens_prumerge,
    tokens_visionzip,
)

LLAVAS = ["llava-llama", "llava-mistral", "llava_next-llama", "llava_next-mistral"]


def visionzip_of(keep: int, contextual: int) -> Callable[[Shown], list[Pair]]:
    return lambda image: tokens_visionzip(image.views, keep, contextual)


TOWER: dict[str, tuple[str, Callable[[Shown], list[Pair] | list[int]]]] = {
    "fastervlm(keep=0.5,share=image)": ("made", lambda i: rows_fastervlm(i.views, round(len(i.rows) / 2))),
    "fastervlm(keep=5,share=image)": ("made", lambda i: rows_fastervlm(i.views, 5)),
    "vispruner(keep=8,share=image)": ("made", lambda i: rows_vispruner(i.views, 8, 0.5)),
    "visionzip(dominant=6,contextual=2,share=image)": ("made", visionzip_of(8, 2)),
    "visionzip(dominant=2,contextual=5,share=image)": ("made", visionzip_of(7, 5)),
    "prumerge": ("reads", lambda i: tokens_prumerge(i.views, None, plus=False)),
    "prumerge(keep=6)": ("reads", lambda i: tokens_prumerge(i.views, 6, plus=False)),
    "prumerge_plus": ("reads", lambda i: tokens_prumerge(i.views, None, plus=True)),
    "prumerge_plus(keep=8)": ("reads", lambda i: tokens_prumerge(i.views, 8, plus=True)),
}
"""Which layer each spec looks at, and what it makes of an image: tokens in order, or the rows that stay."""


def pool(image: Shown, factor: int) -> list[tuple[int, torch.Tensor]]:
    """Pooled rows and where they live: plane by plane, a newline after each pooled line of tiles."""
    found = []
    for plane in range(2):
        at = [n for n, place in enumerate(image.places) if place[0] == plane]
        if at:
            width = max(image.places[n][2] for n in at) + 1
            grid_DLC = image.states_ND[at].unflatten(0, (-1, width)).permute(2, 0, 1)
            means_DLC = avg_pool2d(grid_DLC[None], factor, ceil_mode=True, count_include_pad=False)[0]
            for line in range(means_DLC.shape[1]):
                for column in range(means_DLC.shape[2]):
                    home = image.places.index((plane, line * factor, column * factor))
                    found.append((image.rows[home], means_DLC[:, line, column]))
                end = image.places.index((plane, line * factor, width - 1)) + 1
                if end < len(image.places) and image.places[end] == (-1, -1, -1):
                    found.append((image.rows[end], image.states_ND[end]))
    return found


@pytest.mark.parametrize("spec", TOWER)
@pytest.mark.parametrize("name", LLAVAS)
def test_a_method_that_asks_the_tower_equals_a_shorter_prompt(name, spec):
    which, account = TOWER[spec]
    tiny = FACTORIES[name](layers=3)
    compare(tiny, spec, which, lambda image: states_of(tiny, image, account(image)))


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("name", LLAVAS)
def test_pooling_equals_a_shorter_prompt(name, factor):
    def account(image: Shown) -> list[torch.Tensor]:
        return [state for _, state in pool(image, factor)]

    compare(FACTORIES[name](layers=3), f"pool(factor={factor})", "made", account)


@pytest.mark.parametrize("name", LLAVAS)
def test_divprune_equals_a_shorter_prompt(name):
    def account(image: Shown) -> list[torch.Tensor]:
        return [image.states_ND[n] for n in divprune(image.states_ND, 7)]

    compare(FACTORIES[name](layers=3), "divprune(keep=7)", "made", account)


@pytest.mark.parametrize("spec", ["fastervlm", "vispruner", "divprune", "uniform"])
@pytest.mark.parametrize("name", ["llava-llama", "llava_next-llama", "qwen2_5_vl"])
@torch.no_grad()
def test_keeping_all_is_the_stock_model_bit_by_bit(name, spec):
    tiny = FACTORIES[name](layers=2)
    inputs = tiny.batch(RAGGED)
    stock = tiny.model(**inputs).logits
    for keep in (1, 999):
        with apply(tiny.model, f"{spec}(keep={keep})"):
            assert torch.equal(tiny.model(**inputs).logits, stock)


class Told(View):
    """A view of which the attention is told, not computed."""

    told: dict[bool, dict[int, float]]

    def attention(self, single: bool = False) -> dict[int, float]:
        return self.told[single]


def told(evidence: Any, b: int, rows: list[int], states_ND: torch.Tensor) -> View:
    """An image of a tower without CLS, from what a method was given; patches are numbered by place.

    What is merged are the given states, of one row each.
    """
    vision = evidence.vision
    keys, queries = vision.keys_BNV[b, rows], vision.keys_BNV.new_zeros(vision.heads, 1, 1)
    places = list(enumerate(rows))
    keys = torch.cat((torch.zeros_like(keys[:1]), keys))
    view = Told(queries, keys, states_ND, None, places)
    view.told = {
        single: {p: float(x[b, row]) for p, row in places}
        for single, x in ((False, vision.attention_BN), (True, vision.single_BN))
    }
    return view


def lives(
    spec: str, evidence: Any, b: int, rows: list[int], states_ND: torch.Tensor, places: list
) -> list[tuple[int, torch.Tensor]]:
    """The rows of an image that a reducer leaves, and what it makes of the image's states there."""
    if evidence.vision is None:
        return pool(Shown(rows, states_ND, [], places), 2)
    state = dict(zip(rows, states_ND, strict=True))

    def account(merged_ND: torch.Tensor) -> list:
        return TOWER[spec][1](Shown(rows, merged_ND, [told(evidence, b, rows, merged_ND)], places))

    # Which rows are kept is decided by the embeddings alone.
    kept = account(evidence.hidden_BND[b, rows])
    if all(isinstance(one, int) for one in kept):
        return [(row, state[row]) for row in kept]
    return [(one[1]["row"], one[1]["feature"]) for one in account(states_ND)]


@contextmanager
def embedded(tiny: Tiny, new: list[dict[tuple[int, int], torch.Tensor]]):
    """The stock decoder gets other embeddings at some rows, and other features to add (DeepStack)."""

    def swap(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        levels, rows_BN = deep(kwargs), kwargs.get("visual_pos_masks")
        changed = [kwargs["inputs_embeds"].clone(), *levels]
        for dense, states in zip(changed, new, strict=True):
            for at, state in states.items():
                dense[at] = state
        kwargs = kwargs | {"inputs_embeds": changed[0]}
        if levels:
            kwargs["deepstack_visual_embeds"] = [dense[rows_BN] for dense in changed[1:]]
        return args, kwargs

    hook = tiny.model.model.language_model.register_forward_pre_hook(swap, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def deep(kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """Features that the stock loop adds after its first layers (B, N, D), zeros at text."""
    levels = []
    for features_RD in kwargs.get("deepstack_visual_embeds") or []:
        dense = torch.zeros_like(kwargs["inputs_embeds"])
        dense[kwargs["visual_pos_masks"]] = features_RD
        levels.append(dense)
    return levels


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("spec", [*TOWER, "pool(factor=2)"])
@torch.no_grad()
def test_with_positions_of_several_axes_rows_stay_in_their_places(monkeypatch, spec, name):
    """What the decoder adds later (DeepStack) is merged as the embeddings are, level by level."""
    tiny, given = FACTORIES[name](layers=3), evidence_of(spec, monkeypatch)
    inputs, levels = tiny.batch(RAGGED, seed=2), []
    note = tiny.model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: levels.extend(deep(kwargs)), with_kwargs=True
    )
    with apply(tiny.model, spec) as handle, handle.tracing() as traces:
        ours = tiny.model(**inputs).logits
    note.remove()
    assert len(levels) == (2 if name == "qwen3_vl" else 0)
    (evidence,), image_BN = given, traces[0].layout.image_BN
    grids = iter((inputs["image_grid_thw"][:, 1:] // 2).tolist())
    new: list[dict[tuple[int, int], torch.Tensor]] = [{} for _ in (evidence.hidden_BND, *levels)]
    for b in range(len(RAGGED)):
        expected = []
        for number in range(int(image_BN[b].max()) + 1):
            rows = (image_BN[b] == number).nonzero()[:, 0].tolist()
            lines, columns = next(grids)
            places = [(0, line, column) for line in range(lines) for column in range(columns)]
            for states, all_BND in zip(new, (evidence.hidden_BND, *levels), strict=True):
                left = lives(spec, evidence, b, rows, all_BND[b, rows], places)
                if evidence.keep[b][number] >= len(rows):
                    left = [(row, all_BND[b, row]) for row in rows]
                states |= {(b, row): state for row, state in left}
            expected += [row for row, _ in left]
        assert traces[0].kept(0)[b] == sorted(expected)
    with embedded(tiny, new), rowwise(tiny.model, sets_of(traces[0])):
        theirs = tiny.model(**inputs, use_cache=False).logits
    text_BN = inputs["attention_mask"].bool() & ~tiny.visual(inputs)
    assert gap(ours, theirs, text_BN) < 1e-5
