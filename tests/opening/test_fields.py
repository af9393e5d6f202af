"""Settings of the right type that no model can have: one line names the file and the field, in seconds."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import saccade
from opening.test_damage import sizes, text_of
from rehearsal.checkpoint import every
from saccade.cli.app import main
from saccade.opening import agree, fields, templates
from saccade.opening.fields import check_fields

ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}"
SECONDS = 8
"""Longest time for a refusal; on a quiet machine the slowest takes 3 s."""


def config(folder, **settings):
    data = json.loads((folder / "config.json").read_text()) | settings
    (folder / "config.json").write_text(json.dumps(data))


def part(name):
    def change(folder, **settings):
        data = json.loads((folder / "config.json").read_text())
        config(folder, **{name: data[name] | settings})

    return change


def other(name):
    def change(folder, **settings):
        data = json.loads((folder / name).read_text()) | settings
        (folder / name).write_text(json.dumps(data))

    return change


text, vision = part("text_config"), part("vision_config")
pictures, processor = other("preprocessor_config.json"), other("processor_config.json")
answers = other("generation_config.json")


def rope(**settings):
    return lambda f: text(f, rope_parameters={"rope_type": "default", "rope_theta": 1e4} | settings)


def retyped(folder, dtype):
    for shard in folder.glob("*.safetensors"):
        found = {name: (tensor * 10).to(dtype) for name, tensor in load_file(shard).items()}
        save_file(found, shard, metadata={"format": "pt"})


NONSENSE = {
    "a norm's epsilon that is no number": (
        lambda f: text(f, rms_norm_eps=math.nan),
        r"config\.json: text_config\.rms_norm_eps: nan is not a number",
    ),
    "a negative epsilon": (
        lambda f: vision(f, layer_norm_eps=-1e-5),
        r"vision_config\.layer_norm_eps: a number",
    ),
    "a base of positions of 0": (rope(rope_theta=0), r"config\.json: .*rope_theta: a number above 0"),
    "positions that are divided by 0": (
        rope(rope_type="linear", factor=0),
        r"rope\w+\.factor: a number above 0",
    ),
    "positions that run backwards": (
        rope(rope_type="linear", factor=-1),
        r"rope\w+\.factor: a number above 0",
    ),
    "a base of positions without end": (rope(rope_theta=1e300), r"rope_theta: .* at most 1e15"),
    "heads that turn five times": (
        rope(rope_type="linear", factor=2.0, partial_rotary_factor=5),
        r"partial_rotary_factor: a share",
    ),
    "a penalty of 0": (
        lambda f: answers(f, repetition_penalty=0),
        r"generation_config\.json: repetition_pen",
    ),
    "a forced end that is a word": (
        lambda f: answers(f, forced_eos_token_id="x"),
        r"generation_config\.json: forced_eos_token_id: the number of a token",
    ),
    "positions of an unknown kind": (
        rope(rope_type="zzz"),
        r"config\.json: .*rope_type: no 'zzz'; there are ",
    ),
    "no layers": (lambda f: text(f, num_hidden_layers=0), r"text_config\.num_hidden_layers: a whole number"),
    "negative layers": (
        lambda f: text(f, num_hidden_layers=-1),
        r"text_config\.num_hidden_layers: .* got -1",
    ),
    "far too many layers": (
        lambda f: text(f, num_hidden_layers=10**5),
        r"text_config\.num_hidden_layers: .* 10,000 is needed, got 100000",
    ),
    "more layers than tensors": (
        lambda f: text(f, num_hidden_layers=9000),
        r"text_config\.num_hidden_layers: 9000 layers, but there are \d+ tensors",
    ),
    "no heads": (lambda f: text(f, num_attention_heads=0), r"text_config\.num_attention_heads: .* got 0"),
    "heads that do not divide the width": (
        lambda f: vision(f, num_attention_heads=5),
        r"config\.json: .*hidden size \(32\) is not a multiple of the number of attention heads \(5\)",
    ),
    "heads that cannot be shared": (
        lambda f: text(f, num_key_value_heads=3),
        r"config\.json: text_config\.num_key_value_heads: 4 attention heads cannot share 3 evenly",
    ),
    "a width of 10^12": (
        lambda f: text(f, hidden_size=10**12),
        r"text_config\.hidden_size: .* 2,147,483,647",
    ),
    "a vocabulary of 10^9": (
        lambda f: text(f, vocab_size=10**9),
        r"config\.json does not describe these weights: .* \(text_config\.vocab_size 1000000000",
    ),
    "a width of a million": (
        lambda f: text(f, intermediate_size=10**6),
        r"config\.json does not describe these weights: .* \(text_config\.intermediate_size 1000000",
    ),
    "no part for text": (lambda f: config(f, text_config=None), r"config\.json: text_config: an object"),
    "a part that is a list": (lambda f: config(f, text_config=[]), r"config\.json: text_config: an object"),
    "a part that is a word": (lambda f: config(f, vision_config="x"), r"vision_config: an object .*got 'x'"),
    "an unknown activation": (
        lambda f: text(f, hidden_act="zzz"),
        r"text_config\.hidden_act: the name of an act",
    ),
    "an unknown data type": (
        lambda f: config(f, dtype="float99"),
        r"config\.json: dtype: the name of a data type",
    ),
    "a state beyond the tower": (
        lambda f: config(f, vision_feature_layer=99),
        r"config\.json: vision_feature_layer: 99 is no state of a vision tower of 2 layers \(-3 to 2\)",
    ),
    "a state beyond the tower among others": (
        lambda f: config(f, vision_feature_layer=[-1, -9]),
        r"config\.json: vision_feature_layer: .*-9",
    ),
    "a picture's token beyond the vocabulary": (
        lambda f: config(f, image_token_index=999_999, image_token_id=999_999),
        r"config\.json: image_token_(index|id): token 999999 is beyond the 128 of text_config\.vocab_size",
    ),
    "a negative token": (
        lambda f: config(f, image_token_index=-1),
        r"config\.json: image_token_index: the number",
    ),
    "another token than the tokenizer's": (
        lambda f: config(f, image_token_index=20, image_token_id=20),
        r"config\.json: the token of a picture is 20, but the tokenizer writes '<image>' as \d+",
    ),
    "patches of 0": (
        lambda f: processor(f, patch_size=0),
        r"processor_config\.json: patch_size: a whole number",
    ),
    "patches of another size": (
        lambda f: processor(f, patch_size=16),
        r"processor_config\.json: patch_size: 16 does not go with 8 by .*config\.json",
    ),
    "a tower's patches of 0": (
        lambda f: vision(f, patch_size=0),
        r"vision_config\.patch_size: a whole number",
    ),
    "a picture's side of a million": (
        lambda f: pictures(f, size={"shortest_edge": 10**6}),
        r"preprocessor_config\.json: size\.shortest_edge: a whole number .* 1 to 32,768 is needed",
    ),
    "a negative side": (lambda f: pictures(f, size={"shortest_edge": -5}), r"size\.shortest_edge: .* got -5"),
    "no spread of colours": (lambda f: pictures(f, image_std=[0, 0, 0]), r"image_std\[0\]: a number above 0"),
    "one mean of colours that is no number": (
        lambda f: pictures(f, image_mean=[0.5, math.inf, 0.5]),
        r"preprocessor_config\.json: image_mean\[1\]: inf is not a number",
    ),
    "an end of answers that is a word": (
        lambda f: answers(f, eos_token_id="x"),
        r"generation_config\.json: eos_token_id: the number of a token, or a list of such",
    ),
    "a quantisation whose width is not said": (
        lambda f: config(f, quantization_config={"quant_method": "bitsandbytes"}),
        r"config\.json: quantization_config\.quant_method: no 'bitsandbytes'",
    ),
    "a quantisation of another name": (
        lambda f: config(f, quantization_config={"quant_method": "zzz"}),
        r"config\.json: quantization_config\.quant_method: no 'zzz'",
    ),
    "a quantisation that is a word": (
        lambda f: config(f, quantization_config="x"),
        r"config\.json: quantization_config: an object",
    ),
    "whole numbers that nobody says how to read": (
        lambda f: retyped(f, torch.int8),
        r"config\.json has no quantization_config, but .* is I8 in the weights",
    ),
    "weights of nothing": (
        lambda f: [
            save_file({k: torch.zeros_like(v) for k, v in load_file(s).items()}, s, metadata={"format": "pt"})
            for s in f.glob("*.safetensors")
        ],
        "every number of the weights in .* is 0",
    ),
    "a template without an end": (
        lambda f: text_of(f, "chat_template.jinja", ENDLESS),
        r"chat_template\.jinja is broken: it had not come to an end after",
    ),
    "a template without measure": (
        lambda f: text_of(f, "chat_template.jinja", "{{ 'x' * 10**11 }}"),
        r"chat_template\.jinja is broken: it wants more than 1,024 MiB",
    ),
    "a template without an end for pictures": (
        lambda f: text_of(
            f, "chat_template.jinja", "{% if messages[0].content|length > 1 %}" + ENDLESS + "{% endif %}"
        ),
        r"chat_template\.jinja is broken: it had not come to an end after",
    ),
    "an index that names no file": (
        lambda f: other("model.safetensors.index.json")(f, weight_map={}),
        r"model\.safetensors\.index\.json is damaged: its weight_map",
    ),
    "an index that names the folder": (
        lambda f: other("model.safetensors.index.json")(f, weight_map={"a": "."}),
        "is not whole",
    ),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_one_line_that_names_file_and_field_at_once(name, copy, monkeypatch):
    harm, said = NONSENSE[name]
    harm(copy)
    monkeypatch.setattr(templates, "LONGEST_S", 0.2)
    start = time.process_time()
    with pytest.raises(ValueError, match=said) as caught:
        saccade.load(str(copy), device="cpu")
    assert time.process_time() - start < SECONDS
    assert "\n" not in str(caught.value) and str(copy) in str(caught.value)


def test_a_command_says_it_with_exit_code_2(copy, capfd):
    text(copy, rms_norm_eps=math.nan)
    assert main(["generate", str(copy), "--question", "w3", "--device", "cpu"]) == 2
    told = capfd.readouterr().err.strip()
    assert told.startswith("saccade: error: ") and "rms_norm_eps" in told and "\n" not in told


def test_the_hubs_own_settings_pass():
    """Files as the hub has them, at their real sizes."""
    looked_at = 0
    for one in every().values():
        for file, data in one.files.items():
            check_fields(Path(file), data)
            looked_at += 1
    assert looked_at > 8


def test_a_field_is_known_by_its_whole_name():
    """What only ends or begins like a known field is not asked about."""
    odd = {
        "chunk_size_feed_forward": 0,
        "num_hidden_layers_of_old": -1,
        "max_window_layers": 0,
        "pad_size": 0,
    }
    check_fields(Path("config.json"), odd | {"text_config": odd, "sliding_window": None})


def test_every_meaning_refuses_something_and_takes_something():
    taken = {"hidden_act": "silu", "dtype": "float32", "downsample_ratio": 0.5, "rms_norm_eps": 1e-6}
    for meaning in fields.MEANINGS:
        assert not meaning.holds("") and not meaning.holds({}) and not meaning.holds(True)
        assert any(meaning.holds(value) for value in (*taken.values(), 1))


def test_a_template_that_ends_in_time_is_left_alone(copy):
    text_of(
        copy, "chat_template.jinja", "{% for a in range(2000) %}{% endfor %}<image>{{ messages[0].role }}"
    )
    loaded = saccade.load(str(copy), device="cpu")
    assert (
        saccade.models.prompt(loaded, saccade.inputs.samples.Sample("q", "t", "", (), "w3")) == "<image>user"
    )


def test_the_bits_of_number_formats():
    assert [agree._bits(kind) for kind in ("F32", "BF16", "F8_E4M3", "I8", "U8", "BOOL")] == [
        32,
        16,
        8,
        8,
        8,
        8,
    ]


def test_sizes_between_are_told_by_name(copy):
    sizes(copy, intermediate_size=112)
    with pytest.raises(ValueError, match=r"do not fit its config\.json: .*mlp"):
        saccade.load(str(copy), device="cpu")


def test_a_template_is_given_its_time_also_where_the_machine_is_busy():
    """What counts is what the template's own code computes: here it waits, as behind other programs."""
    waiting = compile("sleep(0.1)\nfor _ in range(3): pass", templates.WRITTEN, "exec")
    with templates.bounded(0.05):
        exec(waiting, {"sleep": time.sleep})
    with pytest.raises(templates.Endless), templates.bounded(0.05):
        exec(compile("while True:\n    x = 1\n    x = 2", templates.WRITTEN, "exec"), {})


@pytest.mark.parametrize(
    "said",
    [
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False},
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
        {"load_in_8bit": True},
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "awq", "bits": 4},
        {"quant_method": "compressed-tensors"},
        {"quant_method": "fp8"},
        {"quant_method": "torchao"},
    ],
    ids=str,
)
def test_quantisations_that_the_hub_has_pass(said):
    agree.check_quantisation(Path("config.json"), said)
