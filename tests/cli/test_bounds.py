"""Every number that a command takes has a least and a largest value, and is a number."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from saccade.cli.app import build


def options(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every parameter of every command, with the words that lead there."""
    for name, command in getattr(group, "commands", {}).items():
        yield from options(command, (*path, name))
    for parameter in group.params:
        yield path, parameter


ALL = list(options(typer.main.get_command(build())))
NUMBERS = [(path, p) for path, p in ALL if p.type_descriptor.annotation in (int, float)]


def named(case: tuple[tuple[str, ...], Any]) -> str:
    return " ".join((*case[0], case[1].name))


def test_there_are_many():
    assert len(NUMBERS) > 40
    for name in ("demo", "bench", "calibrate", "eval", "generate", "explain", "analyze", "study"):
        assert any(path == (name,) and p.name == "threads" for path, p in ALL), name
    for name in ("bench", "calibrate", "eval", "generate", "explain", "analyze"):
        here = {p.name for path, p in ALL if path == (name,)}
        assert {"force", "strict"} <= here, name


@pytest.mark.parametrize("case", NUMBERS, ids=named)
def test_a_number_has_bounds(case):
    _, parameter = case
    assert parameter.min is not None and parameter.max is not None


BEYOND = ("9" * 30, "-" + "9" * 30, "nan", "x" * 5000 + "\x1b[31m")


@pytest.mark.parametrize("case", NUMBERS, ids=named)
def test_a_number_beyond_them_is_one_line(command, case):
    path, parameter = case
    for value in BEYOND:
        done = command(*path, *_others(path), f"{parameter.opts[0]}={value}")
        assert done.code == 2 and done.out == "", value
        assert done.err.startswith("saccade: error: ") and done.err.count("\n") == 1
        assert len(done.err) < 1200 and done.err.rstrip("\n").isprintable()


def _others(path: tuple[str, ...]) -> list[str]:
    """Arguments a command cannot do without."""
    return {
        ("study",): ["budget"],
        ("generate",): ["--question", "q"],
        ("batch",): ["--data", "mine.jsonl", "--out", "answers"],
        ("explain",): ["image.png", "q", "--plan", "dense"],
        ("train", "run"): ["config.yaml"],
    }.get(path, [])


UNKNOWN = [
    ["cost", "--plan", "vskipp(layers=1)"],
    ["cost", "no-such-shape"],
    ["cost", "--plan", "no-such-plan.json"],
    ["bench", "--plan", "fastvv(layer=2)"],
    ["bench", "no-such-shape"],
    ["eval", "--plan", "nothing(layers=1)"],
    ["calibrate", "--method", "nothing"],
    ["generate", "--question", "q", "--plan", "nothing"],
    ["explain", "image.png", "q", "--plan", "nothing"],
    ["analyze", "--plan", "nothing"],
    ["study", "no-such-study"],
    ["plan", "show", "nothing"],
    ["plan", "validate", "missing.json"],
    ["plan", "diff", "dense", "missing.json"],
    ["eval", "--no-such-option"],
    ["no-such-command"],
]


@pytest.mark.e2e
def test_an_unknown_name_is_refused_before_torch_is_imported(root):
    code = (
        "import sys\nfrom saccade.cli import main\n"
        f"for words in {UNKNOWN!r}:\n"
        "    assert main(words) == 2, words\n"
        "    assert 'torch' not in sys.modules, words\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root / "src", capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == len(UNKNOWN)


def test_names_known_without_import_are_those_registered():
    from saccade.methods import METHODS
    from saccade.plans.names import method_names
    from saccade.research.names import listed
    from saccade.research.studies import STUDIES

    assert set(method_names()) == set(METHODS)
    assert set(listed()) == set(STUDIES)
