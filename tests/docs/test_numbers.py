"""Every number in the prose of README.md and of the docs has a source.

Numbers in code, in generated blocks and in values put in when the site is built come from there. Of all
others a narrow rule says why they are no result, or ``docs/sources.toml`` says where they come from.
"""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import pytest

from docsite.build import MARK
from docsite.values import VALUE, value
from support import pages

SOURCES = tomllib.loads(pages.read("docs/sources.toml"))["number"]
KINDS = ("value", "python", "paper", "definition")

CODE = "`code`"
DIGITS = re.compile(r"\d+(?:[.,]\d+)*")
SAID = re.compile(
    r"\b(?:twice|thrice|half|double|\w+ times|\w+fold) (?:as|the) "
    r"(?:fast|quick|slow|cheap|speed|time|cost)\w*"
    r"|\b\w+ (?:times|fold) (?:fast|quick|slow|cheap)er\b|\bper ?cent\b|\borders? of magnitude\b",
    re.IGNORECASE,
)
"""Results that are said in words."""

RELEASE = r"\d+\.\d+(?:\.\d+)?"
RULES = {
    "the number of a step in a list": r"^ *\d+\. ",
    "the number of a heading": r"^#+ \d+\. ",
    "a release of this package": rf"^## \[{RELEASE}\]",
    "versions of a program": rf"\b(?:Python|from {CODE}) {RELEASE}(?:(?:, | or | and ){RELEASE})*",
    "a name of a model, a library, a licence or a data set": (
        r"\b(?:(?:LLaVA|Apache|GLM|Phi)-|Qwen|Idefics|LFM|SmolVLM|InternVL|NLVR|AI|FSDP|TP=)\d[\w.]*(?:-VL)?"
        r"|\b(?:Mistral|Gemma|PaliGemma|Molmo|Llama) \d\b(?!\.\d)"
    ),
    "a number format": r"\bfloat(?:16|32|64)\b",
    "how many axes": r"\b\d-D\b",
    "a paper by its number": r"\barXiv \d{4}\.\d{5}\b",
    "an exit code": r"\bexit code \d\b",
    "one layer or stage by its number": r"\b(?:layer|stage) \d+\b(?!\.\d)",
    "the ends of a scale": r"\b(?:output is|scores|not|up to) [01]\b(?![.,]\d|\d| ?%)",
    "a formula": r"\(1 [-\u2212] \w",
}
"""Why a number is no result: what it is, and how it must stand."""


def prose(text: str) -> str:
    """The prose of a page: without code, generated parts, comments and the targets of links."""
    for hidden in (pages.FENCED, pages.GENERATED, VALUE, MARK):
        text = hidden.sub("", text)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"`[^`\n]+`", CODE, text)
    return re.sub(r"\]\([^)\s]*\)", "]", text)


def unexplained(text: str, known: tuple[str, ...] = ()) -> list[str]:
    """Numbers of a page that no rule and no known text explains, each with the words around it."""
    text = prose(text)
    rules = re.compile("|".join(RULES.values()), re.MULTILINE)
    covered = [found.span() for found in rules.finditer(text)]
    for words in known:
        covered += [found.span() for found in re.finditer(spaced(words), text)]
    left = []
    for found in [*DIGITS.finditer(text), *SAID.finditer(text)]:
        if not any(start <= found.start() and found.end() <= end for start, end in covered):
            around = text[max(0, found.start() - 30) : found.end() + 20]
            left.append(" ".join(around.split()))
    return left


def spaced(words: str) -> str:
    """A pattern of words that a line's end may stand between."""
    return r"\s+".join(map(re.escape, words.split()))


def rendered(source: str) -> str:
    """The number that a source stands for, as it is written."""
    file, _, rest = source.partition(": ")
    way, _, form = rest.partition(" | ")
    path = pages.ROOT / file
    return value(path.parent, path.name, way, form)


@pytest.mark.parametrize("page", pages.pages())
def test_every_number_has_a_source(page):
    known = tuple(entry["text"] for entry in SOURCES if entry["page"] == page)
    assert not unexplained(pages.read(page), known)


@pytest.mark.parametrize("entry", SOURCES, ids=lambda entry: f"{Path(entry['page']).name}: {entry['text']}")
def test_a_source_is_used_once_and_holds(entry):
    text = prose(pages.read(entry["page"]))
    assert len(re.findall(spaced(entry["text"]), text)) == 1, "stale: the page does not say this once"
    (kind,) = set(entry) & set(KINDS)
    numbers = DIGITS.findall(entry["text"])
    assert numbers or SAID.search(entry["text"])
    if kind == "value":
        assert {rendered(source) for source in entry["value"]} == set(numbers)
    elif kind == "python":
        module, name = entry["python"].split(":")
        found = str(getattr(importlib.import_module(module), name))[: entry.get("digits")]
        assert found in numbers
    elif kind == "paper":
        assert entry["paper"] in pages.read(entry["page"])
    else:
        assert len(entry["definition"].split()) > 2


@pytest.mark.parametrize(
    "claim",
    [
        "V-Skip keeps 98.5 % of it.",
        "It saves 12 ms a prompt.",
        "Prefill takes 0.8 of the time.",
        "We asked 1,300 questions.",
        "It is 3x faster.",
        "Decoding is twice as fast.",
        "It runs three times faster.",
        "A prompt takes 7.69 TFLOPs.",
        "It scores 1.5 points less.",
        "VTW loses 10 percent.",
        "Accuracy is up to 1 % lower.",
        "In layer 8.5 % of it is lost.",
        "- 12 of 13 tasks lose nothing.",
        "| VTW | 37.0 |",
        "An order of magnitude is saved.",
        "[98.5](https://example.org) is kept.",
        "On Qwen2.5-VL it keeps 94.",
    ],
)
def test_a_claim_without_a_source_is_found(claim):
    assert unexplained(f"# A page\n\nSome words, and Python 3.11.\n\n{claim}\n\n1. A step.\n")


@pytest.mark.parametrize(
    "fine",
    [
        "On Python 3.11, 3.12 or 3.13 with Qwen2.5-VL and LLaVA-1.5.",
        "`keep=0.5` keeps <!-- glance_eval.json: dense/mean/accuracy | percent --><!-- / -->.",
        "<!-- generated:x -->\n| 98.5 % |\n<!-- /generated -->",
        "```text\nkeep 98\n```",
        "1. First.\n2. Second.",
        "## 3. The house",
        "It ends with exit code 2, from layer 8 on, by (1 - time ratio).",
        "See [the paper](https://arxiv.org/abs/2606.08511), arXiv 2606.08511.",
    ],
)
def test_what_is_no_result_passes(fine):
    assert not unexplained(fine)


@pytest.mark.parametrize("page", pages.pages())
def test_blocks_that_are_only_shown_hold_no_results(page):
    shown = "\n".join(pages.blocks(pages.read(page), "text"))
    assert not re.findall(r"\d ?%|\d ?(?:ms|[GT]FLOPs|points)\b", shown)


def test_generated_parts_are_marked_whole():
    for page in pages.pages():
        text = pages.read(page)
        assert text.count("<!-- generated:") == text.count("<!-- /generated -->"), page
