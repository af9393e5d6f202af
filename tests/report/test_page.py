"""The page is one file that fetches nothing, escapes what it is given and tells its limits."""

import re
from html.parser import HTMLParser

import pytest

from saccade.research.demo.page import render, render_family

VOID = {"meta", "img", "br", "hr", "link"}


@pytest.fixture(scope="module")
def page(study, pictures):
    return render(study, pictures)


class Reader(HTMLParser):
    """Checks that tags close in order and collects what could be fetched."""

    def __init__(self):
        super().__init__()
        self.open, self.sources, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.sources += [value for key, value in attrs if key in ("src", "href", "srcset", "data")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_tags_close_and_nothing_is_fetched(page):
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert len(reader.sources) == 5
    assert all(source.startswith("data:image/png;base64,") for source in reader.sources)
    assert "<script" not in page and "@import" not in page and "url(" not in page


def test_names_are_escaped(page):
    assert "Toy &lt;b&gt;" in page and "Toy <b>" not in page
    assert "&lt;angle&gt;" in page


def test_the_numbers_are_those_of_the_study(page, study):
    main = next(e for e in study["plans"] if e["name"] == study["headline"]["main"])
    assert f"{100 * main['mean']['accuracy']:.1f} %" in page
    assert f"{100 * main['cost']['flops_ratio']:.1f} %" in page
    assert "20 held-out questions (10 from each of 2 tasks)" in page
    assert "1 min 33 s" in page


def test_it_ends_with_what_was_tuned_where_something_was(page, study, pictures):
    told = (
        "found &amp; kept",
        "49.3 %",
        "shortv(layers=3)+dart(keep=0.77)",
        "4321 forward passes on 520 questions",
    )
    assert all(words in page for words in told)
    bare = render(study | {"tuned": None}, pictures)
    assert not any(words in bare for words in (*told, "Half of the FLOPs"))


def test_limits_intervals_and_commands_are_told(page):
    text = re.sub(r"<[^>]+>", " ", page.split("<main>")[1])
    assert "Few questions." in text and "95 %" in text
    assert "saccade cost llava-1.5-7b" in text
    assert "{" not in text and "}" not in text  # every field of the prose was filled


def test_the_page_of_all_methods_closes_its_tags_and_tells_what_is_missing(family, pictures):
    page = render_family(family, pictures["flops"])
    reader = Reader()
    reader.feed(page)
    assert reader.open == [] and len(reader.sources) == 1
    text = " ".join(reader.text)
    assert "{" not in page.split("<main>")[1] and "Toy <b>" not in page
    for row in family["rows"]:
        assert row["name"] in text
        assert row.get("mean") or row["reason"] in text


def test_an_unknown_plan_is_named(study, pictures):
    with pytest.raises(ValueError, match="V-Skip 99"):
        render(study | {"headline": study["headline"] | {"main": "V-Skip 99"}}, pictures)
