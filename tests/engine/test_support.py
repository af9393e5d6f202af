"""The support table tells the truth: every row is held by a test that exists."""

from __future__ import annotations

import ast
from typing import get_args

from saccade.engine.support import SUPPORT, Status


def test_every_row_names_a_test_that_exists(root):
    for row in SUPPORT:
        file, name = row.test.split("::")
        tree = ast.parse((root / "tests" / file).read_text())
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name in functions and name.startswith("test_"), row


def test_rows_are_distinct_and_of_a_known_status():
    assert len({row.feature for row in SUPPORT}) == len(SUPPORT)
    assert {row.status for row in SUPPORT} == set(get_args(Status))
    assert all(row.feature and row.note and not row.note.endswith(".") for row in SUPPORT)


def test_what_is_refused_is_refused_by_its_test(root):
    for row in SUPPORT:
        if row.status == "refused":
            file, name = row.test.split("::")
            source = (root / "tests" / file).read_text().split(f"def {name}(")[1].split("\ndef ")[0]
            assert "pytest.raises(" in source, row
