"""What a stock LLaVA makes of a prompt that is really shorter, from what its tower says to plain questions.

Shape letters: B batch, N rows, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from saccade import apply
from support.models import SQUARE, TALL, WIDE, Segment, Tiny, decoder_of
from support.reference import gap
from support.tower_reference import Pair, View

RAGGED = [[3, SQUARE, 5], [4], [2, WIDE, 1, TALL, 3]]


@dataclass
class Shown:
    """One image of a prompt: its rows, what the decoder gets there, its views, and the place of every row.

    Places are line and column in a plane; of newline rows (-1, -1, -1).
    """

    rows: list[int]
    states_ND: torch.Tensor
    views: list[View]
    places: list[tuple[int, int, int]]


@torch.no_grad()
def shown(tiny: Tiny, given: dict[str, torch.Tensor], which: str) -> list[Shown]:
    """The images of a single LLaVA prompt, from what the tower says to plain questions."""
    if "pixel_values" not in given:
        return []
    core = tiny.model.model
    made = core.get_image_features(**{k: given[k] for k in ("pixel_values", "image_sizes") if k in given})
    pixels = given["pixel_values"]
    if tiny.family == "llava_next":
        from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

        pinpoints = tiny.model.config.image_grid_pinpoints
        counts = [image_size_to_num_patches(size.tolist(), pinpoints, 24) for size in given["image_sizes"]]
        pixels = torch.cat([image[:n] for image, n in zip(pixels, counts, strict=True)])
    else:
        counts = [1] * len(pixels)
    out = core.vision_tower(pixels, output_hidden_states=True)
    number = {"made": 0, "reads": 1}[which]
    layer = core.vision_tower.encoder.layers[number]
    normed = layer.layer_norm1(out.hidden_states[number])
    queries, keys = layer.self_attn.q_proj(normed), layer.self_attn.k_proj(normed)
    heads, states = layer.self_attn.num_heads, out.hidden_states[1]
    # Numbers of patches instead of features, packed by the model itself; newline rows are -1.
    side, patches = round((states.shape[1] - 1) ** 0.5), states.shape[1] - 1
    numbers = [torch.arange(n * patches).view(n, patches, 1).float() for n in counts]
    if tiny.family == "llava_next":
        sizes = given["image_sizes"]
        packed, _ = core.pack_image_features(numbers, sizes, "default", image_newline=torch.tensor([-1.0]))
    else:
        packed = [n[0] for n in numbers]
    rows = tiny.visual(given)[0].nonzero()[:, 0].tolist()
    images, view = [], 0
    for ids, features, count in zip(packed, made.pooler_output, counts, strict=True):
        views = [
            View(queries[v].unflatten(-1, (heads, -1)).transpose(0, 1), keys[v], states[v, 1:], states[v, 0])
            for v in range(view, view + count)
        ]
        view += count
        mine, rows = rows[: len(ids)], rows[len(ids) :]
        places, line, column = [], 0, 0
        for row, patch in zip(mine, ids[:, 0].int().tolist(), strict=True):
            if patch < 0:
                places.append((-1, -1, -1))
                line, column = line + 1, 0
                continue
            views[patch // patches].rows.append((patch % patches, row))
            if patch < patches:
                places.append((0, patch // side, patch % side))
            else:
                places.append((1, line, column))
                column += 1
        images.append(Shown(mine, features, views, places))
    return images


@torch.no_grad()
def shorter(
    tiny: Tiny, given: dict[str, torch.Tensor], images: list[Shown], left: list[list[torch.Tensor]]
) -> torch.Tensor:
    """Logits (text rows, vocabulary) of a stock model whose prompt holds these states for images."""
    embeds = tiny.model.get_input_embeddings()(given["input_ids"])[0]
    starts = {image.rows[0]: states for image, states in zip(images, left, strict=True)}
    visual = tiny.visual(given)[0].tolist()
    parts, text = [], []
    for row, is_visual in enumerate(visual):
        if not is_visual:
            text.append(len(parts))
            parts.append(embeds[row])
        parts += starts.get(row, [])
    hidden = decoder_of(tiny.model)(inputs_embeds=torch.stack(parts)[None]).last_hidden_state
    return tiny.model.lm_head(hidden)[0, text]


def states_of(tiny: Tiny, image: Shown, left: list[Pair] | list[int]) -> list[torch.Tensor]:
    """What the decoder gets: rows as they are, tokens through the projector."""
    project = tiny.model.model.multi_modal_projector
    return [
        image.states_ND[image.rows.index(one)] if isinstance(one, int) else project(one[1]["feature"])
        for one in left
    ]


@torch.no_grad()
def compare(
    tiny: Tiny,
    spec: str,
    which: str,
    reduce: Callable[[Shown], list[torch.Tensor]],
    samples: Sequence[Sequence[Segment]] = RAGGED,
) -> None:
    """Logits of text rows, of a ragged batch with the plan and of shorter prompts one by one."""
    inputs, singles = tiny.batch(samples, seed=2), tiny.singles(samples, seed=2)
    with apply(tiny.model, spec) as handle, handle.tracing() as traces:
        ours = tiny.model(**inputs).logits
    text_BN = inputs["attention_mask"].bool() & ~tiny.visual(inputs)
    for b, given in enumerate(singles):
        images = shown(tiny, given, which)
        left = [reduce(image) for image in images]
        assert len(traces[0].kept(0)[b]) == sum(len(states) for states in left)
        assert gap(ours[b, text_BN[b]], shorter(tiny, given, images, left)) < 1e-5
