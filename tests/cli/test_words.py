"""What commands say beside their numbers: units, noise, a model that does not see, and what to type next."""

from __future__ import annotations

import json
import re
import shlex
from itertools import pairwise

import pytest
import typer

from saccade.cli import accuracy, common
from saccade.cli.app import build
from saccade.glance.suite import TASKS
from saccade.measure.results import Phase, is_noise
from saccade.methods import METHODS
from saccade.report.text import beside_blind, kept, no_better
from support.models import FACTORIES


def test_a_small_model_is_priced_in_units_that_show(command, toy):
    done = command("cost", toy, "--plan", "shortv(budget=2)", "--text", 8)
    assert done.code == 0 and "MFLOPs" in done.out and " 0.00 " not in done.out
    assert "TFLOPs" in command("cost", "llava-1.5-7b").out


@pytest.mark.parametrize(
    ("flops", "unit"),
    [(8.5e12, "TFLOPs"), (2e11, "TFLOPs"), (5e9, "GFLOPs"), (3e6, "MFLOPs"), (10.0, "kFLOPs")],
)
def test_units(flops, unit):
    assert common.flops_unit(flops).name == unit


@pytest.mark.parametrize(
    ("low", "high", "flops", "noise"),
    [
        (0.55, 0.60, 0.5, False),  # clearly faster
        (0.99, 1.01, 0.5, False),  # clearly not: nothing arrived, and that is known
        (0.80, 1.20, 0.5, True),
        (0.97, 1.01, 0.995, True),  # a saving of half a percent drowns
        (0.990, 0.991, 0.99, False),
    ],
)
def test_what_is_noise(low, high, flops, noise):
    assert is_noise(low, high, flops) is noise


def test_a_phase_knows_when_it_says_nothing():
    steady = Phase.of([1.0, 1.0, 1.0, 1.0], [0.6, 0.61, 0.6, 0.61], 100, 50)
    wild = Phase.of([1.0, 2.0, 1.0, 0.5], [0.6, 0.5, 1.4, 1.6], 100, 50)
    few = Phase.of([1.0, 1.0], [0.6, 0.6], 100, 50)
    assert (steady.noise, wild.noise, few.noise) == (False, True, True)


def test_bench_prints_noise_as_such_and_json_keeps_the_number(command, toy, tmp_path):
    out = tmp_path / "bench.json"
    words = ("bench", toy, "--plan", "shortv(budget=2)", "--text", 8, "--new-tokens", 1, "--warmup", 0)
    done = command(*words, "--repeats", 1, "--json", out)
    assert (
        done.code == 0 and "noise" in done.out and "take more --repeats than 1" in " ".join(done.out.split())
    )
    data = json.loads(out.read_text())
    assert data["prefill"]["noise"] is True and data["captured"] is not None


def score(accuracy_: float, blind: float | None, low: float = 0.0) -> dict:
    return {"accuracy": accuracy_, "blind": blind, "low": low, "high": 1.0, "n": 10,
            "retention": 1.0, "retention_low": 0.9, "retention_high": 1.1,
            "retention_above_blind": 1.0, "retention_above_blind_low": 0.9, "retention_above_blind_high": 1.1,
            "difference": 0.0, "difference_low": -0.1, "difference_high": 0.1}  # fmt: skip


@pytest.mark.parametrize(
    ("dense", "says"),
    [
        (score(0.0, 0.0), "answers nothing right"),
        (score(0.0, None), "answers nothing right"),
        (score(0.5, 0.5), "no better than the blind one (50.0 % against 50.0 %)"),
        (score(0.4, 0.5), "no better than the blind one"),
        (score(0.6, 0.5, low=0.45), "not clearly better"),
        (score(0.9, 0.5, low=0.8), ""),
        (score(0.9, None, low=0.8), ""),
    ],
)
def test_a_dense_model_that_does_not_see_is_said_in_words(dense, says):
    assert says in beside_blind(dense) and bool(beside_blind(dense)) == bool(says)
    drawn = kept(dense, "retention_above_blind", dense)
    assert (drawn == "n/a") is no_better(dense)


def test_no_retention_is_drawn_from_a_dense_model_that_does_not_see(capsys):
    dense = score(0.0, 0.0)
    plan = {"name": "shortv(budget=2)", "spec": "shortv(layers=3,4)+vtw(layer=5)", "mean": dense,
            "tasks": {"a": dense}, "cost": {"flops_ratio": 0.5, "kv_ratio": 1.0}}  # fmt: skip
    found = {"dense": {"mean": dense, "tasks": {"a": dense}}, "plans": [plan]}
    accuracy.show(common.Output(None), found, "exact match")
    accuracy.beside_dense(common.Output(None), "title", dense, [[plan]])
    shown = capsys.readouterr().out
    assert "100.0 % (90.0" not in shown and "answers nothing right" in shown
    assert "3-4 + from 5" in shown and "shortv(layers=3,4)" not in shown


def test_tasks_that_are_not_seen_are_named():
    seen, unseen = score(0.9, 0.5, low=0.8), score(0.5, 0.5)
    assert beside_blind(seen, {"count": seen, "word": unseen}) == (
        "On word the dense model is no better than the blind one."
    )


def test_a_command_to_type_next_is_one_a_shell_takes():
    options = common.given(("--plan", "a plan.json"), ("--task", ["x", "y"]), ("--data", None))
    line = common.command("eval", "my model", *options)
    assert shlex.split(line)[1:] == [
        "eval",
        "my model",
        "--plan",
        "a plan.json",
        "--task",
        "x",
        "--task",
        "y",
    ]


def test_quick_and_rows_are_for_studies_that_train(command, tmp_path):
    done = command("study", "budget", "--quick")
    assert done.code == 2 and "--quick is for a study that trains (skip-vision)" in done.err
    done = command("study", "budget", "--row", "FastV")
    assert done.code == 2 and "--row is for a study that trains (skip-vision)" in done.err
    done = command("study", "skip-vision", "--row", "Nobody", "--run", str(tmp_path), "--out", str(tmp_path))
    assert done.code == 2 and "no row 'Nobody'; there are" in done.err


def test_cost_and_bench_refuse_a_plan_for_another_shape(command, toy, tmp_path):
    from saccade.families import find
    from saccade.plans.plan import Plan

    model = FACTORIES["llava-llama"](layers=4).model
    plan = Plan(Plan.of("shortv(layers=1)").methods, find(model).identity(model))
    path = plan.save(tmp_path / "plan.json")
    for words in (("cost", toy), ("cost", "glance"), ("bench", toy, "--new-tokens", 1), ("bench", "glance")):
        done = command(*words, "--plan", path)
        assert done.code == 2 and "another model" in done.err and "text.layers: 4 in the plan" in done.err
    done = command("cost", toy, "--plan", path, "--force")
    assert done.code == 0 and "shortv(layers=1)" in done.out


def test_a_bench_of_a_checkpoint_keeps_its_own_number_format(command, monkeypatch):
    from saccade.measure import target

    asked = []

    def build(name, **settings):
        asked.append(settings["opening"].dtype if name == "glance" else settings["dtype"])
        raise ValueError("enough")

    monkeypatch.setattr(target, "build", build)
    assert command("bench", "glance").code == 2 and command("bench", "llava-1.5-7b", "--layers", 1).code == 2
    assert [str(dtype) for dtype in asked] == ["None", "torch.float32"]


def test_warnings_are_one_line_and_name_no_file(command, monkeypatch):
    import warnings

    from saccade.cli import app

    monkeypatch.setattr(app, "_run", lambda words: warnings.warn("two\nlines\x1b[2J", UserWarning, 1) or 0)
    done = command("cost")
    assert done.code == 0 and done.err == "saccade: warning: two lines\\x1b[2J\n"


def _commands(group, words=()):
    for name, one in group.commands.items():
        if hasattr(one, "commands"):
            yield from _commands(one, (*words, name))
        else:
            yield (*words, name), one


def test_examples_of_help_are_commands_that_there_are():
    """Their options are the command's own, and their tasks and methods exist."""
    seen = 0
    for words, one in _commands(typer.main.get_command(build())):
        options = {name for option in one.params for name in option.opts}
        for line in re.findall(r"Example: saccade (.+)", one.help or ""):
            given = shlex.split(line)
            assert given[0] == words[0], line
            said = [word.split("=")[0] for word in given if word.startswith("--")]
            assert set(said) <= options, (line, set(said) - options)
            tasks = [value for option, value in pairwise(given) if option == "--task"]
            methods = [value for option, value in pairwise(given) if option == "--method"]
            assert set(tasks) <= set(TASKS) and set(methods) <= set(METHODS), line
            seen += 1
    assert seen > 20


def test_a_model_that_was_not_asked_blind_is_compared_with_nothing():
    right, none = {"accuracy": 0.5, "low": 0.4}, {"accuracy": 0.0}
    said = beside_blind(right, {"count": none, "exist": right})
    assert said == "On count the dense model answers nothing right."
