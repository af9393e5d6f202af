"""Rows of a picture that go on are those that the engine keeps on transformers, at its positions."""

from __future__ import annotations

import pytest
import torch

import saccade
from saccade.families import find
from saccade.families.vision import Picture
from saccade.plans.plan import Plan
from saccade.vllm.keep import MOST, axes_of, check_sizes, kept_count, kept_rows, read, written
from saccade.vllm.work import ServedModel, work_of
from support.models import BANNER, FACTORIES, SQUARE, WIDE

SPECS = (
    "divprune(keep=0.4)",
    "uniform(keep=0.3)",
    "random(keep=5)",
    "pool(factor=2)",
    "pool(factor=2,position_policy=keep)",
    "random(keep=0.7,position_policy=compact)+uniform(keep=0.5)",
)
FAMILIES = ("llava-llama", "llava_next-mistral", "qwen2_5_vl", "qwen3_vl", "internvl-qwen2")
PROMPT = [3, SQUARE, 2, WIDE, 4]


@pytest.fixture(scope="module", params=FAMILIES)
def told(request):
    """A model, its pictures one by one, and what enters its decoder."""
    tiny = FACTORIES[request.param](layers=2)
    family, batch = find(tiny.model), tiny.batch([PROMPT])
    seen: dict = {}
    parts = family.parts(tiny.model)
    hook = parts.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    with torch.no_grad():
        tiny.model(**batch)
    hook.remove()
    picture = family.grouped(tiny.model, family.picture(tiny.model, batch), batch)
    pictures = [picture.take([number]) for number in range(len(picture.lengths))]
    mask = tiny.visual(batch)[0]
    return tiny, family, batch, pictures, seen, mask


@pytest.mark.parametrize("spec", SPECS)
def test_kept_rows_are_those_of_the_engine(spec, told):
    tiny, family, batch, pictures, seen, mask = told
    plan = Plan.of(spec)
    if not family.compact_positions and "compact" in spec:
        with pytest.raises(ValueError, match="position_policy=keep"):
            work_of(plan, ServedModel(2, family.compact_positions))
        return
    work = work_of(plan, ServedModel(2, family.compact_positions))
    with torch.no_grad(), saccade.apply(tiny.model, plan) as handle, handle.tracing() as traces:
        tiny.model(**batch)
    sources = traces[0].sources(0)[0][mask][:, mask]
    alive = traces[0].route.layers[0].alive_BN[0][mask]
    given = seen["inputs_embeds"][0][mask]
    added = seen.get("deepstack_visual_embeds")
    more = torch.cat(list(added), dim=1) if added is not None else given[:, :0]
    at = 0
    for picture in pictures:
        rows = slice(at, at + picture.lengths[0])
        kept = kept_rows(work, picture, given[rows], more[rows])
        assert kept.row_K.tolist() == alive[rows].nonzero()[:, 0].tolist()
        assert len(kept.row_K) == kept_count(work, picture)
        weights = sources[rows, rows][kept.row_K].to(given.dtype)
        torch.testing.assert_close(kept.hidden_KD, weights @ given[rows], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(kept.added_KE, weights @ more[rows], rtol=1e-5, atol=1e-5)
        gaps = kept.row_K if work.gaps or not family.compact_positions else torch.arange(len(kept.row_K))
        if "+" not in spec:
            assert kept.place_K.tolist() == gaps.tolist()
            whole = work.gaps or not family.compact_positions
            assert kept.span == (picture.lengths[0] if whole else len(kept.row_K))
        at += picture.lengths[0]


def test_positions_close_up_over_the_rows_of_the_last_stage_that_says_so():
    work = work_of(Plan.of("random(keep=6,position_policy=compact)+random(keep=3,seed=1)"), ServedModel(2))
    picture = Picture.unmapped((10,))
    kept = kept_rows(work, picture, torch.randn(10, 4), torch.zeros(10, 0))
    first = kept_rows(
        work_of(Plan.of("random(keep=6)"), ServedModel(2)), picture, torch.randn(10, 4), torch.zeros(10, 0)
    )
    assert kept.span == 6
    assert kept.place_K.tolist() == [first.row_K.tolist().index(row) for row in kept.row_K.tolist()]


def test_a_picture_of_which_nothing_is_left_is_refused():
    with pytest.raises(ValueError, match="leaves no row of a picture"):
        kept_count(work_of(Plan.of("divprune(keep=0)"), ServedModel(2)), Picture.unmapped((9,)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_numbers_ride_on_embeddings_exactly(dtype):
    numbers = torch.stack((torch.arange(MOST), torch.arange(MOST).flip(0)), dim=1)
    assert torch.equal(read(written(numbers, torch.zeros(0, dtype=dtype))), numbers)


def test_places_are_frame_line_and_column(told):
    _, family, _, pictures, _, _ = told
    if family.name.startswith("Qwen"):
        assert axes_of(pictures[0])[:4].tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0]]
    else:
        assert len(axes_of(pictures[0])) == pictures[0].lengths[0]


def test_pictures_too_large_to_say_are_refused():
    check_sizes([Picture.unmapped((MOST - 1,))])
    with pytest.raises(ValueError, match="too large"):
        check_sizes([Picture.unmapped((MOST,))])


def test_banners_keep_their_one_line():
    tiny = FACTORIES["qwen2_5_vl"](layers=2)
    picture = find(tiny.model).picture(tiny.model, tiny.batch([[2, BANNER, 3]]))
    work = work_of(Plan.of("pool(factor=2)"), ServedModel(2, closes_up=False))
    assert kept_count(work, picture) == 3
