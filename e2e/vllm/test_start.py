"""What an engine is refused for at its start, in one line; nothing is loaded for it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from vllm.config import CUDAGraphMode
from vllm.engine.arg_utils import EngineArgs

from saccade.families import find
from saccade.plans.plan import Plan
from saccade.vllm.environment import VARIABLE
from saccade.vllm.inside.asked import KEY, work_for
from saccade.vllm.inside.metadata import Noted, watch


@pytest.fixture
def folder(references):
    return references("llava").folder


def config(folder, plan=None, **settings):
    """The configuration of an engine, as the command line makes it."""
    overrides = {} if plan is None else {"hf_overrides": {"saccade": plan}}
    return EngineArgs(model=str(folder), max_model_len=256, **overrides, **settings).create_engine_config()


def refused(match, *args, **settings):
    with pytest.raises(ValueError, match=match) as refusal:
        config(*args, **settings)
    assert str(refusal.value).strip().count("\n") == 0 or "Value error" in str(refusal.value)


def test_a_plan_is_the_same_by_option_by_file_and_by_environment(folder, tmp_path, monkeypatch):
    Plan.of("vskip(layers=1-2)").save(tmp_path / "plan.json")
    found = [config(folder, "vskip(layers=1-2)"), config(folder, str(tmp_path / "plan.json"))]
    for said in ("vskip(layers=1-2)", str(tmp_path / "plan.json")):
        monkeypatch.setenv(VARIABLE, said)
        found.append(config(folder))
    works = [work_for(one.model_config) for one in found]
    assert {work.plan.spec for work in works} == {"vskip(layers=1-2)"}
    # Other processes get the plan itself, wherever the file may lie.
    assert all(isinstance(getattr(one.model_config.hf_config, KEY), dict) for one in found)


def test_without_a_plan_there_is_none(folder):
    assert work_for(config(folder).model_config) is None


def test_the_option_counts_where_the_environment_says_a_plan_too(folder, monkeypatch):
    monkeypatch.setenv(VARIABLE, "vskip(layers=1)")
    assert work_for(config(folder, "shortv(layers=2)").model_config).plan.spec == "shortv(layers=2)"


@pytest.mark.parametrize(
    ("plan", "match"),
    [
        ("nosuch(layers=1)", "no method 'nosuch'"),
        ("vskip(layers=9)", "layer 9"),
        ("fastv(layer=2)", "decides inside the decoder"),
        ("prumerge()", "layer of the vision tower that reads"),
        ("nosuch.json", "no such file: nosuch.json"),
        ("  ", "is empty"),
        (7, "a plan file or a spec string"),
    ],
)
def test_plans_that_cannot_be_served(folder, plan, match):
    refused(match, folder, plan)


def test_a_plan_of_another_model_is_refused(folder, tmp_path):
    loaded = find(config(folder).model_config.hf_config)
    shape = loaded.fingerprint(config(folder).model_config.hf_config)
    shape["text"] = {**shape["text"], "layers": 7}
    Plan(Plan.of("vskip(layers=1)").methods, model=shape).save(tmp_path / "plan.json")
    refused("made for another model", folder, str(tmp_path / "plan.json"))


@pytest.mark.parametrize(
    ("plan", "settings", "match"),
    [
        ("vtw(layer=2)", {"enable_prefix_caching": True}, "--no-enable-prefix-caching"),
        (
            "vtw(layer=2)",
            {"enable_prefix_caching": False, "kv_offloading_size": 1.0},
            "--kv-offloading-size",
        ),
        ("random(keep=0.5)", {"kv_offloading_size": 1.0}, "--kv-offloading-size"),
        ("vskip(layers=1)", {"enable_prompt_embeds": True}, "--enable-prompt-embeds"),
        ("vskip(layers=1)", {"enable_lora": True}, "--enable-lora"),
        ("vskip(layers=1)", {"kv_cache_dtype": "fp8"}, "--kv-cache-dtype"),
        ("vskip(layers=1)", {"model_impl": "transformers"}, "transformers|serves no plan"),
        ("resize(scale=0.5)", {}, "pictures of one size"),
    ],
)
def test_settings_that_do_not_fit(folder, plan, settings, match):
    refused(match, folder, plan, **settings)


def test_graphs_that_break_at_attention_are_refused_however_they_are_asked_for(folder, monkeypatch):
    monkeypatch.setenv("VLLM_USE_BREAKABLE_CUDAGRAPH", "1")
    refused("VLLM_USE_BREAKABLE_CUDAGRAPH", folder, "vskip(layers=1)")
    config(folder, "vskip(layers=1)", enforce_eager=True)


@pytest.mark.parametrize(
    ("part", "name", "value", "match"),
    [
        ("compilation_config", "cudagraph_mode", CUDAGraphMode.FULL_DECODE_ONLY, "whole CUDA graphs"),
        ("cache_config", "cache_dtype", "fp8", "--kv-cache-dtype"),
        ("cache_config", "enable_prefix_caching", True, "--no-enable-prefix-caching"),
    ],
)
def test_what_vllm_settles_after_the_look_is_refused_where_the_model_is_made(
    folder, part, name, value, match
):
    from saccade.vllm.inside.models import PlannedLlava

    made = config(folder, "vtw(layer=2)", enable_prefix_caching=False)
    setattr(getattr(made, part), name, value)
    with pytest.raises(ValueError, match=match):
        PlannedLlava(vllm_config=made)


def test_an_architecture_that_runs_no_plans_is_refused(tmp_path, monkeypatch):
    import transformers as T

    from support.models import _sizes
    from support.processors import tokenizer

    text = T.LlamaConfig(**_sizes(2, 2, True), architectures=["LlamaForCausalLM"])
    text.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    refused("serves no plan on LlamaForCausalLM", tmp_path, "vskip(layers=1)")
    monkeypatch.setenv(VARIABLE, "vskip(layers=1)")
    refused("serves no plan on LlamaForCausalLM", tmp_path)
    monkeypatch.delenv(VARIABLE)
    config(tmp_path)


def test_another_vllm_is_refused_with_the_range_named(folder, monkeypatch):
    from saccade.vllm.inside import asked

    monkeypatch.setattr(asked, "__version__", "0.33.1")
    refused(r"0\.32\.x .*this is 0\.33\.1", folder, "vskip(layers=1)")
    config(folder)


def processor_of(folder, plan):
    from vllm.multimodal import MULTIMODAL_REGISTRY

    return MULTIMODAL_REGISTRY.create_processor(
        config(folder, plan, enable_prefix_caching=False).model_config
    )


def made(processor, text, images, **asked):
    from vllm.multimodal.processing import ProcessorInputs, TimingContext

    items = processor.info.parse_mm_data({"image": list(images)})
    ids = processor.info.get_tokenizer().encode(text)
    given = ProcessorInputs(ids, items, hf_processor_mm_kwargs=asked)
    return processor.apply(given, TimingContext(enabled=False))


def test_prompts_have_as_many_placeholders_as_rows_are_kept_and_names_of_their_plan(folder):
    from e2e.vllm.support import picture

    images = [picture(0, (24, 24)), picture(1, (48, 24))]
    found = {}
    for plan in (None, "vskip(layers=1)", "divprune(keep=5)", "pool(factor=2)"):
        one = made(processor_of(folder, plan), "w1 <image> w2 <image> w3", images)
        spans = one["mm_placeholders"]["image"]
        found[plan] = [span.length for span in spans], one["mm_hashes"]["image"]
    assert [lengths for lengths, _ in found.values()] == [[16, 16], [16, 16], [5, 5], [4, 4]]
    names = [name for _, hashes in found.values() for name in hashes]
    assert len(set(names)) == len(names)


def test_prompts_that_a_plan_cannot_serve_are_refused_alone(folder):
    from e2e.vllm.support import picture

    with pytest.raises(ValueError, match="put text after it"):
        made(processor_of(folder, "vtw(layer=2)"), "w1 <image>", [picture(0, (24, 24))])
    with pytest.raises(ValueError, match="leaves no row of a picture"):
        made(processor_of(folder, "divprune(keep=0)"), "w1 <image> w2", [picture(0, (24, 24))])


def test_smaller_pictures_make_shorter_prompts(references):
    from e2e.vllm.support import picture

    folder, shown = references("qwen2_5_vl").folder, picture(0, (96, 96))
    pixels = np.asarray(shown)
    # The processor's own limit is 48 x 48 pixels; a row is 8 x 8.
    less, more = ({"size": {"shortest_edge": 64, "longest_edge": side**2}} for side in (32, 96))
    asked = {"own": {}, "less": less, "more": {"images_kwargs": more}}
    forms = {"array": pixels, "tensor": torch.from_numpy(pixels.copy()).permute(2, 0, 1)}
    rows = {}
    for plan in (None, "resize(scale=0.5)"):
        processor = processor_of(folder, plan)

        def count(image, processor=processor, **own):
            one = made(processor, "w1 <|image_pad|> w2", [image], **own)
            return one["mm_placeholders"]["image"][0].length

        rows[plan] = {name: count(shown, **own) for name, own in asked.items()}
        rows[plan] |= {name: count(image) for name, image in forms.items()}
    assert rows == {
        None: {"own": 36, "less": 16, "more": 144, "array": 36, "tensor": 36},
        "resize(scale=0.5)": {"own": 9, "less": 4, "more": 36, "array": 9, "tensor": 9},
    }
    with pytest.raises(ValueError, match="have to come as pictures"):
        count(pixels / 255.0)


class Told:
    """A builder that can share what it built."""

    supports_update_block_table = True


@pytest.mark.parametrize(
    ("window", "own", "name", "match"),
    [
        (4096, False, "CPUAttentionBackend", "no window alone"),
        (None, True, "CPUAttentionBackend", "writes K and V"),
        (None, False, "FlashInferBackend", "TOLD .*FlashInferBackend.* --attention-backend"),
        (None, False, "AiterFlashAttentionBackend", "one set of rows at a time"),
        (None, False, "CPUAttentionBackend", None),
        (None, False, "FlashAttentionBackend", None),
    ],
)
def test_attention_that_is_not_known_is_refused(window, own, name, match):
    says = {"forward_includes_kv_cache_update": own, "get_name": lambda: "TOLD"}
    Backend = type(name, (), {**says, "get_builder_cls": lambda: Told})

    attentions = [SimpleNamespace(attn_backend=Backend, sliding_window=window) for _ in range(2)]
    if match is None:
        watch(attentions, Noted())
        made = attentions[0].attn_backend
        assert made is attentions[1].attn_backend is not Backend
        # Every group of layers has its own note, so its metadata is built and not taken over from another.
        assert made.get_builder_cls().supports_update_block_table is False
        return
    with pytest.raises(ValueError, match=match):
        watch(attentions, Noted())


def test_the_plan_reaches_json(folder):
    assert json.dumps(getattr(config(folder, "vskip(layers=1)").model_config.hf_config, KEY))
    assert torch.get_default_dtype() == torch.float32
