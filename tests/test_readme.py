"""The README says what is true: its example runs, its commands exist, its numbers are generated."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest
import typer

import saccade
from saccade.cli.app import build
from saccade.report.tables import TABLES, refresh

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
PAGES = ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "CHANGELOG.md"]

FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
GENERATED = re.compile(r"<!-- generated:[\w-]+ -->.*?<!-- /generated -->", re.DOTALL)


def blocks(page: str, language: str) -> list[str]:
    """Fenced blocks of a language on a page."""
    return [body for kind, body in FENCED.findall((ROOT / page).read_text("utf-8")) if kind == language]


def command_lines(page: str) -> list[str]:
    """Every ``saccade ...`` line in shell blocks and every one in backquotes."""
    text = (ROOT / page).read_text("utf-8")
    shell = [line.split("  #")[0].strip() for body in blocks(page, "sh") for line in body.splitlines()]
    inline = re.findall(r"`([^`\n]+)`", FENCED.sub("", text))
    return [line for line in [*shell, *inline] if re.match(r"saccade [a-z]", line)]


def commands(group, words: tuple[str, ...] = ()) -> dict[tuple[str, ...], set[str]]:
    """Every command of the tree with the options it knows."""
    found = {}
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found |= commands(command, (*words, name))
        else:
            options = {o for p in command.params for o in [*p.opts, *p.secondary_opts] if o.startswith("-")}
            found[*words, name] = options | {"--help"}
    return found


TREE = commands(typer.main.get_command(build()))
GROUPS = {words[:1] for words in TREE if len(words) > 1}


def test_the_example_runs_and_is_short(capsys):
    (example,) = blocks("README.md", "python")
    assert len(example.splitlines()) <= 10
    exec(compile(example, "README.md", "exec"), {"__name__": "example"})
    assert capsys.readouterr().out.strip()


def test_functions_of_the_package_stay_functions_when_modules_of_their_name_are_imported():
    for name in ("apply", "bench", "calibrate", "cost", "evaluate", "load"):
        importlib.import_module(saccade._HOMES[name])
        assert callable(getattr(saccade, name)) and callable(getattr(saccade, name)), name


@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_option_exists(page):
    for line in command_lines(page):
        words = shlex.split(line)[1:]
        if words[0] == "COMMAND" or tuple(words) in GROUPS:
            continue
        known = next((k for k in TREE if tuple(words[: len(k)]) == k), None)
        assert known is not None, line
        for word in words:
            if word.startswith("--"):
                assert word.split("=")[0] in TREE[known], line


def test_the_readme_lists_every_command():
    listed = {line.removeprefix("saccade ") for line in command_lines("README.md")}
    for words in TREE:
        # A group such as `saccade plan` may stand for its parts.
        assert " ".join(words) in listed or words[0] in listed, words


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_and_links_exist(page):
    text = (ROOT / page).read_text("utf-8")
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for link in re.findall(r"\]\(([^)#\s]+)\)", text):
        assert link.startswith("https://") or (ROOT / link).exists(), link


@pytest.mark.parametrize("page", ["README.md", "src/saccade/glance/README.md"])
def test_generated_tables_are_fresh(page):
    text = (ROOT / page).read_text("utf-8")
    assert refresh(text, ROOT / "benchmarks" / "results") == text, "stale: make tables"


def test_every_generated_table_stands_in_the_readme_once():
    named = re.findall(r"<!-- generated:([\w-]+) -->", README)
    assert set(named) == set(TABLES) and len(named) == len(set(named))


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_no_measured_number_is_written_by_hand(page):
    prose = FENCED.sub("", GENERATED.sub("", (ROOT / page).read_text("utf-8")))
    assert not re.findall(r"\d\s?%|\d\s?\u00d7|\d ?x\b|\d\s?(?:ms|tokens/s|GFLOPs|TFLOPs|points)\b", prose)


def test_the_architecture_page_knows_every_room():
    page = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    rooms = [
        p
        for p in (ROOT / "src" / "saccade").iterdir()
        if not p.name.startswith("__") and p.name != "py.typed"
    ]
    for path in rooms:
        assert f"`{path.name}{'/' if path.is_dir() else ''}`" in page, path.name
