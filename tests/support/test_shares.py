"""Which tests run: shares are chosen by name, leave nothing out, and programs are marked."""

from __future__ import annotations

import subprocess
import sys
from itertools import product
from types import SimpleNamespace

import pytest

from support import shares


def case(plan, family, number, of=6, *, e2e=False, long=False, test="test_a"):
    """What pytest collects of a case, as far as shares look at it; no share of its own where of is 0."""
    told = {"share": SimpleNamespace(args=(of,)), "e2e": SimpleNamespace(args=()), "long": SimpleNamespace()}
    marks = {name: told[name] for name, has in (("share", of), ("e2e", e2e), ("long", long)) if has}
    name = f"{test}[{plan}-{family}-{number}]"
    return SimpleNamespace(
        name=name,
        nodeid=f"tests/x.py::{name}",
        callspec=SimpleNamespace(params={"plan": plan, "family": family, "number": number}),
        iter_markers=lambda wanted: [marks[wanted]] if wanted in marks else [],
        get_closest_marker=marks.get,
    )


def table(plans, of=6):
    return [
        case(*words, of) for words in product(plans, ("llava-llama", "qwen2_vl", "internvl-qwen3"), range(40))
    ]


def names(items):
    return {item.name for item in items}


def test_about_as_many_run_as_was_asked_for():
    items = table("abcdefgh", of=6)
    kept, left = shares.choose(items, whole=False, quick=False)
    of_one = [item for item in kept if item.callspec.params["family"] == "llava-llama"]
    assert len(kept) + len(left) == len(items) and 0.7 < len(of_one) * 6 / (8 * 40) < 1.3
    # A model that shares its decoder with another one meets a share of that share.
    of_other = [item for item in kept if item.callspec.params["family"] == "qwen2_vl"]
    assert 0 < len(of_other) < len(of_one) / 2
    assert shares.choose(items, whole=True, quick=False) == (items, [])


def test_a_plan_that_is_added_leaves_the_cases_of_the_others_where_they_are():
    before, _ = shares.choose(table("abdefgh", of=2), whole=False, quick=False)
    after, _ = shares.choose(table("abcdefgh", of=2), whole=False, quick=False)
    assert names(before) <= names(after)
    assert all(name.startswith("test_a[c-") for name in names(after) - names(before))


def test_every_value_of_every_parameter_runs_at_least_once():
    items = table("abcdefgh", of=10_000)
    kept, _ = shares.choose(items, whole=False, quick=False)
    assert len(kept) < len(items) / 10
    for name in ("plan", "family", "number"):
        assert {i.callspec.params[name] for i in kept} == {i.callspec.params[name] for i in items}


def test_a_test_of_crossed_parameters_without_a_share_runs_so_many_cases_and_one_of_every_value():
    items = table("abcdefgh", of=0)
    kept, _ = shares.choose(items, whole=False, quick=False)
    assert shares.MOST <= len(kept) <= shares.MOST + 40
    assert {i.callspec.params["number"] for i in kept} == set(range(40))
    more, _ = shares.choose(table("abcdefghi", of=0), whole=False, quick=False)
    assert len(names(kept) - names(more)) < shares.MOST
    few = table("a", of=0)[: shares.MOST]
    assert shares.choose(few, whole=False, quick=False) == (few, [])


def test_a_long_test_runs_with_everything_alone():
    items = [case("a", "qwen2_vl", 0, 0), case("a", "qwen2_vl", 1, 0, long=True)]
    assert shares.choose(items, whole=False, quick=False) == (items[:1], items[1:])
    assert shares.choose(items, whole=True, quick=False) == (items, [])


def test_quick_takes_one_case_of_a_few_tests_of_every_file_and_of_all_tests_of_edited_ones():
    items = [
        *table("ab", of=1),
        *(case("a", "llava-llama", 0, 1, test=f"test_{letter}") for letter in "bcdef"),
        case("a", "llava-llama", 1, 1, e2e=True),
    ]

    def tests(*edited):
        kept, left = shares.choose(items, whole=False, quick=True, edited=frozenset(edited))
        assert len(kept) + len(left) == len(items)
        return [item.nodeid.partition("[")[0] for item in kept]

    assert len(set(tests())) == len(tests()) == shares.FEW
    assert sorted(tests("tests/x.py")) == [f"tests/x.py::test_{letter}" for letter in "abcdef"]
    assert tests("tests/y.py") == tests()


def test_an_edited_module_stands_for_its_tests(tmp_path):
    def git(*words):
        subprocess.run(["git", "-C", tmp_path, *words], check=True, capture_output=True)

    assert shares.edited_tests(tmp_path) == frozenset(), "no repository"
    git("init")
    for name in ("src/saccade/engine/frame.py", "tests/cli/test_app.py", "docs/index.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert shares.edited_tests(tmp_path) == {"tests/engine/test_frame.py", "tests/cli/test_app.py"}


def test_what_ran_is_counted_by_kind():
    ran = [{"e2e": 1}, {"share": 1}, {"share": 1, "e2e": 1}, {}, {}, {}]
    reports = [SimpleNamespace(keywords=words) for words in ran]
    assert shares.counted(reports) == "6 tests: 2 end to end, 1 of the matrix, 3 of one part"


def test_a_program_that_is_started_without_the_mark_is_refused(request):
    with pytest.raises(AssertionError, match="starts a program: mark it"):
        subprocess.run([sys.executable, "-c", "pass"], check=True)
    subprocess.run(["true"], check=True)  # not ours
