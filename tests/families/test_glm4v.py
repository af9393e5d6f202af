"""GLM-4.1V: heads of which half is turned, in pairs of neighbours; norms after both halves of a layer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import transformers as T
from PIL import Image
from transformers import Glm4vImageProcessorPil

import saccade
from saccade.families import FAMILIES, find
from support import decoder_reference as reference
from support.decoder_parity import check
from support.models import IMAGE, SQUARE, WIDE, tiny_glm4v
from support.reference import gap, recompute


def test_methods_that_ask_how_heads_turn_are_those_of_the_plain_account():
    check("glm4v", "dart(layer=3,keep=0.5)", lambda m, i: reference.dart(m, i, 3, 0.5))
    kept = {18: (9, 7, 5), 9: (7, 6, 5)}
    check(
        "glm4v",
        "sparsevlm_plus(tokens=6,heads=2)",
        lambda m, i: reference.sparsevlm_plus(m, i, (1, 2, 4), lambda stage, whole: kept[whole][stage], 2),
    )


@torch.no_grad()
def test_a_row_that_skips_both_halves_of_every_layer_leaves_as_it_came():
    tiny = tiny_glm4v()
    given = tiny.batch([[3, SQUARE, 5], [2, WIDE, 1]])
    with saccade.apply(tiny.model, "shortv(layers=0-3)"):
        states = tiny.model(**given, output_hidden_states=True).hidden_states
    visual = tiny.visual(given)
    # The last state is normed.
    assert all(torch.equal(state[visual], states[0][visual]) for state in states[1:-1])
    assert not torch.equal(states[3][~visual], states[0][~visual])


@torch.no_grad()
def test_frames_of_a_video_have_the_placeholder_of_pictures():
    tiny, draw = tiny_glm4v(), torch.Generator().manual_seed(4)
    frame = [5, *[IMAGE] * 6, 6]
    ids = torch.tensor([[20, 21, *frame, 22, *frame, 23, 24, 25]])
    given = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values_videos": torch.randn(2 * 24, 96, generator=draw),
        "video_grid_thw": torch.tensor([[2, 4, 6]]),
        "mm_token_type_ids": 2 * (ids == IMAGE).int(),
    }
    with saccade.apply(tiny.model, "fastervlm(keep=0.5)") as handle, handle.tracing() as traces:
        tiny.model(**given)
    assert traces[0].layout.counts == ((12,),) and len(traces[0].kept(0)[0]) == 6
    with saccade.apply(tiny.model, "vtw(layer=2)"):
        ours = tiny.model(**given).logits
    assert gap(ours, recompute(tiny.model, [("vtw", (2, 3))], given).logits) < 1e-5


@torch.no_grad()
def test_the_dense_model_of_a_later_version_is_laid_out_alike():
    tiny = tiny_glm4v()
    config = T.Glm46VConfig(**tiny.model.config.to_dict() | {"model_type": "glm46v"})
    later = T.Glm46VForConditionalGeneration(config).eval()
    later.load_state_dict(tiny.model.state_dict())
    assert type(find(later)) is type(FAMILIES["glm46v"]) is type(FAMILIES["glm4v"])
    given = tiny.batch([[3, SQUARE, 5], [2, WIDE, 1]])
    for plan in ("shortv(layers=1)+vtw(layer=2)", "fastervlm(keep=0.5)"):
        with saccade.apply(tiny.model, plan), saccade.apply(later, plan):
            assert torch.equal(later(**given).logits, tiny.model(**given).logits)


def test_prompts_of_videos_have_positions_too():
    tiny = tiny_glm4v()
    ids = torch.tensor([[20, *[IMAGE] * 6, 21]])
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    family = find(tiny.model)
    assert family.positions(tiny.model.config, given) == [2]
    grid = {"image_grid_thw": torch.tensor([[1, 4, 6]])}
    assert family.positions(tiny.model.config, given | grid) == [2 + 3]


@pytest.mark.parametrize("size", [(400, 300), (40, 30), (90, 80)])
def test_a_lower_resolution_keeps_to_its_limits_which_are_of_frames(size):
    images = Glm4vImageProcessorPil(
        patch_size=4, merge_size=2, size={"shortest_edge": 2048, "longest_edge": 32768}
    )
    processor, picture = SimpleNamespace(image_processor=images), Image.new("RGB", size)

    def area(shown: Image.Image) -> int:
        grid = images(shown, return_tensors="np")["image_grid_thw"][0]
        return int(grid[1] * grid[2]) * 16

    (half,), more = FAMILIES["glm4v"].smaller(processor, [picture], 0.5)
    wanted = max(area(picture) / 4, 1024)
    assert more == {} and area(half) == pytest.approx(wanted, rel=0.25)
