"""The site builds strictly, fetches nothing, and its generated parts say what the package says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import fields
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer

from docsite import commands, findings, includes, methods, values
from docsite.__main__ import main as write_site
from docsite.build import Site
from saccade.cli import main
from saccade.cli.app import build
from saccade.methods import METHODS
from saccade.research.names import stem_of
from saccade.research.studies import STUDIES
from saccade.system.embedded import GAZE
from support import pages

SITE = Site(pages.ROOT)
RESULTS = pages.ROOT / "benchmarks" / "results"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The site's sources."""
    folder = tmp_path_factory.mktemp("site")
    assert write_site([str(folder)]) == 0
    return folder


class Fetched(HTMLParser):
    """Addresses that a browser would fetch to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        if tag == "link" and named.get("rel") in ("canonical", "next", "prev"):
            return
        keys = ("src", "srcset", "data") if tag != "link" else ("href",)
        self.found += [named[key] for key in keys if named.get(key)]


@pytest.mark.e2e
@pytest.mark.long(instead="the other tests of this file")
def test_it_builds_strictly_and_fetches_nothing(made):
    words = [sys.executable, "-m", "zensical", "build", "--strict", "-f", str(made / "mkdocs.yml")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, cwd=made)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = sorted((made / "site").rglob("*.html"))
    assert {f"methods/{name}.html" for name in METHODS} <= {
        page.relative_to(made / "site").as_posix() for page in shown
    }
    for page in shown:
        reader = Fetched()
        reader.feed(page.read_text("utf-8"))
        assert not [url for url in reader.found if "//" in url and not url.startswith("data:")], page


def test_nothing_is_left_to_fill_in(made):
    for page in (made / "docs").rglob("*.md"):
        text = page.read_text("utf-8")
        assert "<!-- / -->" not in re.sub(r"`[^`]*`", "", pages.FENCED.sub("", text)), page
        assert not re.search(r"<!-- (?:table|include|figure|findings)", text), page


def test_every_mark_and_value_names_something(tmp_path):
    for mark, words in (
        ("<!-- table: nothing -->", "no generated table 'nothing'"),
        ("<!-- include: README.md#nothing -->", "no heading #nothing"),
        ("<!-- glance_eval.json: dense/nothing | percent --><!-- / -->", "there is no 'nothing'"),
        ("<!-- nothing.json: dense | percent --><!-- / -->", "no such file"),
        ("<!-- glance_eval.json: dense/mean/accuracy | nothing --><!-- / -->", "no format 'nothing'"),
        ("<!-- glance_eval.json: dense/name | percent --><!-- / -->", "cannot be written as percent"),
    ):
        with pytest.raises(ValueError, match=words) as raised:
            SITE.fill(f"before\n\n{mark}\n", "a.md")
        assert str(raised.value).startswith("a.md: ")


refreshed = partial(values.filled, marked=True)


def test_a_value_is_what_the_file_says(tmp_path):
    score = {"accuracy": 0.5, "low": 0.25, "high": 0.75, "difference": -0.1}
    score |= {"difference_low": -0.2, "difference_high": 0.05}
    data = {"plans": [{"name": "a", "mean": score}, {"spec": "b(c=1)", "n": 1300}], "ratio": 0.126}
    (tmp_path / "x.json").write_text(json.dumps(data), encoding="utf-8")
    asked = {
        "plans/a/mean | accuracy": "50.0 % (25.0 to 75.0)",
        "plans/b(c=1)/n | count": "1,300",
        "ratio | ratio": "0.13",
        "plans/0/mean | difference": "-10.0 points (-20.0 to +5.0)",
        "ratio | whole": "13 %",
    }
    stale = "; ".join(f"<!-- x.json: {way} -->1 of old<!-- / -->" for way in asked)
    assert values.filled(stale, tmp_path) == "; ".join(asked.values())
    fresh = refreshed(stale, tmp_path)
    assert fresh == "; ".join(f"<!-- x.json: {way} -->{told}<!-- / -->" for way, told in asked.items())
    assert refreshed(fresh, tmp_path) == fresh


@pytest.mark.parametrize(
    "text",
    [
        "<!-- x.json: ratio | ratio -->0.13",
        "0.13<!-- / -->",
        "<!-- x.json: ratio|ratio -->0.13<!-- / -->",
        "<!-- x.json ratio | ratio -->0.13<!-- / -->",
    ],
)
def test_a_mark_that_is_not_read_is_refused(text, tmp_path):
    (tmp_path / "x.json").write_text('{"ratio": 0.126}', encoding="utf-8")
    for made in (values.filled, refreshed):
        with pytest.raises(ValueError, match="no mark of a number"):
            made(f"Some words {text} and more.", tmp_path)
        assert made(f"`{text}`\n```\n{text}\n```\n", tmp_path) == f"`{text}`\n```\n{text}\n```\n"


def test_whatever_stands_between_marks_is_renewed(tmp_path):
    (tmp_path / "x.json").write_text('{"spec": "fastv(keep<0.5)", "ratio": 0.126}', encoding="utf-8")
    for before in ("", "keep<0.5", "two\nlines"):
        text = f"It says <!-- x.json: spec | plain -->{before}<!-- / -->."
        fresh = "It says <!-- x.json: spec | plain -->fastv(keep<0.5)<!-- / -->."
        assert refreshed(text, tmp_path) == refreshed(fresh, tmp_path) == fresh
        assert values.filled(text, tmp_path) == "It says fastv(keep<0.5)."


def test_a_section_ends_where_the_next_of_its_depth_begins():
    text = "# A\none\n## B c\ntwo\n### D\nthree\n```sh\n# no heading\n```\n## E\nfour\n# F\nfive\n"
    assert includes.section(text, "b-c") == "two\n### D\nthree\n```sh\n# no heading\n```"
    assert includes.section(text, "f") == "five"
    with pytest.raises(ValueError, match="no heading #no-heading"):
        includes.section(text, "no-heading")


def test_links_lead_where_the_site_has_the_file():
    places = {"A.md": "a.md", "r/x.json": "results/x.json"}
    text = "[a](A.md#b) [x](r/x.json) [gone](LICENSE) [w](https://w.org/A.md) [here](#top) ![p](A.md)"
    told = "[a](../a.md#b) [x](../results/x.json) gone [w](https://w.org/A.md) [here](#top) ![p](A.md)"
    assert includes.relinked(text, "methods/m.md", places) == told


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_page_has_its_docstring_paper_and_parameters(name):
    cls, page = METHODS[name], methods.page(name, RESULTS)
    assert page.startswith(f"# {cls.title}\n") and (cls.paper or cls.title) in page
    own = " ".join((cls.__doc__ or "").split("Attributes:")[0].replace("``", "`").split())
    assert own in " ".join(page.split())
    told = methods.attributes(cls)
    for field in fields(cls):
        assert f"| `{field.name}` |" in page
        assert told.get(field.name), f"{name}: {field.name} is not documented"


def test_examples_of_methods_run(capsys):
    prices = [methods.examples(name, RESULTS)[0].split(" --plan ")[1].strip("'") for name in METHODS]
    words = [word for plan in prices for word in ("--plan", plan)]
    assert main(["cost", "llava-1.5-7b", *words, "--json", "-"]) == 0
    assert [one["plan"] for one in json.loads(capsys.readouterr().out)["plans"]] == prices
    tried = [line for name in METHODS for line in methods.examples(name, RESULTS)[1:]]
    plans = [line.split(" --plan ")[1].split(" --task")[0].strip("'") for line in tried]
    words = [word for plan in plans for word in ("--plan", plan)]
    asked = ["eval", "glance", *words, "--task", "count", "--samples", "1", "--json", "-"]
    assert main(asked) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)["plans"]] == plans


def test_the_reference_has_every_command_and_option():
    page = commands.page()
    for words, command in commands.leaves(typer.main.get_command(build())):
        part = page.split(f"## `saccade {' '.join(words)}`\n")[1].split("\n## ")[0]
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert all(f"`{name}`" in part for name in parameter.opts), (words, parameter.name)
            assert not parameter.help or parameter.help.split()[0].strip("<>") in part


def fake(name: str) -> dict:
    """A study's result as far as the page needs it."""
    mean = {"accuracy": 0.9, "low": 0.8, "high": 0.95, "blind": 0.1}
    finding = {
        "claim": "Late layers are free.",
        "source": "a paper, Table 1",
        "verdict": "mixed",
        "found": "Some.",
    }
    return {
        "study": name,
        "title": "A study of layers",
        "question": "Which layers?",
        "findings": [finding],
        "dense": {"mean": mean},
        "data": {"questions": 20, "tasks": ["a", "b"], "seed": 3},
        "model": {"name": "Toy", "layers": 4, "weights": "abc"},
        "provenance": {"command": "saccade study x --samples 10"},
    }


def test_findings_come_from_the_files_of_studies(tmp_path):
    published = pages.ROOT / "docs" / "published.toml"
    empty = findings.page("Intro.", tmp_path, published)
    assert "Intro." in empty and "In brief" not in empty
    for name, study in STUDIES.items():
        assert f"`saccade study {name}`: {study.question}" in empty
    (tmp_path / "study_x.json").write_text(json.dumps(fake("x")), encoding="utf-8")
    page = findings.page("", tmp_path, published)
    assert "| Late layers are free. | a paper, Table 1 | **mixed** | [A study of layers](#study-x) |" in page
    assert "## A study of layers { #study-x }" in page and "90.0 % (80.0 to 95.0)" in page
    assert "saccade study x --samples 10" in page and "20 held-out questions of 2 tasks" in page
    other = fake("x") | {"findings": [fake("x")["findings"][0] | {"verdict": "supported"}]}
    other |= {"model": {"name": "Gaze", "layers": 4, "weights": "def"}}
    (tmp_path / f"{stem_of('x', GAZE)}.json").write_text(json.dumps(other), encoding="utf-8")
    both = findings.page("", tmp_path, published)
    assert "| claim | made in | on Gaze | on Glance | study |" in both
    assert "| Late layers are free. | a paper, Table 1 | **supported** | **mixed** | [A study" in both
    assert 0 < both.index("### On Gaze") < both.index("weights `def`") < both.index("### On Glance")
    (tmp_path / "study_y.json").write_text('{"study": "y"}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"study_y\.json is not the result of a study"):
        findings.page("", tmp_path, published)


def test_reported_numbers_name_their_paper_and_fit_their_heads():
    import tomllib

    data = tomllib.loads((pages.ROOT / "docs" / "published.toml").read_text("utf-8"))
    page = findings.page("", pages.ROOT / "nowhere", pages.ROOT / "docs" / "published.toml")
    for table in data["table"]:
        paper = data["paper"][table["paper"]]
        assert (
            f"As reported: {table['title']} ([{paper['title']}]({paper['link']}), {table['where']})." in page
        )
        assert all(len(row) == len(table["head"]) for row in table["rows"])


def test_bad_input_is_told_in_one_line(capsys):
    assert write_site([]) == 2
    assert capsys.readouterr().err.startswith("usage: ")
