"""Towers whose patches are joined to rows afterwards: which patches those are, and what the tower tells."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from saccade.families import find
from saccade.families.vision import joined
from support.looking import look
from support.models import FACTORIES, SQUARE, TALL, WIDE

SAMPLES = [[3, SQUARE, 2], [1, WIDE, 2, TALL, 1]]


def test_rows_join_the_patches_that_the_stock_model_joins():
    """On patch numbers in place of features."""
    connector = FACTORIES["idefics3-llama"]().model.model.connector
    numbers = torch.arange(2 * 36).view(2, 36, 1)
    shuffled = connector.pixel_shuffle(numbers, 2).flatten(0, 1)
    assert torch.equal(joined([(6, 6), (6, 6)], 2).view(-1, 4), shuffled.sort(1).values)

    merger = FACTORIES["mistral3"]().model.model.multi_modal_projector.patch_merger
    merger.merging_layer = nn.Identity()
    # What no square holds is left out: five lines of patches make two lines of rows.
    sizes = torch.tensor([(24, 48), (20, 16), (8, 12)])
    grids = [(high // 4, wide // 4) for high, wide in sizes.tolist()]
    total = sum(high * wide for high, wide in grids)
    merged = merger(torch.arange(float(total))[:, None], sizes)
    assert torch.equal(joined(grids, 2).view(-1, 4), merged.sort(1).values.long())


@contextmanager
def maps(tower: Any) -> Iterator[list[torch.Tensor]]:
    """Whole attention maps of an eager tower, layer after layer."""
    found: list[torch.Tensor] = []
    soften = nn.functional.softmax

    def softmax(*args: Any, **kwargs: Any) -> torch.Tensor:
        found.append(soften(*args, **kwargs))
        return found[-1]

    tower.set_attn_implementation("eager")
    nn.functional.softmax = softmax
    try:
        yield found
    finally:
        nn.functional.softmax = soften
        tower.set_attn_implementation("sdpa")


@pytest.mark.parametrize("name", ["idefics3-llama", "lfm2_vl", "mistral3", "glm4v"])
@torch.no_grad()
def test_the_tower_tells_what_patches_of_a_row_get_of_their_own_picture(name):
    tiny = FACTORIES[name]()
    given = tiny.batch(SAMPLES)
    found, layout, _, embeddings = look(tiny.model, given)
    tower: Any = find(tiny.model).tower(tiny.model)
    attn = tower.made
    keys: list[torch.Tensor] = []
    hook = attn.register_forward_hook(
        lambda m, args, kwargs, out: keys.append((args[0] if args else kwargs["hidden_states"]).detach()),
        with_kwargs=True,
    )
    with maps(tower.module) as layers:
        tiny.model.get_image_features(
            **{k: v for k, v in given.items() if k.startswith(("pixel", "image", "spatial"))},
            return_dict=True,
        )
    hook.remove()
    at = layout.visual_BN
    if name == "idefics3-llama":
        # Views of 6 x 6 patches: one, then two tiles and the whole, twice.
        received = layers[-1].mean(1).sum(1).flatten()
        order, views = joined([(6, 6)] * 7, 2), [n for n in range(7) for _ in range(9)]
    elif name == "lfm2_vl":
        # The same views, but the whole is smaller; each is padded to 36 patches.
        grids = [(6, 6), (6, 6), (6, 6), (4, 8), (6, 6), (6, 6), (8, 4)]
        counts = [high * wide for high, wide in grids]
        received = torch.cat(
            [one[:, :n, :n].mean(0).sum(0) for one, n in zip(layers[-1], counts, strict=True)]
        )
        order, views = joined(grids, 2), [n for n, count in enumerate(counts) for _ in range(count // 4)]
    else:
        grids = [(6, 6), (6, 12), (12, 6)]
        # Mistral 3 masks one map of all pictures; GLM takes them one by one, patches in order.
        parts = [layers[-1]] if name == "mistral3" else layers[-3:]
        received = torch.cat([part[0].mean(0).sum(0) for part in parts])
        order = joined(grids, 2) if name == "mistral3" else torch.arange(len(received))
        views = [n for n, (high, wide) in enumerate(grids) for _ in range(high * wide // 4)]
    torch.testing.assert_close(found.attention_BN[at], received[order].view(-1, 4).mean(1))
    assert found.view_BN[at].tolist() == views
    assert torch.equal(found.features_BNV[at], embeddings[at]) and found.cls_TV is None
    assert found.keys_BNV[at].shape == (len(views), 32) and bool(found.keys_BNV[at].std() > 0.01)
