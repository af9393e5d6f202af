"""``saccade study``: as a program, by several processes, and with input that cannot be used."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from research.studies.conftest import TOKENS
from saccade.cli import main
from saccade.research.studies import STUDIES, StudyQuestions


def words(model_folder, data_file, store, out, *more):
    """A small study as arguments."""
    given = (
        *("study", "transfer", model_folder, "--data", data_file, "--samples", 3, "--pool", 4, "--batch", 4),
        *("--max-new-tokens", TOKENS, "--run", store, "--out", out, "--device", "cpu", *more),
    )
    return [str(word) for word in given]


def start(root, *arguments):
    """The program on these arguments."""
    path = os.pathsep.join([str(root / "src"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", "saccade", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=root,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )


def told(result):
    """A result without what differs between runs."""
    return {key: value for key, value in result.items() if key not in ("seconds", "provenance")}


@pytest.mark.e2e
def test_programs_and_their_processes_share_a_store(root, model_folder, data_file, tmp_path, capsys):
    store, alone = tmp_path / "store", tmp_path / "alone"
    program = start(
        root, *words(model_folder, data_file, store, tmp_path / "a", "--json", "-", "--workers", 2)
    )
    beside, later = tmp_path / "b.json", tmp_path / "c.json"
    assert main(words(model_folder, data_file, store, tmp_path / "b", "--json", beside)) == 0
    out, err = program.communicate(timeout=240)
    assert program.returncode == 0, err
    assert main(words(model_folder, data_file, alone, tmp_path / "c", "--json", later)) == 0
    results = [json.loads(text) for text in (out, beside.read_text(), later.read_text())]
    assert told(results[0]) == told(results[1]) == told(results[2])
    names = [sorted(p.relative_to(s) for p in s.rglob("*") if p.is_file()) for s in (store, alone)]
    assert names[0] == names[1]


def test_it_ends_by_saying_what_to_do_next_and_json_has_standard_output_alone(
    model_folder, data_file, shared, tmp_path, capsys
):
    assert main(words(model_folder, data_file, shared, tmp_path / "out", "--json", "-")) == 0
    caught = capsys.readouterr()
    assert json.loads(caught.out)["study"] == "transfer" and "next:" in caught.err
    assert (tmp_path / "out" / "study_transfer.json").is_file()


def test_the_list_names_every_study(capsys):
    assert main(["study", "list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in STUDIES) and "next:" in out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["nosuch"], "no study 'nosuch'"),
        (["--task", "third"], "no task 'third'"),
        (["--data", "nosuch.jsonl"], "no such file"),
        (["--device", "tpu"], "tpu"),
        (["--dtype", "int8"], "int8"),
        (["--samples", "0"], "samples"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(more, said, model_folder, data_file, tmp_path, capsys):
    given = words(model_folder, data_file, tmp_path / "run", tmp_path / "out", *more[-2:])
    if len(more) == 1:
        given[1] = given.pop()
    assert main(given) == 2
    err = capsys.readouterr().err.strip().split("\n")
    assert said in err[-1] and not any("Traceback" in line for line in err)


@pytest.mark.parametrize("option", ["--out", "--run"])
def test_a_file_in_the_way_is_refused_before_any_work(option, model_folder, data_file, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    given = words(model_folder, data_file, tmp_path / "run", tmp_path / "out")
    given[given.index(option) + 1] = str(tmp_path / "file")
    assert main(given) == 2
    assert "is a file" in capsys.readouterr().err


def test_another_model_of_the_same_file_name_is_not_written_over(model_folder, data_file, tmp_path, capsys):
    path = tmp_path / "out" / "study_transfer.json"
    path.parent.mkdir()
    path.write_text('{"model": {"name": "somewhere/else"}}')
    assert main(words(model_folder, data_file, tmp_path / "run", tmp_path / "out")) == 2
    err = capsys.readouterr().err
    assert "somewhere/else" in err and "another --out" in err and "calibrat" not in err
    assert "somewhere/else" in path.read_text() and not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", [one.name for one in STUDIES.values() if one.each_task])
def test_a_task_without_pictures_is_found_before_any_work(name, model_folder, data_file, tmp_path, capsys):
    rows = [json.loads(line) for line in data_file.read_text().splitlines()]
    rows += [{"question": f"what is {n} ?", "answer": "red", "task": "words"} for n in range(4)]
    mixed = data_file.with_name(f"{name}.jsonl")
    mixed.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = words(model_folder, mixed, tmp_path / "run", tmp_path / "out")
    given[1] = name
    assert main(given) == 2
    err = capsys.readouterr().err
    assert "task 'words': none of its 2 calibration samples has an image" in err and "measuring" not in err


def test_a_task_without_pictures_is_studied_where_all_are_calibrated_together(tmp_path):
    assert not STUDIES["budget"].each_task
    path = tmp_path / "mine.jsonl"
    rows = [{"question": f"what is {n} ?", "answer": "red", "task": "words"} for n in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    alone = StudyQuestions.of_file(path, (), 2, 2, 0)
    alone.check()
    with pytest.raises(ValueError, match="none of its 2"):
        alone.check(each=True)
