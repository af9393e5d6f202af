"""Training under a plan: gradients of the masked reference, with and without checkpointing."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager

import pytest
import torch

from engine.reference import masked
from saccade.engine import apply
from saccade.measure.counter import dispatched_flops
from support.models import (
    FACTORIES,
    PAD,
    SQUARE,
    tiny_internvl,
    tiny_llava,
    tiny_llava_onevision,
    tiny_qwen,
    tiny_qwen3,
)

SAMPLES = [[3, SQUARE, 5], [6], [2, SQUARE, 1, SQUARE, 4]]
SPECS = (
    "vskip(layers=1-2)",
    "ffn_skip(layers=0,2)",
    "shortv(layers=1,3)",
    "vtw(layer=2)",
    "vskip(layers=0-1)+vtw(layer=3)",
)
MODELS = {"llava": tiny_llava, "qwen": tiny_qwen, "qwen3": tiny_qwen3}
VIEWED = {
    "llava_onevision": tiny_llava_onevision,
    "llava_next_video": FACTORIES["llava_next_video"],
    "internvl": lambda: tiny_internvl("qwen3"),
    **{
        name: FACTORIES[name]
        for name in (
            "qwen3_vl_moe",
            "qwen3_5",
            "lfm2_vl",
            "idefics3-llama",
            "mistral3",
            "molmo2",
            "llama4",
            "glm4v",
            "gemma3",
        )
    },
}
CASES = [(f, s) for f in MODELS for s in SPECS] + [(f, s) for f in VIEWED for s in SPECS[2:4]]


def batch_of(tiny, seed: int = 0) -> dict[str, torch.Tensor]:
    """A right-padded batch with labels on its text."""
    inputs = tiny.batch(SAMPLES, padding="right", seed=seed)
    hidden = tiny.visual(inputs) | (inputs["attention_mask"] == 0) | (inputs["input_ids"] == PAD)
    return inputs | {"labels": inputs["input_ids"].masked_fill(hidden, -100), "use_cache": False}


@contextmanager
def training(model, reentrant: bool | None):
    """Training mode; None means no checkpointing."""
    # The method was renamed within the versions we support.
    kind = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    model.train()
    if reentrant is not None:
        options = {f"{kind}_checkpointing_kwargs": {"use_reentrant": reentrant}}
        getattr(model, f"{kind}_checkpointing_enable")(**options)
        model.enable_input_require_grads()
    yield
    if reentrant is not None:
        getattr(model, f"{kind}_checkpointing_disable")()
        model.disable_input_require_grads()
    model.eval()


def gradients(model) -> dict[str, torch.Tensor]:
    """Gradients by parameter, taken off the model."""
    found = {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def same(first: dict, second: dict, **tolerance: float) -> None:
    assert first.keys() == second.keys() and len(first) > 40
    for name, gradient in first.items():
        torch.testing.assert_close(gradient, second[name], msg=lambda m, n=name: f"{n}: {m}", **tolerance)


@pytest.mark.parametrize(("family", "spec"), CASES)
def test_gradients_equal_the_masked_reference(family, spec):
    tiny = (MODELS | VIEWED)[family]()
    inputs = batch_of(tiny)
    with masked(tiny.model, spec, inputs):
        reference = tiny.model(**inputs).loss
        reference.backward()
    want = gradients(tiny.model)
    tiny.model(**inputs).loss.backward()
    stock = gradients(tiny.model)
    with apply(tiny.model, spec):
        loss = tiny.model(**inputs).loss
        loss.backward()
    got = gradients(tiny.model)
    torch.testing.assert_close(loss, reference, atol=1e-5, rtol=1e-5)
    same(got, want, atol=2e-4, rtol=1e-3)
    ends = tuple(f"{of}.layers.1.self_attn.q_proj.weight" for of in ("_model", "language_model.model"))
    (name,) = (name for name in got if name.endswith(ends))
    assert (got[name] - stock[name]).abs().max() > 1e-3


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("spec", SPECS)
def test_checkpointing_recomputes_each_layer_once_and_changes_no_gradient(llava, spec, reentrant):
    model, inputs = llava.model, batch_of(llava)
    layers = model.model.language_model.layers
    with apply(model, spec):
        with training(model, None):
            model(**inputs).loss.backward()
        want = gradients(model)
        runs: Counter[int] = Counter()
        hooks = [
            layer.input_layernorm.register_forward_hook(lambda *_, n=n: runs.update([n]))
            for n, layer in enumerate(layers)
        ]
        with training(model, reentrant):
            loss = model(**inputs).loss
            assert runs == dict.fromkeys(range(len(layers)), 1)
            loss.backward()
        for hook in hooks:
            hook.remove()
    assert runs == dict.fromkeys(range(len(layers)), 2)
    same(gradients(model), want, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("reentrant", [False, True])
def test_two_forwards_before_two_backwards(llava, reentrant):
    model = llava.model
    first, second = batch_of(llava, 1), batch_of(llava, 2)
    second = {k: v[:2] if isinstance(v, torch.Tensor) else v for k, v in second.items()}
    second["pixel_values"] = second["pixel_values"][:1]
    probe = llava.batch([[2, SQUARE, 7]], seed=3)
    with apply(model, "shortv(layers=0-1)+vtw(layer=2)"):
        with training(model, None):
            (model(**first).loss + 2 * model(**second).loss).backward()
        want = gradients(model)
        with training(model, reentrant):
            losses = [model(**first).loss, 2 * model(**second).loss]
            model.eval()
            with torch.no_grad():
                model(**probe)
            model.train()
            for loss in losses:
                loss.backward()
    same(gradients(model), want, atol=1e-6, rtol=1e-5)


def test_attention_dropout_drops_attention():
    tiny = tiny_llava()
    inputs = batch_of(tiny)
    for layer in tiny.model.model.language_model.layers:
        layer.self_attn.attention_dropout = 0.5
    losses, found = [], []
    with apply(tiny.model, "vskip(layers=0-3)"):
        for reentrant in (False, None):
            with training(tiny.model, reentrant):
                torch.manual_seed(1)
                losses.append(tiny.model(**inputs).loss)
                losses[-1].backward()
                found.append(gradients(tiny.model))
        assert torch.equal(losses[0], losses[1])
        same(found[0], found[1], atol=1e-6, rtol=1e-5)
        with training(tiny.model, None):
            assert not torch.equal(tiny.model(**inputs).loss, losses[0])
        assert torch.equal(tiny.model(**inputs).loss, tiny.model(**inputs).loss)


def test_a_step_of_training_under_a_plan_learns(llava):
    tiny = tiny_llava()
    inputs = batch_of(tiny)
    optimiser = torch.optim.SGD(tiny.model.parameters(), lr=0.01)
    losses = []
    with apply(tiny.model, "vskip(layers=1-2)+vtw(layer=3)"), training(tiny.model, False):
        for _ in range(4):
            loss = tiny.model(**inputs).loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    "spec", ["fastv(layer=1,keep=0.5)", "pyramiddrop(layers=1-2,keep=0.5)", "sparsevlm(layers=1-2)"]
)
def test_steps_of_methods_that_look_at_a_layer_can_be_counted(spec):
    """Torch's counter hooks gradients of every module's inputs, which a look at attention has not."""
    tiny = tiny_llava()
    inputs = tiny.batch(SAMPLES[:1])
    batch = inputs | {"labels": inputs["input_ids"], "use_cache": False}
    tiny.model.train()
    with apply(tiny.model, spec):
        assert dispatched_flops(lambda: tiny.model(**batch).loss.backward()) > 0


@pytest.mark.parametrize(
    "spec",
    [
        "vskip(layers=1-2)",
        "fastv(layer=2,keep=0.5)",
        "pool(factor=2)",
        "skip_vision(retained=0.25,split=grid,cache=small)",
    ],
)
def test_generation_with_checkpointing_in_training_mode_says_that_there_is_no_cache(spec):
    """The stock model answers without its prompt there: its layers drop the cache that they are given."""
    tiny = tiny_llava()
    given = tiny.batch(SAMPLES[:1]) | dict(max_new_tokens=3, do_sample=False)
    with apply(tiny.model, spec):
        want = tiny.model.generate(**given)
        with training(tiny.model, reentrant=False):
            with pytest.raises(ValueError, match=r"keeps no KV cache.*model.eval\(\)"):
                tiny.model.generate(**given)
            if spec.startswith(("fastv", "skip_vision")):
                with pytest.raises(ValueError, match="leave use_cache on"):
                    tiny.model.generate(**given, use_cache=False)
                return
            # Without a cache the answer is that of evaluation, which drops out nothing here.
            bare = tiny.model.generate(**given, use_cache=False)
            tiny.model.eval()
            assert torch.equal(tiny.model.generate(**given), want)
            assert torch.equal(tiny.model.generate(**given, use_cache=False), bare)
