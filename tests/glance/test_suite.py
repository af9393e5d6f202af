"""The suite: stable samples, balanced answers, words the tokenizer knows."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from saccade.glance.suite import TASKS, blind_image, samples
from saccade.glance.tokenizer import build_tokenizer


def _same(a, b) -> bool:
    texts = (a.id, a.task, a.subtask, a.question, a.answer) == (b.id, b.task, b.subtask, b.question, b.answer)
    return texts and np.array_equal(np.asarray(a.images[0]), np.asarray(b.images[0]))


def test_there_are_at_least_nine_tasks_and_two_with_long_answers() -> None:
    assert len(TASKS) >= 9
    assert sum(task.long_answer for task in TASKS.values()) >= 2


def test_samples_are_stable_and_do_not_depend_on_how_many_are_drawn() -> None:
    few, more = samples("relation", 4), samples("relation", 8)
    assert all(_same(a, b) for a, b in zip(few, more, strict=False))
    assert [s.id for s in few] == [f"test/0/relation/{i}" for i in range(4)]


def test_splits_and_seeds_give_other_scenes() -> None:
    pictures = [
        np.asarray(s.images[0]).tobytes()
        for split in ("train", "calibration", "test")
        for seed in (0, 1)
        for s in samples("chart", 5, split=split, seed=seed)
    ]
    assert len(set(pictures)) == len(pictures)


def test_all_tasks_come_without_a_name_and_subtasks_in_equal_parts() -> None:
    drawn = samples(None, 2)
    assert Counter(s.task for s in drawn) == dict.fromkeys(TASKS, 2)
    assert Counter(s.subtask for s in samples("diagram", 6)) == dict.fromkeys(TASKS["diagram"].subtasks, 2)


@pytest.mark.parametrize("task", TASKS)
def test_answers_are_balanced_and_words_are_known(task: str) -> None:
    tokenizer = build_tokenizer()
    drawn = samples(task, 90, split="calibration")
    most = Counter(s.answer for s in drawn).most_common(1)[0][1]
    assert most <= 0.62 * len(drawn)
    for s in drawn:
        ids = tokenizer(f"{s.question} {s.answer}").input_ids
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(tokenizer(s.answer).input_ids) == s.answer


def test_guessing_the_commonest_answer_of_each_subtask_scores_low() -> None:
    shares = []
    for task in TASKS:
        groups: dict[str, Counter] = {}
        for s in samples(task, 60, split="calibration"):
            # Whether a question is answerable cannot be told from its words.
            group = "" if task == "unanswerable" else s.subtask
            groups.setdefault(group, Counter())[s.answer] += 1
        shares.append(sum(c.most_common(1)[0][1] for c in groups.values()) / 60)
    assert np.mean(shares) <= 0.45


def test_long_answers_are_long() -> None:
    for name, task in TASKS.items():
        if task.long_answer:
            lengths = [len(s.answer.split()) + 1 for s in samples(name, 12)]  # with the end token
            assert np.mean(lengths) >= 4.5


def test_a_blind_image_is_plain_and_of_the_same_size() -> None:
    image = samples("exist", 1)[0].images[0].resize((90, 70))
    blind = blind_image(image)
    assert blind.size == image.size
    assert len(np.unique(np.asarray(blind))) == 1


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="unknown task 'juggle'"):
        samples("juggle", 1)
    with pytest.raises(ValueError, match="unknown split"):
        samples("exist", 1, split="dev")
    with pytest.raises(ValueError, match="negative"):
        samples("exist", -1)
