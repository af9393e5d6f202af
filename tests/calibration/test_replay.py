"""Replay gives what full forwards give, with less work, and leaves the model as it was."""

from __future__ import annotations

import pytest
import torch

import saccade
from saccade.core.layout import Layout
from saccade.core.route import Route
from saccade.engine import attached
from saccade.engine.replay import replaying, shorten
from saccade.families import find
from saccade.measure.counter import dispatched_flops
from saccade.methods.ffn_skip import FFNSkip
from saccade.methods.shortv import ShortV
from saccade.methods.vskip import VSkip
from saccade.methods.vtw import VTW
from saccade.plans.plan import Plan
from support.models import BANNER, FACTORIES, RECURRENT, SQUARE, TALL, WIDE, tiny_llava, tiny_qwen

L = 5
PROMPTS = {
    "one image": [3, SQUARE, 5],
    "two images": [2, WIDE, 1, TALL, 3],
    "image first": [BANNER, 2],
    "image last": [3, SQUARE],
}
HIDING = VSkip(layers=(3,), reading="mask")
PLANS = [
    *(cls(layers=(n,)) for cls in (VSkip, FFNSkip, ShortV) for n in range(L)),
    *(VTW(layer=n) for n in range(L + 1)),
    *(VSkip(layers=(n,), reading="mask") for n in (0, 3, 4)),
    VSkip(layers=(1, 2, 4)),
    ShortV(layers=(0, 4)),
    FFNSkip(layers=()),
]


def full_forward(model, inputs, method, tail) -> torch.Tensor:
    """Logits of the last rows by an attached plan and a whole forward: nothing of replay is in it."""
    with saccade.apply(model, method), torch.no_grad():
        return model(**inputs).logits[0, -tail:]


@pytest.mark.share(3)
@pytest.mark.parametrize("tail", [1, 3])
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("name", FACTORIES)
def test_replay_equals_full_forwards(name, prompt, tail):
    tiny = FACTORIES[name](layers=L)
    inputs = tiny.batch([PROMPTS[prompt]], seed=3)
    # Layer 3 of Qwen3.5 recurs, and its state hides no row from some.
    plans = [one for one in PLANS if not (name in RECURRENT and one == HIDING)]
    with torch.no_grad():
        stock = tiny.model(**inputs, logits_to_keep=tail).logits[0]
    with replaying(tiny.model) as replayer:
        replay = replayer.record(inputs, tail)
        replayed = [replay.logits(method.route(replay.layout, L)) for method in plans]
        if len(plans) < len(PLANS):
            with pytest.raises(ValueError, match="this route: layer 3 is recurrent"):
                replay.logits(HIDING.route(replay.layout, L))
    assert torch.equal(replay.logits_TV, stock)
    for method, logits in zip(plans, replayed, strict=True):
        expected = full_forward(tiny.model, inputs, method, tail)
        torch.testing.assert_close(
            logits, expected, atol=2e-5, rtol=1e-5, msg=lambda m, p=method: f"{p}: {m}"
        )
    # A replay that returned the dense logits throughout would not be seen by close logits alone.
    assert (replayed[0] - stock).abs().max() > 1e-3


def test_replays_do_not_hang_on_their_order():
    tiny = tiny_llava(layers=L)
    with replaying(tiny.model) as replayer:
        replay = replayer.record(tiny.batch([[3, SQUARE, 5]]))
        routes = [method.route(replay.layout, L) for method in PLANS]
        first = [replay.logits(route) for route in routes]
        second = [replay.logits(route) for route in reversed(routes)]
    assert all(torch.equal(a, b) for a, b in zip(first, reversed(second), strict=True))


@pytest.mark.parametrize("cls", [VSkip, ShortV, FFNSkip])
def test_visual_rows_of_the_last_layer_cannot_reach_the_answer(cls):
    layout = Layout.single(6, 5)
    assert shorten(cls(layers=(L - 1,)).route(layout, L)) is None
    assert shorten(cls(layers=(L - 2,)).route(layout, L)) is not None


@pytest.mark.parametrize("tail", [1, 4])
def test_of_the_last_layer_the_rows_that_are_asked_for_are_computed(tail):
    program = shorten(ShortV(layers=(0,)).route(Layout.single(6, 5), L), tail)
    *whole, last = program.layers
    assert last.query_BN.sum() == last.ffn_BN.sum() == tail and bool(last.query_BN[:, -tail:].all())
    assert all(layer.ffn_BN.sum() == 11 for layer in whole[1:])


def test_withdrawing_in_the_last_layer_does_reach_the_answer():
    program = shorten(VTW(layer=L - 1).route(Layout.single(6, 5), L))
    assert program is not None and program.start == L - 1
    (last,) = program.layers
    assert last.alive_BN.sum() == 5 and last.query_BN.sum() == 1 and last.ffn_BN.sum() == 1


def test_only_what_differs_is_computed():
    layout = Layout.single(6, 5, prefix=2)
    frozen = shorten(ShortV(layers=(1,)).route(layout, L))
    assert frozen.start == 1 and frozen.layers[0] is None
    assert torch.equal(frozen.known_BN, layout.text_BN)
    fed = shorten(VSkip(layers=(1,)).route(layout, L)).layers[0]
    assert torch.equal(fed.ffn_BN, layout.visual_BN) and fed.query_BN.sum() == 1
    asked = shorten(FFNSkip(layers=(1,)).route(layout, L)).layers[0]
    assert torch.equal(asked.query_BN, layout.visual_BN) and not asked.ffn_BN.any()
    assert shorten(Route.dense(layout, L)) is None


@pytest.mark.parametrize("tail", [1, 3])
@pytest.mark.parametrize("make", [tiny_llava, tiny_qwen])
@pytest.mark.parametrize("cls", [VSkip, ShortV, FFNSkip])
def test_claimed_flops_are_those_that_run(make, cls, tail):
    tiny = make(layers=4)
    shape = find(tiny.model).shape(tiny.model.config)
    with replaying(tiny.model) as replayer:
        replay = replayer.record(tiny.batch([[3, BANNER, 1, SQUARE, 5]]), tail)
        for layer in range(4):
            route = cls(layers=(layer,)).route(replay.layout, 4)
            assert dispatched_flops(lambda r=route: replay.logits(r)) == replay.flops(shape, route)


def test_the_model_is_left_as_it_was(qwen):
    model, inputs = qwen.model, qwen.batch([[3, SQUARE, 5]])
    hooks = lambda: [(len(m._forward_pre_hooks), len(m._forward_hooks)) for m in model.modules()]  # noqa: E731
    before, own = hooks(), [set(m.__dict__) for m in model.modules()]
    offset = model.model.rope_deltas = torch.tensor([[123]])
    tower = model.model.visual
    try:
        model.train()
        tower.eval()
        with pytest.raises(RuntimeError, match="stop"), replaying(model) as replayer:
            assert not any(m.training for m in model.modules())
            replayer.record(inputs)
            assert model.model.rope_deltas is not offset
            raise RuntimeError("stop")
        assert model.training and not tower.training and not next(tower.children()).training
        assert model.model.rope_deltas is offset
    finally:
        model.eval()
        model.model.rope_deltas = None
    assert hooks() == before and [set(m.__dict__) for m in model.modules()] == own
    assert attached(model) is None


def test_more_than_one_prompt_and_padding_are_refused(llava):
    two = llava.batch([[3, SQUARE, 5], [2, SQUARE, 6]])
    padded = llava.batch([[3, SQUARE, 5]])
    padded["attention_mask"][0, 0] = 0
    with replaying(llava.model) as replayer:
        for inputs in (two, padded):
            with pytest.raises(ValueError, match="one prompt without padding"):
                replayer.record(inputs)


def test_routes_of_another_layout_or_depth_are_refused(llava):
    with replaying(llava.model) as replayer:
        replay = replayer.record(llava.batch([[3, SQUARE, 5]]))
        same_rows = Layout.from_mask(replay.layout.visual_BN)
        for route in (VSkip(layers=(0,)).route(same_rows, 4), VSkip(layers=(0,)).route(replay.layout, 5)):
            with pytest.raises(ValueError, match="its own layout"):
                replay.logits(route)


def test_an_attached_plan_and_a_model_without_a_head_are_refused(llava):
    with saccade.apply(llava.model, Plan()), pytest.raises(ValueError, match="has a saccade plan"):
        replaying(llava.model).__enter__()
    with pytest.raises(ValueError, match="language-model head"), replaying(llava.model.model):
        pass
    assert attached(llava.model) is None


def test_a_decoder_that_skips_or_repeats_a_layer_is_refused():
    tiny = tiny_llava(layers=3)
    tiny.model.model.language_model.layers.append(tiny.model.model.language_model.layers[0])
    with (
        replaying(tiny.model) as replayer,
        pytest.raises(ValueError, match=r"called .* not each of the 4 once"),
    ):
        replayer.record(tiny.batch([[3, SQUARE, 5]]))


def test_a_decoder_that_adds_something_between_layers_is_refused():
    tiny = tiny_llava(layers=3)
    layer = tiny.model.model.language_model.layers[1]
    with replaying(tiny.model) as replayer:
        # A hook that comes after replay's own stands for a loop that changes what a layer returned.
        record = layer.register_forward_hook

        def late(hook, **kwargs):
            handle = record(hook, **kwargs)
            late.added = record(lambda module, args, output: output + 1)
            return handle

        layer.register_forward_hook = late
        try:
            with pytest.raises(ValueError, match="change between layers 1 and 2"):
                replayer.record(tiny.batch([[3, SQUARE, 5]]))
        finally:
            del layer.register_forward_hook
            late.added.remove()


def test_logits_changed_after_the_head_are_refused():
    tiny = tiny_llava(layers=3)
    scale = tiny.model.register_forward_hook(lambda m, a, out: setattr(out, "logits", out.logits * 0.5))
    with replaying(tiny.model) as replayer, pytest.raises(ValueError, match="after the head"):
        replayer.record(tiny.batch([[3, SQUARE, 5]]))
    scale.remove()
