"""Small videos: what is asked can be seen in them, in no single frame, and guessing gets what it should."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from saccade.glance import clips
from saccade.glance.vocabulary import COLORS
from saccade.inputs.data import load_jsonl


def centres(frame, color: str) -> tuple[float, float] | None:
    """Where pixels of a colour are in a frame on the mean: line and column; None where it has none."""
    far = np.abs(np.asarray(frame, dtype=int) - np.asarray(COLORS[color])).max(-1)
    lines, columns = (far < 12).nonzero()
    return (float(lines.mean()), float(columns.mean())) if len(lines) > 200 else None


def ways(clip) -> dict[str, str]:
    """Of every thing that moves: where to, seen in the frames alone."""
    found = {}
    for color in COLORS:
        first, last = centres(clip.frames[0], color), centres(clip.frames[-1], color)
        if first is None or last is None or max(abs(a - b) for a, b in zip(first, last, strict=True)) < 20:
            continue
        down, across = last[0] - first[0], last[1] - first[1]
        found[color] = (
            ("down" if down > 0 else "up") if abs(down) > abs(across) else ("right" if across > 0 else "left")
        )
    return found


def test_one_thing_moves_and_the_answer_says_which_and_where():
    for clip in clips.clips("moved", 24, seed=3):
        ((color, way),) = ways(clip).items()
        if clip.subtask == "where":
            assert clip.answer == way and f"the {color} " in clip.question
        else:
            assert clip.answer.split()[0] == color and clip.question.count(" the ") + 1 >= 3


def test_things_appear_in_the_order_that_answers_say():
    for clip in clips.clips("order", 24, seed=3):
        seen = [{color for color in COLORS if centres(frame, color)} for frame in clip.frames]
        assert all(one <= other for one, other in pairwise(seen)) and len(seen[-1]) == 3
        came = sorted(seen[-1], key=lambda color: next(n for n, frame in enumerate(seen) if color in frame))
        if clip.subtask == "before":
            one, other = (next(c for c in COLORS if c in part) for part in clip.question.split(" before "))
            assert clip.answer == ("yes" if came.index(one) < came.index(other) else "no")
        else:
            assert clip.answer.split()[0] == came[0 if clip.subtask == "first" else -1]


@pytest.mark.parametrize("task", clips.GUESSED)
def test_no_answer_is_likelier_than_another(task):
    made = list(clips.clips(task, 72))
    for subtask, share in clips.GUESSED[task].items():
        own = [clip for clip in made if clip.subtask == subtask]
        if share == 1 / 3:
            # By its place in the question, which is all that a blind model sees of it.
            said = Counter(clip.question.split(": ")[1].index(clip.answer) for clip in own)
            places = Counter(
                sorted(clip.question.split(": ")[1].split("the ").index(part) for part in [p])[0]
                for clip in own
                for p in clip.question.split(": ")[1].split("the ")
                if p.startswith(clip.answer)
            )
            assert said and max(places.values()) == min(places.values()) and len(places) == 3
        else:
            counts = Counter(clip.answer for clip in own)
            assert len(counts) == round(1 / share) and max(counts.values()) == min(counts.values())


def test_the_same_seed_draws_the_same_and_another_does_not():
    one, again = (next(clips.clips("moved", n, seed=5)) for n in (1, 3))
    other = next(clips.clips("moved", 1, seed=6))
    assert one.question == again.question and np.array_equal(one.frames[3], again.frames[3])
    assert not np.array_equal(one.frames[3], other.frames[3])


def test_what_is_written_is_read_as_samples(tmp_path):
    file = clips.write(tmp_path / "clips", 2, seed=1)
    read = load_jsonl(file, answered=True)
    assert [sample.task for sample in read] == ["moved", "moved", "order", "order"]
    mine = clips.samples("moved", 2, seed=1)
    for sample, own in zip(read, mine, strict=False):
        assert (sample.id, sample.question, sample.answer) == (own.id, own.question, own.answer)
        (video,), (held,) = sample.videos, own.videos
        assert video.rate == clips.RATE and np.array_equal(video.read([0, 7]), held.read([0, 7]))
    assert json.loads(file.read_text("utf-8").splitlines()[0])["video"] == "moved-0"
    with pytest.raises(ValueError, match="holds files already"):
        clips.write(tmp_path / "clips", 2)
    with pytest.raises(ValueError, match="no such task: seen; there are moved, order"):
        clips.write(tmp_path / "more", 2, tasks=["seen"])
    assert not (tmp_path / "more").exists()
