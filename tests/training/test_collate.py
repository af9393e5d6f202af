"""Batches: as the processor makes them, as good as singles, cut at whole turns, never without an image."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from saccade import models
from saccade.engine import apply
from saccade.families import FAMILIES as REGISTERED
from saccade.families.gemma import Gemma
from saccade.training.collate import BLANK_SIZE, Collator
from saccade.training.encode import IGNORE, ConversationEncoder
from saccade.training.records import BadRecord, Conversation
from support.models import VOCAB
from training.test_encode import CONVERSATIONS, conversation
from training.tiny import FAMILIES, said


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request):
    return FAMILIES[request.param]()


def collate(loaded, records, max_length=500, always_image=False):
    return Collator(loaded, max_length, always_image)(records)


def loss_of(loaded, batch) -> float:
    """Sum of the losses of a batch's labels."""
    with torch.no_grad():
        return float(loaded.model(**batch.inputs, num_items_in_batch=1).loss)


def test_a_batch_is_its_singles(loaded):
    together = collate(loaded, CONVERSATIONS)
    singles = [collate(loaded, [record]) for record in CONVERSATIONS]
    assert together.counts.samples == len(CONVERSATIONS) and together.counts.images == 5
    for name in ("images", "tokens", "labels"):
        assert getattr(together.counts, name) == sum(getattr(one.counts, name) for one in singles)
    for row, one in enumerate(singles):
        length = one.inputs["input_ids"].shape[1]
        for key, tensor in one.inputs.items():
            if tensor.ndim == 2 and tensor.shape[1] == length and tensor.shape[0] == 1:
                assert torch.equal(together.inputs[key][row, :length], tensor[0]), key
        assert not bool(together.inputs["attention_mask"][row, length:].any())
        assert bool((together.inputs["labels"][row, length:] == IGNORE).all())
    total = sum(loss_of(loaded, one) for one in singles)
    assert loss_of(loaded, together) == pytest.approx(total, rel=1e-4)


def test_pixels_are_in_the_order_of_the_placeholders(loaded):
    batch = collate(loaded, CONVERSATIONS)
    turned = collate(loaded, CONVERSATIONS[::-1])
    assert loss_of(loaded, batch) == pytest.approx(loss_of(loaded, turned), rel=1e-4)


def test_too_long_a_conversation_loses_whole_turns_and_their_images(loaded):
    record = CONVERSATIONS[3]  # its second turn has the image
    whole = collate(loaded, [record])
    cut = collate(loaded, [record], max_length=whole.counts.tokens - 1)
    first = conversation({"conversations": said("is it red ?", "no")})
    want = collate(loaded, [first])
    assert cut.counts == want.counts and cut.inputs.keys() == want.inputs.keys()
    assert torch.equal(cut.inputs["input_ids"], want.inputs["input_ids"])
    beside = collate(loaded, [record, CONVERSATIONS[0]], max_length=whole.counts.tokens - 1)
    assert beside.counts.images == 1 and not beside.problems
    assert loss_of(loaded, beside) == pytest.approx(
        loss_of(loaded, want) + loss_of(loaded, collate(loaded, [CONVERSATIONS[0]])), rel=1e-4
    )


def test_a_record_whose_first_answer_does_not_fit_is_left_out_and_named(loaded):
    batch = collate(loaded, [CONVERSATIONS[2], CONVERSATIONS[4]], max_length=45)
    assert batch.counts.samples == 1 and batch.counts.images == 0
    (problem,) = batch.problems
    assert "record c: its first answer ends at row" in problem and "max_length is 45" in problem


def test_nothing_is_trained_on_behind_the_positions_of_a_model():
    """It would be refused when it is asked."""
    record = CONVERSATIONS[2]
    for name, most in (("llava", 45), ("qwen", 500)):
        loaded = FAMILIES[name]()
        loaded.model.config.get_text_config().max_position_embeddings = 45
        assert Collator(loaded, 500, always_image=False).max_length == most
        assert Collator(loaded, 40, always_image=False).max_length == 40
    loaded = FAMILIES["llava"]()
    loaded.model.config.get_text_config().max_position_embeddings = 20
    (problem,) = collate(loaded, [record, CONVERSATIONS[4]]).problems
    assert "record c: its first answer ends at row" in problem and "the model was made for 20" in problem


@pytest.mark.parametrize("asked", [True, False])
def test_a_word_that_the_model_reads_as_a_video_is_refused_as_when_it_is_asked(asked):
    loaded = FAMILIES["qwen"]()
    text = "what is a <video> ?", "it is red"
    bad = conversation({"id": "v", "conversations": said(*(text if asked else text[::-1]))})
    (problem,) = collate(loaded, [CONVERSATIONS[0], bad]).problems
    assert problem == "record v: the text holds '<video>', which this model reads as a picture"
    # Elsewhere it is a word like any other.
    assert not collate(FAMILIES["llava"](), [bad]).problems


def test_a_token_that_the_model_has_not_is_refused():
    """InternVL's tokenizer has such: the forward would fail in the embedding, on CUDA for good."""
    loaded = FAMILIES["llava"]()
    words = loaded.processor.tokenizer
    bad = conversation({"id": "n", "conversations": said("what is a <new> ?", "it is red")})
    assert not collate(loaded, [bad]).problems
    words.add_tokens([f"<{n}>" for n in range(len(words), VOCAB)] + ["<new>"])
    (problem,) = collate(loaded, [bad, CONVERSATIONS[0]]).problems
    assert problem == f"record n: '<new>' is token {VOCAB} of the tokenizer, and the model has {VOCAB} tokens"


def test_bad_records_leave_the_rest_alone(loaded):
    batch = collate(loaded, [CONVERSATIONS[0], BadRecord("file, line 3: bad"), CONVERSATIONS[1]])
    want = collate(loaded, CONVERSATIONS[:2])
    assert batch.problems == ("file, line 3: bad",) and batch.counts == want.counts
    assert torch.equal(batch.inputs["input_ids"], want.inputs["input_ids"])


def test_a_record_whose_image_the_processor_refuses_is_left_out_and_named():
    """Qwen's takes no image two hundred times as wide as it is high."""
    wide = Conversation(CONVERSATIONS[0].turns, (Image.new("RGB", (2100, 10)),), "file, line 7")
    loaded = FAMILIES["qwen"]()
    batch = collate(loaded, [CONVERSATIONS[0], wide, CONVERSATIONS[2]])
    want = collate(loaded, [CONVERSATIONS[0], CONVERSATIONS[2]])
    (problem,) = batch.problems
    assert problem.startswith("file, line 7: the processor refuses an image: ") and "aspect ratio" in problem
    assert batch.counts == want.counts
    assert all(torch.equal(batch.inputs[key], tensor) for key, tensor in want.inputs.items())


def test_a_model_whose_layout_hangs_on_the_prompt_takes_records_of_one_image(monkeypatch):
    """LLaVA-OneVision cuts an image into tiles only where it is alone in its prompt."""
    loaded = FAMILIES["llava"]()
    monkeypatch.setattr(type(loaded.family), "lays_by_count", REGISTERED["llava_onevision"].lays_by_count)
    assert loaded.family.lays_by_count
    two = next(c for c in CONVERSATIONS if len(c.images) == 2)
    one = next(c for c in CONVERSATIONS if len(c.images) == 1)
    batch = collate(loaded, [one, two])
    (problem,) = batch.problems
    assert problem.startswith(f"{two.where}: LLaVA-1.5 lays several images of a prompt out otherwise")
    assert batch.counts.samples == batch.counts.images == 1


def test_images_are_as_small_as_at_inference(loaded):
    """A plan's ``resize`` leaves as many rows as `models.encode` makes of the same picture."""
    spec, record = "resize(scale=0.5)", CONVERSATIONS[0]
    if isinstance(loaded.family, Gemma):
        with pytest.raises(ValueError, match="pictures of one size only"):
            Collator(loaded, 500, False, scale=0.5)([record])
        return
    encoder = ConversationEncoder(loaded.processor, loaded.model)
    batch = Collator(loaded, 500, False, scale=0.5)([record])
    want = models.encode(loaded, [encoder.image_token], record.images, spec)
    rows = [int((ids["input_ids"] == encoder.image_id).sum()) for ids in (batch.inputs, want)]
    whole = int((collate(loaded, [record]).inputs["input_ids"] == encoder.image_id).sum())
    assert rows[0] == rows[1] < whole
    torch.testing.assert_close(batch.inputs["pixel_values"], want["pixel_values"])
    with apply(loaded.model, spec):
        assert loss_of(loaded, batch) > 0


def test_a_batch_of_bad_records_alone_trains_nothing(loaded):
    batch = collate(loaded, [BadRecord("bad")])
    assert batch.counts.samples == batch.counts.labels == 0
    assert bool((batch.inputs["labels"] == IGNORE).all())
    assert loss_of(loaded, batch) == 0


def test_text_alone_gets_no_pixels_unless_processes_train_together(loaded):
    texts = [CONVERSATIONS[1], CONVERSATIONS[4]]
    alone, together = collate(loaded, texts), collate(loaded, texts, always_image=True)
    assert "pixel_values" not in alone.inputs and "pixel_values" in together.inputs
    assert together.counts == alone.counts
    assert loss_of(loaded, together) == pytest.approx(loss_of(loaded, alone), rel=1e-5)
    assert collate(loaded, CONVERSATIONS[:2], always_image=True).inputs["pixel_values"].shape == (
        collate(loaded, CONVERSATIONS[:2]).inputs["pixel_values"].shape
    )


def test_the_blank_image_runs_through_tower_and_projector_and_changes_no_gradient(loaded):
    """Gradients of the projector are there, and zero; all others are those of the text alone."""
    model, texts = loaded.model, [CONVERSATIONS[1], CONVERSATIONS[4]]

    def gradients(always_image):
        model.zero_grad(set_to_none=True)
        model(**collate(loaded, texts, always_image=always_image).inputs).loss.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    alone, together = gradients(False), gradients(True)
    model.zero_grad(set_to_none=True)
    assert BLANK_SIZE and together.keys() > alone.keys()
    for name, gradient in together.items():
        want = alone.get(name, torch.zeros_like(gradient))
        torch.testing.assert_close(gradient, want, atol=1e-5, rtol=1e-4, msg=name)
