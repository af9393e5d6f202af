"""What a module says of itself is read from its text, and names of packages wait until they are asked for."""

from __future__ import annotations

import pytest

from saccade.system.lazy import attributes
from saccade.system.listing import called, files_with, registered

TEXT = '''
"""A module that must not run."""
import nothing_of_that_name


class Plain:
    name = "plain"


@register
class One(Plain):
    """Docstring."""

    name = "one"
    kinds: tuple[str, ...] = ("a", "b")
    made = len("abc")


@other_mark
class Another:
    name = "another"


STUDY = Study("one", "A title", "What does " "it ask?", design, "late", trains=True, draw=draw)
'''


@pytest.fixture
def module(tmp_path):
    path = tmp_path / "one.py"
    path.write_text(TEXT, encoding="utf-8")
    (tmp_path / "two.py").write_text('text = "@register"\n', encoding="utf-8")
    return path


def test_marked_files_are_found_by_whole_lines(module):
    assert files_with(module.parent, r"^@register$") == ("one",)
    assert files_with(module.parent, "register") == ("one", "two")


def test_plain_attributes_of_registered_classes_are_read(module):
    assert list(registered(module)) == [{"name": "one", "kinds": ("a", "b")}]


def test_plain_arguments_of_a_constants_call_are_read(module):
    assert called(module, "STUDY") == (["one", "A title", "What does it ask?"], {"trains": True})
    with pytest.raises(ValueError, match="has no NOTHING"):
        called(module, "NOTHING")


def test_names_are_found_where_they_live_and_others_are_refused():
    get = attributes("some.package", {"called": "saccade.system.listing"})
    assert get("called") is called
    with pytest.raises(AttributeError, match=r"module 'some\.package' has no attribute 'files_with'"):
        get("files_with")
