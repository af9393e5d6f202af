"""PixelPrune against slow accounts: of what leaves, cell by cell, and of a tower that never saw it.

Shape letters: H lines, W columns, D numbers of a cell, P patches, V tower width.
"""

from __future__ import annotations

from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

import saccade
from saccade.core.predicted import unpredicted
from saccade.core.pricing import cost
from saccade.core.tower import TowerShape
from saccade.families import find
from saccade.measure.counter import dispatched_flops
from saccade.methods.pixelprune import PixelPrune
from saccade.plans.bill import head_flops
from support.models import BIG, FACTORIES, ROTARY_WITHIN, SQUARE, TALL, WIDE, Tiny
from support.reference import gap
from support.rowwise import rowwise, sets_of

QWENS = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v"]
SAMPLES = [[2, WIDE, 1, TALL, 3], [4], [1, BIG, 5]]
PLAN = "pixelprune"


def by_hand(cells: list[list[list[float]]], threshold: float) -> list[tuple[int, int]]:
    """Cells that stay, one after another."""
    known = [list(line) for line in cells]
    stay = []

    def alike(a: list[float], b: list[float]) -> bool:
        return max(abs(x - y) for x, y in zip(a, b, strict=True)) <= threshold

    for r, line in enumerate(cells):
        for c, own in enumerate(line):
            if (r, c) == (0, 0):
                stay.append((r, c))
                continue
            guess = known[r][c - 1] if c else known[r - 1][c]
            if r and c:
                corner, left, above = known[r - 1][c - 1], known[r][c - 1], known[r - 1][c]
                guess = above if alike(corner, left) and not alike(corner, above) else left
            if alike(own, guess):
                known[r][c] = guess
            else:
                stay.append((r, c))
    return stay


@settings(max_examples=60, deadline=None)
@drawn(st.integers(1, 7), st.integers(1, 7), st.integers(1, 4), st.sampled_from([0.0, 1.0, 2.5]), st.data())
def test_what_leaves_is_what_the_cells_before_it_predict(lines, columns, values, threshold, data):
    numbers = data.draw(
        st.lists(st.integers(0, values), min_size=2 * lines * columns, max_size=2 * lines * columns)
    )
    cells = torch.tensor(numbers, dtype=torch.float32).view(lines, columns, 2)
    keep = unpredicted(cells, threshold)
    assert [tuple(place) for place in keep.nonzero().tolist()] == by_hand(cells.tolist(), threshold)


def test_a_rectangle_costs_its_corners_and_small_steps_do_not_add_up():
    flat = torch.zeros(6, 8, 3)
    flat[2:5, 3:7] = 1.0
    kept = {tuple(place) for place in unpredicted(flat, 0.0).nonzero().tolist()}
    assert (0, 0) in kept and (2, 3) in kept and len(kept) <= 8 < flat[..., 0].numel()
    ramp = torch.arange(10.0).view(1, 10, 1)
    assert unpredicted(ramp, 1.0)[0].nonzero()[:, 0].tolist() == [0, 2, 4, 6, 8]


def flat(tiny: Tiny, samples: list, padding: str = "left", seed: int = 0) -> list[dict[str, Any]]:
    """A batch and its singles, of pictures in which many cells repeat."""
    found = [tiny.batch(samples, padding, seed), *tiny.singles(samples, seed)]
    for inputs in found:
        if "pixel_values" in inputs:
            cells = inputs["pixel_values"].unflatten(0, (-1, 4))
            colour = (cells.mean((1, 2), keepdim=True) * 40).round().clamp(-1, 1)
            inputs["pixel_values"] = colour.expand_as(cells).flatten(0, 1).contiguous()
    return found


@contextmanager
def gaps(tiny: Tiny, threshold: float = 0.0):
    """A stock model whose tower runs, block by block and segment by segment, on the cells that stay."""
    tower = tiny.model.model.visual
    merge = tower.spatial_merge_size**2

    def run(module: Any, args: tuple, kwargs: dict[str, Any], out: Any) -> Any:
        pixels, kept = args[0], []
        first = 0
        for time, height, width in kwargs["grid_thw"].tolist():
            for _ in range(time):
                lines, columns = height // 2, width // 2
                cells = pixels[first : first + height * width].view(lines, columns, -1)
                stay = by_hand(cells.tolist(), threshold)
                kept += [r * columns + c + first // merge for r, c in stay]
                first += height * width
        return patched(tower, merge, kept, pixels, kwargs, out)

    handle = tower.register_forward_hook(run, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def patched(tower: Any, merge: int, kept: list[int], pixels: Any, kwargs: dict[str, Any], out: Any) -> Any:
    """The tower's output, of the cells that stay; zeros elsewhere."""
    cells = len(pixels) // merge
    seen: list[tuple[torch.Tensor, dict[str, Any]]] = []
    hooks = [
        block.register_forward_pre_hook(lambda m, a, kw: seen.append((a[0], dict(kw))), with_kwargs=True)
        for block in tower.blocks
    ]
    with torch.no_grad():
        # Once more without the hook that called this: what every block is given.
        type(tower).forward(tower, pixels, **kwargs)
    for hook in hooks:
        hook.remove()
    order = find_order(tower, kwargs, cells)
    inside = sorted(order.index(cell) for cell in kept)
    patches = torch.tensor([cell * merge + n for cell in inside for n in range(merge)])
    x = seen[0][0][patches]
    deep = []
    for number, (block, (_, given)) in enumerate(zip(tower.blocks, seen, strict=True)):
        ends, parts = given["cu_seqlens"].tolist(), []
        for start, stop in pairwise(ends):
            own = (patches >= start) & (patches < stop)
            if bool(own.any()):
                turned = tuple(part[patches[own]] for part in given["position_embeddings"])
                alone = torch.tensor([0, int(own.sum())], dtype=torch.int32)
                parts.append(block(x[own], cu_seqlens=alone, position_embeddings=turned))
        x = torch.cat(parts)
        if number in getattr(tower, "deepstack_visual_indexes", ()):
            joiner = tower.deepstack_merger_list[tower.deepstack_visual_indexes.index(number)]
            deep.append(placed(joiner(x), inside, order, cells))
    if hasattr(tower, "downsample"):
        x = tower.post_layernorm(x).unflatten(0, (-1, 2, 2)).permute(0, 3, 1, 2)
        x = tower.downsample(x).flatten(1)
    out.pooler_output = placed(tower.merger(x), inside, order, cells)
    if deep:
        out.deepstack_features = deep
    return out


def find_order(tower: Any, kwargs: dict[str, Any], cells: int) -> list[int]:
    """The cell that stands at every place inside the tower."""
    if not hasattr(tower, "window_size"):
        return list(range(cells))
    from transformers.vision_utils import get_vision_window_index

    index, _ = get_vision_window_index(
        kwargs["grid_thw"], tower.spatial_merge_size, tower.window_size, tower.patch_size
    )
    return index.tolist()


def placed(rows: torch.Tensor, inside: list[int], order: list[int], cells: int) -> torch.Tensor:
    full = rows.new_zeros(cells, rows.shape[1])
    full[[order[place] for place in inside]] = rows
    return full


@pytest.mark.parametrize("name", QWENS)
@torch.no_grad()
def test_it_equals_a_tower_and_a_decoder_that_never_saw_what_left(name):
    tiny = FACTORIES[name](layers=3)
    given, *singles = flat(tiny, SAMPLES)
    with saccade.apply(tiny.model, PLAN) as handle, handle.tracing() as traces:
        ours = tiny.model(**given).logits
        alone = [tiny.model(**one).logits[0] for one in singles]
    kept = [len(rows) for rows in traces[0].kept(2)]
    whole = tiny.visual(given).sum(1).tolist()
    assert 0 < kept[0] < whole[0] and kept[1] == 0 and 0 < kept[2] < whole[2]
    with gaps(tiny), rowwise(tiny.model, sets_of(traces[0])):
        theirs = tiny.model(**given, use_cache=False).logits
    text = given["attention_mask"].bool() & ~tiny.visual(given)
    assert gap(ours, theirs, text) < 1e-5
    for b, (single, logits) in enumerate(zip(singles, alone, strict=True)):
        real = given["attention_mask"][b].bool()
        said = ~tiny.visual(single)[0]
        assert gap(ours[b, real][said], logits[said]) < 1e-5


@pytest.mark.parametrize("name", QWENS)
@torch.no_grad()
def test_generation_with_a_cache_says_what_it_says_without(name):
    tiny = FACTORIES[name](layers=3)
    given = flat(tiny, [[2, BIG, 3], [1, WIDE, 1, SQUARE, 2]])[0]
    how = {"max_new_tokens": 5, "do_sample": False}
    with saccade.apply(tiny.model, f"{PLAN}+shortv(layers=1)"):
        said = tiny.model.generate(**given, **how)
        assert torch.equal(tiny.model.generate(**given, **how, use_cache=False), said)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl"])
@torch.no_grad()
def test_the_tower_does_less_by_as_much_as_the_closed_form_says(name):
    tiny = FACTORIES[name](layers=3)
    given = flat(tiny, [[2, BIG, 3]])[0]
    with saccade.apply(tiny.model, PLAN) as handle, handle.tracing(sources=False) as traces:
        counted = dispatched_flops(lambda: tiny.model(**given, logits_to_keep=1))
    shape = find(tiny.model).shape(tiny.model.config)
    tower: TowerShape | None = shape.tower
    assert tower is not None
    part = len(traces[0].kept(0)[0]) / int(tiny.visual(given).sum())
    seen = tower.tower_flops((6, 6), part=part) + tower.projector_flops((6, 6), part=part)
    decoder = cost(shape, traces[0].route).executed_tflops * 1e12
    assert counted == pytest.approx(seen + decoder + head_flops(shape), rel=ROTARY_WITHIN or 1e-9)
    assert seen < 0.9 * (tower.tower_flops((6, 6)) + tower.projector_flops((6, 6)))


@pytest.mark.parametrize("name", QWENS)
@torch.no_grad()
def test_pictures_without_repetitions_stay_as_they_are(name):
    tiny = FACTORIES[name](layers=2)
    given = tiny.batch(SAMPLES)
    stock = tiny.model(**given).logits
    with saccade.apply(tiny.model, PLAN) as handle, handle.tracing() as traces:
        assert gap(tiny.model(**given).logits, stock, given["attention_mask"].bool()) < 1e-5
    assert [len(rows) for rows in traces[0].kept(1)] == tiny.visual(given).sum(1).tolist()
    with saccade.apply(tiny.model, "pixelprune(expected=1)"):
        assert torch.equal(tiny.model(**given).logits, stock)
    assert torch.equal(tiny.model(**given).logits, stock), "no trace is left"


def test_gradients_are_those_of_an_uncheckpointed_run():
    grads = []
    for checkpointed in (False, True):
        tiny = FACTORIES["qwen2_5_vl"](layers=2)
        given = flat(tiny, [[2, BIG, 3]])[0]
        tiny.model.train()
        if checkpointed:
            kind = "activation" if hasattr(tiny.model, "activation_checkpointing_enable") else "gradient"
            options = {f"{kind}_checkpointing_kwargs": {"use_reentrant": False}}
            getattr(tiny.model, f"{kind}_checkpointing_enable")(**options)
        with saccade.apply(tiny.model, PLAN):
            tiny.model(**given, use_cache=False).logits[:, -3:].square().mean().backward()
        tower = tiny.model.model.visual
        grads.append([p.grad.clone() for p in tower.blocks[0].parameters() if p.grad is not None])
    assert grads[0] and all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("name", ["llava-llama", "llava_onevision", "internvl-qwen2"])
def test_towers_of_one_size_are_refused_in_one_line(name):
    with pytest.raises(ValueError, match="patches cannot leave before its vision tower") as said:
        saccade.apply(FACTORIES[name](layers=2).model, PLAN)
    assert "\n" not in str(said.value)


def test_what_looks_at_the_tower_does_not_go_with_it_and_embeddings_have_no_pixels():
    tiny = FACTORIES["qwen2_5_vl"](layers=2)
    for other in ("fastervlm(keep=4)", "hiprune(keep=4)"):
        with pytest.raises(ValueError, match="leaves gaps in what the tower knows"):
            saccade.apply(tiny.model, f"{PLAN}+{other}")
    given = flat(tiny, [[2, SQUARE, 3]])[0]
    with (
        saccade.apply(tiny.model, f"divprune(keep=4)+{PLAN}"),
        pytest.raises(ValueError, match=r"write pixelprune.* first"),
    ):
        tiny.model(**given)
    with saccade.apply(tiny.model, f"{PLAN}+divprune(keep=4)") as handle, handle.tracing() as traces:
        tiny.model(**given)
    assert len(traces[0].kept(1)[0]) == 4
    made = tiny.model.get_image_features(given["pixel_values"], given["image_grid_thw"], return_dict=True)
    with (
        saccade.apply(tiny.model, PLAN),
        pytest.raises(ValueError, match="made without it"),
    ):
        tiny.model(
            input_ids=given["input_ids"],
            attention_mask=given["attention_mask"],
            mm_encoder_outputs={"image": made},
            image_grid_thw=given["image_grid_thw"],
        )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"threshold": -1}, "threshold is a difference of pixels"),
        ({"expected": 0}, "expected is a share above 0"),
        ({"of": "original"}, "the picture decides"),
    ],
)
def test_numbers_out_of_range_are_refused(words, said):
    with pytest.raises(ValueError, match=said):
        PixelPrune(**words)
