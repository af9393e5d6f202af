"""Errors are one line and exit code 2; Ctrl-C is 130; help is quick; JSON stands alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from saccade.cli import app, main
from saccade.cli.common import Interrupted, Output, resumable
from support.programs import start

BAD = [
    (("frobnicate",), "No such command 'frobnicate'"),
    (("cost", "--frobnicate"), "No such option"),
    (("cost", "no-such-shape"), "no model 'no-such-shape'"),
    (("cost", "./no/such/folder"), "no model './no/such/folder'"),
    (("cost", "--plan", "nomethod(layers=1)"), "no method 'nomethod'"),
    (("cost", "--plan", "vskip(layers=1"), "cannot read 'vskip(layers=1'"),
    (("cost", "--plan", "vskip(depth=1)"), "vskip has no parameter 'depth'"),
    (("cost", "--plan", "vskip"), "give layers="),
    (("cost", "--plan", "vskip(layers=32)"), "names layer 32, but the model has 32 (0-31)"),
    (("cost", "--plan", "vskip(budget=33)"), "a budget of 33 layers, but only 32"),
    (("cost", "--plan", "vtw(layer=40)"), "layer 40 is past the model's 32 layers"),
    (("cost", "--plan", "vskip(flops=0.5)"), "cannot reach a FLOPs ratio of 0.5"),
    (("cost", "--plan", "no/such/plan.json"), "no such file: no/such/plan.json"),
    (("cost", "--visual", "-1"), "--visual"),
    (("cost", "--visual", "many"), "--visual"),
    (("cost", "--visual", "9999999999"), "less than or equal to 4000000"),
    (("cost", "--text", "-3"), "--text"),
    (("cost", "--text", "nan"), "--text"),
    (("cost", "--dtype", "int3"), "no dtype 'int3'"),
    (("train", "glance", "--minutes", "1", "--steps", "2"), "not both"),
    (("train", "glance", "--steps", "0"), "--steps"),
    (("train", "glance", "--export-only"), "--export-only needs --export"),
    (("generate",), "--question"),
]


@pytest.mark.parametrize(("words", "expected"), BAD)
def test_bad_input_is_one_line_and_exit_code_2(command, words, expected):
    done = command(*words)
    assert done.code == 2 and done.out == ""
    assert done.err.startswith("saccade: error: ") and done.err.count("\n") == 1
    assert expected in done.err


def test_what_turns_out_at_work_is_one_line_too(command):
    """Progress that nobody watches is not told of work that was refused."""
    done = command("calibrate", "glance", "--samples", 2, "--flops", 0.1)
    assert done.code == 2 and "cannot reach a FLOPs ratio of 0.1" in done.err
    assert done.err.startswith("saccade: error: ") and done.err.count("\n") == 1


def test_a_result_path_that_is_a_folder_is_refused_before_the_work(command, tmp_path):
    done = command("cost", "--json", tmp_path)
    assert done.code == 2 and done.out == "" and "it is a folder" in done.err


def test_a_result_path_below_a_file_is_refused_before_the_work(command, tmp_path):
    (tmp_path / "file").write_text("")
    done = command("cost", "--json", tmp_path / "file" / "cost.json")
    assert done.code == 2 and done.out == "" and "is not a folder" in done.err


def test_a_failed_command_writes_no_result(command, tmp_path):
    assert command("cost", "--plan", "vskip(layers=99)", "--json", tmp_path / "cost.json").code == 2
    assert list(tmp_path.iterdir()) == []


def test_export_does_not_replace_a_folder_that_is_no_model(command, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    done = command("train", "glance", "--steps", 1, "--run", tmp_path / "run", "--export", tmp_path)
    assert done.code == 2 and "is not a model folder" in done.err
    assert not (tmp_path / "run").exists()


def test_export_of_a_run_that_is_not_there(command, tmp_path):
    words = ("--export-only", "--run", tmp_path / "run", "--export", tmp_path / "model")
    done = command("train", "glance", *words)
    assert done.code == 2 and "holds no run to export" in done.err


def test_a_run_is_neither_overwritten_nor_resumed_from_nothing(command, tmp_path):
    done = command("train", "glance", "--steps", 1, "--run", tmp_path, "--resume")
    assert done.code == 2 and "no checkpoint to resume" in done.err
    (tmp_path / "checkpoint.pt").write_bytes(b"")
    done = command("train", "glance", "--steps", 1, "--run", tmp_path)
    assert done.code == 2 and "--resume" in done.err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (FileNotFoundError(2, "No such file or directory", "weights"), "No such file or directory: weights"),
        (PermissionError(13, "Permission denied", "plan.json"), "Permission denied: plan.json"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (ValueError("two\n  lines"), "two lines"),
        (MemoryError(), "out of memory"),
    ],
)
def test_errors_of_the_machine_are_one_line_too(monkeypatch, capsys, error, line):
    def fail(words):
        raise error

    monkeypatch.setattr(app, "_run", fail)
    assert main([]) == 2
    caught = capsys.readouterr().err
    assert caught.startswith("saccade: error: ") and line in caught and caught.count("\n") == 1


def test_traceback_lets_exceptions_through():
    with pytest.raises(ValueError, match="no method"):
        main(["cost", "--plan", "nomethod", "--traceback"])


def test_bugs_keep_their_traceback(monkeypatch):
    def fail(words):
        raise KeyError("a bug")

    monkeypatch.setattr(app, "_run", fail)
    with pytest.raises(KeyError):
        main([])


def test_an_interrupted_run_says_how_to_go_on(monkeypatch, capsys):
    def stop(words):
        with resumable("continue with: saccade train glance --resume"):
            raise KeyboardInterrupt

    monkeypatch.setattr(app, "_run", stop)
    assert main([]) == 130
    assert capsys.readouterr().err == "saccade: interrupted; continue with: saccade train glance --resume\n"
    with pytest.raises(Interrupted), resumable("again"):
        raise KeyboardInterrupt


def test_numbers_that_are_not_finite_become_null(capsys):
    Output("-").finish({"nan": float("nan"), "inf": [float("inf")], "kept": (1, 2.5)})
    assert json.loads(capsys.readouterr().out) == {"nan": None, "inf": [None], "kept": [1, 2.5]}


def test_version_and_help(command):
    from saccade import __version__

    assert command("--version").out == f"saccade {__version__}\n"
    for words in ((), ("--help",), ("-h",)):
        done = command(*words)
        assert done.code == 0 and done.err == ""
        assert all(name in done.out for name in ("cost", "bench", "methods", "generate", "train"))
    assert "glance" in command("train").out


def test_every_command_has_help_with_an_example_or_options(command):
    for name in ("cost", "bench", "methods", "generate"):
        done = command(name, "--help")
        assert done.code == 0 and "--json" in done.out and "Example: saccade" in done.out


@pytest.mark.e2e
def test_help_does_not_load_torch(root):
    code = "import sys; from saccade.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=root / "src", capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_program_end_to_end(program):
    done = program("cost", "llava-1.5-7b", "--visual", "576", "--plan", "vskip(budget=19)", "--json", "-")
    assert done.code == 0
    assert round(done.json["tflops"], 2) == 7.69 and round(done.json["dense_tflops"], 2) == 8.54
    bad = program("cost", "--plan", "vskip(layers=99)")
    assert (bad.code, bad.out) == (2, "")
    assert bad.err.count("\n") == 1


@pytest.mark.e2e
def test_ctrl_c_while_training_says_how_to_go_on(root, tmp_path):
    words = ["train", "glance", "--steps", "100000", "--run", str(tmp_path), "--threads", "1", "--seed", "3"]
    running = start("-m", "saccade", *words)
    deadline = time.monotonic() + 120
    while not (tmp_path / "config.json").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    os.kill(running.pid, signal.SIGINT)
    done = running.ended(120)
    assert done.code == 130
    last = done.err.strip().splitlines()[-1]
    assert (
        last.startswith("saccade: interrupted; ") and f"saccade train glance {_resume(tmp_path)}--run" in last
    )
    assert "--steps 100000" in last and "--seed 3" in last


def _resume(run) -> str:
    return "--resume " if (run / "checkpoint.pt").exists() else ""


def test_ctrl_c_before_the_first_checkpoint_says_to_start_over(command, monkeypatch, tmp_path):
    from saccade.research.embedded import train

    def stop(config, run, resume, start=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train", stop)
    done = command("train", "glance", "--steps", 500, "--run", tmp_path)
    assert done.code == 130
    assert "no checkpoint yet; start over with: saccade train glance --run" in done.err


def test_ctrl_c_after_a_checkpoint_gives_the_command_that_continues(command, monkeypatch, tmp_path):
    from saccade.research.embedded import train

    asked = []

    def stop(config, run, resume, start=None):
        asked.append((config.steps, config.seed, config.threads, run, resume))
        (run / "checkpoint.pt").write_bytes(b"")
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train", stop)
    done = command("train", "glance", "--steps", 500, "--seed", 3, "--threads", 1, "--run", tmp_path)
    assert done.code == 130
    assert asked == [(500, 3, 1, tmp_path, False)]
    again = done.err.strip().split("continue with: saccade ")[1]
    assert command(*again.split()).code == 130
    assert asked[1] == (500, 3, 1, tmp_path, True)
