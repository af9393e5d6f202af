"""Closed output, a reader that leaves, a full disk, a plain locale: one line or none, never a traceback."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys

import pytest

from saccade.core.text import replace_unknown
from support.programs import environment

COST = "cost llava-1.5-7b --plan shortv(budget=2)"


def shell(root, redirect: str, words: str, **more: str) -> subprocess.CompletedProcess:
    """A command line as a shell runs it, with its redirections."""
    line = f"{shlex.join([sys.executable, '-m', 'saccade', *words.split(' ')])} {redirect}"
    return subprocess.run(
        ["bash", "-c", line],
        cwd=root / "src",
        env=environment() | more,
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("words", "redirect"),
    [
        *(("--help", redirect) for redirect in (">&-", "<&- >&- 2>&-", "| true")),
        pytest.param("--help", "2>&- >&-", marks=pytest.mark.long(instead="--help >&-")),
        pytest.param(COST, "<&- >&- 2>&-", marks=pytest.mark.long(instead="--help")),
        (COST, "| true"),
    ],
)
def test_nobody_reads(root, words, redirect):
    done = shell(root, redirect, words)
    assert done.returncode == 0 and "Traceback" not in done.stderr and "Exception" not in done.stderr


@pytest.mark.e2e
def test_results_for_a_closed_output_are_refused(root):
    done = shell(root, ">&-", f"{COST} --json -")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "standard output, which is closed" in done.stderr


@pytest.mark.e2e
def test_a_file_opened_later_is_not_standard_output(root, tmp_path):
    done = shell(root, ">&- 2>&-", f"{COST} --json {tmp_path / 'cost.json'}")
    assert done.returncode == 0
    assert json.loads((tmp_path / "cost.json").read_text())["resolved"] == "shortv(layers=30-31)"


@pytest.mark.e2e
def test_a_full_disk_is_one_line(root):
    done = shell(root, "> /dev/full", COST)
    assert done.returncode == 2
    assert done.stderr == "saccade: error: No space left on device\n"


@pytest.mark.e2e
def test_errors_for_nobody(root):
    assert shell(root, "2>&-", "cost no-such-shape").returncode == 2


@pytest.mark.e2e
@pytest.mark.parametrize(
    "words", ["methods", pytest.param(COST, marks=pytest.mark.long(instead="methods")), "--help"]
)
def test_a_plain_locale_gets_plain_letters(root, words):
    plain = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    done = shell(root, "", words, **plain)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.isascii()


def test_every_drawing_has_a_stand_in():
    def written(text: str) -> str:
        out, at = "", 0
        while at < len(text):
            error = UnicodeEncodeError("ascii", text, at, at + 1, "ordinal not in range")
            piece, at = replace_unknown(error)
            out += piece
        return out

    assert written("█·…±×→≤≥") == "#*...+-x-><=>="  # noqa: RUF001
    assert written("漢") == "\\u6f22"


def test_streams_of_the_caller_come_back(command):
    before = sys.stdout, sys.stderr, sys.stdout.errors
    assert command("cost").code == 0
    assert (sys.stdout, sys.stderr, sys.stdout.errors) == before
