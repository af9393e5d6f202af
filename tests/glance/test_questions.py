"""Questions: their answers are recomputed here from the facts, by other code."""

from __future__ import annotations

import re

import numpy as np
import pytest

from saccade.glance.questions import figures, objects, reading
from saccade.glance.scenes import make_scene
from saccade.glance.scenes.chart import Bar, ChartFacts
from saccade.glance.scenes.diagram import DiagramFacts
from saccade.glance.scenes.digits import DigitFacts
from saccade.glance.scenes.objects import ObjectFacts, Thing
from saccade.glance.scenes.text import TextFacts, TextLine
from saccade.glance.tasks import TASKS, training_questions

ROOM = ObjectFacts(
    (
        Thing("circle", "red", "large", 0, 0),
        Thing("square", "blue", "small", 0, 3),
        Thing("circle", "blue", "small", 2, 3),
        Thing("ring", "blue", "large", 4, 0),
    )
)


def _asked(write, facts, draws: int = 60) -> dict[str, str]:
    """All questions a writer can think of, with their answers; an answer must never change."""
    answers: dict[str, str] = {}
    for seed in range(draws):
        for q in write(facts, np.random.default_rng(seed)):
            assert answers.setdefault(q.question, q.answer) == q.answer, q.question
    return answers


def test_a_room_checked_by_hand() -> None:
    exist = _asked(objects.exist, ROOM)
    assert exist["is there a red circle ?"] == "yes"
    assert exist["is there a red square ?"] == "no"
    attribute = _asked(objects.attribute, ROOM)
    assert attribute["what color is the ring ?"] == "blue"
    assert attribute["what shape is the red object ?"] == "circle"
    assert "what color is the circle ?" not in attribute  # two circles: no fair answer
    assert attribute["what size is the blue square ?"] == "small"
    count = _asked(objects.count, ROOM)
    assert count["how many blue objects ?"] == "3"
    assert count["how many circles ?"] == "2"
    assert count["how many objects ?"] == "4"
    relation = _asked(objects.relation, ROOM, 300)
    assert relation["where is the red circle from the blue square ?"] == "left"
    assert relation["where is the blue circle from the blue square ?"] == "below"
    assert relation["is the blue ring below the red circle ?"] == "yes"
    assert relation["what is next right of the red circle ?"] == "blue square"
    assert relation["what is next below the blue square ?"] == "blue circle"
    compare = _asked(objects.compare, ROOM)
    assert compare["are there more blue or red objects ?"] == "blue"
    assert compare["are there more rings or circles ?"] == "circles"
    place = _asked(objects.place, ROOM)
    assert place["what is in row 3 column 4 ?"] == "blue circle"
    assert place["which row is the blue ring in ?"] == "5"
    assert place["which column is the blue square in ?"] == "4"
    listed = _asked(objects.listing, ROOM)["list all objects"]
    assert listed == "red circle blue square blue circle blue ring"
    absent = _asked(objects.unanswerable, ROOM, 200)
    assert absent["what color is the triangle ?"] == "unanswerable"
    assert absent["what color is the ring ?"] == "blue"


def test_figures_and_texts_checked_by_hand() -> None:
    chart = ChartFacts((Bar("A", "red", 3), Bar("B", "blue", 7), Bar("C", "pink", 1)))
    asked = _asked(figures.chart, chart)
    assert asked["what value is bar B ?"] == "7"
    assert asked["which bar is tallest ?"] == "B"
    assert asked["which bar is shortest ?"] == "C"
    assert asked["what color is bar C ?"] == "pink"
    assert asked["which bar is red ?"] == "A"
    assert _asked(figures.taller, chart)["which is taller , C or A ?"] == "A"
    diagram = DiagramFacts(("A", "B", "C"), (("A", "B"), ("B", "C")))
    asked = _asked(figures.diagram, diagram)
    assert asked["follow the arrow from A"] == "B"
    assert asked["follow two arrows from A"] == "C"
    assert asked["what points to C ?"] == "B"
    text = TextFacts((TextLine("word", "KRT", "red"), TextLine("number", "4071", "blue")))
    asked = _asked(reading.text, text)
    assert asked["read the red word"] == "K R T"
    assert asked["read the top line"] == "K R T"
    assert asked["read the blue number"] == "4 0 7 1"
    assert asked["read the bottom line"] == "4 0 7 1"
    digits = DigitFacts(((3, 9), (1, 4)), (("red", "blue"), ("blue", "pink")), (0, 1, 2, 3))
    asked = _asked(reading.digits, digits)
    assert asked["what digit is in row 2 column 1 ?"] == "1"
    assert asked["what is the pink digit ?"] == "4"
    assert asked["read row 1"] == "3 9"
    assert asked["what is the largest digit in row 2 ?"] == "4"
    assert "what is the blue digit ?" not in asked


@pytest.mark.parametrize("seed", range(40))
def test_object_answers_follow_from_the_facts(seed: int) -> None:
    scene = make_scene("objects", seed)
    things = scene.facts.things
    names = [f"{t.color} {t.shape}" for t in things]
    rng = np.random.default_rng(seed)
    for q in training_questions(scene, rng):
        if m := re.fullmatch(r"is there an? (\w+) (\w+) \?", q.question):
            assert q.answer == ("yes" if " ".join(m.groups()) in names else "no")
        elif m := re.fullmatch(r"how many (\w+) objects \?", q.question):
            assert q.answer == str(sum(n.startswith(m[1] + " ") for n in names))
        elif m := re.fullmatch(r"what is in row (\d) column (\d) \?", q.question):
            inside = [t for t in things if (t.row + 1, t.column + 1) == (int(m[1]), int(m[2]))]
            assert q.answer == f"{inside[0].color} {inside[0].shape}"
        elif m := re.fullmatch(
            r"is the (\w+ \w+) (left of|right of|above|below) the (\w+ \w+) \?", q.question
        ):
            a, b = (things[names.index(m[i])] for i in (1, 3))
            truth = {
                "left of": a.column < b.column and abs(a.row - b.row) < abs(a.column - b.column),
                "right of": a.column > b.column and abs(a.row - b.row) < abs(a.column - b.column),
                "above": a.row < b.row and abs(a.row - b.row) > abs(a.column - b.column),
                "below": a.row > b.row and abs(a.row - b.row) > abs(a.column - b.column),
            }[m[2]]
            assert q.answer == ("yes" if truth else "no")
        elif q.task == "list":
            order = sorted(range(len(things)), key=lambda i: (things[i].row, things[i].column))
            assert q.answer == " ".join(names[i] for i in order)


@pytest.mark.parametrize("seed", range(30))
def test_diagram_answers_follow_from_the_arrows(seed: int) -> None:
    scene = make_scene("diagram", seed)
    leads = dict(scene.facts.arrows)
    assert len(leads) == len(scene.facts.arrows), "at most one arrow leaves a box"
    for q in training_questions(scene, np.random.default_rng(seed)):
        box = q.question.split()[-1] if q.subtask != "back" else q.question.split()[-2]
        if q.subtask == "follow":
            assert leads[box] == q.answer
        elif q.subtask == "twice":
            assert leads[leads[box]] == q.answer
        else:
            assert [s for s, e in leads.items() if e == box] == [q.answer]


def test_a_scene_never_answers_one_question_two_ways() -> None:
    kinds = {kind for task in TASKS.values() for kind in task.kinds}
    for kind in sorted(kinds):
        for seed in range(10):
            scene, answers = make_scene(kind, seed), {}
            for task in TASKS.values():
                for draw in range(5):
                    for q in task.questions(scene, np.random.default_rng(draw)):
                        assert answers.setdefault(q.question, q.answer) == q.answer
