"""Pieces of an answer add up to its text, whatever the tokens are and wherever it stops."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as some

from saccade.serve.speech import Speech

TEXTS = some.lists(some.binary(max_size=3) | some.sampled_from([b" ", b"\n", "é".encode(), b"END", b"E"]))


def told(parts, stops=()):
    """What is said piece by piece of tokens that are bytes, and whether a stop ended it."""
    speech = Speech(lambda ids: b"".join(parts[n] for n in ids).decode("utf-8", "replace"), stops)
    pieces = []
    for number in range(len(parts)):
        pieces.append(speech.add(number))
        if speech.stopped:
            break
    return [*pieces, speech.end()], speech.stopped


@given(TEXTS)
def test_pieces_are_the_text(parts):
    pieces, stopped = told(parts)
    assert not stopped
    assert "".join(pieces) == b"".join(parts).decode("utf-8", "replace").strip()


@given(TEXTS, some.sampled_from(["END", "EN", "é", "\n\n"]))
def test_nothing_is_said_from_a_stop_on(parts, stop):
    pieces, stopped = told(parts, [stop])
    text = b"".join(parts).decode("utf-8", "replace")
    said = "".join(pieces)
    assert stop not in said
    before = text.lstrip().split(stop)[0].strip()
    assert said == before or (stopped and before.startswith(said))
    assert stopped or stop not in text.strip()


def test_half_of_a_character_waits_for_the_other_half():
    pieces, _ = told(["é".encode()[:1], "é".encode()[1:], b" x"])
    assert pieces == ["", "é", " x", ""]


def test_what_may_begin_a_stop_waits():
    pieces, stopped = told([b"a E", b"N", b"x EN", b"D"], ["END"])
    assert pieces == ["a", "", " ENx", "", ""] and stopped


def test_what_a_tokenizer_writes_anew_is_not_said_twice():
    texts = ["a ?", "a? b"]
    speech = Speech(lambda ids: texts[len(ids) - 1])
    assert [speech.add(0), speech.add(1), speech.end()] == ["a ?", "", ""]
