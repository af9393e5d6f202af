"""What others wrote reaches the terminal without its control characters, and not at any length."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade.core.text import printable, short


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 漢 😀", "plain é 漢 😀"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\nb\tc\r\x00\x7f", "a\\nb\\tc\\r\\x00\\x7f"),
        ("\x9b2J", "\\x9b2J"),
        ("evil\u202egnp.exe", "evil\\u202egnp.exe"),
        ("lone \ud800", "lone \\ud800"),
        ("no\u200cbreak \u3000wide", "no\u200cbreak \u3000wide"),
        (3, "3"),
    ],
)
def test_control_characters_are_written_out(text, shown):
    assert printable(text) == shown


def test_some_may_stay():
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"


@given(st.text())
def test_nothing_that_steers_a_terminal_is_left(text):
    shown = printable(text)
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cs", "Co", "Cn", "Zl", "Zp")]
    shown.encode("utf-8")


@given(st.text(max_size=3000), st.integers(20, 300))
def test_short_text_is_one_line_of_stated_length(text, most):
    shown = short(text, most)
    assert len(shown) <= most and "\n" not in shown


def test_both_ends_of_long_text_are_seen():
    shown = short("vskip(layers=" + "1," * 2500 + "9)", 60)
    assert shown.startswith("vskip(layers=1") and shown.endswith("9)") and " ... " in shown
