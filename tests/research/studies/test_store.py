"""Cells come back as they were kept, belong to one process at a time, and a lock dies with its process."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saccade.research.studies import Cell, Key, Store
from saccade.system.journal import settings_hash

KEY = Key("w", "float32", "vskip(layers=1)", "s", 24)
texts = st.text(max_size=20)
numbers = st.integers(0, 5000)
cells = st.builds(
    lambda pairs, plan, tokens, spent, prompts: Cell(
        replace(KEY, plan=plan, tokens=tokens),
        tuple(one for one, _ in pairs),
        tuple(two for _, two in pairs),
        spent,
        tuple(prompts),
        {"seconds": 1.5},
    ),
    st.lists(st.tuples(texts, texts), max_size=5),
    texts,
    st.integers(1, 99),
    st.none() | st.dictionaries(st.sampled_from(["gflops", "kv_bytes"]), st.floats(0, 1e9)),
    st.lists(st.tuples(numbers, numbers, numbers), max_size=3),
)


@given(cells)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_cell_comes_back_as_it_was_kept(tmp_path, cell):
    store = Store(tmp_path)
    store.put(cell)
    assert store.has(cell.key) and store.get(cell.key) == cell


@pytest.mark.parametrize("field", ["weights", "dtype", "plan", "samples", "tokens", "setup"])
def test_whatever_answers_depend_on_makes_another_cell(tmp_path, field):
    store = Store(tmp_path)
    store.put(Cell(KEY, ("a",), ("yes",), None, ((100, 6, 1),)))
    other = replace(KEY, **{field: 7 if field == "tokens" else "other"})
    assert store.get(other) is None and store.place(other) != store.place(KEY)


def test_a_cell_without_a_setup_is_filed_as_before_there_were_setups(tmp_path):
    store = Store(tmp_path)
    store.put(Cell(KEY, ("a",), ("yes",), None, ()))
    told = {"weights": "w", "dtype": "float32", "plan": "vskip(layers=1)", "samples": "s", "tokens": 24}
    assert json.loads(store.place(KEY).read_text())["key"] == told
    assert store.place(KEY).stem == settings_hash(told)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"schema": 9}', "not json"])
def test_a_file_that_is_no_cell_is_named(tmp_path, content):
    store = Store(tmp_path)
    store.place(KEY).parent.mkdir(parents=True)
    store.place(KEY).write_text(content)
    with pytest.raises(ValueError, match=store.place(KEY).name):
        store.get(KEY)


def test_a_cell_of_another_key_is_not_taken(tmp_path):
    store = Store(tmp_path)
    store.put(Cell(KEY, (), (), None, ()))
    other = replace(KEY, plan="dense")
    store.place(KEY).rename(store.place(other))
    with pytest.raises(ValueError, match="another cell"):
        store.get(other)


def test_measurements_come_back_and_hang_on_their_settings(tmp_path):
    store = Store(tmp_path)
    store.put_measured({"score": "vig"}, [[0.5, None]])
    assert store.measured({"score": "vig"}) == [[0.5, None]] and store.measured({"score": "lc"}) is None
    (place,) = (tmp_path / "scores").iterdir()
    place.write_text(json.dumps({"settings": {"score": "lc"}, "values": []}))
    with pytest.raises(ValueError, match="other measurements"):
        store.measured({"score": "vig"})
    place.write_text(json.dumps({"settings": {"score": "vig"}}))
    with pytest.raises(ValueError, match=f"{place.name} holds no values"):
        store.measured({"score": "vig"})


def test_one_at_a_time_and_nobody_at_a_finished_one(tmp_path):
    store = Store(tmp_path)
    with store.claim(KEY) as first, Store(tmp_path).claim(KEY) as second:
        assert first and not second
    with store.claim(KEY) as again:
        assert again
        store.put(Cell(KEY, (), (), None, ()))
    with store.claim(KEY) as late:
        assert not late
    assert not list(tmp_path.rglob("*.lock"))


def hold(path, ready):
    """Claims the cell and hangs."""
    with Store(path).claim(KEY):
        ready.set()
        signal.pause()


def test_a_lock_dies_with_its_process(tmp_path):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=hold, args=(tmp_path, ready))
    process.start()
    assert ready.wait(20)
    with Store(tmp_path).claim(KEY) as mine:
        assert not mine
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with Store(tmp_path).claim(KEY) as mine:
        assert mine
