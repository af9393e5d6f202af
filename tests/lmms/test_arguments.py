"""Values survive lmms-eval's comma-separated arguments."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade.lmms.arguments import read_count, read_flag, read_spec, read_text, write_arguments
from saccade.plans.plan import Plan


def split(text: str) -> dict[str, str]:
    """Splits as lmms-eval documents it: at commas outside quotes, braces and square brackets."""
    parts, depth, quote = [""], 0, ""
    for char in text:
        if char in "\"'":
            quote = "" if char == quote else quote or char
        elif not quote:
            depth += (char in "{[") - (char in "}]")
        if char == "," and not quote and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return dict(part.strip().split("=", 1) for part in parts)


@pytest.mark.parametrize(
    "value",
    [
        "vskip(layers=1-2)+fastv(keep=0.5,layer=2)",
        "plans/mine, all {of} them.json",
        "it's.json",
        'a "b" c',
        "a=b,c=d",
        "x]y,z",
        " spaced ",
        "plain",
        "",
    ],
)
def test_what_is_written_is_read_back(value):
    text = write_arguments({"pretrained": "glance", "plan": value, "dtype": "float32"})
    found = split(text)
    assert {key: read_text(part) for key, part in found.items()} == {
        "pretrained": "glance",
        "plan": value,
        "dtype": "float32",
    }


@given(st.text(st.characters(codec="utf-8", exclude_characters="\"'\\\n"), max_size=30))
def test_any_text_without_quotes_comes_back(value):
    found = split(write_arguments({"plan": value, "z": "1"}))
    assert read_text(found["plan"]) == value and found["z"] == "1"


@pytest.mark.parametrize("value", ['it\'s "so"', "a,b\\"])
def test_what_cannot_be_written_is_refused(value):
    with pytest.raises(ValueError, match="cannot be given"):
        write_arguments({"plan": value})


@pytest.mark.parametrize(
    "written",
    [
        "vskip(layers=1;2)+fastv(layer=2;keep=0.5)",
        '"vskip(layers=1,2)+fastv(layer=2,keep=0.5)"',
        "'vskip(layers=1,2)+fastv(layer=2,keep=0.5)'",
    ],
)
def test_a_spec_is_quoted_or_written_with_semicolons(written):
    (value,) = split(f"plan={written}").values()
    assert Plan.of(read_spec(value)) == Plan.of("vskip(layers=1,2)+fastv(layer=2,keep=0.5)")


def test_a_path_keeps_its_semicolons():
    assert read_spec("plans;old/mine.json") == "plans;old/mine.json"


@pytest.mark.parametrize(("value", "count"), [(8, 8), ("8", 8), (" 2 ", 2)])
def test_counts_are_read(value, count):
    assert read_count(value, "batch_size") == count


@pytest.mark.parametrize("value", ["auto", 0, "-1", 1.5, "", None])
def test_other_counts_are_refused(value):
    with pytest.raises(ValueError, match="batch_size is a whole number"):
        read_count(value, "batch_size")


def test_flags_are_read_as_lmms_eval_or_a_person_writes_them():
    assert read_flag(True, "blind") and read_flag("True", "blind") and not read_flag("false", "blind")
    with pytest.raises(ValueError, match="blind is true or false"):
        read_flag("maybe", "blind")
