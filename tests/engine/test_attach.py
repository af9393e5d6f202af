"""Attaching and detaching: no trace, on no other model, whatever happens in between."""

from __future__ import annotations

import asyncio
import copy
import io
import pickle
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engine.test_uncached import ANEW, SAME
from saccade.core.layout import Layout
from saccade.engine import apply, attached
from saccade.families import find
from saccade.methods.fastv import FastV
from saccade.plans.plan import Plan
from support.models import FACTORIES, SQUARE, tiny_llava, tiny_qwen

SPECS = ("vskip(layers=1-3)", "ffn_skip(layers=0,2)", "shortv(layers=1-2)", "vtw(layer=2)")
SAMPLES = [[3, SQUARE, 5], [6], [2, SQUARE, 1, SQUARE, 2]]


def snapshot(model) -> dict:
    """Everything that could tell that a plan was there: attributes by identity, hooks, configuration."""
    seen = {"config": model.config.to_json_string(), "generation": model.generation_config.to_json_string()}
    for name, module in model.named_modules():
        # Qwen's own forward moves its rope_deltas; they have a test of their own.
        held = {k: v for k, v in module.__dict__.items() if k != "rope_deltas"}
        seen[name] = (type(module), {k: id(v) for k, v in held.items()})
        seen[name, "hooks"] = {k: list(v) for k, v in held.items() if "hooks" in k and isinstance(v, dict)}
        seen[name, "forward"] = getattr(module.forward, "__func__", module.forward)
    seen["state"] = {k: (id(v), v._version) for k, v in model.state_dict(keep_vars=True).items()}
    return seen


@pytest.mark.parametrize("name", FACTORIES)
def test_removal_restores_every_attribute(name):
    tiny = FACTORIES[name]()
    inputs = tiny.batch(SAMPLES)
    stock = tiny.model(**inputs).logits
    before = snapshot(tiny.model)
    for spec in SPECS:
        with apply(tiny.model, spec) as attachment:
            assert attached(tiny.model) is attachment
            assert not torch.equal(tiny.model(**inputs).logits, stock)
        assert snapshot(tiny.model) == before and attached(tiny.model) is None
    assert torch.equal(tiny.model(**inputs).logits, stock)


def test_a_handle_is_removed_once_and_again(llava):
    before = snapshot(llava.model)
    handle = apply(llava.model, SPECS[0])
    assert snapshot(llava.model) != before
    handle.remove()
    handle.remove()
    assert snapshot(llava.model) == before


@torch.no_grad()
def test_a_handle_may_be_entered_again_and_inside_itself(llava):
    given = llava.batch([SAMPLES[0]])
    stock = llava.model(**given).logits
    handle = apply(llava.model, SPECS[0])
    with handle:
        want = llava.model(**given).logits
        with handle as same:
            assert same is handle
        assert torch.equal(llava.model(**given).logits, want), "the inner block takes nothing off"
    assert torch.equal(llava.model(**given).logits, stock)
    with handle:
        assert torch.equal(llava.model(**given).logits, want)
    with apply(llava.model, SPECS[1]), pytest.raises(ValueError, match="has a saccade plan"), handle:
        pass
    assert attached(llava.model) is None and torch.equal(llava.model(**given).logits, stock)


def test_an_exception_in_the_block_leaves_no_trace(llava):
    before = snapshot(llava.model)
    with pytest.raises(KeyError), apply(llava.model, SPECS[0]):
        raise KeyError
    assert snapshot(llava.model) == before


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("where", ["self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj"])
def test_an_exception_in_a_forward_leaves_the_next_one_right(llava, spec, where):
    inputs, text = llava.batch(SAMPLES), llava.batch([[4], [6]])
    stock = llava.model(**text).logits
    layer = llava.model.model.language_model.layers[2]
    before = snapshot(llava.model)

    def fail(module, args):
        raise RuntimeError("out of memory")

    with apply(llava.model, spec):
        want = llava.model(**inputs).logits
        hook = layer.get_submodule(where).register_forward_pre_hook(fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            llava.model(**inputs)
        hook.remove()
        assert torch.equal(llava.model(**text).logits, stock)
        assert torch.equal(llava.model(**inputs).logits, want)
    assert snapshot(llava.model) == before


def test_an_exception_before_the_decoder_forgets_the_layout(llava):
    inputs = llava.batch([SAMPLES[0]])
    one_row = torch.randn(1, 28, 64)
    with apply(llava.model, "vtw(layer=0)"):
        with pytest.raises(ValueError, match="tokens"):
            llava.model(**inputs | {"pixel_values": inputs["pixel_values"].repeat(2, 1, 1, 1)})
        with pytest.warns(UserWarning, match="cannot tell which of these embeddings are visual"):
            within = llava.model.model.language_model(inputs_embeds=one_row).last_hidden_state
    assert torch.equal(within, llava.model.model.language_model(inputs_embeds=one_row).last_hidden_state)


def test_a_second_plan_is_refused_and_the_first_stays(llava):
    inputs = llava.batch(SAMPLES)
    with apply(llava.model, SPECS[0]):
        want = llava.model(**inputs).logits
        with pytest.raises(ValueError, match="has a saccade plan; remove it first"):
            apply(llava.model, SPECS[3])
        assert torch.equal(llava.model(**inputs).logits, want)


def test_a_refused_plan_leaves_no_trace(llava, qwen):
    before = snapshot(llava.model)
    foreign = Plan.of(SPECS[0])
    foreign = Plan(foreign.methods, model=find(qwen.model).fingerprint(qwen.model.config))
    for plan, words in (
        (foreign, "another model"),
        ("vskip(layers=9)", "layer"),
        ("vskip(budget=2)", "calibrat"),
    ):
        with pytest.raises(ValueError, match=words):
            apply(llava.model, plan)
    assert snapshot(llava.model) == before
    with apply(llava.model, foreign, force=True) as attachment:
        assert attachment.plan.methods == foreign.methods


def test_two_models_with_two_plans_do_not_meet():
    first, second, third = tiny_llava(seed=1), tiny_llava(seed=2), tiny_qwen(seed=3)
    batches = [t.batch(SAMPLES, seed=i) for i, t in enumerate((first, second, third))]
    alone = []
    for tiny, inputs, spec in zip((first, second, third), batches, SPECS[1:], strict=True):
        with apply(tiny.model, spec):
            alone.append(tiny.model.generate(**inputs, max_new_tokens=4, do_sample=False))
    with apply(first.model, SPECS[1]), apply(second.model, SPECS[2]), apply(third.model, SPECS[3]):
        together = [
            t.model.generate(**b, max_new_tokens=4, do_sample=False)
            for t, b in zip((first, second, third), batches, strict=True)
        ]
        nested = []
        inner = second.model.model.language_model.layers[1]
        hook = first.model.model.language_model.layers[1].register_forward_hook(
            lambda *_: nested.append(second.model(**batches[1]).logits)
        )
        outer = first.model(**batches[0]).logits
        hook.remove()
        assert inner.self_attn.forward is not None
        assert torch.equal(outer, first.model(**batches[0]).logits)
        assert torch.equal(nested[0], second.model(**batches[1]).logits)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_threads_may_share_a_model(llava):
    batches = [llava.batch([sample], seed=i) for i, sample in enumerate(SAMPLES * 2)]
    got: list = [None] * len(batches)
    with apply(llava.model, "shortv(layers=0-1)+vtw(layer=3)"):
        with torch.no_grad():
            want = [llava.model(**b).logits for b in batches]

        def work(i: int) -> None:
            with torch.no_grad():
                got[i] = [llava.model(**batches[i]).logits for _ in range(15)]

        threads = [threading.Thread(target=work, args=(i,)) for i in range(len(batches))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(torch.equal(w, g) for w, many in zip(want, got, strict=True) for g in many)


def elsewhere(run: Callable[[], Any]) -> Any:
    """What a call gives, or raises, in another thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


def test_a_trace_that_another_thread_should_have_filled_says_so(llava):
    given = llava.batch([SAMPLES[0]]) | dict(max_new_tokens=2)
    with apply(llava.model, "fastv(layer=1,keep=0.5)") as handle:
        with pytest.warns(UserWarning, match="ran in another thread"), handle.tracing() as traces:
            elsewhere(lambda: llava.model.generate(**given))
        assert traces == []

        def traced() -> list:
            with handle.tracing() as own:
                llava.model.generate(**given)
            return own

        with warnings.catch_warnings(), handle.tracing() as traces:
            warnings.simplefilter("error")
            llava.model.generate(**given)
            assert len(elsewhere(traced)) == 1
        assert len(traces) == 1, "a thread's own forwards alone"


def test_a_layout_is_of_the_thread_that_gives_it(llava):
    given = llava.batch([SAMPLES[0]])
    layout = Layout.from_mask(llava.visual(given), given["attention_mask"])
    embeds = llava.model.get_input_embeddings()(given["input_ids"]).detach()
    with torch.no_grad(), apply(llava.model, SPECS[0]) as handle, handle.with_layout(layout):
        for run in (llava.model, llava.model.model.language_model):
            want = run(inputs_embeds=embeds)[0]
            with pytest.raises(ValueError, match=r"with_layout.* was opened in another thread"):
                elsewhere(lambda run=run: run(inputs_embeds=embeds))
            assert torch.equal(run(inputs_embeds=embeds)[0], want)


@torch.no_grad()
def test_blocks_may_nest(llava):
    given = llava.batch([SAMPLES[0]])
    layout = Layout.from_mask(llava.visual(given), given["attention_mask"])
    embeds = llava.model.get_input_embeddings()(given["input_ids"])
    with apply(llava.model, "visionzip(dominant=4,contextual=2)") as handle:
        with handle.tracing(sources=False) as outer:
            llava.model(**given)
            with handle.tracing() as inner:
                llava.model(**given)
            llava.model(**given)
        assert (len(outer), len(inner)) == (3, 1) and inner[0] is outer[1]
        made = [trace.cuts[0].sources_BNN is not None for trace in outer]
        assert made == [False, True, False]
        bare = Layout.from_mask(torch.zeros_like(layout.visual_BN), given["attention_mask"])
    with apply(llava.model, "uniform(keep=0.5)") as handle, handle.with_layout(layout):
        want = llava.model(inputs_embeds=embeds).logits
        with handle.with_layout(bare):
            assert not torch.equal(llava.model(inputs_embeds=embeds).logits, want)
        assert torch.equal(llava.model(inputs_embeds=embeds).logits, want)


def test_a_task_has_blocks_of_its_own(llava):
    given = llava.batch([SAMPLES[0]])

    async def traced(handle: Any, times: int) -> list:
        with handle.tracing() as traces:
            for _ in range(times):
                await asyncio.sleep(0)
                llava.model(**given)
        return traces

    async def elsewhere_in_a_block(handle: Any) -> list:
        with handle.tracing() as traces:
            await asyncio.to_thread(llava.model, **given)
            late = asyncio.create_task(asyncio.sleep(0.01))
            late.add_done_callback(lambda task: llava.model(**given))
        await late
        await asyncio.sleep(0)
        return traces

    async def together(handle: Any) -> list[list]:
        several = [traced(handle, times) for times in (2, 4, 3)]
        return await asyncio.gather(*several, elsewhere_in_a_block(handle))

    with apply(llava.model, "fastv(layer=1,keep=0.5)") as handle, warnings.catch_warnings():
        warnings.simplefilter("error")
        found = asyncio.run(together(handle))
    assert [len(traces) for traces in found] == [2, 4, 3, 1]


def test_blocks_of_threads_share_what_watches_the_tower(llava):
    """The first to open ends first: the other still learns where rows lie, and nothing is left behind."""
    given = llava.batch([SAMPLES[0]])
    before = set(llava.model.model.__dict__)
    with apply(llava.model, SPECS[0]) as handle:
        first = ExitStack()
        first.enter_context(handle.tracing())

        def second() -> list:
            with handle.tracing() as traces:
                first.close()
                llava.model(**given)
            return traces

        assert elsewhere(second)[0].grid is not None
        assert set(llava.model.model.__dict__) == before
        with handle.tracing() as traces:
            llava.model(**given)
            handle.remove()
            assert set(llava.model.model.__dict__) == before
        assert traces[0].grid is not None


@pytest.mark.parametrize("block", ["tracing", "with_layout", "answering"])
def test_a_block_of_a_plan_that_is_off_is_refused(llava, block):
    handle = apply(llava.model, SPECS[0])
    handle.remove()
    said = {"tracing": (), "with_layout": (Layout.from_mask(torch.ones(1, 2, dtype=torch.bool)),)}
    with (
        pytest.raises(ValueError, match="this plan is not on the model now"),
        getattr(handle, block)(*said.get(block, (torch.ones(1, 2),))),
    ):
        pass


@torch.no_grad()
def test_embeddings_that_pass_the_core_by_are_warned_of(llava):
    """Its forward called without its hooks, and the decoder alone: nobody says which rows are visual."""
    given = llava.batch([SAMPLES[0]])
    core = llava.model.model
    decoder, embeds = core.language_model, llava.model.get_input_embeddings()(given["input_ids"])
    with apply(llava.model, SPECS[0]):
        with pytest.warns(UserWarning, match="give the layout with Attachment.with_layout"):
            decoder(inputs_embeds=embeds)
        with pytest.warns(UserWarning, match="give the layout with Attachment.with_layout"):
            core.forward(**given)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            decoder(inputs_embeds=embeds[:, :1])
            decoder(input_ids=given["input_ids"])
            core(input_ids=given["input_ids"][:, :3])
    with warnings.catch_warnings(), apply(llava.model, "dense"):
        warnings.simplefilter("error")
        decoder(inputs_embeds=embeds)


def test_saving_inside_the_block_saves_the_stock_model(llava, tmp_path):
    llava.model.save_pretrained(tmp_path / "before")
    with apply(llava.model, SPECS[3]):
        llava.model.save_pretrained(tmp_path / "inside")
    names = [sorted(p.name for p in (tmp_path / d).iterdir()) for d in ("before", "inside")]
    assert names[0] == names[1]
    for name in names[0]:
        assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "inside" / name).read_bytes()
    again = type(llava.model).from_pretrained(tmp_path / "inside").eval()
    inputs = llava.batch(SAMPLES)
    assert torch.equal(again(**inputs).logits, llava.model(**inputs).logits)


@pytest.mark.parametrize(
    "copier",
    [copy.deepcopy, pickle.dumps, lambda model: torch.save(model, io.BytesIO())],
    ids=["deepcopy", "pickle", "torch.save"],
)
def test_copies_of_an_attached_model_are_refused(copier):
    model = tiny_llava().model
    with apply(model, SPECS[0]), pytest.raises(ValueError, match="remove the plan first"):
        copier(model)
    copier(model)


def test_a_model_changes_dtype_while_attached():
    tiny = tiny_llava()
    inputs = tiny.batch(SAMPLES)
    with apply(tiny.model, "vskip(layers=1)+vtw(layer=3)"):
        first = tiny.model(**inputs).logits
        double = tiny.model.to(torch.float64)(
            **inputs | {"pixel_values": inputs["pixel_values"].double()}
        ).logits
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), first, atol=1e-4, rtol=1e-4)


def test_modules_may_be_called_with_positional_arguments(llava):
    inputs = llava.batch(SAMPLES)
    core = llava.model.model
    with apply(llava.model, "vtw(layer=1)"):
        named = core(**inputs).last_hidden_state
        placed = core(inputs["input_ids"], inputs["pixel_values"], inputs["attention_mask"]).last_hidden_state
    assert torch.equal(named, placed)
    assert not torch.equal(named, core(**inputs).last_hidden_state)


@pytest.mark.share(8)
@pytest.mark.parametrize("spec", [*SAME.values(), *ANEW.values()])
@pytest.mark.parametrize("family", FACTORIES)
def test_what_is_refused_leaves_no_hook_behind(family, spec):
    model = FACTORIES[family](layers=3).model

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    before = hooks()
    for _ in range(2):
        with suppress(ValueError):  # some families cannot run some methods
            apply(model, spec).remove()
        assert hooks() == before and attached(model) is None


@pytest.mark.parametrize(
    ("model", "plan", "said"),
    [
        ("glance", "fastv()", "got str; saccade.load opens one by its name, and holds it as .model"),
        (
            SimpleNamespace(model=torch.nn.Linear(1, 1)),
            "fastv()",
            r"SimpleNamespace; give its \.model \(Linear\)",
        ),
        (torch.nn.Sequential(torch.nn.Linear(1, 1)), "fastv()", "Sequential is no model of transformers"),
        (None, FastV, r"FastV is a class: a plan takes FastV\(\.\.\.\) or 'fastv'"),
        (None, ["fastv()", FastV()], r"this one has str; join specs with '\+'"),
        (None, 5, "got int"),
    ],
)
def test_what_stands_in_the_place_of_another_is_named(model, plan, said):
    with pytest.raises(ValueError, match=said):
        apply(tiny_llava().model if model is None else model, plan)
