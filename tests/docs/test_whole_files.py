"""The whole files that the contributors' pages show do what the pages say of them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from saccade.engine import apply
from saccade.methods import METHODS
from saccade.plans.plan import Plan
from saccade.research import names
from support import pages
from support.models import SQUARE, tiny_llava

STUDY, METHOD = "docs/add-a-study.md", "CONTRIBUTING.md"


def shown(page: str, of: str) -> str:
    """The one Python file of a page that holds some words."""
    (found,) = [
        block for block in pages.blocks(pages.read(page), "python") if of in block and "import" in block
    ]
    return found


def imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its own module up.
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[path.stem]
    return module


def test_the_study_is_found_by_its_text(tmp_path, monkeypatch) -> None:
    path = tmp_path / "ends.py"
    path.write_text(shown(STUDY, "STUDY = "), encoding="utf-8")
    monkeypatch.setattr(names, "_STUDIES", tmp_path)
    study = imported(path).STUDY
    assert names.listed.__wrapped__() == {"ends": names.StudyName("ends", study.question)}


def test_a_study_whose_question_is_no_plain_text_is_named(tmp_path, monkeypatch) -> None:
    (tmp_path / "ends.py").write_text('asked = "Why?"\nSTUDY = Study("ends", "Ends", asked, design)\n')
    monkeypatch.setattr(names, "_STUDIES", tmp_path)
    with pytest.raises(ValueError, match=r"ends\.py: STUDY is read as text"):
        names.listed.__wrapped__()


def test_the_method_runs_as_a_plan(tmp_path) -> None:
    path = tmp_path / "largest_norms.py"
    path.write_text(shown(METHOD, "DecoderReducer"), encoding="utf-8")
    tiny = tiny_llava()
    given = tiny.batch([[3, SQUARE, 5]])
    imported(path)
    try:
        assert METHODS["largest_norms"].__doc__
        plan = Plan.of("largest_norms(layer=1,keep=0.5)")
        with apply(tiny.model, plan) as attached, attached.tracing() as traces:
            tiny.model(**given)
    finally:
        del METHODS["largest_norms"]
    (trace,) = traces
    assert [len(trace.kept(layer)[0]) for layer in (0, 1)] == [16, 8]
