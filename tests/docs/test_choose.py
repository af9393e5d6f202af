"""What the guide says in words around numbers holds of the result file that the numbers come from."""

from __future__ import annotations

from saccade.methods import METHODS
from saccade.methods.kinds import SKIPPING
from saccade.system.files import read_json
from support import pages


def test_the_advice_to_compose_or_not_follows_from_the_study():
    text = pages.read("docs/choose.md")
    at_70, at_50 = read_json(pages.ROOT / "benchmarks" / "results" / "study_compose.json")["best"]
    assert at_70["asked"] > at_50["asked"]
    assert "go further where much is to be saved" in text and at_50["difference_low"] > 0
    assert "where skipping layers alone saves enough, it is enough" in text and at_70["difference_low"] <= 0
    alone = at_70["second"].split(" at ")[0]
    assert alone in {METHODS[name].title for name in SKIPPING}
