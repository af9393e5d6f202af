"""Exact match ignores case, spacing and a full stop, and nothing else."""

import pytest

from saccade.evaluation.scoring import is_match, normalise


@pytest.mark.parametrize("said", ["Three circles", "three  circles ", "\tthree circles.", "THREE CIRCLES ."])
def test_form_does_not_matter(said):
    assert is_match(said, "three circles")


@pytest.mark.parametrize("said", ["three", "three circle", "three, circles", "", "threecircles"])
def test_content_does(said):
    assert not is_match(said, "three circles")


def test_space_before_punctuation_goes():
    assert normalise("red , blue , Green") == "red, blue, green"


@pytest.mark.parametrize("text", ["3.5", "a", "", "no."])
def test_normalising_twice_changes_nothing(text):
    assert normalise(normalise(text)) == normalise(text)
