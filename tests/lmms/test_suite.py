"""``saccade eval --suite`` around a stand-in for lmms-eval: what is asked, what comes of it, how it fails."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest

from saccade.lmms.process import Job, reason, run
from saccade.lmms.suite import Suite, merge_costs

pytestmark = pytest.mark.e2e

PLAN = "vskip(layers=1,2)"


def calls(stand_in) -> list[dict]:
    path = stand_in / "calls.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_suite_gives_what_our_own_evaluation_gives(command, stand_in):
    done = command(
        "eval", "glance", "--suite", "lmms:mme,pope", "--plan", PLAN, "--json", "-", "--device", "cpu"
    )
    assert done.code == 0, done.err
    found = done.json
    assert list(found["dense"]["tasks"]) == ["mme", "pope"]
    (plan,) = found["plans"]
    assert (plan["name"], plan["spec"]) == ("vskip(layers=1-2)",) * 2
    task = plan["tasks"]["pope"]
    assert (task["accuracy"], task["n"], task["blind"]) == (0.75, 4, 0.25)
    assert task["low"] < 0.75 < task["high"] and (task["gained"], task["lost"]) == (0, 1)
    assert task["retention"] == 0.75 and task["difference"] == -0.25
    assert task["retention_above_blind"] == pytest.approx(0.5 / 0.75)
    assert task["metrics"] == {"score": 0.75, "f1": 7.5} and task["metric"] == "score"
    assert plan["mean"]["accuracy"] == 0.75 and plan["mean"]["n"] == 8
    assert plan["cost"]["flops_ratio"] == 0.5 and plan["cost"]["kv_ratio"] == 0.5
    assert found["blind"]["mean"]["accuracy"] == 0.25
    assert found["suite"] == "lmms:mme,pope" and found["provenance"]["versions"]


def test_tables_and_progress_go_where_they_belong(command, stand_in, tmp_path):
    words = (
        "eval",
        "glance",
        "--suite",
        "lmms:mme",
        "--plan",
        PLAN,
        "--device",
        "cpu",
        "--keep",
        tmp_path / "k",
    )
    done = command(*words)
    assert done.code == 0, done.err
    assert "vskip(layers=1-2)" in done.out and "scored by lmms-eval (score)" in done.out
    assert "Answering:  50%" in done.err and "Answering" not in done.out
    assert "are in" in done.out and len(list((tmp_path / "k").rglob("*_results.json"))) == 3
    again = command(*words)
    assert again.code == 0 and len(calls(stand_in)) == 3, "what was kept is not done again"


def test_lmms_eval_is_asked_for_what_was_asked(command, stand_in, tmp_path):
    words = (
        "--samples",
        7,
        "--batch",
        5,
        "--max-new-tokens",
        9,
        "--dtype",
        "bfloat16",
        "--no-blind",
        "--force",
    )
    keep = tmp_path / "a folder, of mine"
    done = command(
        "eval", tmp_path, "--suite", "lmms:mme", "--plan", PLAN, "--device", "cpu", "--keep", keep, *words
    )
    assert done.code == 0, done.err
    dense, plan = calls(stand_in)
    assert (dense["model"], dense["tasks"], dense["limit"], dense["batch_size"]) == (
        "saccade",
        "mme",
        "7",
        "5",
    )
    assert (dense["device"], dense["gen_kwargs"], dense["include_path"]) == ("cpu", "max_new_tokens=9", None)
    assert dense["given"]["pretrained"] == str(tmp_path) and dense["given"]["dtype"] == "bfloat16"
    assert "plan" not in dense["given"] and "force" not in dense["given"]
    assert plan["given"]["force"] == "true"
    methods = json.loads(Path(plan["given"]["plan"]).read_text())["methods"]
    assert [(m["name"], m["layers"]) for m in methods] == [("vskip", [1, 2])]


def test_glance_is_written_for_it_with_the_questions_wanted(command, stand_in, tmp_path):
    words = ("--suite", "lmms:glance_count,glance_exist", "--samples", 2, "--no-blind", "--device", "cpu")
    done = command("eval", "glance", *words, "--keep", tmp_path / "k", "--seed", 3)
    assert done.code == 0, done.err
    (call,) = calls(stand_in)
    assert call["limit"] is None and call["include_path"] == str(tmp_path / "k" / "tasks")
    assert len((tmp_path / "k" / "tasks" / "data" / "count.jsonl").read_text().splitlines()) == 2
    assert not (tmp_path / "k" / "tasks" / "glance.yaml").exists()


def test_tasks_that_tell_no_single_scores_keep_their_official_share(command, stand_in):
    done = command(
        "eval", "glance", "--suite", "lmms:official,mme", "--plan", PLAN, "--json", "-", "--device", "cpu"
    )
    assert done.code == 0, done.err
    (plan,) = done.json["plans"]
    task = plan["tasks"]["official"]
    assert (task["accuracy"], task["blind"], task["difference"], task["retention"]) == (
        0.75,
        0.25,
        -0.25,
        0.75,
    )
    assert task["low"] < 0.75 < task["high"] and task["p_value"] is None and task["difference_low"] is None
    assert plan["mean"]["accuracy"] == 0.75 and plan["mean"]["difference"] is None
    assert plan["tasks"]["mme"]["difference_low"] is not None


def test_answers_are_written_one_by_one(command, stand_in, tmp_path):
    kept = tmp_path / "answers.json"
    done = command(
        "eval", "glance", "--suite", "lmms:mme", "--plan", PLAN, "--predictions", kept, "--device", "cpu"
    )
    assert done.code == 0, done.err
    runs = json.loads(kept.read_text())
    assert [run["plan"] for run in runs] == ["dense", "blind", "vskip(layers=1-2)"]
    assert [p["score"] for p in runs[2]["predictions"]] == [1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("crash", "stopped with exit code 1: RuntimeError: the disk is full"),
        ("silent", "wrote no results: ConnectionError: no data for this task"),
    ],
)
def test_a_failure_is_an_error_with_its_reason(command, stand_in, tmp_path, task, message):
    out = tmp_path / "result.json"
    done = command("eval", "glance", "--suite", f"lmms:{task}", "--json", out, "--device", "cpu")
    assert done.code == 2 and not out.exists()
    assert message in done.err.strip().split("\n")[-1]


def test_a_run_that_failed_goes_on_where_it_was(command, stand_in, tmp_path):
    out = tmp_path / "result.json"
    words = ("eval", "glance", "--suite", "lmms:partly", "--plan", PLAN, "--json", out, "--device", "cpu")
    assert command(*words).code == 2 and len(calls(stand_in)) == 3
    (stand_in / "mended").write_text("")
    done = command(*words)
    assert done.code == 0, done.err
    assert len(calls(stand_in)) == 4 and json.loads(out.read_text())["plans"][0]["mean"]["n"] == 4
    assert not (tmp_path / "result.json.partial").exists()


def test_an_interruption_ends_the_program_too(stand_in, tmp_path):
    class Echo(io.StringIO):
        def flush(self) -> None:
            if "pid" in self.getvalue():
                raise KeyboardInterrupt

    said = Echo()
    with pytest.raises(KeyboardInterrupt):
        run(Job(("forever",), {"pretrained": "glance"}, tmp_path / "out"), said)
    number = int(said.getvalue().split("pid ")[1].split()[0])
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)
    assert "pid" in (tmp_path / "out" / "lmms-eval.log").read_text()


def test_results_of_an_earlier_run_are_not_taken_for_this_one(stand_in, tmp_path):
    job = Job(("mme",), {"pretrained": "glance", "record": str(tmp_path / "c")}, tmp_path / "out")
    assert run(job, io.StringIO()).is_file()
    failing = Job(("silent",), {"pretrained": "glance"}, tmp_path / "out")
    with pytest.raises(ValueError, match="wrote no results"):
        run(failing, io.StringIO())


def test_without_lmms_eval_the_error_says_what_to_install(command, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = command("eval", "glance", "--suite", "lmms:mme", "--device", "cpu")
    assert done.code == 2
    assert "pip install -e '.[lmms]'" in done.err and "torchvision" in done.err and "torch==" in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--suite", "mme"), "a suite is written lmms:TASK"),
        (("--suite", "lmms:"), "a suite is written lmms:TASK"),
        (("--suite", "lmms:glance_nosuch"), "no task 'glance_nosuch'"),
        (("--suite", "lmms:mme", "--task", "count"), "--task cannot be used with --suite"),
        (("--suite", "lmms:mme", "--data", "x.jsonl", "--score", "anls"), "--data, --score cannot be used"),
        (("--suite", "lmms:mme", "--plan", "vskip(budget=2)"), "does not know its layers"),
        (("--suite", "lmms:mme", "--dtype", "int8"), "no data type"),
        (("--task", "count", "--keep", "x"), "--keep cannot be used with our own"),
        (("--task", "count", "--score", "anls"), "--score is for --data"),
    ],
)
def test_what_does_not_go_together_is_one_clear_line(command, stand_in, words, message):
    done = command("eval", "glance", "--device", "cpu", *words)
    assert done.code == 2 and "Traceback" not in done.err
    assert message in done.err.strip().split("\n")[-1]
    assert not calls(stand_in)


def test_several_processes_are_started_by_torch(tmp_path):
    words = Job(("mme",), {"pretrained": "a,b"}, tmp_path, processes=2).command()
    assert words[1:7] == ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    assert words[words.index("--model_args") + 1] == 'pretrained="a,b"'


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Error during evaluation: layer 9. Please set `--verbosity=DEBUG` to see", "layer 9"),
        ("ValueError: a\nmodels.errors.OSError: b\n", "OSError: b"),
        ("tenacity.RetryError: x\nKeyError: 'a'\nRetryError: y", "KeyError: 'a'"),
        ("it just\nstopped\n\n", "stopped"),
        ("", "it printed nothing"),
    ],
)
def test_the_reason_is_the_last_thing_that_explains(text, found):
    assert reason(text) == found


def test_a_suite_knows_what_is_ours():
    assert not Suite.read("lmms:glance, glance_count").has_official
    assert Suite.read("lmms:glance,mme,mme").tasks == ("glance", "mme")
    assert Suite.read("lmms:glance,mme").has_official


def test_costs_of_several_processes_are_weighed_by_their_prompts():
    def note(prompts, gflops):
        cost = {
            "gflops": gflops,
            "dense_gflops": 8.0,
            "kv_bytes": 1.0,
            "dense_kv_bytes": 2.0,
            "flops_ratio": 9,
        }
        return {"prompts": prompts, "cost": cost}

    found = merge_costs([note(3, 4.0), note(1, 8.0), {"prompts": 0, "cost": {}}])
    assert found["gflops"] == 5.0 and found["flops_ratio"] == 5 / 8 and found["kv_ratio"] == 0.5
    assert merge_costs([{"prompts": 0, "cost": {}}]) == {}
