"""Beside other libraries that take a model in hand: accelerate, PEFT, torch.compile."""

from __future__ import annotations

import importlib

import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from peft import LoraConfig, get_peft_model

from saccade.engine import apply, attached
from support.models import SQUARE, tiny_llava, tiny_qwen

SAMPLES = [[3, SQUARE, 5], [6], [2, SQUARE, 1, SQUARE, 2]]
SPECS = ("vskip(layers=1-3)", "ffn_skip(layers=0,2)", "vtw(layer=2)")
MODELS = {"llava": tiny_llava, "qwen": tiny_qwen}


class Count(ModelHook):
    """Counts calls before and after a module."""

    def __init__(self) -> None:
        self.before = self.after = 0

    def pre_forward(self, module, *args, **kwargs):
        self.before += 1
        return args, kwargs

    def post_forward(self, module, output):
        self.after += 1
        return output


def hooked(model) -> list:
    layers = model.model.language_model.layers
    return [m for layer in layers for m in (layer, layer.self_attn, layer.mlp)]


def forwards(model) -> list[dict]:
    """What lies on the instances where a forward can lie."""
    return [{k: m.__dict__.get(k) for k in ("forward", "_old_forward", "_hf_hook")} for m in hooked(model)]


@pytest.mark.parametrize("order", ["hook apply remove unhook", "hook apply unhook remove"])
@pytest.mark.parametrize("spec", SPECS)
def test_a_plan_on_hooked_modules(spec, order):
    check_hooks(spec, order)


@pytest.mark.parametrize("order", ["apply hook remove unhook", "apply hook unhook remove"])
@pytest.mark.parametrize("spec", SPECS)
def test_hooks_on_planned_modules(spec, order):
    check_hooks(spec, order)


def check_hooks(spec: str, order: str) -> None:
    model = tiny_llava().model
    inputs = tiny_llava().batch(SAMPLES)
    hook, handle = Count(), None
    with torch.no_grad():
        stock = model(**inputs).logits
        with apply(model, spec):
            planned = model(**inputs).logits
        bare = forwards(model)
        for act in order.split():
            if act == "hook":
                for module in hooked(model):
                    add_hook_to_module(module, hook)
            elif act == "unhook":
                for module in hooked(model):
                    remove_hook_from_module(module)
            elif act == "apply":
                handle = apply(model, spec)
            else:
                handle.remove()
            has_plan = "apply" in order[: order.index(act) + len(act)] and act != "remove"
            if act == "unhook" and order.endswith("unhook"):
                has_plan = False
            has_hooks = any("_hf_hook" in m.__dict__ for m in hooked(model))
            hook.before = hook.after = 0
            assert (attached(model) is not None) == has_plan, act
            assert torch.equal(model(**inputs).logits, planned if has_plan else stock), act
            assert hook.before == hook.after == (12 if has_hooks else 0), act
    for module, before, after in zip(hooked(model), bare, forwards(model), strict=True):
        assert after["_old_forward"] is None and after["_hf_hook"] is None and before["forward"] is None
        # accelerate leaves the bound method behind on the instance; nothing of ours may be left.
        assert after["forward"] is None or after["forward"].__func__ is type(module).forward


@pytest.mark.parametrize("place", ["cpu_offload", "disk"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_offloaded_weights(place, when, tmp_path):
    tiny = tiny_llava()
    inputs = tiny.batch(SAMPLES)
    spec = "vskip(layers=0)+shortv(layers=1)+vtw(layer=2)"
    go = dict(max_new_tokens=3, do_sample=False)
    with torch.no_grad():
        stock = tiny.model(**inputs).logits
        with apply(tiny.model, spec):
            want, tokens = tiny.model(**inputs).logits, tiny.model.generate(**inputs, **go)
        handle = apply(tiny.model, spec) if when == "after" else None
        if place == "cpu_offload":
            cpu_offload(tiny.model, execution_device=torch.device("cpu"))
        else:
            devices = {name: "cpu" for name, _ in tiny.model.named_parameters()}
            devices = {name.rsplit(".", 1)[0]: "disk" if ".layers." in name else "cpu" for name in devices}
            dispatch_model(tiny.model, devices, main_device="cpu", offload_dir=tmp_path, force_hooks=True)
        layer = tiny.model.model.language_model.layers[1]
        assert layer.self_attn.q_proj.weight.device.type == "meta"
        handle = handle or apply(tiny.model, spec)
        assert torch.equal(tiny.model(**inputs).logits, want)
        assert torch.equal(tiny.model.generate(**inputs, **go), tokens)
        handle.remove()
        assert torch.equal(tiny.model(**inputs).logits, stock)


@pytest.mark.parametrize(
    "spec",
    [
        "fastv(layer=2,keep=0.5)",
        "pyramiddrop(layers=1-2)",
        "dart(layer=1,keep=0.5)",
        "sparsevlm(layers=1,tokens=4)",
    ],
)
def test_a_decoder_that_is_offloaded_as_one_decides_as_in_memory(spec, tmp_path):
    tiny = tiny_llava()
    inputs, go = tiny.batch(SAMPLES), dict(max_new_tokens=3, do_sample=False)
    with torch.no_grad():
        stock = tiny.model(**inputs).logits
        with apply(tiny.model, spec):
            want, tokens = tiny.model(**inputs).logits, tiny.model.generate(**inputs, **go)
        devices = {f"model.{name}": "cpu" for name, _ in tiny.model.model.named_children()} | {
            "lm_head": "cpu"
        }
        devices |= {"model.language_model": "disk"}
        dispatch_model(tiny.model, devices, main_device="cpu", offload_dir=tmp_path, force_hooks=True)
        with apply(tiny.model, spec):
            assert torch.equal(tiny.model(**inputs).logits, want)
            assert torch.equal(tiny.model.generate(**inputs, **go), tokens)
    assert not torch.allclose(want, stock)


# PEFT asks models for a property that transformers has renamed.
peft_asks = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@peft_asks
@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("spec", SPECS)
def test_lora_equals_merged_weights(family, spec):
    tiny = MODELS[family]()
    inputs = tiny.batch(SAMPLES)
    targets = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    config = LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
    with torch.no_grad():
        with apply(tiny.model, spec):
            bare = tiny.model(**inputs).logits
            wrapped = get_peft_model(tiny.model, config)
            after = wrapped(**inputs).logits
            with pytest.raises(ValueError, match="has a saccade plan"):
                apply(wrapped, spec)
        with apply(tiny.model, spec):
            before = wrapped(**inputs).logits
        with apply(wrapped, spec):
            on_wrapper = wrapped(**inputs).logits
            tokens = wrapped.generate(**inputs, max_new_tokens=3, do_sample=False)
        merged = wrapped.merge_and_unload()
        with apply(merged, spec):
            want = merged(**inputs).logits
            assert torch.equal(tokens, merged.generate(**inputs, max_new_tokens=3, do_sample=False))
    assert (want - bare).abs().max() > 0.05
    for got in (after, before, on_wrapper):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


@peft_asks
def test_lora_trains_under_a_plan():
    tiny = tiny_llava()
    inputs = tiny.batch(SAMPLES, padding="right")
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    wrapped = get_peft_model(tiny.model, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"]))
    optimiser = torch.optim.SGD([p for p in wrapped.parameters() if p.requires_grad], lr=0.2)
    losses = []
    with apply(wrapped, "vskip(layers=1-2)+vtw(layer=3)"):
        for _ in range(4):
            loss = wrapped(**inputs, labels=labels).loss
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)


@pytest.mark.long(instead="engine/test_stages.py::test_compiled_models_decide_as_the_eager_one")
def test_compiled_models_take_plans_and_do_not_recompile_for_each_prompt():
    tiny = tiny_llava(layers=2)
    spec = "vskip(layers=0)+vtw(layer=1)"
    prompts = [tiny.batch([[n, SQUARE, 9 - n]]) for n in (3, 4, 5)]
    torch._dynamo.reset()
    try:
        with torch.no_grad():
            stock = [tiny.model(**p).logits for p in prompts]
            with apply(tiny.model, spec):
                want = [tiny.model(**p).logits for p in prompts]
            compiled = torch.compile(tiny.model, backend="eager")
            with apply(compiled, spec):
                got = [compiled(**p).logits for p in prompts[:2]]
                with torch._dynamo.config.patch(error_on_recompile=True):
                    got += [compiled(**p).logits for p in prompts[2:]]
                torch._dynamo.reset()
                with pytest.raises(torch._dynamo.exc.Unsupported, match="compile without fullgraph"):
                    torch.compile(tiny.model, backend="eager", fullgraph=True)(**prompts[0])
            torch._dynamo.reset()
            removed = compiled(**prompts[0]).logits
    finally:
        torch._dynamo.reset()
    for a, b in zip([*got, removed], [*want, stock[0]], strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_data_parallel_is_told_what_to_take_instead(monkeypatch):
    tiny = tiny_llava()
    given = tiny.batch(SAMPLES[:1])
    advice = r"give the model itself \(.module\).*DistributedDataParallel"
    wrapped = torch.nn.DataParallel(tiny.model)
    for run in (apply, lambda model, spec: attached(model)):
        with pytest.raises(ValueError, match=advice):
            run(wrapped, SPECS[0])
    # Its copies, as it makes them on several devices; here all are on one.
    replicate = importlib.import_module("torch.nn.parallel.replicate")
    monkeypatch.setattr(
        replicate, "_broadcast_coalesced_reshape", lambda tensors, devices, detach=False: [tensors] * 2
    )
    with apply(tiny.model, SPECS[0]):
        want = tiny.model(**given).logits
        for copy in replicate.replicate(tiny.model, [0, 1]):
            with pytest.raises(ValueError, match=advice):
                copy(**given)
            with pytest.raises(ValueError, match=advice):
                copy.model.language_model(input_ids=given["input_ids"])
        assert torch.equal(tiny.model(**given).logits, want)
