"""Ids and labels: prompts as at inference, answers and their ends labelled, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from saccade import models
from saccade.inputs.samples import Sample
from saccade.training.collate import Collator
from saccade.training.encode import IGNORE, ConversationEncoder, cut
from saccade.training.records import BadRecord, Conversation, read_record
from training.tiny import FAMILIES, RECORDS, TEMPLATES, llava, picture, said

SIZES = ((40, 30), (60, 20), (20, 60))


def conversation(record: dict) -> Conversation:
    """A record with drawn images."""
    read = read_record(record, Path(), f"record {record.get('id')}")
    images = tuple(picture("red", SIZES[n]) for n in range(len(read.paths)))
    return Conversation(read.turns, images, read.where)


CONVERSATIONS = [conversation(record) for record in RECORDS]


@pytest.fixture(scope="module", params=[(f, t) for f in FAMILIES for t in TEMPLATES], ids="-".join)
def loaded(request):
    family, template = request.param
    return FAMILIES[family](template)


def prompts(loaded, record: Conversation) -> list[str]:
    """The prompt before every answer, as one renders it to ask a model."""
    messages = [turn.message() for turn in record.turns]
    return [
        loaded.processor.apply_chat_template(messages[:n], tokenize=False, add_generation_prompt=True)
        for n, turn in enumerate(record.turns)
        if turn.role == "assistant"
    ]


def ask(loaded, text: str, images) -> list[int]:
    """Ids of a prompt as the processor makes them."""
    special = not text.startswith(loaded.processor.tokenizer.bos_token)
    made = loaded.processor(
        text=[text], images=list(images) or None, add_special_tokens=special, return_tensors="pt"
    )
    return made["input_ids"][0].tolist()


def test_every_prompt_is_tokenised_as_at_inference(loaded):
    collator = Collator(loaded, 500, always_image=False)
    for record in CONVERSATIONS:
        batch = collator([record]).inputs
        ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
        starts = [n for n, label in enumerate(labels) if label != IGNORE and labels[n - 1] == IGNORE]
        assert len(starts) == len(prompts(loaded, record))
        shown = 0
        for start, text, user in zip(starts, prompts(loaded, record), record.turns[::2], strict=True):
            shown += user.images
            assert ids[:start] == ask(loaded, text, record.images[:shown])


def test_labels_are_the_answers_and_the_end_of_turn(loaded):
    tokenizer = loaded.processor.tokenizer
    chatml = "</s>\n" in loaded.processor.chat_template
    for record in CONVERSATIONS:
        batch = Collator(loaded, 500, always_image=False)([record])
        ids, labels = batch.inputs["input_ids"][0], batch.inputs["labels"][0]
        spoken = labels != IGNORE
        answers = [turn.pieces[0] for turn in record.turns if turn.role == "assistant"]
        told = tokenizer.decode(labels[spoken])
        assert [text.strip() for text in told.split("</s>")] == [*answers, ""]
        # Only ends that the template does not write differ from what the model reads.
        apart = spoken & (ids != labels)
        assert set(labels[apart].tolist()) <= {tokenizer.eos_token_id}
        assert int(apart.sum()) == (0 if chatml else len(answers) - 1)
        assert not bool(spoken[ids == loaded.processor.tokenizer.convert_tokens_to_ids("<image>")].any())
        assert batch.counts.labels == int(spoken.sum())


def test_a_conversation_that_is_cut_ends_as_one_of_its_own(loaded):
    encoder = ConversationEncoder(loaded.processor, loaded.model)
    several = [record for record in CONVERSATIONS if len(record.turns) > 3]
    assert several
    for record in several:
        shorter, turns = cut(encoder(record.turns, "here"), record.turns, 1)
        alone = encoder(turns, "here")
        last = loaded.processor.tokenizer.eos_token_id
        assert shorter.ids[: alone.ends[0]] == alone.ids[: alone.ends[0]]
        assert [n for n in shorter.labels if n != IGNORE] == [n for n in alone.labels if n != IGNORE]
        assert [n for n in shorter.labels if n != IGNORE][-1] == last


def test_the_first_prompt_equals_that_of_the_models_module(loaded):
    record = CONVERSATIONS[0]
    sample = Sample("x", "t", "t", record.images, "what is the color ?")
    asked = models.inputs(loaded, [sample])
    batch = Collator(loaded, 500, always_image=False)([record]).inputs
    length = asked["input_ids"].shape[1]
    assert torch.equal(batch["input_ids"][:, :length], asked["input_ids"])
    for key in asked.keys() - {"input_ids", "attention_mask"}:
        rows = slice(length) if key.endswith("token_type_ids") else slice(None)
        assert torch.equal(batch[key][:, rows] if key.endswith("ids") else batch[key], asked[key]), key


def test_other_ends_of_turn_are_known_from_the_model():
    loaded = llava()
    assert ConversationEncoder(loaded.processor, loaded.model).stops == {2}
    loaded.model.generation_config.eos_token_id = [2, 6]
    assert ConversationEncoder(loaded.processor, loaded.model).stops == {2, 6}
    # An end that the tokenizer has no text for is none that a template could write.
    plain = ConversationEncoder(loaded.processor, loaded.model)(CONVERSATIONS[0].turns, "here")
    loaded.model.generation_config.eos_token_id = [2, 6, 10**6]
    named = ConversationEncoder(loaded.processor, loaded.model)
    assert named.stops == {2, 6, 10**6} and named(CONVERSATIONS[0].turns, "here") == plain


def test_answers_stand_behind_the_prompt_where_the_template_opens_written_ones_otherwise():
    """LLaVA-OneVision's template ends the prompt in a line break, and opens written answers with a blank."""
    loaded = llava()
    asks, talk = CONVERSATIONS[0], CONVERSATIONS[3]
    usual = ConversationEncoder(loaded.processor, loaded.model)
    expected = {c.where: usual(c.turns, "here") for c in (asks, talk)}
    loaded.processor.chat_template = loaded.processor.chat_template.replace(
        "<s>{{ m['role'] }}\n", "<s>{{ m['role'] }}{{ ' ' if m['role'] == 'assistant' else '\n' }}"
    )
    written = loaded.processor.apply_chat_template([t.message() for t in asks.turns])
    assert "<s>assistant " in written
    for record in (asks, talk):
        assert usual(record.turns, "here") == expected[record.where]
    turns = (talk.turns[0], replace(talk.turns[1], pieces=("assistant",)))
    found = usual(turns, "here")
    spoken = [label for label in found.labels if label != IGNORE]
    assert loaded.processor.tokenizer.decode(spoken) == "assistant</s>"


def test_a_template_that_rewrites_what_stood_before_is_refused():
    loaded = llava()
    loaded.processor.chat_template = "{{ messages|length }}" + loaded.processor.chat_template
    with pytest.raises(BadRecord, match="turn by turn"):
        ConversationEncoder(loaded.processor, loaded.model)(CONVERSATIONS[3].turns, "here")


def test_a_template_that_shows_no_image_is_refused():
    loaded = llava()
    loaded.processor.chat_template = TEMPLATES["chatml"].replace("IMAGE", "")
    with pytest.raises(BadRecord, match="holds 0 <image> for 1 images"):
        ConversationEncoder(loaded.processor, loaded.model)(CONVERSATIONS[0].turns, "here")


def test_what_the_template_refuses_is_named():
    loaded = llava()
    loaded.processor.chat_template = "{{ raise_exception('no system') }}"
    with pytest.raises(BadRecord, match="here: the chat template refuses it: no system"):
        ConversationEncoder(loaded.processor, loaded.model)(CONVERSATIONS[0].turns, "here")


@pytest.mark.parametrize("lacks", ["chat_template", "image_token", "eos_token"])
def test_a_processor_that_cannot_speak_is_refused(lacks):
    loaded = llava()
    setattr(loaded.processor.tokenizer if lacks == "eos_token" else loaded.processor, lacks, None)
    with pytest.raises(ValueError, match="training needs a"):
        ConversationEncoder(loaded.processor, loaded.model)


def test_an_image_mark_in_plain_text_is_refused():
    record = conversation({"conversations": said("who ?", "me")})
    turns = (record.turns[0].__class__("user", ("who is <image> ?",)), record.turns[1])
    loaded = llava()
    with pytest.raises(BadRecord, match="holds 1 <image> for 0 images"):
        ConversationEncoder(loaded.processor, loaded.model)(turns, "here")


@pytest.mark.parametrize("template", TEMPLATES)
def test_an_answer_with_an_end_of_turn_in_its_text_is_refused(template):
    encoder = ConversationEncoder(llava(template).processor, None)
    broken = read_record({"conversations": said("what ?", "it </s> is red")}, Path(), "here")
    with pytest.raises(BadRecord, match="here: an answer holds </s> in its text"):
        encoder(broken.turns, "here")
    # Data may end an answer as the model does, and a question may name what it likes.
    ended = read_record({"conversations": said("what is </s> ?", "it is red</s>")}, Path(), "here")
    labels = [label for label in encoder(ended.turns, "here").labels if label != IGNORE]
    assert encoder.tokenizer.decode(labels).split("</s>")[0].strip() == "it is red"
