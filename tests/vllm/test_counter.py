"""Rows are counted in one process and told by another."""

from __future__ import annotations

import pytest

from saccade.plans.plan import Plan
from saccade.vllm.counter import RowCounter, place
from saccade.vllm.work import ServedModel, work_of


def test_what_one_counts_another_reads(tmp_path):
    layers = work_of(Plan.of("vskip(layers=0)+ffn_skip(layers=1)+vtw(layer=2)"), ServedModel(3)).layers
    told = RowCounter(tmp_path / "rows", 3, create=True)
    counting = RowCounter(tmp_path / "rows", 3, create=False)
    counting.step(layers, 5, 7)
    counting.step(layers, 2, 0)
    counting.pictures(20, 7)
    found = {(one["layer"], one["part"], one["outcome"]): count for one, count in told.told()}
    whole, text, without = 5 + 7 + 2, 5 + 2, 7
    assert found == {
        ("0", "kv", "computed"): whole, ("0", "kv", "skipped"): 0,
        ("0", "attention", "computed"): text, ("0", "attention", "skipped"): without,
        ("0", "ffn", "computed"): whole, ("0", "ffn", "skipped"): 0,
        ("1", "kv", "computed"): whole, ("1", "kv", "skipped"): 0,
        ("1", "attention", "computed"): whole, ("1", "attention", "skipped"): 0,
        ("1", "ffn", "computed"): text, ("1", "ffn", "skipped"): without,
        ("2", "kv", "computed"): text, ("2", "kv", "skipped"): without,
        ("2", "attention", "computed"): text, ("2", "attention", "skipped"): without,
        ("2", "ffn", "computed"): text, ("2", "ffn", "skipped"): without,
    }  # fmt: skip
    assert told.entered.tolist() == [7, 13]


def test_counts_begin_anew_with_an_engine(tmp_path):
    layers = work_of(Plan.of("vskip(layers=0)"), ServedModel(2)).layers
    RowCounter(tmp_path / "rows", 2, create=True).step(layers, 5, 7)
    assert all(count == 0 for _, count in RowCounter(tmp_path / "rows", 2, create=True).told())


def test_a_file_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(OSError):
        RowCounter(tmp_path / "rows", 2, create=False)
    assert not (tmp_path / "rows").exists()


def test_engines_have_files_of_their_own():
    assert place("1") != place("2")
