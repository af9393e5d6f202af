"""Where the taught heads are told to look, checked by hand on scenes whose labels are written here."""

from __future__ import annotations

import torch

from saccade.glance.tokenizer import build_tokenizer
from saccade.glance.vocabulary import (
    COLOR_INDEX,
    CONTENT_INDEX,
    HEAD_INDEX,
    IGNORE,
    LABEL_HEADS,
    LETTER_INDEX,
)
from saccade.research.embedded.pointing import HEADS, aims

PATCHES = 6


def _aims(
    text: str, patches: dict[int, dict[str, int]], look: int = 0, first_layer: bool = False
) -> dict[tuple[int, str, int], list[int]]:
    """Aims per (head, word, its occurrence); row 0 is the one before the patches, so patch p is p + 1."""
    tokenizer = build_tokenizer()
    ids = torch.tensor([tokenizer(text).input_ids])
    words = tokenizer.convert_ids_to_tokens(ids[0])
    labels = torch.full((1, PATCHES, len(LABEL_HEADS)), IGNORE)
    for patch, heads in patches.items():
        for head, value in heads.items():
            labels[0, patch, HEAD_INDEX[head]] = value
    tasks = torch.full_like(ids, -1)
    begin = words.index("<assistant>")
    tasks[0, begin:-1] = 0
    batch = {"ids": ids, "labels": labels, "segments": torch.zeros_like(ids), "tasks": tasks}
    aim = aims(batch, first_layer)[0, look]
    found = {}
    for head in range(HEADS):
        for at, word in enumerate(words):
            if aim[head, at].any():
                found[head, word, words[:at].count(word)] = aim[head, at].nonzero().flatten().tolist()
    return found


def _thing(color: str, shape: str, order: int) -> dict[str, int]:
    return {
        "color": COLOR_INDEX[color],
        "content": CONTENT_INDEX[shape],
        "order": order,
        "same_color": 1,
    }


ROOM = {0: _thing("red", "circle", 1), 2: _thing("red", "square", 2), 5: _thing("blue", "circle", 3)}


def test_a_colour_a_shape_and_both_together() -> None:
    found = _aims("is the red circle above the blue circle ?<assistant>yes</s>", ROOM)
    assert found[0, "red", 0] == [1, 3]
    assert found[0, "circle", 0] == [1]
    assert found[0, "blue", 0] == [6]
    assert found[0, "circle", 1] == [6]
    # The answer looks at the object named last, and with another head at the one named first.
    assert found[0, "<assistant>", 0] == [6]
    assert found[1, "<assistant>", 0] == [1]
    assert (0, "yes", 0) not in found


def test_what_is_not_there_is_looked_for_in_the_first_row() -> None:
    found = _aims("is there a blue square ?<assistant>no</s>", ROOM)
    assert found[0, "blue", 0] == [6]
    assert found[0, "square", 0] == [0]
    assert found[0, "<assistant>", 0] == [0]


def test_a_line_is_looked_for_where_it_begins() -> None:
    line = {
        p: {"color": COLOR_INDEX["red"], "content": CONTENT_INDEX[c], "order": p}
        for p, c in ((1, "K"), (2, "R"), (3, "T"))
    }
    assert _aims("read the red word<assistant>K R T</s>", line)[0, "red", 0] == [2]


def test_arrows_are_followed_in_both_directions() -> None:
    boxes = {
        0: {"content": CONTENT_INDEX["A"], "source": 0, "target": 0},
        4: {"content": CONTENT_INDEX["B"], "source": LETTER_INDEX["A"], "target": 0},
        5: {"content": CONTENT_INDEX["C"], "source": 0, "target": LETTER_INDEX["A"]},
    }
    found = _aims("follow the arrow from A<assistant>B</s>", boxes)
    for word in ("A", "<assistant>"):
        assert found[0, word, 0] == [1]
        assert found[1, word, 0] == [5]
        assert found[2, word, 0] == [6]


def test_the_second_look_is_one_arrow_further() -> None:
    boxes = {
        1: {"content": CONTENT_INDEX["C"], "source": 0, "target": 0},
        3: {"content": CONTENT_INDEX["A"], "source": 0, "target": 0},
        4: {"content": CONTENT_INDEX["B"], "source": LETTER_INDEX["A"], "target": LETTER_INDEX["C"]},
    }
    text = "follow two arrows from A<assistant>C</s>"
    assert _aims(text, boxes)[0, "<assistant>", 0] == [4]
    second = _aims(text, boxes, look=1)
    assert second[0, "<assistant>", 0] == [5]  # B
    assert second[1, "<assistant>", 0] == [0]  # no box tells that B leads to it
    once = _aims("follow the arrow from A<assistant>B</s>", boxes, look=1)
    assert once[0, "<assistant>", 0] == [4]


def test_questions_that_name_nothing_teach_nothing() -> None:
    assert _aims("list all objects<assistant>red circle</s>", ROOM) == {}


def test_in_the_first_layer_words_that_name_nothing_look_at_what_is_drawn() -> None:
    text = "is there a red circle ?<assistant>yes</s>"
    plain, first = _aims(text, ROOM), _aims(text, ROOM, look=2, first_layer=True)
    assert _aims(text, ROOM, first_layer=True) == plain, "the other looks stay as they are"
    assert plain.items() <= first.items(), "names and the answer's row look where they did"
    for head in range(HEADS):
        assert first[head, "there", 0] == first[head, "?", 0] == [1, 3, 6], "a circle, a square, a circle"
