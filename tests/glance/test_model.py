"""The model is a stock LLaVA, and its training pass computes what the stock pass computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from saccade import models
from saccade.glance import load, weights_path
from saccade.glance.model import GlanceConfig, build_model
from saccade.glance.suite import samples
from saccade.glance.tokenizer import PAD, build_processor, build_tokenizer
from saccade.research.embedded.data import Batches, Mixture, network_inputs
from saccade.research.embedded.network import Network
from saccade.research.embedded.tower import visual_rows
from saccade.system.embedded import Embedded

SMALL = GlanceConfig(layers=2, width=32, heads=4, mlp=32, vision_width=32)


@pytest.fixture(scope="module")
def small():
    return build_model(SMALL, seed=1).eval()


def _picture(width: int = 80, height: int = 80) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


def _inputs(processor, image, question: str) -> dict:
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )


def test_the_same_seed_builds_the_same_weights(small) -> None:
    twin, other = build_model(SMALL, seed=1), build_model(SMALL, seed=2)
    pairs = list(zip(small.parameters(), twin.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert any(not torch.equal(a, c) for a, _, c in pairs)


def test_saved_and_loaded_by_the_auto_classes_it_is_the_same(small, tmp_path) -> None:
    processor = build_processor()
    small.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    model, again = (
        AutoModelForImageTextToText.from_pretrained(tmp_path).eval(),
        AutoProcessor.from_pretrained(tmp_path),
    )
    first = _inputs(processor, _picture(), "how many red objects ?")
    second = _inputs(again, _picture(), "how many red objects ?")
    assert torch.equal(first["input_ids"], second["input_ids"])
    assert torch.equal(first["pixel_values"], second["pixel_values"])
    with torch.no_grad():
        assert torch.equal(small(**first).logits, model(**second).logits)


@pytest.mark.parametrize("size", [(80, 80), (200, 120), (64, 300), (33, 47)])
def test_any_image_becomes_the_same_number_of_visual_tokens(size) -> None:
    processor = build_processor()
    ids = _inputs(processor, _picture(*size), "list all objects")["input_ids"]
    image = processor.tokenizer.convert_tokens_to_ids("<image>")
    assert int((ids == image).sum()) == SMALL.visual_tokens


def test_the_tower_does_not_mix_patches(small) -> None:
    pixels = torch.randn(1, 3, 80, 80)
    changed = pixels.clone()
    changed[:, :, :8, 8:16] += 1.0  # patch 1
    rows = [small.model.get_image_features(p).pooler_output[0] for p in (pixels, changed)]
    moved = (rows[0] - rows[1]).abs().amax(dim=-1) > 1e-6
    assert moved.nonzero().flatten().tolist() == [1]


def test_training_and_stock_code_see_the_same_visual_rows(small) -> None:
    pixels = torch.randn(2, 3, 80, 80)
    stock = torch.stack(list(small.model.get_image_features(pixels).pooler_output))
    assert torch.equal(stock, visual_rows(small, pixels))


@pytest.mark.parametrize("conversations", [0.0, 1.0])
def test_a_packed_row_trains_the_prompt_that_users_give(small, conversations: float) -> None:
    """Logits of a packed question equal those of the same question alone in a stock forward."""
    mixture = Mixture(batch=2, text=48, conversations=conversations)
    batches = Batches(mixture, 3, "calibration")
    batch = batches[0]
    user = batches.encode.user
    network = Network(build_model(SMALL, seed=1), (1, 2), (1, 2), user).eval()
    processor = build_processor()
    with torch.no_grad():
        *_, logits = network.answer(**network_inputs(batch, batches.prefix))
        for row in range(2):
            image = Image.fromarray(batch["pixels"][row].numpy())
            pixels = processor.image_processor(image, return_tensors="pt")["pixel_values"]
            segments = batch["segments"][row]
            for segment in range(int(segments.max()) + 1):
                at = (segments == segment).nonzero().flatten()
                ids = torch.cat(
                    (torch.tensor([user] + [small.config.image_token_index] * 100), batch["ids"][row, at])
                )
                stock = small(input_ids=ids[None], pixel_values=pixels).logits[0, 101:]
                assert torch.allclose(logits[row, at], stock, atol=1e-4)


def test_conversations_follow_the_chat_template() -> None:
    batches = Batches(Mixture(batch=1, text=60, conversations=1.0), 5, "calibration")
    tokenizer = build_tokenizer()
    text = tokenizer.decode(batches[0]["ids"][0]).replace(PAD, " ").split()
    turns = " ".join(text).split(" <user> ")
    messages = []
    for turn in turns:
        question, answer = turn.split(" <assistant> ")
        messages += [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer.removesuffix(" </s>")},
        ]
    rendered = tokenizer(tokenizer.apply_chat_template(messages, tokenize=False)).input_ids
    ours = batches[0]["ids"][0][: len(rendered) - 1].tolist()
    assert rendered[1:] == ours  # the first <user> stands before the image


def test_the_shipped_weights_load_and_answer() -> None:
    model, processor = load()
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    assert model.dtype == torch.float32
    size = sum(file.stat().st_size for file in weights_path().iterdir())
    assert size <= 25 * 2**20
    right = 0
    drawn = samples("attribute", 6, split="calibration")
    for sample in drawn:
        inputs = _inputs(processor, sample.images[0], sample.question)
        out = model.generate(**inputs)
        answer = processor.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        right += answer == sample.answer
        assert out[0, -1] == processor.tokenizer.eos_token_id
    assert right >= 3


def test_a_missing_checkpoint_is_named(tmp_path) -> None:
    with pytest.raises(ValueError, match="saccade train glance"):
        load(tmp_path)


def test_an_installation_without_weights_says_where_they_are(tmp_path, monkeypatch) -> None:
    for file in weights_path().glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(Embedded, "folder", property(lambda self: tmp_path))
    for opens in (load, lambda: models.load("glance")):
        with pytest.raises(ValueError, match=r"no weights of Glance.*wheel"):
            opens()
    # What reads the configuration alone needs no weights.
    assert models.load_config("glance").model_type == "llava"
