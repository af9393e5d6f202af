"""Processors of folders as the hub has them: their parts, names of before, what the files leave out."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
import transformers as T
from PIL import Image
from transformers.models.auto.image_processing_auto import AutoImageProcessor

import saccade
from saccade import models
from saccade.inputs.samples import Sample
from saccade.opening import open_processor
from saccade.opening.processor import NAMED_IN
from saccade.system.environment import matching_torchvision
from support import folders

NAMES = tuple(folders.FILES)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    made = {}

    def write(name):
        if name not in made:
            made[name] = folders.write(tmp_path_factory.mktemp("hub") / name, name)
        return made[name]

    return write


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(processor, text="w3 <image> w4", images=None):
    token = getattr(processor, "image_token", "<image>")
    return processor(
        text=[text.replace("<image>", token)], images=images or [picture(30, 40)], return_tensors="pt"
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_family_answers_about_two_pictures_of_different_sizes(name, written):
    loaded = saccade.load(str(written(name)), device="cpu")
    assert type(loaded.processor.image_processor).__name__.endswith("Pil")
    samples = [
        Sample("two", "t", "", (picture(30, 40), picture(50, 20, 1)), "w3 w4"),
        Sample("none", "t", "", (), "w3 w4"),
    ]
    batch = models.inputs(loaded, samples)
    with torch.no_grad():
        features = loaded.model.model.get_image_features(
            **{
                k: v
                for k, v in batch.items()
                if k not in ("input_ids", "attention_mask", "mm_token_type_ids")
            }
        )
    rows = sum(f.reshape(-1, f.shape[-1]).shape[0] for f in features.pooler_output)
    assert int(loaded.family.visual_mask(loaded.model, batch["input_ids"]).sum()) == rows > 0
    with saccade.apply(loaded.model, "fastv(layer=2,keep=0.5)"):
        made = loaded.model.generate(**batch, max_new_tokens=2, do_sample=False)
    assert made.shape[0] == 2


@pytest.mark.parametrize("name", NAMES)
def test_the_parts_are_those_that_stock_classes_make(name, written):
    folder = written(name)
    processor = open_processor(str(folder))
    own = AutoImageProcessor.from_pretrained(folder, backend="pil")
    named = json.loads((folder / "preprocessor_config.json").read_text())["processor_class"]
    assert type(processor).__name__ == named and isinstance(processor, getattr(T, named))
    assert processor.image_processor.to_dict() == own.to_dict()
    assert processor.tokenizer.get_vocab() == T.AutoTokenizer.from_pretrained(folder).get_vocab()


@pytest.mark.parametrize("name", ["llava_onevision", "internvl-qwen2", "qwen3_vl"])
def test_a_saved_processor_comes_back_with_its_settings_for_videos(name, written, tmp_path):
    processor = open_processor(str(written(name)))
    processor.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes((written(name) / "config.json").read_bytes())
    again = open_processor(str(tmp_path))
    assert again.to_dict() == processor.to_dict()
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    stock = json.loads((written(name) / "preprocessor_config.json").read_text())
    assert saved["processor_class"] == stock["processor_class"]
    own = written(name) / "video_preprocessor_config.json"
    if own.exists():
        assert saved["video_processor"] == json.loads(own.read_text())
    first, second = encoded(processor), encoded(again)
    assert torch.equal(first["pixel_values"], second["pixel_values"])


@pytest.mark.parametrize("name", ["llava_onevision", "internvl-qwen2", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_a_video_without_torchvision_says_what_to_install(name, written):
    processor = open_processor(str(written(name)))
    video = torch.zeros(2, 3, 24, 24, dtype=torch.uint8)
    with pytest.raises(ValueError, match="videos need torchvision: pip install 'torchvision==0"):
        processor(text=[f"w3 {processor.video_token} w4"], videos=[video], return_tensors="pt")


@pytest.mark.parametrize("name", ["mistral3", "llava-llama"])
def test_a_processor_that_is_not_there_without_torchvision_says_so(name, tmp_path):
    """By the model's type, and by name in files of a type whose own processor would be there (Pixtral's)."""
    folder = folders.write(tmp_path / name, name)
    for path in map(folder.joinpath, NAMED_IN):
        if path.exists():
            path.write_text(
                json.dumps(json.loads(path.read_text()) | {"processor_class": "PixtralProcessor"})
            )
    with pytest.raises(
        ValueError, match=r"\(PixtralProcessor\) needs torchvision: pip install 'torchvision==0"
    ):
        open_processor(str(folder))


@pytest.mark.parametrize("named", [True, False])
def test_pictures_that_torchvision_alone_reads_say_so(named, tmp_path):
    """By the name in the files, and by the model's type where they name no class."""
    folder = folders.write(tmp_path / "lfm2_vl", "lfm2_vl")
    if not named:
        folders.change(folder / "preprocessor_config.json", image_processor_type=None)
    with pytest.raises(ValueError, match=r"needs torchvision: pip install 'torchvision==0"):
        open_processor(str(folder))


def test_the_matching_torchvision_follows_torch(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.13.0+cpu")
    assert matching_torchvision() == "'torchvision==0.28.*'"
    monkeypatch.setattr(torch, "__version__", "2.11.1")
    assert matching_torchvision() == "'torchvision==0.26.*'"


OLD = {
    "qwen2_vl": ("Qwen2VLImageProcessor", "Qwen2VLImageProcessorFast", "Qwen2VLImageProcessorPil"),
    "qwen2_5_vl": ("Qwen2_5_VLImageProcessor", "Qwen2VLImageProcessorFast", "NameOfAnotherTime", None),
    "qwen3_vl": ("Qwen2VLImageProcessor", "Qwen3VLImageProcessor"),
    "internvl-qwen2": ("GotOcr2ImageProcessor", "InternVLImageProcessor"),
    "llava-llama": ("CLIPImageProcessorFast", "LlavaImageProcessor", "CLIPFeatureExtractor"),
}


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kinds in OLD.items() for kind in kinds])
def test_names_of_other_releases_open_the_same_picture_part(name, kind, written, tmp_path):
    folder = folders.again(written(name), tmp_path / "model")
    folders.change(folder / "preprocessor_config.json", image_processor_type=kind)
    was, found = open_processor(str(written(name))), open_processor(str(folder))
    one, other = encoded(was), encoded(found)
    assert torch.equal(one["pixel_values"], other["pixel_values"])
    assert torch.equal(one["input_ids"], other["input_ids"])


@pytest.mark.parametrize("named", ["nowhere", "NoSuchProcessor"])
@pytest.mark.parametrize("name", ["llava-llama", "qwen2_5_vl", "internvl-qwen2"])
def test_the_model_type_decides_where_no_file_names_a_known_processor(name, named, written, tmp_path):
    folder = folders.again(written(name), tmp_path / "model")
    for file in ("preprocessor_config.json", "processor_config.json", "tokenizer_config.json"):
        if (folder / file).exists():
            folders.change(folder / file, processor_class=None if named == "nowhere" else named)
    assert type(open_processor(str(folder))).__name__ == type(open_processor(str(written(name)))).__name__


@pytest.mark.parametrize("name", ["llava-llama", "llava_next-mistral", "llava_onevision", "internvl-qwen2"])
@pytest.mark.parametrize("left", ["no file", "nulls", "the first key alone"])
def test_what_processor_config_leaves_out_comes_from_the_configuration(name, left, written, tmp_path):
    folder = folders.again(written(name), tmp_path / "model")
    file = folder / "processor_config.json"
    said = json.loads(file.read_text())
    if left == "no file":
        file.unlink()
    elif left == "nulls":
        folders.put(file, {key: None for key in said} | {"processor_class": said["processor_class"]})
    else:
        folders.put(file, dict([next(iter(said.items()))]))
    one, other = open_processor(str(written(name))), open_processor(str(folder))
    if name == "llava_onevision" and left != "the first key alone":
        # Its configuration is of five squares; the file of the tiny one says two.
        other.vision_aspect_ratio = one.vision_aspect_ratio
    assert torch.equal(encoded(one)["input_ids"], encoded(other)["input_ids"])


@pytest.mark.parametrize("legacy", [True, False])
def test_a_chat_template_is_found_in_either_file(legacy, whole, tmp_path):
    folder = folders.again(whole, tmp_path / "model")
    text = (folder / "chat_template.jinja").read_text()
    if legacy:
        (folder / "chat_template.jinja").unlink()
        folders.put(folder / "chat_template.json", {"chat_template": text})
    assert open_processor(str(folder)).chat_template == text


def test_a_slow_tokenizer_alone_opens(written, tmp_path):
    folder = folders.again(written("qwen2_vl"), tmp_path / "model")
    fast = open_processor(str(folder))
    (folder / "tokenizer.json").unlink()
    vocabulary = {chr(n): n - 32 for n in range(33, 127)}
    vocabulary |= {"Ġ": 120}
    folders.put(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    names = ["<|image_pad|>", "<|video_pad|>", "<|endoftext|>"]
    added = {str(200 + n): {"content": name, "special": True} for n, name in enumerate(names)}
    settings = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": added, "eos_token": names[2]}
    folders.put(folder / "tokenizer_config.json", settings | {"pad_token": names[2]})
    # Its table is another one, and the model's settings name tokens by number.
    folders.change(folder / "config.json", image_token_id=95, video_token_id=96)
    slow = open_processor(str(folder))
    assert type(slow) is not None and type(slow).__name__ == type(fast).__name__
    assert slow.tokenizer("ab").input_ids == [ord("a") - 32, ord("b") - 32]
    rows = [int((encoded(p)["input_ids"] == p.image_token_id).sum()) for p in (slow, fast)]
    assert rows[0] == rows[1] > 0


def test_code_of_a_repository_is_never_asked_about(whole, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *words: pytest.fail("it asked on the terminal"))
    folder = folders.again(whole, tmp_path / "model")
    auto = {"AutoProcessor": "own.Own", "AutoImageProcessor": "own.Own", "AutoTokenizer": ["own.Own", None]}
    for file in ("preprocessor_config.json", "tokenizer_config.json", "processor_config.json"):
        folders.change(folder / file, auto_map=auto)
    folders.change(folder / "config.json", auto_map={"AutoConfig": "own.Own", "AutoModel": "own.Own"})
    # Stock classes know this model: they are taken, and its code is left alone.
    assert saccade.load(str(folder), device="cpu").family.name == "LLaVA-1.5"
    folders.change(folder / "config.json", model_type="own_vlm")
    with pytest.raises(ValueError, match=r"'own_vlm' model, which runs code of its own.*trust-remote-code"):
        saccade.load(str(folder))


def test_a_sentencepiece_table_alone_says_what_reads_it(copy, monkeypatch):
    (copy / "tokenizer.json").unlink()
    (copy / "tokenizer.model").write_bytes(b"\x0a\x0e\x0a\x05<unk>")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ValueError, match=r"tokenizer\.model is the only .* pip install sentencepiece"):
        saccade.load(str(copy), device="cpu")
