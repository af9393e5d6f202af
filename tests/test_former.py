"""Modules go on to be found by the names that they had before 0.2."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from saccade.former import MOVED, home
from support.programs import environment


@pytest.mark.parametrize("name", sorted(MOVED))
def test_a_former_name_is_the_module_that_it_is_now(name):
    assert importlib.import_module(f"saccade.{name}") is importlib.import_module(f"saccade.{MOVED[name]}")


def test_what_is_within_a_moved_room_is_no_second_copy():
    former = importlib.import_module("saccade.studies.store")
    assert former is importlib.import_module("saccade.research.studies.store")
    assert former.__spec__.name == "saccade.research.studies.store"


def test_names_that_have_not_moved_are_left_alone():
    assert home("saccade.methods.fastv") is home("torch.plan") is home("saccade") is None
    with pytest.raises(ModuleNotFoundError, match=r"saccade\.nothing"):
        importlib.import_module("saccade.nothing")


@pytest.mark.e2e
def test_programs_that_were_written_before_run():
    code = "from saccade.plan import Plan; from saccade.spec import parse; print(Plan.of('dense').spec)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
