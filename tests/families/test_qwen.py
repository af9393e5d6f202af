"""Qwen-VL families: towers, videos, and what Qwen3-VL adds to rows after the first layers (DeepStack)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import saccade
from engine.test_tower import look
from engine.test_training import batch_of, training
from matrix.cases import TOLERANCE, greedy
from saccade.families import find
from saccade.families.deepstack import Added
from saccade.research.analysis.attention import layer_heads
from saccade.research.analysis.capture import record
from saccade.research.analysis.constants import constants
from saccade.training.parts import parts_of
from support.models import FACTORIES, FIRST_WORD, IMAGE, SQUARE, VIDEO, VOCAB, WIDE, Tiny, tiny_qwen3
from support.reference import extend, gap, step_logits
from support.rowwise import rowwise, sets_of

NAMES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]
NEW = ["qwen2_vl", "qwen3_vl"]


@pytest.mark.parametrize("name", NEW)
@torch.no_grad()
def test_the_tower_tells_what_its_last_attention_does_with_every_picture_on_its_own(name):
    tiny = FACTORIES[name]()
    given = tiny.batch([[3, SQUARE, 2], [1, WIDE, 2, (40, 24), 1]])
    found, layout, _, embeddings = look(tiny.model, given)
    visual, caught = tiny.model.model.visual, {}
    visual.set_attn_implementation("eager")
    attn, maps = visual.blocks[-1].attn, []
    hook = attn.register_forward_hook(
        lambda m, a, kw, o: caught.update(kw, x=a[0] if a else kw["hidden_states"]), with_kwargs=True
    )
    soften = torch.nn.functional.softmax

    def softmax(*args, **kwargs):
        maps.append(soften(*args, **kwargs))
        return maps[-1]

    torch.nn.functional.softmax = softmax
    try:
        visual(given["pixel_values"], grid_thw=given["image_grid_thw"])
    finally:
        torch.nn.functional.softmax = soften
        visual.set_attn_implementation("sdpa")
        hook.remove()
    # The last three maps are those of the last layer: of 36, 72 and 60 patches.
    received = torch.cat([one[0].mean(0).sum(0) for one in maps[-3:]])
    assert [one.shape[-1] for one in maps[-3:]] == [36, 72, 60]
    keys = attn.qkv(caught["x"]).unflatten(-1, (3, 2, 16))[:, 1].transpose(0, 1)
    cos, sin = caught["position_embeddings"]
    turned = torch.cat((-keys[..., 8:], keys[..., :8]), -1)
    keys = (keys * cos + turned * sin).transpose(0, 1).flatten(1)
    at = layout.visual_BN
    torch.testing.assert_close(found.attention_BN[at], received.unflatten(0, (-1, 4)).mean(1))
    torch.testing.assert_close(found.keys_BNV[at], keys.unflatten(0, (-1, 4)).mean(1), atol=1e-5, rtol=1e-4)
    assert torch.equal(found.features_BNV[at], embeddings[at]) and found.cls_TV is None
    assert found.view_BN[at].tolist() == [0] * 9 + [1] * 18 + [2] * 15


def videos(name: str) -> tuple[Tiny, dict[str, torch.Tensor]]:
    """Two samples, left padded: two frames of a video; an image, a shorter video and text."""
    tiny, draw = FACTORIES[name](), torch.Generator().manual_seed(3)
    words = lambda count: torch.randint(FIRST_WORD, VOCAB, (count,), generator=draw).tolist()  # noqa: E731
    # Qwen3-VL writes the time before each frame, the others have all frames in one run.
    apart = [9, 10, 11] if name == "qwen3_vl" else []
    rows = [
        [*words(3), *[VIDEO] * 6, *apart, *[VIDEO] * 6, *words(4)],
        [*words(2), *[IMAGE] * 9, *words(1), *[VIDEO] * 4, *words(5)],
    ]
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return tiny, {
        "input_ids": ids,
        "attention_mask": mask,
        "pixel_values": torch.randn(36, 96, generator=draw),
        "image_grid_thw": torch.tensor([[1, 6, 6]]),
        "pixel_values_videos": torch.randn(48 + 16, 96, generator=draw),
        "video_grid_thw": torch.tensor([[2, 4, 6], [1, 4, 4]]),
        "mm_token_type_ids": (ids == IMAGE).int() + 2 * (ids == VIDEO).int(),
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("plan", "recipe"),
    [
        ("vskip(layers=0-2)", [("vskip", (0, 1, 2))]),
        ("shortv(layers=0)+vtw(layer=1)", [("shortv", (0,)), ("vtw", (1, 2, 3))]),
    ],
)
def test_rows_of_videos_are_skipped_and_withdrawn_as_those_of_images(name, plan, recipe):
    tiny, given = videos(name)
    with saccade.apply(tiny.model, plan):
        said = greedy(tiny, given, 4)
    theirs = step_logits(tiny.model, recipe, given, said.sequences)
    for step, ours in enumerate(said.logits):
        assert gap(ours, theirs[:, step]) < TOLERANCE, f"step {step}"
    dense = step_logits(tiny.model, [], given, said.sequences)
    assert gap(said.logits[0], dense[:, 0]) > 1e-2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("plan", ["fastv(layer=1,keep=0.5)", "fastervlm(keep=0.5)", "uniform(keep=0.5)"])
@torch.no_grad()
def test_a_video_is_one_image_with_a_budget_of_its_own(name, plan):
    tiny, given = videos(name)
    with saccade.apply(tiny.model, plan) as handle, handle.tracing() as traces:
        said = greedy(tiny, given, 3)
        forward = tiny.model(**given).logits[:, -1]
    trace, again = traces
    assert gap(forward, said.logits[0]) < TOLERANCE and again.kept(3) == trace.kept(3)
    assert trace.layout.counts == ((12,), (9, 4))
    alive_BN, image_BN = trace.alive(3), trace.layout.image_BN
    kept = [int((alive_BN[b] & (image_BN[b] == i)).sum()) for b, i in ((0, 0), (1, 0), (1, 1))]
    assert kept == [6, 4, 2]
    shown = trace.grid.plane_BN[0][image_BN[0] == 0].tolist()
    assert shown == [0] * 6 + [1] * 6
    whole = extend(given, said.sequences)
    with rowwise(tiny.model, sets_of(trace)):
        theirs = tiny.model(**whole, use_cache=False).logits[:, given["input_ids"].shape[1] - 1 :]
    for step, ours in enumerate(said.logits):
        assert gap(ours, theirs[:, step]) < TOLERANCE, f"step {step}"


@torch.no_grad()
def test_rows_that_skip_everything_get_what_is_added_and_nothing_else():
    tiny = tiny_qwen3(layers=3)
    given = tiny.batch([[3, SQUARE, 5], [4], [2, WIDE, 1, SQUARE, 3]])
    made = tiny.model.get_image_features(given["pixel_values"], given["image_grid_thw"])
    found = (made.pooler_output, *made.deepstack_features)
    # Picture by picture, or (early releases) all in one.
    embeddings, first, second = (x if isinstance(x, torch.Tensor) else torch.cat(list(x)) for x in found)
    with saccade.apply(tiny.model, "shortv(layers=0-2)"):
        states = tiny.model(**given, output_hidden_states=True).hidden_states
    at = tiny.visual(given)
    # What is recorded of a layer comes before what is added to it.
    assert torch.equal(states[1][at], embeddings)
    assert torch.equal(states[2][at], embeddings + first)
    rest = tiny.model.model.language_model.norm(embeddings + first + second)
    assert torch.equal(states[3][at], rest)


@contextmanager
def touched(tiny: Tiny, rows: list[int], by: float) -> Iterator[None]:
    """Changes what is added to some visual rows of a Qwen3-VL, by their number among all of the batch."""

    def change(module: torch.nn.Module, args: tuple, output: Any) -> None:
        for level in output.deepstack_features:
            level[rows] += by

    hook = tiny.model.model.visual.register_forward_hook(change)
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.parametrize(
    "plan",
    [
        "uniform(keep=0.4)",
        "fastervlm(keep=4)",
        "random(keep=3,layer=1)",
        "visionzip(dominant=3,contextual=2)",
        "pool(factor=2)",
        "sparsevlm(tokens=5,layers=2/3,tau=0.5)",
    ],
)
@torch.no_grad()
def test_features_of_a_row_reach_the_answer_exactly_where_its_content_does(plan):
    tiny = tiny_qwen3()
    given = tiny.batch([[3, SQUARE, 5]])
    with saccade.apply(tiny.model, plan) as handle, handle.tracing() as traces:
        plain = tiny.model(**given).logits[0, -1]
        # After the first cut, which comes while features are still added.
        sources = traces[0].sources(traces[0].cuts[0].before)[0]
        at = tiny.visual(given)[0].nonzero()[:, 0]
        used = sources[:, at].sum(0) > 0
        assert bool(used.any())
        gone = (~used).nonzero()[:, 0].tolist()
        if not plan.startswith(("visionzip", "pool")):
            assert gone
        if traces[0].cuts[0].before == 0:
            with touched(tiny, gone, 5.0):
                assert torch.equal(tiny.model(**given).logits[0, -1], plain)
        with touched(tiny, [int(used.nonzero()[-1])], 5.0):
            assert gap(tiny.model(**given).logits[0, -1], plain) > 1e-3


def spelled(tiny: Tiny, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss without the stock one's step down to single precision."""
    asked = {name: value for name, value in inputs.items() if name != "labels"}
    logits = tiny.model(**asked).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), inputs["labels"][:, 1:].flatten())


@pytest.mark.parametrize("reentrant", [None, False, True])
@pytest.mark.parametrize("plan", ["sparsevlm(tokens=0.5,layers=1/2/3)", "pool(factor=2)"])
def test_gradients_of_what_is_added_are_the_slopes_of_the_loss(plan, reentrant):
    """Finite differences in double precision, along one direction of what makes the features."""
    tiny = tiny_qwen3(layers=4, dtype=torch.float64)
    inputs, draw = batch_of(tiny), torch.Generator().manual_seed(0)
    weights = [p for n, p in tiny.model.named_parameters() if "deepstack" in n]
    moves = [torch.randn(p.shape, generator=draw, dtype=p.dtype) for p in weights]
    losses = []
    with saccade.apply(tiny.model, plan):
        for step in (1e-3, -1e-3):
            with torch.no_grad():
                for weight, move in zip(weights, moves, strict=True):
                    weight += step * move
                losses.append(float(spelled(tiny, inputs)))
                for weight, move in zip(weights, moves, strict=True):
                    weight -= step * move
        with training(tiny.model, reentrant):
            spelled(tiny, inputs).backward()
    slope = sum(float((w.grad * m).sum()) for w, m in zip(weights, moves, strict=True))
    assert abs(slope) > 1e-3
    assert slope == pytest.approx((losses[0] - losses[1]) / 2e-3, rel=1e-2)


@pytest.mark.parametrize("plan", ["pool(factor=2)", "sparsevlm(tokens=0.5,layers=1/2/3)"])
@torch.no_grad()
def test_half_precision_stays_near_full_precision(plan):
    logits = []
    for dtype in (torch.float32, torch.bfloat16):
        tiny = tiny_qwen3(dtype=dtype)
        given = tiny.batch([[3, SQUARE, 5], [2, WIDE, 4]], seed=3)
        with saccade.apply(tiny.model, plan) as handle, handle.tracing() as traces:
            logits.append(tiny.model(**given).logits[:, -1].float())
        logits.append(traces[0].alive(0 if plan.startswith("pool") else 1))
    assert torch.equal(logits[1], logits[3]), "no power: other rows were kept"
    assert gap(logits[2], logits[0]) < 0.1


def test_what_is_added_is_added_as_the_stock_loop_does():
    tiny = tiny_qwen3()
    decoder, draw = tiny.model.model.language_model, torch.Generator().manual_seed(0)
    hidden, features = torch.randn(2, 7, 64, generator=draw), torch.randn(5, 64, generator=draw)
    rows = torch.zeros(2, 7, dtype=torch.bool)
    rows[0, 1:4] = rows[1, 5:] = True
    added = Added("deepstack_visual_embeds", rows, [features])
    assert torch.equal(added.after(0, hidden), decoder._deepstack_process(hidden, rows, features))
    assert added.after(1, hidden) is hidden


@torch.no_grad()
def test_maps_are_those_of_the_eager_model_and_bounds_are_refused():
    tiny, plain = tiny_qwen3(), tiny_qwen3(attn="eager")
    (inputs,) = tiny.singles([[3, SQUARE, 5]])
    maps = plain.model(**inputs, output_attentions=True).attentions
    family, run = find(tiny.model), record(tiny.model, inputs, "ffn_skip(layers=none)")
    for number, layer in enumerate(family.parts(tiny.model).layers):
        heads, _ = layer_heads(family, layer, run, number)
        torch.testing.assert_close(heads.weights(), maps[number][0], atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="leave bounds out"):
        constants(family, tiny.model)


def test_what_makes_the_features_is_projector():
    tiny = tiny_qwen3()
    parts = parts_of(tiny.model, find(tiny.model))
    assert {n.split(".")[2] for n, _ in parts["projector"]} == {"merger", "deepstack_merger_list"}
    assert {n.split(".")[2] for n, _ in parts["tower"]} == {"patch_embed", "pos_embed", "blocks"}


@pytest.mark.parametrize("name", NEW)
def test_what_is_not_defined_says_so(name):
    model = FACTORIES[name]().model
    with pytest.raises(ValueError, match="several axes and cannot close up"):
        saccade.apply(model, "fastv(layer=1,keep=0.5,position_policy=compact)")
    with pytest.raises(ValueError, match="tokens cannot merge inside the vision tower"):
        saccade.apply(model, "tome(r=4)")


def test_layers_of_the_built_tower_that_the_decoder_gets():
    from saccade.core.shapes import SHAPES

    family = find(tiny_qwen3().model)
    shape = SHAPES["qwen3-vl-8b"]
    for depth, levels in ((1, [0]), (9, [8]), (20, [8, 16, 19]), (27, [8, 16, 24])):
        config = family.config(shape, vision_layers=depth)
        assert list(config.vision_config.deepstack_visual_indexes) == levels
    assert config.text_config.rope_parameters["mrope_section"] == [24, 20, 20]
