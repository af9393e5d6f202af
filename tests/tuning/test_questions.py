"""Samples of a search and those that judge it: how many, which, and that they share none."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from calibration.vlm import picture, question
from saccade.healing.settings import HealingSettings
from saccade.inputs.data import read_jsonl
from saccade.tuning.questions import apart, split
from saccade.tuning.settings import Settings

POOL = [question(n, task="ab"[n % 2]) for n in range(60)]


@pytest.mark.parametrize(
    ("pool", "search", "held_out", "found"),
    [
        (60, 20, 10, (20, 10)),  # as many as were asked for, where there are enough
        (60, 40, 10, (40, 10)),
        (60, 100, 10, (50, 10)),  # all but what judges is learnt from
        (40, 8, 100, (8, 32)),
        (40, 30, 30, (20, 20)),  # a pool that is too small for both is halved
        (16, 100, 100, (8, 8)),
    ],
)
@pytest.mark.parametrize("settings", [Settings, HealingSettings])
def test_both_sets_have_as_many_as_were_asked_for(pool, search, held_out, found, settings):
    more = {"flops": 0.5} if settings is Settings else {}
    asked = settings(num_samples=search, num_held_out=held_out, **more)
    questions = split(POOL[:pool], asked)
    assert (len(questions.search), len(questions.held_out)) == found
    given = apart(POOL[: pool // 2], POOL[pool // 2 : pool], asked)
    assert len(given.search) == min(search, pool // 2) and len(given.held_out) == min(held_out, pool // 2)


def test_copies_do_not_judge_what_their_like_has_chosen():
    settings = Settings(flops=0.5)
    copies = [replace(sample, id=f"again/{sample.id}") for sample in POOL[:20]]
    found = split([*POOL[:30], *copies], settings)
    asked = [(sample.question, sample.images[0].tobytes()) for sample in (*found.search, *found.held_out)]
    assert len(asked) == 30 == len(set(asked)) and found.copies == 20
    assert "20 samples ask what others ask" in " ".join(found.notes)
    assert not split(POOL, settings).notes
    with pytest.raises(ValueError, match="10 samples, 20 copies of others left out, are too few"):
        split([*POOL[:10], *copies[:10], *(replace(s, id=f"third/{s.id}") for s in POOL[:10])], settings)


def test_copies_of_a_picture_under_another_name_are_left_out_of_the_search(tmp_path):
    for n in range(40):
        picture(n % 20).save(tmp_path / f"{n}.png")
    lines = [{"image": f"{n}.png", "question": "is it red?"} for n in range(40)]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = split(read_jsonl(tmp_path / "mine.jsonl"), Settings(flops=0.5))
    search, held_out = (
        {sample.images[0].tobytes() for sample in part} for part in (found.search, found.held_out)
    )
    assert search and held_out and not search & held_out and found.copies > 0


def about(pictures: int, each: int) -> list:
    """Several questions about each of some pictures."""
    return [
        replace(question(n, task="ab"[k % 2]), id=f"{n}/{k}", question=f"what is in part {k}?")
        for n in range(pictures)
        for k in range(each)
    ]


@pytest.mark.parametrize("seed", range(4))
def test_questions_about_one_picture_stand_on_one_side(seed):
    found = split(about(12, 5), Settings(flops=0.5, num_samples=20, num_held_out=12, seed=seed))
    assert (len(found.search), len(found.held_out)) == (20, 12) and not found.notes
    sides = [{sample.images[0].tobytes() for sample in part} for part in (found.search, found.held_out)]
    assert not sides[0] & sides[1]
    assert {sample.task for sample in found.held_out} == {"a", "b"}


def test_pictures_that_stand_together_in_one_question_stay_together():
    pool = about(6, 6)
    shown = (pool[0].images[0], pool[6].images[0])
    both = replace(pool[0], id="both", images=shown, question="which is larger?")
    found = split([*pool, both], Settings(flops=0.5))
    parts = [{sample.id for sample in part} for part in (found.search, found.held_out)]
    one, two = ({f"{n}/{k}" for k in range(6)} for n in (0, 1))
    assert any(one & part and two & part for part in parts)
    assert not any((one | two) & parts[0] and (one | two) & part for part in parts[1:])


def test_too_few_pictures_to_part_are_told():
    found = split(about(1, 30), Settings(flops=0.5))
    assert found.search and found.held_out and found.mixed
    assert "too few pictures to hold some out" in " ".join(found.notes)


def test_held_out_samples_of_ones_own_share_none_with_the_rest():
    settings = Settings(flops=0.5)
    with pytest.raises(ValueError, match="ids must be distinct"):
        apart(POOL, POOL[:10], settings)
    renamed = [replace(sample, id=f"held/{sample.id}") for sample in POOL[:10]]
    with pytest.raises(ValueError, match="10 of the samples held out are among those"):
        apart(POOL, renamed, settings)
    for search, held_out in ((POOL[:3], POOL[10:]), (POOL, [])):
        with pytest.raises(ValueError, match="held out are too few"):
            apart(search, held_out, settings)


def test_answers_that_some_lack_are_used_of_none_and_it_is_said():
    answered = [replace(sample, answer="red") for sample in POOL]
    found = split([POOL[0], *answered[1:]], Settings(flops=0.5))
    assert not found.answered and "1 of 60 samples have no answer" in " ".join(found.notes)
    assert split(answered, Settings(flops=0.5)).answered and not split(answered, Settings(flops=0.5)).notes
