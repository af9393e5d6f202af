"""Folders that are missing, half there or of something else: each is one line that names the file."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import saccade
from saccade import models
from saccade.cli.app import main
from saccade.inputs.samples import Sample
from saccade.opening import open_config
from support import folders
from support.models import FACTORIES

SHARD = "model-00003-of-00008.safetensors"


def bytes_of(folder, name, data):
    (folder / name).write_bytes(data)


def text_of(folder, name, text):
    (folder / name).write_text(text, encoding="utf-8")


def gone(folder, *names):
    for name in names:
        (folder / name).unlink()


def pickled(folder, data):
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    bytes_of(folder, "pytorch_model.bin", data)


def sizes(folder, **text):
    data = json.loads((folder / "config.json").read_text())
    folders.change(folder / "config.json", text_config=data["text_config"] | text)


DAMAGE = {
    "truncated shard": (
        lambda f: bytes_of(f, SHARD, (f / SHARD).read_bytes()[:-100]),
        rf"{SHARD} is damaged",
    ),
    "empty shard": (lambda f: bytes_of(f, SHARD, b""), rf"{SHARD} is empty"),
    "random shard": (lambda f: bytes_of(f, SHARD, bytes(range(256)) * 40), rf"{SHARD} is damaged"),
    "header too large": (
        lambda f: bytes_of(f, SHARD, struct.pack("<Q", 1 << 40) + b"{" * 64),
        rf"{SHARD} is damaged",
    ),
    "header is no JSON": (
        lambda f: bytes_of(f, SHARD, struct.pack("<Q", 64) + b"x" * 200),
        rf"{SHARD} is damaged",
    ),
    "pointer of Git LFS": (
        lambda f: bytes_of(f, SHARD, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        rf"{SHARD} is damaged \(.* a pointer of Git LFS",
    ),
    "missing shard": (lambda f: gone(f, SHARD), rf"{SHARD} is missing, though model.safetensors.index.json"),
    "no weights": (
        lambda f: [p.unlink() for p in f.glob("model*")],
        "has no weights: neither model.safetensors nor",
    ),
    "index cut": (
        lambda f: text_of(f, "model.safetensors.index.json", '{"weight_map": {"a'),
        r"model\.safetensors\.index\.json is not JSON",
    ),
    "index without a map": (
        lambda f: text_of(f, "model.safetensors.index.json", '{"metadata": {}}'),
        r"model\.safetensors\.index\.json is damaged",
    ),
    "no config": (lambda f: gone(f, "config.json"), "is not the folder of a model: it has no config.json"),
    "config cut": (lambda f: text_of(f, "config.json", '{"model_type": "lla'), r"config\.json is not JSON"),
    "config is a list": (lambda f: text_of(f, "config.json", "[1]"), r"config\.json is damaged"),
    "config is bytes": (lambda f: bytes_of(f, "config.json", b"\xff\xfe\x00"), r"config\.json is not JSON"),
    "config without a type": (
        lambda f: folders.change(f / "config.json", model_type=None),
        r"config\.json has no model_type",
    ),
    "a value of another type": (
        lambda f: sizes(f, num_hidden_layers="four"),
        r"config\.json: text_config\.num_hidden_layers: a whole number",
    ),
    "unknown model type": (
        lambda f: folders.change(f / "config.json", model_type="of_tomorrow"),
        r"cannot read .*config\.json: .*of_tomorrow",
    ),
    "another kind of model": (
        lambda f: text_of(f, "config.json", '{"model_type": "bert"}'),
        "no adapter for model type 'bert'",
    ),
    "one layer more than the weights": (
        lambda f: sizes(f, num_hidden_layers=5),
        r"does not give every tensor .*model\.language_model\.layers\.4\..* are missing, and would be random",
    ),
    "wider than the weights": (
        lambda f: sizes(f, intermediate_size=112),
        r"do not fit its config\.json: .*mlp.* is \(.*96.*\) in the file, and \(.*112.*\)",
    ),
    "no settings for pictures": (
        lambda f: gone(f, "preprocessor_config.json"),
        r"has a tokenizer but no preprocessor_config\.json",
    ),
    "only a tokenizer": (
        lambda f: gone(f, "preprocessor_config.json", "processor_config.json"),
        r"has a tokenizer but no preprocessor_config\.json",
    ),
    "no tokenizer": (lambda f: gone(f, "tokenizer.json"), "has no tokenizer: neither tokenizer.json"),
    "tokenizer cut": (
        lambda f: bytes_of(f, "tokenizer.json", (f / "tokenizer.json").read_bytes()[:500]),
        r"cannot read the tokenizer .*tokenizer\.json",
    ),
    "tokenizer that is a list": (
        lambda f: text_of(f, "tokenizer.json", "[]"),
        r"cannot read the tokenizer .*tokenizer\.json: it holds no JSON object",
    ),
    "tokenizer that is a folder": (
        lambda f: (gone(f, "tokenizer.json"), (f / "tokenizer.json").mkdir()),
        "has no tokenizer: neither tokenizer.json",
    ),
    "tokenizer of nothing": (
        lambda f: text_of(f, "tokenizer.json", "{}"),
        r"cannot read the tokenizer .*tokenizer\.json",
    ),
    "settings cut": (
        lambda f: text_of(f, "preprocessor_config.json", '{"size"'),
        r"preprocessor_config\.json is not JSON",
    ),
    "processor settings cut": (
        lambda f: text_of(f, "processor_config.json", "{,}"),
        r"processor_config\.json is not JSON",
    ),
    "generation settings cut": (
        lambda f: text_of(f, "generation_config.json", ""),
        r"generation_config\.json is not JSON",
    ),
    "broken chat template": (
        lambda f: text_of(f, "chat_template.jinja", "{% for m in messages %}{{ m['role'"),
        r"the chat template in .*chat_template\.jinja is broken",
    ),
    "special tokens cut": (
        lambda f: text_of(f, "special_tokens_map.json", '{"bos'),
        r"special_tokens_map\.json is not JSON",
    ),
    "added tokens that are a list": (
        lambda f: text_of(f, "added_tokens.json", "[]"),
        r"added_tokens\.json is damaged",
    ),
    "random pickle": (
        lambda f: pickled(f, bytes(range(256)) * 40),
        r"pytorch_model\.bin: it holds something",
    ),
    "empty pickle": (lambda f: pickled(f, b""), r"cannot read .*pytorch_model\.bin"),
    "unknown picture part": (
        lambda f: folders.change(f / "preprocessor_config.json", size="large"),
        r"preprocessor_config\.json: size: a whole number of pixels",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_line_that_names_the_file(name, copy):
    harm, said = DAMAGE[name]
    harm(copy)
    with pytest.raises(ValueError, match=said) as caught:
        saccade.load(str(copy), device="cpu")
    assert (
        "\n" not in str(caught.value) and str(copy) in str(caught.value)
    ) or name == "another kind of model"


@pytest.mark.parametrize("name", ["truncated shard", "one layer more than the weights", "only a tokenizer"])
@pytest.mark.parametrize("command", ["generate", "calibrate", "eval"])
def test_the_commands_say_it_in_one_line_with_exit_code_2(name, command, copy, capfd, tmp_path):
    harm, _ = DAMAGE[name]
    harm(copy)
    words = {
        "generate": ["--question", "w3"],
        "calibrate": ["--task", "count", "--samples", "1", "--out", str(tmp_path / "plan.json")],
        "eval": ["--task", "count", "--samples", "1"],
    }
    assert main([command, str(copy), *words[command], "--device", "cpu"]) == 2
    said = capfd.readouterr().err.strip()
    assert said.startswith("saccade: error: ") and "\n" not in said, said


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_that_are_not_finite_are_named(value, dtype, copy):
    for shard in sorted(copy.glob("*.safetensors")):
        tensors = {name: tensor.to(dtype) for name, tensor in load_file(shard).items()}
        for name, tensor in tensors.items():
            if name.endswith("layers.2.mlp.down_proj.weight") and "language" in name:
                tensor[3, 5] = value
        save_file(tensors, shard, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"are not finite numbers: .*layers\.2\.mlp\.down_proj\.weight$"):
        saccade.load(str(copy), device="cpu")


def test_tensors_that_nobody_asks_for_do_no_harm(copy):
    shard = copy / SHARD
    tensors = load_file(shard) | {"model.extra.weight": torch.ones(3)}
    save_file(tensors, shard, metadata={"format": "pt"})
    index = json.loads((copy / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.extra.weight"] = SHARD
    folders.put(copy / "model.safetensors.index.json", index)
    assert saccade.load(str(copy), device="cpu").shape.layers == 4


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "llava-llama"])
def test_a_head_that_is_tied_to_the_embeddings_is_not_missing(name, tmp_path):
    tiny = FACTORIES[name]()
    tiny.model.config.tie_word_embeddings = True
    tiny.model.config.get_text_config().tie_word_embeddings = True
    tiny.model.tie_weights()
    tiny.model.lm_head.weight = tiny.model.get_input_embeddings().weight
    folder = folders.write(tmp_path / "tied", name, tiny)
    loaded = saccade.load(str(folder), device="cpu")
    assert loaded.model.lm_head.weight.data_ptr() == loaded.model.get_input_embeddings().weight.data_ptr()


def test_an_adapter_alone_says_how_it_is_opened(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds an adapter alone: open the model it was made for with"):
        saccade.load(str(tmp_path))


def test_an_empty_folder_and_one_too_high_are_told(whole, tmp_path):
    with pytest.raises(ValueError, match="is empty; the folder of a model holds"):
        saccade.load(str(tmp_path))
    with pytest.raises(ValueError, match=rf"has no config\.json; perhaps you mean .*{whole.name}"):
        saccade.load(str(whole.parent))
    with pytest.raises(ValueError, match=r"has no config\.json"):
        open_config(str(whole.parent))


@pytest.mark.parametrize("marks", [0, 2])
def test_a_chat_template_with_other_marks_than_pictures_is_told(marks, copy):
    text_of(copy, "chat_template.jinja", "<image> " * marks + "w3 w4")
    loaded = saccade.load(str(copy), device="cpu")
    sample = Sample("a", "t", "", (Image.new("RGB", (32, 32)),), "what ?", "")
    with pytest.raises(
        ValueError, match=r"does not take this prompt .*chat template fit each other"
    ) as refusal:
        models.inputs(loaded, [sample])
    assert "\n" not in str(refusal.value) and str(copy) in str(refusal.value)
