"""LLaVA-NeXT-Video: frames of a video are pooled by the model's own average, and count as one image."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

import saccade
from matrix.cases import TOLERANCE, greedy
from saccade import skip_vision
from saccade.engine.prompt import layout_of_inputs
from saccade.families import find
from saccade.inputs.samples import Sample
from saccade.opening.loaded import wrap
from support.models import BIG, FIRST_WORD, IMAGE, SQUARE, VIDEO, VOCAB, tiny_llava_next_video
from support.reference import extend, gap, recompute, step_logits
from support.rowwise import rowwise, sets_of

FRAME = 4
"""Rows of a frame."""


@pytest.fixture(scope="module")
def tiny():
    return tiny_llava_next_video()


def filmed(tiny, order: str = "IV", frames: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    """One prompt of images (I) and videos (V) in this order, with words before, between and after."""
    draw = torch.Generator().manual_seed(seed)
    base = tiny.batch([[SQUARE] * order.count("I")], seed=seed) if "I" in order else {}
    words = lambda count: torch.randint(FIRST_WORD, VOCAB, (count,), generator=draw).tolist()  # noqa: E731
    rows = int((base["input_ids"] == IMAGE).sum()) // max(order.count("I"), 1) if base else 0
    ids = words(3)
    for kind in order:
        ids += [IMAGE] * rows if kind == "I" else [VIDEO] * (frames * FRAME)
        ids += words(2)
    made = {key: value for key, value in base.items() if key in ("pixel_values", "image_sizes")}
    if "V" in order:
        shape = (order.count("V"), frames, 3, 24, 24)
        made["pixel_values_videos"] = torch.randn(shape, generator=draw)
    given = torch.tensor([ids])
    return {"input_ids": given, "attention_mask": torch.ones_like(given)} | made


def together(singles: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Prompts as one batch, padded on the left."""
    flipped = pad_sequence([one["input_ids"][0].flip(0) for one in singles], batch_first=True)
    seen = pad_sequence([one["attention_mask"][0].flip(0) for one in singles], batch_first=True)
    found = {"input_ids": flipped.flip(1), "attention_mask": seen.flip(1)}
    for key in ("pixel_values", "image_sizes", "pixel_values_videos"):
        parts = [one[key] for one in singles if key in one]
        if parts:
            found[key] = torch.cat(parts)
    return found


@torch.no_grad()
def test_a_row_of_a_video_is_made_of_its_four_patches(tiny):
    family, core = find(tiny.model), tiny.model.model
    pixels = torch.randn(2, 3, 3, 24, 24)
    shown = family.picture(tiny.model, {"pixel_values_videos": pixels})
    assert shown.lengths == (12, 12) and shown.views == (3, 3) and shown.patches == 2 * 3 * 16
    states = core.vision_tower(pixels.flatten(0, 1), output_hidden_states=True).hidden_states
    patches = states[core.config.vision_feature_layer][:, 1:].flatten(0, 1)
    made = core.get_video_features(pixels, return_dict=True).pooler_output
    rows = torch.cat([part.flatten(0, -2) for part in made])
    mixed = (shown.share_RM[..., None] * patches[shown.mix_RM]).sum(1)
    assert gap(core.multi_modal_projector(mixed), rows) < 1e-5
    assert shown.plane_R.tolist() == [frame for frame in range(3) for _ in range(4)] * 2
    assert shown.box_R4[1].tolist() == [0.5, 0, 1, 0.5]


@pytest.mark.parametrize("how", [{"spatial_pool_mode": "max"}, {"spatial_pool_stride": 4}])
def test_frames_that_are_pooled_otherwise_have_no_map(how):
    tiny = tiny_llava_next_video(layers=2)
    for key, value in how.items():
        setattr(tiny.model.config, key, value)
    shown = find(tiny.model).picture(tiny.model, {"pixel_values_videos": torch.zeros(1, 2, 3, 24, 24)})
    assert not shown.mapped and shown.lengths == (8 if "spatial_pool_mode" in how else 2,)


@pytest.mark.parametrize(
    ("plan", "recipe"),
    [
        ("vskip(layers=0-2)", [("vskip", (0, 1, 2))]),
        ("shortv(layers=0)+vtw(layer=1)", [("shortv", (0,)), ("vtw", (1, 2, 3))]),
    ],
)
@pytest.mark.parametrize("order", ["V", "VI"])
@torch.no_grad()
def test_rows_of_videos_are_skipped_and_withdrawn_as_those_of_images(tiny, plan, recipe, order):
    given = filmed(tiny, order)
    with saccade.apply(tiny.model, plan):
        said = greedy(tiny, given, 3)
    theirs = step_logits(tiny.model, recipe, given, said.sequences)
    for step, ours in enumerate(said.logits):
        assert gap(ours, theirs[:, step]) < TOLERANCE, f"step {step}"
    assert gap(said.logits[0], step_logits(tiny.model, [], given, said.sequences)[:, 0]) > 1e-2


@pytest.mark.parametrize(
    "plan", ["fastv(layer=1,keep=0.5)", "fastervlm(keep=0.5,share=image)", "divprune(keep=0.5)"]
)
@torch.no_grad()
def test_a_video_beside_pictures_has_a_budget_of_its_own(tiny, plan):
    given = filmed(tiny, "VIV")
    rows = int((given["input_ids"] == IMAGE).sum())
    assert layout_of_inputs(find(tiny.model), tiny.model, given).counts == ((12, rows, 12),)
    with saccade.apply(tiny.model, plan) as handle, handle.tracing() as traces:
        said = greedy(tiny, given, 3)
    trace = traces[0]
    assert trace.layout.counts == ((12, rows, 12),)
    alive_N, image_N = trace.alive(3)[0], trace.layout.image_BN[0]
    assert [int((alive_N & (image_N == i)).sum()) for i in range(3)] == [6, rows // 2, 6]
    whole = extend(given, said.sequences)
    with rowwise(tiny.model, sets_of(trace)):
        theirs = tiny.model(**whole, use_cache=False).logits[:, given["input_ids"].shape[1] - 1 :]
    for step, ours in enumerate(said.logits):
        assert gap(ours, theirs[:, step]) < TOLERANCE, f"step {step}"


@torch.no_grad()
def test_views_of_a_video_are_its_frames(tiny):
    given = filmed(tiny, "V")
    with saccade.apply(tiny.model, "fastervlm(keep=2)") as handle, handle.tracing() as traces:
        tiny.model(**given)
    alive_N, grid = traces[0].alive(3)[0], traces[0].grid
    planes = grid.plane_BN[0][alive_N & traces[0].layout.visual_BN[0]].tolist()
    assert planes == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("plan", ["vskip(layers=1-2)", "vispruner(keep=0.5)", "pyramiddrop()"])
@torch.no_grad()
def test_a_batch_of_videos_pictures_and_text_equals_its_singles(tiny, plan):
    singles = [filmed(tiny, order, seed=seed) for seed, order in enumerate(("V", "I", "IV", ""))]
    with saccade.apply(tiny.model, plan):
        batch = together(singles)
        ours = tiny.model(**batch).logits[:, -1]
        for row, one in zip(ours, singles, strict=True):
            assert gap(row, tiny.model(**one).logits[0, -1]) < TOLERANCE


@torch.no_grad()
def test_without_a_plan_nothing_changes(tiny):
    given = filmed(tiny, "IV")
    stock = tiny.model(**given).logits
    with saccade.apply(tiny.model, "vskip(layers=1)"):
        assert gap(tiny.model(**given).logits, recompute(tiny.model, [("vskip", (1,))], given).logits) < 1e-4
    assert torch.equal(tiny.model(**given).logits, stock)


def test_what_has_no_meaning_on_videos_is_refused(tiny):
    given = filmed(tiny, "V")
    with saccade.apply(tiny.model, "tome(r=2)"), pytest.raises(ValueError, match="interpolates the features"):
        tiny.model(**given)
    with pytest.raises(ValueError, match=r"LLaVA-NeXT-Video cannot take other rows"):
        skip_vision.wrap(wrap(tiny.model, None), skip_vision.SkipVisionConfig(layout="llava-hd"))
    assert replace(Sample("a", "t", "", (), "w"), videos=()).filmed == "" and BIG
