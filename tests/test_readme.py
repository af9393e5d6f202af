"""The README says what is true: its example is short, its commands exist, its tables are fresh.

That its snippets run and its numbers have sources is tested in ``tests/docs``, with the other pages.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import shlex
from pathlib import Path

import pytest
import typer

import saccade
from docsite.build import Site
from docsite.tables import TABLES, refresh, surroundings
from docsite.values import VALUE
from saccade.cli.app import build
from support import pages

ROOT = Path(__file__).resolve().parent.parent
README = pages.read("README.md")
PAGES = ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "CHANGELOG.md"]
MADE = Site(ROOT).pages()


def command_lines(text: str) -> list[str]:
    """Every ``saccade ...`` line in shell blocks and every one in backquotes."""
    inline = re.findall(r"`([^`\n]+)`", pages.FENCED.sub("", text))
    return [line for line in [*pages.commands(text), *inline] if re.match(r"saccade [a-z]", line)]


def commands(group, words: tuple[str, ...] = ()) -> dict[tuple[str, ...], set[str]]:
    """Every command of the tree with the options it knows."""
    found = {}
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found |= commands(command, (*words, name))
            if getattr(command, "default", None):
                # A group may take what is no command of its own as that of one of them.
                found[*words, name] = found[*words, name, command.default]
        else:
            options = {o for p in command.params for o in [*p.opts, *p.secondary_opts] if o.startswith("-")}
            found[*words, name] = options | {"--help"}
    return found


TREE = commands(typer.main.get_command(build()))
GROUPS = {words[:1] for words in TREE if len(words) > 1}


def test_the_example_is_short():
    example, *_ = pages.blocks(README, "python")
    assert len(example.splitlines()) <= 10


def test_functions_of_the_package_stay_functions_when_modules_of_their_name_are_imported():
    for name in ("apply", "bench", "calibrate", "cost", "evaluate", "load"):
        importlib.import_module(saccade._HOMES[name])
        assert callable(getattr(saccade, name)) and callable(getattr(saccade, name)), name


@pytest.mark.parametrize("page", [*pages.pages(), *MADE])
def test_every_command_and_option_exists(page):
    for line in command_lines(MADE.get(page) or pages.read(page)):
        words = shlex.split(line)[1:]
        if words[0] == "COMMAND" or tuple(words) in GROUPS:
            continue
        known = next((k for k in sorted(TREE, key=len, reverse=True) if tuple(words[: len(k)]) == k), None)
        assert known is not None, line
        for word in words:
            if word.startswith("--"):
                assert word.split("=")[0] in TREE[known], line


def test_the_readme_lists_every_command():
    listed = {line.removeprefix("saccade ") for line in command_lines(README)}
    for words in TREE:
        if words[:1] in GROUPS and len(words) == 1:
            continue
        if len(words) > 1 and TREE.get(words[:1]) == TREE[words]:
            words = words[:1]  # the command that a group runs without naming it, listed with what it takes
            assert any(line.split()[0] == words[0] for line in listed), words
            continue
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


def generated(page: str) -> list[str]:
    return re.findall(r"^<!-- generated:([\w-]+) -->$", pages.read(page), re.MULTILINE)


def has_numbers(page: str) -> bool:
    return bool(generated(page) or VALUE.search(re.sub(r"`[^`\n]*`", "", pages.read(page))))


@pytest.mark.parametrize("page", [page for page in pages.pages() if has_numbers(page)])
def test_generated_tables_and_numbers_are_fresh(page):
    makefile = pages.read("Makefile").replace("\\\n", "")
    assert page in re.search(r"^TABLES := (.*)$", makefile, re.MULTILINE)[1].split()
    assert refresh(pages.read(page), *surroundings(ROOT / page)) == pages.read(page), "stale: make tables"


@pytest.mark.parametrize("page", pages.pages())
def test_no_line_begins_with_the_mark_of_a_number(page):
    """Such a line ends a paragraph, and is shown as it is typed, where a page is read as it lies."""
    assert not re.search(r"^ {0,3}<!-- \S+\.json: ", pages.read(page), re.MULTILINE)


def test_every_generated_table_stands_in_the_docs():
    named = {page: generated(page) for page in pages.pages()}
    assert {name for names in named.values() for name in names} >= set(TABLES)
    assert all(len(names) == len(set(names)) for names in named.values())


def test_the_readme_is_read_in_five_minutes():
    assert len(README.encode()) <= 16_000
    assert len(pages.prose_words(README)) <= 5 * 240


def test_the_pictures_of_the_readme_are_of_todays_results():
    found = json.loads(pages.read("docs/pictures/sources.json"))
    for source, digest in found.items():
        told = hashlib.sha256((ROOT / source).read_bytes()).hexdigest()
        assert told == digest, "stale: python benchmarks/readme_pictures.py"


def test_the_architecture_page_knows_every_room():
    page = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    rooms = [
        p
        for p in (ROOT / "src" / "saccade").iterdir()
        if not p.name.startswith("__") and p.name != "py.typed"
    ]
    for path in rooms:
        assert f"`{path.name}{'/' if path.is_dir() else ''}`" in page, path.name
