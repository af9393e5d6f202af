"""A video model that begins as Glance: what is copied, what rows are taught, how a stopped run goes on."""

from __future__ import annotations

import re
import runpy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from saccade import models
from saccade.glance import clips
from saccade.glance.tokenizer import ASSISTANT, UNK, USER
from saccade.glance.vocabulary import COLOR_NAMES
from saccade.plans.plan import Plan
from saccade.research.embedded import video
from saccade.research.embedded.video import VIDEO, VideoLearner, VideoTraining

FEW = VideoTraining(steps=3, videos=2, short=2, later=(2,), words=1, every=1)
ROW = 16
"""Pixels along a side of a row."""


@pytest.fixture(scope="module")
def glance():
    return models.load("glance", device="cpu")


@pytest.fixture(scope="module")
def learner():
    return VideoLearner(FEW)


def labelled(task: str, many: int, shown: int = 8):
    samples = clips.samples(task, many, 5)
    return samples, video.labels_of(video.pixels_of(samples, shown, 80), ROW)


def named(text: str) -> list[int]:
    """Numbers of the colours that a text names."""
    return [COLOR_NAMES.index(word) + 1 for word in re.findall(r"\w+", text) if word in COLOR_NAMES]


def values(labels, which: str, sample: int, color: int, frame: int = -1) -> set[int]:
    """What rows of a colour are labelled with in a frame."""
    return set(labels[which][sample, frame][labels["color"][sample, frame] == color].tolist())


@pytest.mark.parametrize("shown", [8, 4, 2])
def test_rows_are_labelled_with_what_moved_where(shown):
    samples, labels = labelled("moved", 24, shown)
    for at, one in enumerate(samples):
        if one.subtask == "where":
            (mover,) = named(one.question)
            assert values(labels, "motion", at, mover) == {[*clips.STEPS].index(one.answer) + 1}
        else:
            (mover,) = named(one.answer)
            for color in named(one.question):
                assert (values(labels, "motion", at, color) == {0}) == (color != mover)
            assert video.IGNORED in values(labels, "motion", at, mover, frame=0)


def test_rows_are_labelled_with_what_came_first():
    samples, labels = labelled("order", 30)
    for at, one in enumerate(samples):
        ranks = {color: values(labels, "order", at, color) for color in named(one.question)}
        if one.subtask == "before":
            first, second = (min(ranks[color]) for color in named(one.question))
            assert (first < second) == (one.answer == "yes")
        else:
            assert sorted(map(min, ranks.values())) == [0, 1, 2] and all(len(r) == 1 for r in ranks.values())
            assert ranks[named(one.answer)[0]] == {0 if one.subtask == "first" else 2}


def test_words_are_asked_what_became_of_the_thing_whose_colour_they_name(learner):
    samples = [*clips.samples("moved", 2, 5), *clips.samples("order", 2, 5)]
    labels = video.labels_of(video.pixels_of(samples, 4, 80), ROW)
    colors = torch.zeros(len(samples), 6, dtype=torch.long)
    for at, one in enumerate(samples):
        colors[at, 1 : 1 + len(named(one.question))] = torch.tensor(named(one.question))
    told = video.words_of(labels, colors)
    expected = [
        tuple(min(values(labels, which, at, color)) for which in ("order", "motion"))
        for at, one in enumerate(samples)
        for color in named(one.question)
    ]
    assert [*zip(told["order"].tolist(), told["motion"].tolist(), strict=True)] == expected
    assert {0, 1, 2} <= set(told["order"].tolist()) and max(told["motion"].tolist()) > 0
    ids, said = video.learnable(samples, learner.tokenizer, 3)
    heard = learner._colors(ids, said)
    assert [row[row > 0].tolist() for row in heard] == [named(one.question) for one in samples]


def test_a_frame_is_a_picture_of_glance_averaged_two_by_two(glance, learner):
    pixels = video.pixels_of(clips.samples("moved", 2, 1), 4, 80)
    with torch.no_grad():
        rows = learner.model.eval().model.get_video_features(pixels).pooler_output
        seen = glance.model.model.vision_tower(pixels.flatten(0, 1), output_hidden_states=True)
        patches = seen.hidden_states[-2][:, 1:].unflatten(1, (10, 10)).permute(0, 3, 1, 2)
        pooled = functional.avg_pool2d(patches, 2).flatten(2).mT
        expected = glance.model.model.multi_modal_projector(pooled)
    torch.testing.assert_close(rows.flatten(0, -2), expected.flatten(0, 1), atol=1e-5, rtol=1e-5)


def test_glances_words_and_layers_are_taken_over(glance):
    fresh = VideoLearner(FEW)
    own, old = fresh.model.state_dict(), glance.model.state_dict()
    for name, weight in old.items():
        assert torch.equal(own[name][: len(weight)], weight), name
    known, words = glance.processor.tokenizer.get_vocab(), fresh.tokenizer.get_vocab()
    assert {word: words[word] for word in known} == known
    assert {VIDEO, "moves", "appears", "before", "up"} <= words.keys() - known.keys()
    assert len(own["lm_head.weight"]) == len(words)


def test_every_word_of_a_question_is_known_and_the_prompt_is_that_of_the_template(learner):
    unknown = learner.tokenizer.convert_tokens_to_ids(UNK)
    samples = [one for task in clips.GUESSED for one in clips.samples(task, 120, 9)]
    ids, said = video.learnable(samples, learner.tokenizer, 7)
    place = learner.tokenizer.convert_tokens_to_ids(VIDEO)
    assert unknown not in ids and ((ids == place).sum(1) == 7).all()
    for one, row in zip(samples, said, strict=True):
        assert learner.tokenizer.decode(row[row != video.IGNORED]) == f"{one.answer} </s>"
    content = [{"type": "video"}, {"type": "text", "text": samples[0].question}]
    prompt = learner.tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    assert prompt == f"{USER}{VIDEO}{samples[0].question}{ASSISTANT}"


def test_frames_are_shown_evenly_and_the_last_always():
    assert [video.numbers(n) for n in (8, 4, 2, 1)] == [[*range(8)], [1, 3, 5, 7], [3, 7], [7]]
    assert [FEW.frames(step) for step in range(3)] == [4, 4, 2]


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(tmp_path):
    whole = video.trained(tmp_path, FEW)
    half = VideoLearner(FEW)
    half.step()
    half.save(tmp_path / "half.pt")
    other = VideoLearner(FEW)
    other.resume(tmp_path / "half.pt")
    other.step()
    other.step()
    assert other.done == whole.done == 3 and [mark["step"] for mark in whole.curve] == [1, 2, 3]
    for name, weight in whole.model.state_dict().items():
        torch.testing.assert_close(other.model.state_dict()[name], weight, msg=name)
    assert video.trained(tmp_path, FEW).curve == whole.curve
    with pytest.raises(SystemExit, match="other settings"):
        video.trained(tmp_path, replace(FEW, steps=4))


def test_plans_for_videos_keep_positions_and_say_what_a_budget_is_of(root):
    turned = runpy.run_path(str(root / "benchmarks" / "video_results.py"))["_for_video"]
    spec = Plan((turned(Plan.of("visionzip(dominant=0.4,contextual=0.1)").methods[0], "image"),)).spec
    assert "share=image" in spec and "position_policy=keep" in spec
    assert Plan((turned(Plan.of("shortv(layers=3)").methods[0], ""),)).spec == "shortv(layers=3)"


def test_the_same_question_about_fewer_frames(root):
    thinned = runpy.run_path(str(root / "benchmarks" / "video_results.py"))["thinned"]
    (one,) = clips.samples("moved", 1, 0)
    less = thinned(one, 2)
    assert (less.id, less.question, less.videos[0].total) == (one.id, one.question, 2)
    assert (less.videos[0].read([0, 1]) == one.videos[0].read([3, 7])).all()
