"""A fixed part of the rehearsal: every case on a checkpoint drawn by a hash of their names.

Most run in this process through the same entry as the command; ``make checkpoints`` runs all, as programs.
"""

from __future__ import annotations

import sys

import pytest

from rehearsal import checkpoint, readme
from rehearsal.cases import CASES, Place
from rehearsal.running import draw, program, with_needs, within
from saccade.system.environment import has_torchvision

CHECKPOINTS = checkpoint.every()
PROGRAMS = 2
"""How many of the drawn cases run as programs of their own."""
USUAL = ("plan scored in the decoder", "a package that is missing")
"""The case of a checkpoint that no other case drew: the first that suits it."""


def drawn() -> list[tuple[str, str]]:
    """Checkpoint and case of each, in the order of their hashes."""

    def key(pair: tuple[str, str]) -> float:
        return draw("/".join(pair))

    # What another case needs runs with it.
    needed = {name for case in CASES for name in case.after}
    suiting = [
        [(one.short, case.name) for one in CHECKPOINTS.values() if case.suits(one, has_torchvision())]
        for case in CASES
        if case.name not in needed and not case.large
    ]
    chosen = [min(pairs, key=key) for pairs in suiting if pairs]
    left = set(CHECKPOINTS) - {short for short, _ in chosen}
    usual = [pair for pairs in suiting for pair in pairs if pair[0] in left and pair[1] in USUAL]
    return sorted([*chosen, *usual], key=key)


DRAWN = drawn()
ALONE = [pair for pair in DRAWN if not any(case.after for case in CASES if case.name == pair[1])][:PROGRAMS]
OFTEN = ("prompt tall", "generate one picture", "eval", "explain", "cost", "plan layers skipped", USUAL[1])
"""The cases of these that were drawn run often."""


def marks(pair: tuple[str, str]) -> list[pytest.MarkDecorator]:
    """Of a checkpoint and a case."""
    if pair in ALONE:
        return [pytest.mark.e2e]
    return [] if pair[1] in OFTEN else [pytest.mark.long(instead="make checkpoints")]


PARAMS = [pytest.param(*pair, id="/".join(pair), marks=marks(pair)) for pair in DRAWN]


@pytest.mark.parametrize(("short", "name"), PARAMS)
def test_a_command_on_a_checkpoint(short, name, hub_folder, pictures, tmp_path):
    known = CHECKPOINTS[short]
    place = Place(known, hub_folder(known), pictures, tmp_path)
    runner = program(sys.executable) if (short, name) in ALONE else within
    for case in with_needs(c for c in CASES if c.name == name):
        case.judge(place, runner(case, place))


def test_the_readmes_example_is_told_where_it_changed(monkeypatch):
    assert "vskip(layers=1-2)" in readme.example("there")
    monkeypatch.setitem(readme.OTHER, "no such words", "")
    with pytest.raises(ValueError, match="no such words"):
        readme.example("there")
