"""ToMe whose patches are put back: held against the stock model behind a tower that merges token by token."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

import saccade
from methods.test_tome import deep, matched, prompts, tower_by_hand
from saccade.core.layout import Layout
from saccade.engine.tower import TowerTap
from saccade.families import FAMILIES, abilities, find
from saccade.methods import METHODS
from saccade.methods.tome import ToMe
from support.models import FACTORIES, SQUARE, TALL, Tiny

PACKED = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5"]
JOINED = ["internvl-qwen3", "gemma3", "idefics3-llama", "smolvlm-llama", "paligemma", *PACKED]
"""Towers whose patches are joined at fixed places, or stand for rows one by one."""

SAMPLES = [[3, SQUARE, 2], [1, TALL, 5]]


def by_hand(layers: Any, x: torch.Tensor, r: int, protected: int) -> torch.Tensor:
    """One view through a tower's layers, merged in each of them, and every token put back at the end."""
    made = [{n} for n in range(len(x))]
    for layer in layers:
        intern = hasattr(layer, "lambda_1")
        attn = layer.attention if intern else layer.self_attn
        before, behind = ("layernorm_before", "layernorm_after") if intern else ("layer_norm1", "layer_norm2")
        normed, width = getattr(layer, before)(x), attn.head_dim
        q, k, v = attn.q_proj(normed), attn.k_proj(normed), attn.v_proj(normed)
        if intern:
            q, k = attn.q_norm(q), attn.k_norm(k)
        q, k, v = (part.view(len(x), -1, width) for part in (q, k, v))
        sizes = torch.tensor([float(len(one)) for one in made])
        mixed = torch.zeros_like(v)
        for head in range(v.shape[1]):
            weights = (q[:, head] @ k[:, head].T / math.sqrt(width)).exp() * sizes
            mixed[:, head] = weights / weights.sum(1, keepdim=True) @ v[:, head]
        out = (attn.projection_layer if intern else attn.out_proj)(mixed.flatten(1))
        x = x + (layer.lambda_1 * out if intern else out)
        groups = matched(k.mean(1).tolist(), r, protected)
        x = torch.stack(
            [sum(x[n] * len(made[n]) for n in one) / sum(len(made[n]) for n in one) for one in groups]
        )
        made = [set().union(*(made[n] for n in one)) for one in groups]
        more = layer.mlp(getattr(layer, behind)(x))
        x = x + (layer.lambda_2 * more if intern else more)
    whole = torch.zeros(sum(map(len, made)), x.shape[1])
    for state, group in zip(x, made, strict=True):
        whole[list(group)] = state
    return whole


class PackedByHand:
    """The blocks of a tower of packed patches, one after another, token by token.

    A token is the numbers of its patches, that of the patch by whose place it turns first, and what it holds.
    """

    def __init__(self, blocks: Any, r: int) -> None:
        self.blocks, self.r = blocks, r

    def block(self, number: int) -> Any:
        def forward(hidden: torch.Tensor, cu_seqlens: torch.Tensor, position_embeddings: Any, **_: Any):
            ends = cu_seqlens.tolist()
            if number == 0:
                spans = [range(a, b) for a, b in pairwise(ends) if b > a]
                self.cells = [[([p], hidden[p]) for p in span] for span in spans]
            self.layer(self.blocks[number], ends, *position_embeddings)
            whole = torch.zeros_like(hidden)
            for members, state in (token for cell in self.cells for token in cell):
                whole[members] = state
            return whole

        return forward

    def layer(self, block: Any, ends: list[int], cos_PK: torch.Tensor, sin_PK: torch.Tensor) -> None:
        attn, tokens = block.attn, [token for cell in self.cells for token in cell]
        x = torch.stack([state for _, state in tokens])
        place = torch.tensor([members[0] for members, _ in tokens])
        sizes = torch.tensor([float(len(members)) for members, _ in tokens])
        segment = torch.bucketize(place, torch.tensor(ends[1:]), right=True)
        q, k, v = attn.qkv(block.norm1(x)).view(len(x), 3, attn.num_heads, -1).unbind(1)
        half = q.shape[-1] // 2

        def turned(part: torch.Tensor) -> torch.Tensor:
            other = torch.cat((-part[..., half:], part[..., :half]), dim=-1)
            return part * cos_PK[place][:, None] + other * sin_PK[place][:, None]

        mixed = torch.zeros_like(v)
        for head in range(v.shape[1]):
            logits = turned(q)[:, head] @ turned(k)[:, head].T / math.sqrt(q.shape[-1])
            weights = logits.exp() * sizes * (segment[:, None] == segment)
            mixed[:, head] = weights / weights.sum(1, keepdim=True) @ v[:, head]
        x, first = x + attn.proj(mixed.flatten(1)), 0
        for number, cell in enumerate(self.cells):
            mine = range(first, first + len(cell))
            first += len(cell)
            new = []
            for group in matched(k.mean(1)[list(mine)].tolist(), self.r, 0):
                members = [patch for n in group for patch in cell[n][0]]
                total = sum(x[mine[n]] * len(cell[n][0]) for n in group) / len(members)
                new.append((members, total))
            self.cells[number] = new
        states = torch.stack([state for cell in self.cells for _, state in cell])
        states = iter(states + block.mlp(block.norm2(states)))
        self.cells = [[(members, next(states)) for members, _ in cell] for cell in self.cells]


@contextmanager
def merging_by_hand(tiny: Tiny, r: int) -> Iterator[None]:
    """The stock model with the encoder of its tower in plain loops."""
    core = tiny.model.model
    if hasattr(core, "visual"):
        hand = PackedByHand(core.visual.blocks, r)
        for number, block in enumerate(core.visual.blocks):
            block.forward = hand.block(number)
        try:
            yield
        finally:
            for block in core.visual.blocks:
                del block.forward
        return
    tower = core.vision_model if hasattr(core, "vision_model") else core.vision_tower
    encoder = tower.encoder
    layers = encoder.layer if hasattr(encoder, "layer") else encoder.layers

    def forward(hidden: torch.Tensor | None = None, inputs_embeds: torch.Tensor | None = None, **_: Any):
        views = inputs_embeds if hidden is None else hidden
        protected = int(hasattr(tower.embeddings, "cls_token"))
        return BaseModelOutput(torch.stack([by_hand(layers, x, r, protected) for x in views]))

    encoder.forward = forward
    try:
        yield
    finally:
        del encoder.forward


@pytest.mark.parametrize("r", [2, 50])
@pytest.mark.parametrize("name", JOINED)
@torch.no_grad()
def test_the_model_sees_what_a_tower_in_loops_puts_back(name, r):
    tiny = FACTORIES[name]()
    given = tiny.batch(SAMPLES)
    rows = given["input_ids"].shape[1]
    dense = tiny.model(**given).logits
    with saccade.apply(tiny.model, f"tome(r={r},unmerge=true)") as handle, handle.tracing() as traces:
        ours = tiny.model(**given).logits
        said = tiny.model.generate(**given, max_new_tokens=3, do_sample=False)
    assert torch.equal(tiny.model(**given).logits, dense)
    assert traces[0].kept(0) == [row.nonzero()[:, 0].tolist() for row in tiny.visual(given)]
    with merging_by_hand(tiny, r):
        theirs = tiny.model(**given).logits
        expected = tiny.model.generate(**given, max_new_tokens=3, do_sample=False)
    real = given["attention_mask"].bool()
    worst = float((ours - theirs)[real].abs().max() / theirs[real].abs().max())
    assert worst < 1e-5 and float((ours - dense)[real].abs().max() / dense[real].abs().max()) > 1e-3
    assert torch.equal(said, expected) and said.shape[1] == rows + 3


@pytest.mark.parametrize("towers", ["clip", "siglip"])
@torch.no_grad()
def test_where_rows_could_merge_too_every_row_is_the_groups(towers):
    model, given = deep(towers=towers), prompts(32)
    hand = tower_by_hand(model.model.vision_tower, given["pixel_values"], 3, layers=3)
    tap = TowerTap(model, find(model), merge=ToMe(r=3, unmerge=True).tower_merge)
    features = model.get_image_features(given["pixel_values"]).pooler_output
    tap.remove()
    first = int(towers == "clip")
    for view, (states, made) in enumerate(hand):
        for state, group in zip(states, made, strict=True):
            for patch in group - ({0} if first else set()):
                assert torch.allclose(
                    features[view][patch - first], model.model.multi_modal_projector(state), atol=1e-5
                )
    with (
        saccade.apply(model, "tome(r=3,unmerge=true)+divprune(keep=4)") as handle,
        handle.tracing() as traces,
    ):
        model(**given)
    assert [len(rows) for rows in traces[0].kept(0)] == [4, 8]


@pytest.mark.parametrize("name", ["internvl-qwen2", "gemma3", "qwen3_vl"])
def test_gradients_are_those_without_checkpointing_or_it_is_refused(name):
    tiny = FACTORIES[name]()
    given = tiny.batch(SAMPLES[:1])
    given["labels"] = given["input_ids"]

    def gradients() -> list[torch.Tensor]:
        tiny.model.zero_grad()
        tiny.model(**given).loss.backward()
        return [
            p.grad.clone()
            for n, p in tiny.model.named_parameters()
            if ("vision" in n or "visual" in n) and p.grad is not None
        ]

    kind = "activation" if hasattr(tiny.model, "activation_checkpointing_enable") else "gradient"
    with saccade.apply(tiny.model, "tome(r=2,unmerge=true)"):
        tiny.model.train()
        plain = gradients()
        getattr(tiny.model, f"{kind}_checkpointing_enable")()
        if not name.startswith("internvl"):
            again = gradients()
            assert len(plain) == len(again) > 10
            assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(plain, again, strict=True))
            return
        with pytest.raises(ValueError, match="InternVL without gradient checkpointing alone"):
            gradients()


def test_what_cannot_be_is_refused_in_one_line():
    for name in ("glm4v", "mistral3", "llava-pixtral"):
        tiny = FACTORIES[name]()
        for spec in ("tome()", "tome(unmerge=true)"):
            with pytest.raises(ValueError, match="tokens cannot merge inside the vision tower of"):
                saccade.apply(tiny.model, spec)
    intern = FACTORIES["internvl-qwen2"]()
    with pytest.raises(ValueError, match="let every patch be put back behind it"):
        saccade.apply(intern.model, "tome(r=2)")
    for other in ("fastervlm(keep=0.5)", "hiprune(keep=4)"):
        with pytest.raises(ValueError, match="nothing to look at in the layers"):
            saccade.apply(intern.model, f"tome(r=2,unmerge=true)+{other}")
    with pytest.raises(ValueError, match="leave position_policy out"):
        saccade.Plan.of("tome(unmerge=true,position_policy=keep)")
    with pytest.raises(ValueError, match="unmerge is true or false"):
        ToMe(unmerge=1)


@torch.no_grad()
def test_features_that_were_made_before_and_padding_that_is_hidden_are_refused():
    tiny = FACTORIES["internvl-qwen2"]()
    given = tiny.batch(SAMPLES[:1])
    pixels = given.pop("pixel_values")
    made = tiny.model.model.get_image_features(pixels, return_dict=True)
    with saccade.apply(tiny.model, "tome(r=2,unmerge=true)") as handle:
        with pytest.raises(ValueError, match="made without it"):
            tiny.model(**given, mm_encoder_outputs={"image": made})
        embeds = tiny.model.get_input_embeddings()(given["input_ids"])
        layout = Layout.from_mask(tiny.visual(given))
        with pytest.raises(ValueError, match="these embeddings are made"), handle.with_layout(layout):
            tiny.model(inputs_embeds=embeds, attention_mask=given["attention_mask"])
    tiny = FACTORIES["idefics3-llama"]()
    given = tiny.batch(SAMPLES[:1])
    mask = torch.ones(given["pixel_values"].shape[:2] + given["pixel_values"].shape[-2:], dtype=torch.long)
    with saccade.apply(tiny.model, "tome(r=2,unmerge=true)"):
        tiny.model(**given, pixel_attention_mask=mask)
        mask[..., mask.shape[-1] // 2 :] = 0
        with pytest.raises(ValueError, match="hides part of these pictures"):
            tiny.model(**given, pixel_attention_mask=mask)


def test_what_towers_can_do_is_read_from_the_text_of_every_family():
    assert {name: set(can) for name, can in abilities().items()} == {
        family.name: set(family.tower_can) for family in FAMILIES.values()
    }
    needed = {cls().needs for cls in METHODS.values()} - {None}
    assert needed == {"merge_rows", "leave_patches"} and ToMe(unmerge=True).needs == "merge_patches"
    for family in FAMILIES.values():
        assert "merge_patches" in family.tower_can or "merge_rows" not in family.tower_can
