"""Chats of lmms-eval's form become the prompts that ``saccade eval`` would write, and others their own."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from saccade import models
from saccade.inputs.samples import Sample
from saccade.lmms.conversation import ChatMessages, inputs
from saccade.plans.plan import Plan


def picture(shade: int) -> Image.Image:
    return Image.new("RGB", (32, 32), (shade, 255 - shade, 90))


def chat(*parts, role="user"):
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "url": part}
        for part in parts
    ]
    return {"role": role, "content": content}


def test_messages_are_read_in_order(tmp_path):
    picture(9).save(tmp_path / "a.png")
    grey = Image.new("L", (5, 4), 7)
    found = ChatMessages.read(
        [{"role": "system", "content": "be brief"}, chat("before", grey, "after", tmp_path / "a.png")]
    )
    assert [m["role"] for m in found.messages] == ["system", "user"]
    assert found.messages[0]["content"] == [{"type": "text", "text": "be brief"}]
    assert [part["type"] for part in found.messages[1]["content"]] == ["text", "image", "text", "image"]
    assert [(image.mode, image.size) for image in found.images] == [("RGB", (5, 4)), ("RGB", (32, 32))]


@pytest.mark.parametrize(
    ("messages", "match"),
    [
        ([{"role": "user", "content": [{"type": "video", "url": "a.mp4"}]}], "'video' in its messages"),
        ([{"role": "user", "content": [{"type": "audio", "url": "a.wav"}]}], "'audio' in its messages"),
        ([{"role": "user", "content": [{"type": "image", "url": "nosuch.png"}]}], "nosuch.png"),
        ([{"role": "tool", "content": "x"}], "not 'tool'"),
        ([{"role": "user", "content": None}], "got NoneType"),
    ],
)
def test_what_cannot_be_asked_is_refused(messages, match):
    with pytest.raises(ValueError, match=match):
        ChatMessages.read(messages)


def test_a_plain_question_gives_the_inputs_of_our_own_evaluation(toy):
    samples = [
        Sample("a", "t", "t", (picture(10),), "what color is the circle ?"),
        Sample("b", "t", "t", (), "how many ?"),
        Sample("c", "t", "t", (picture(200), picture(90)), "is there a ring ?"),
    ]
    asked = [ChatMessages.read([chat(*s.images, s.question)]) for s in samples]
    for plan in (None, Plan.of("resize(scale=0.5)")):
        ours, theirs = models.inputs(toy, samples, plan), inputs(toy, asked, plan)
        assert set(ours) == set(theirs)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_images_between_texts_stay_there(toy):
    text = inputs(toy, [ChatMessages.read([chat("is", picture(3), "red ?")])])["input_ids"][0]
    visual = (text == toy.model.config.image_token_id).nonzero().flatten()
    before = toy.processor.tokenizer.decode(text[: visual[0]])
    after = toy.processor.tokenizer.decode(text[visual[-1] + 1 :])
    assert "is" in before.split() and "red" in after.split()


def test_blind_hides_the_images_and_nothing_else():
    seen = ChatMessages.read([chat(picture(3), "red ?")])
    hidden = seen.blind()
    assert hidden.messages == seen.messages and hidden.images[0].size == (32, 32)
    assert hidden.images[0].getcolors() == [(32 * 32, (128, 128, 128))]
