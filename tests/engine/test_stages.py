"""Rows decided on the way, beyond one prefill: what is dispatched, refused, traced, trained and continued."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from engine.test_cost_counter import WITHIN, counted
from engine.test_kernels import watched_layers
from engine.test_training import batch_of, gradients, same, training
from saccade.core import rows
from saccade.core.pricing import cost
from saccade.engine import apply, kv_lengths
from saccade.families import find
from saccade.plans.plan import Plan
from support.models import (
    BANNER,
    FACTORIES,
    SQUARE,
    TALL,
    WIDE,
    tiny_llava,
    tiny_llava_next,
    tiny_qwen,
    tiny_qwen3,
)
from support.reference import extend, gap
from support.rowwise import Sets, rowwise, sets_of
from support.sight import held_after
from support.turns import next_turn, stock_takes_new_images

RAGGED = [[3, SQUARE, 5], [6], [2, SQUARE, 1, WIDE, 2]]
LOOKING = (
    "fastv(layer=1,keep=0.5)",
    "pyramiddrop(layers=1/2/3,keep=0.5)",
    "sparsevlm_plus(tokens=0.4,layers=1/2/3)",
    "sparsevlm(tokens=0.4,layers=1/2/3)",
    "dart(layer=2,keep=0.5)",
)
GENERATING = (
    "llava-llama",
    "llava_next-mistral",
    "qwen2_5_vl",
    "qwen3_vl",
    "llava_onevision",
    "internvl-qwen3",
)
BEFORE = (
    "random(keep=0.25)",
    "fastervlm(keep=0.5)",
    "visionzip(dominant=5,contextual=3)",
    "prumerge()",
    "token_merge()",
    "pool(factor=2)",
)


@pytest.mark.parametrize("family", ["llava-llama", "qwen2_5_vl"])
@pytest.mark.parametrize("spec", ["fastv(layer=1,keep=0.5)", "pyramiddrop(layers=1/2/3,keep=0.5)"])
@torch.no_grad()
def test_executed_flops_with_score_rows_are_what_torch_counts(family, spec):
    tiny = FACTORIES[family](layers=4)
    given = tiny.batch(RAGGED, "right")
    traces = []

    def run():
        # The counters were put on the layers first, so that what decisions compute there is within them.
        with apply(tiny.model, spec) as handle, handle.tracing() as found:
            tiny.model(**given, use_cache=True)
            traces.extend(found)

    flops = counted(tiny.model.model.language_model.layers, run)
    shape = find(tiny.model).shape(tiny.model.config)
    priced = cost(shape, traces[0].route)
    assert priced.score_tflops > 0
    assert abs(flops / (priced.executed_tflops * 1e12) - 1) < WITHIN


@pytest.mark.parametrize("samples", [RAGGED[:1], RAGGED], ids=["single", "ragged"])
@pytest.mark.parametrize("spec", [s for s in LOOKING if "sparsevlm" not in s] + ["random(layer=2,keep=0.5)"])
def test_no_layer_waits_for_the_device_to_decide(monkeypatch, spec, samples):
    monkeypatch.setattr(rows, "READABLE", ())
    tiny = tiny_llava()
    inputs = tiny.batch(samples)
    with watched_layers(tiny.model) as watch, apply(tiny.model, spec):
        tiny.model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert watch.syncs == []


@pytest.mark.parametrize("spec", ["fastv(layer=1,keep=0.5)", "sparsevlm(tokens=0.4,layers=1/2/3)"])
@torch.no_grad()
def test_index_tensors_made_without_reading_the_mask_give_the_same(monkeypatch, spec):
    tiny = tiny_llava()
    for samples in (RAGGED[:1], RAGGED, [[3, SQUARE, 5], [3, SQUARE, 4]]):
        inputs = tiny.batch(samples)
        with apply(tiny.model, spec):
            read = tiny.model(**inputs).logits
            monkeypatch.setattr(rows, "READABLE", ())
            unread = tiny.model(**inputs).logits
            monkeypatch.undo()
        assert gap(unread, read, inputs["attention_mask"].bool() & ~tiny.visual(inputs)) < 1e-6


@pytest.mark.parametrize("spec", (*LOOKING, *BEFORE, "divprune(keep=0.25)", "vispruner(keep=0.25)"))
def test_rows_are_chosen_outside_autocast(monkeypatch, spec):
    tiny, seen = tiny_llava(), []
    (method,) = Plan.of(spec).methods
    choose = type(method).choose

    def watched(self, stage, evidence):
        seen.append(torch.is_autocast_enabled("cpu"))
        return choose(self, stage, evidence)

    monkeypatch.setattr(type(method), "choose", watched)
    given = tiny.batch(RAGGED)
    with torch.autocast("cpu", torch.bfloat16), apply(tiny.model, spec):
        logits = tiny.model(**given).logits
        logits[given["attention_mask"].bool()].float().square().mean().backward()
    assert seen and not any(seen) and bool(torch.isfinite(logits[given["attention_mask"].bool()]).all())


@pytest.mark.parametrize("spec", LOOKING)
@torch.no_grad()
def test_no_layer_runs_twice_and_no_map_is_made(spec):
    tiny, runs = tiny_llava(), Counter()
    layers = tiny.model.model.language_model.layers
    hooks = [
        module.register_forward_hook(lambda *_, k=f"{n}.{name}": runs.update([k]))
        for n, layer in enumerate(layers)
        for name, module in (("attn", layer.self_attn), ("mlp", layer.mlp), ("v", layer.self_attn.v_proj))
    ]
    with apply(tiny.model, spec) as handle, handle.tracing() as traces:
        tiny.model(**tiny.batch(RAGGED), use_cache=True)
    for hook in hooks:
        hook.remove()
    assert set(runs.values()) == {1} and len(runs) == 12
    longest = max(scoring.asking for scoring in traces[0].route.scorings)
    assert longest <= 8, "only the rows that ask are scored"


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("family", [tiny_llava, tiny_qwen, tiny_qwen3])
@pytest.mark.parametrize(
    "spec",
    ["fastv(layer=1,keep=0.5)+ffn_skip(layers=2)", "sparsevlm(tokens=0.5,layers=1/2/3)", "pool(factor=2)"],
)
def test_checkpointing_changes_no_gradient(spec, family, reentrant):
    tiny = family()
    inputs = batch_of(tiny)
    with apply(tiny.model, spec):
        found = {}
        for kind in (None, reentrant):
            with training(tiny.model, kind):
                loss = tiny.model(**inputs).loss
                loss.backward()
                found[kind] = (loss.detach(), gradients(tiny.model))
    assert torch.equal(found[None][0], found[reentrant][0])
    same(found[None][1], found[reentrant][1], atol=1e-6, rtol=1e-5)


@pytest.mark.share(2)
@pytest.mark.parametrize("spec", BEFORE)
@pytest.mark.parametrize("family", GENERATING)
def test_what_is_reduced_before_the_decoder_generates_with_a_cache_as_without(spec, family):
    tiny = FACTORIES[family](layers=3)
    inputs = tiny.batch(RAGGED)
    go = dict(max_new_tokens=6, do_sample=False)
    with apply(tiny.model, spec):
        cached = tiny.model.generate(**inputs, **go)
        assert torch.equal(cached, tiny.model.generate(**inputs, **go, use_cache=False))
        assert torch.equal(
            tiny.model.generate(**inputs, **go, num_beams=2),
            tiny.model.generate(**inputs, **go, num_beams=2, use_cache=False),
        )


@pytest.mark.parametrize("spec", LOOKING[:2])
def test_beams_of_a_cached_prompt_share_its_decisions(spec):
    tiny = tiny_llava()
    inputs = tiny.batch(RAGGED)
    with apply(tiny.model, spec) as handle, handle.tracing() as traces:
        tiny.model.generate(**inputs, max_new_tokens=4, do_sample=False, num_beams=3)
    kept = traces[0].kept(3)
    assert len(traces) == 1 and kept[0] == kept[1] == kept[2] and kept[6] == kept[8] and kept[3] == []


def where(tiny, part):
    """What a plan may be put on; ``generate`` is of the whole model."""
    return {"model": tiny.model, "core": tiny.model.model}[part]


@pytest.mark.parametrize("part", ["model", "core"])
@pytest.mark.parametrize(
    "spec",
    [
        "fastv(layer=1,keep=0.5)",
        "fastervlm(keep=0.5)",
        "pool(factor=2)",
        "victor(registers=2,layer=2)",
        "skip_vision(retained=0.25,split=grid,cache=small)",
    ],
)
def test_a_prompt_in_chunks_is_refused(spec, part):
    tiny = tiny_llava()
    inputs = tiny.batch(RAGGED[:1])
    for size in (8, 22):  # Through the image, and after it.
        with apply(where(tiny, part), spec), pytest.raises(ValueError, match="prefill_chunk_size"):
            tiny.model.generate(**inputs, max_new_tokens=2, prefill_chunk_size=size)
    assert tiny.model.generate(**inputs, max_new_tokens=2).shape[1] == inputs["input_ids"].shape[1] + 2


@pytest.mark.parametrize("part", ["model", "core"])
@pytest.mark.parametrize(
    "spec", ["fastv(layer=1,keep=0.5)", "skip_vision(retained=0.25,split=grid,cache=small)"]
)
def test_assisted_decoding_is_refused_where_the_end_of_the_prompt_decides(spec, part):
    tiny = tiny_llava()
    inputs = tiny.batch(RAGGED[:1])
    go = dict(max_new_tokens=6, do_sample=False)
    with apply(where(tiny, part), spec), pytest.raises(ValueError, match="assisted"):
        tiny.model.generate(**inputs, **go, prompt_lookup_num_tokens=2)
    with apply(where(tiny, part), spec), pytest.raises(ValueError, match="assisted"):
        tiny.model.generate(**inputs, **go, assistant_model=tiny_llava(layers=2).model)


def test_generation_inside_another_models_assisted_decoding_is_its_own():
    tiny, other = tiny_llava(), tiny_llava(layers=3)
    go = tiny.batch(RAGGED[:1]) | dict(max_new_tokens=3, do_sample=False)
    with apply(other.model, "fastv(layer=1,keep=0.5)"):
        want, said = other.model.generate(**go), []

        def asks(input_ids, scores):
            said.append(other.model.generate(**go))
            return scores

        tiny.model.generate(**go, prompt_lookup_num_tokens=2, logits_processor=[asks])
    assert said and all(torch.equal(one, want) for one in said)


def test_assisted_decoding_gives_the_tokens_of_greedy_where_the_image_decides():
    tiny = tiny_llava()
    inputs = tiny.batch(RAGGED[:1])
    go = dict(max_new_tokens=6, do_sample=False)
    for spec in BEFORE:
        with apply(tiny.model, spec):
            greedy = tiny.model.generate(**inputs, **go)
            assert torch.equal(greedy, tiny.model.generate(**inputs, **go, prompt_lookup_num_tokens=2))


def test_the_model_is_left_without_a_trace_also_after_an_error():
    tiny = tiny_llava()
    inputs = tiny.batch(RAGGED)
    before = tiny.model(**inputs).logits
    attributes = {name: set(vars(m)) for name, m in tiny.model.named_modules()}
    hooks = {
        name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in tiny.model.named_modules()
    }
    for spec in (*LOOKING, *BEFORE):
        with pytest.raises(RuntimeError, match="in the block"), apply(tiny.model, spec):
            tiny.model(**inputs)
            raise RuntimeError("in the block")
    assert {name: set(vars(m)) for name, m in tiny.model.named_modules()} == attributes
    assert hooks == {
        name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in tiny.model.named_modules()
    }
    assert torch.equal(tiny.model(**inputs).logits, before)


@torch.no_grad()
def test_budgets_are_per_image_also_where_images_touch():
    tiny = tiny_llava_next()
    given = tiny.batch([[SQUARE, TALL, 4], [2, BANNER, 3]])
    with apply(tiny.model, "fastv(layer=1,keep=5)") as handle, handle.tracing() as traces:
        tiny.model(**given)
    image_BN, alive_BN = traces[0].layout.image_BN, traces[0].alive(1)
    assert [int((alive_BN[0] & (image_BN[0] == i)).sum()) for i in (0, 1)] == [5, 5]
    assert int(alive_BN[1].sum()) == 5


@torch.no_grad()
def test_closing_up_is_not_keeping():
    tiny = tiny_llava()
    given = tiny.batch(RAGGED[:1])
    logits = {}
    for policy in ("keep", "compact"):
        with apply(tiny.model, f"random(keep=0.25,position_policy={policy})"):
            logits[policy] = tiny.model(**given).logits[:, -1]
    assert gap(logits["keep"], logits["compact"]) > 1e-2


@torch.no_grad()
def test_a_prompt_with_closed_up_positions_is_the_prompt_without_the_rows():
    """No placeholders at all: the merged embeddings of the rows that live, as a prompt of their own."""
    tiny = tiny_llava()
    given = tiny.batch(RAGGED[:1])
    with apply(tiny.model, "random(keep=0.25,position_policy=compact)") as handle, handle.tracing() as traces:
        ours = tiny.model(**given).logits[0]
    stay = traces[0].alive(0)[0] | traces[0].layout.text_BN[0]
    embeds = tiny.model.get_input_embeddings()(given["input_ids"])
    features = torch.cat(
        tiny.model.model.get_image_features(given["pixel_values"], return_dict=True).pooler_output
    )
    embeds[tiny.visual(given)] = features
    theirs = tiny.model(inputs_embeds=embeds[:, stay]).logits[0]
    assert gap(ours[stay], theirs) < 1e-5


def test_positions_of_several_axes_cannot_close_up():
    tiny = tiny_qwen()
    with (
        pytest.raises(ValueError, match="position_policy=keep"),
        apply(tiny.model, "fastv(layer=1,keep=0.5,position_policy=compact)"),
    ):
        pass
    with apply(tiny.model, "pyramiddrop(layers=1/2,keep=0.5)") as handle, handle.tracing() as traces:
        tiny.model(**tiny.batch(RAGGED[:1]))
    assert not any(cut.compact for cut in traces[0].cuts)


FIRST = [[3, SQUARE, 2], [2, WIDE, 4], [5]]
SECOND = [[2, TALL, 1], [1, SQUARE, 2], [1, BANNER, 3]]


@pytest.mark.parametrize("family", [name for name in FACTORIES if stock_takes_new_images(name)])
@pytest.mark.parametrize(
    "spec",
    [
        "fastv(layer=1,keep=0.5)",
        "random(keep=0.5,position_policy=compact)+fastv(layer=2,keep=0.5,position_policy=compact)",
        "fastervlm(keep=0.4,share=image)+vtw(layer=2)",
    ],
)
def test_a_new_image_on_an_existing_cache(family, spec):
    """What the first turn dropped stays dropped; the second decides about its own rows alone."""
    tiny = FACTORIES[family](layers=3)
    spec = spec.replace(",position_policy=compact", "") if tiny.family == "qwen" else spec
    given = tiny.batch(FIRST, "left", seed=4)
    go = dict(max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True)
    with apply(tiny.model, spec) as handle, handle.tracing() as traces:
        said = tiny.model.generate(**given, **go)
        cached, full = next_turn(tiny, FIRST, given, said.sequences, SECOND)
        ours = tiny.model.generate(**cached, **go, past_key_values=said.past_key_values)
    first, second = (sets_of(trace) for trace in traces)
    sets = [
        _one_after_another(a, b, 3, tiny.visual(full).shape[1]) for a, b in zip(first, second, strict=True)
    ]
    whole = extend(full, ours.sequences)
    positions = {}
    if tiny.family != "qwen":
        positions["position_ids"] = (whole["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad(), rowwise(tiny.model, sets):
        theirs = tiny.model(**whole, use_cache=False, **positions).logits[:, full["input_ids"].shape[1] - 1 :]
    for step, logits in enumerate(ours.logits):
        assert gap(logits, theirs[:, step]) < 1e-5, f"step {step}"
    rows = [[s.alive_BN.sum(1).tolist() for s in sets] for sets in (first, second)]
    # The last token of the first answer is fed together with the second turn.
    assert kv_lengths(ours.past_key_values) == held_after(tiny.model.config, *rows, 6)


def _one_after_another(first: Sets, second: Sets, said: int, total: int) -> Sets:
    first = first.longer(said)
    assert first.alive_BN.shape[1] + second.alive_BN.shape[1] == total
    names = ("alive_BN", "query_BN", "ffn_BN")
    joined = [torch.cat([getattr(first, n), getattr(second, n)], 1) for n in names]
    if first.moved_BN is None and second.moved_BN is None:
        return Sets(*joined)
    assert first.moved_BN is not None and first.total_B1 is not None
    assert second.moved_BN is not None and second.total_B1 is not None
    moved = torch.cat([first.moved_BN, first.total_B1 + second.moved_BN], 1)
    return Sets(*joined, moved, first.total_B1 + second.total_B1)


@pytest.mark.parametrize("spec", ["fastv(layer=1,keep=0.5)", "pyramiddrop(layers=1/2,keep=0.5)"])
def test_a_cache_is_cropped_after_a_prompt_that_closed_up_and_not_within(spec):
    tiny = tiny_llava()
    given = tiny.batch(RAGGED[:1])
    with apply(tiny.model, spec), torch.no_grad():
        cache = tiny.model(**given, use_cache=True).past_key_values
        lengths = kv_lengths(cache)
        step = dict(input_ids=torch.tensor([[9, 11]]), past_key_values=cache)
        once = tiny.model(**step).logits
        cache.crop(-2)
        assert kv_lengths(cache) == lengths
        assert torch.equal(tiny.model(**step).logits, once)
        cache.crop(-2)
        if spec.startswith("pyramiddrop"):
            with pytest.raises(ValueError, match="cropped inside"):
                cache.crop(-4)


@pytest.mark.parametrize(
    "spec",
    [
        "skip_vision(retained=0.25,split=grid,cache=small)",
        "skip_vision(retained=0.5,split=grid,cache=small,layer=2)+vtw(layer=3)",
    ],
)
@torch.no_grad()
def test_a_cache_whose_rows_have_left_is_cropped_around_that_prompt_and_not_within(spec):
    tiny = tiny_llava()
    given = tiny.batch([[3, SQUARE, 5], [5, SQUARE, 3]])
    more = torch.tensor([[9, 11], [12, 13]])
    with apply(tiny.model, spec):
        prompt = tiny.model(**given, use_cache=True).past_key_values
        once = tiny.model(input_ids=more, past_key_values=prompt).logits
        prompt.crop(-2)
        assert torch.equal(tiny.model(input_ids=more, past_key_values=prompt).logits, once)
        prompt.crop(-2)
        held = kv_lengths(prompt)
        for cut in (1, 4, 9):  # Text after the image, of one sample alone, and rows of the image.
            with pytest.raises(ValueError, match="rows have left it"):
                prompt.crop(-cut)
            assert kv_lengths(prompt) == held and prompt.get_seq_length() == 24
        # Before the image of every sample nothing has left: what follows is a prompt of that text alone.
        prompt.crop(-22)
        start = {key: given[key][:, :2] for key in ("input_ids", "attention_mask")}
        want = tiny.model(input_ids=torch.cat([start["input_ids"], more], 1)).logits[:, 2:]
        got = tiny.model(input_ids=more, past_key_values=prompt).logits
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_sources_name_the_rows_that_survivors_are_made_of():
    tiny = tiny_llava()
    given = tiny.batch(RAGGED)
    with (
        apply(tiny.model, "fastv(layer=1,keep=0.5)+random(layer=2,keep=0.5)") as handle,
        handle.tracing() as traces,
    ):
        tiny.model(**given)
    trace = traces[0]
    for layer in range(4):
        sources = trace.sources(layer)
        assert torch.equal(sources.bool(), torch.diag_embed(trace.alive(layer)))
    with apply(tiny.model, "pool(factor=2)") as handle, handle.tracing() as traces:
        tiny.model(**given)
    sources, alive = traces[0].sources(0), traces[0].alive(0)
    assert int(alive[0].sum()) == 4
    rows_made = sources[0][alive[0]]
    assert torch.allclose(rows_made.sum(1), torch.ones(4)) and bool(((rows_made > 0).sum(1) == 4).all())


@torch.no_grad()
def test_half_precision_and_double_precision_decide_alike_where_scores_are_apart():
    base = tiny_llava(dtype=torch.float64)
    given = base.batch(RAGGED, seed=3)
    with apply(base.model, "fastv(layer=2,keep=4)") as handle, handle.tracing() as traces:
        base.model(**given)
    single = tiny_llava(dtype=torch.float32)
    given = single.batch(RAGGED, seed=3)
    with apply(single.model, "fastv(layer=2,keep=4)") as handle, handle.tracing() as again:
        single.model(**given)
    assert traces[0].kept(3) == again[0].kept(3)


def test_compiled_models_decide_as_the_eager_one():
    tiny = tiny_llava()
    given = tiny.batch(RAGGED)
    with torch.no_grad(), apply(tiny.model, "fastv(layer=1,keep=0.5)"):
        eager = tiny.model(**given).logits
        compiled = torch.compile(tiny.model, backend="eager")(**given).logits
    assert gap(compiled, eager, given["attention_mask"]) < 1e-6


def test_a_method_that_reads_places_does_not_follow_one_that_moves_contents():
    tiny = tiny_llava()
    given = tiny.batch(RAGGED[:1])
    for spec in ("pool(factor=2)+fastervlm(keep=2)", "visionzip(dominant=5,contextual=3)+uniform(keep=0.5)"):
        with apply(tiny.model, spec), pytest.raises(ValueError, match="write it first"):
            tiny.model(**given)
    with (
        apply(tiny.model, "fastervlm(keep=12)+pool(factor=2)+fastv(layer=1,keep=2)") as handle,
        handle.tracing() as traces,
    ):
        tiny.model(**given)
    assert [len(traces[0].kept(layer)[0]) for layer in (0, 1)][1] == 2
