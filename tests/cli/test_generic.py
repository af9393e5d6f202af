"""``--generic`` from end to end: a class that nobody wrote an adapter for, in a folder as on the hub."""

from __future__ import annotations

import json

import pytest

from inspected.classes import model_of
from saccade.check.prompts import drawn
from support.folders import FILES, change, put
from support.processors import CHAT, tokenizer

PLAN = "shortv(layers=1)+uniform(keep=0.5)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """ViP-LLaVA in miniature, with its processor."""
    where = tmp_path_factory.mktemp("generic") / "vipllava"
    model_of("vipllava").save_pretrained(where)
    tokenizer().save_pretrained(where)
    for file, data in FILES["llava-llama"]().items():
        put(where / file, data)
    (where / "chat_template.jinja").write_text(CHAT, encoding="utf-8")
    return where


@pytest.fixture
def generate(command, folder):
    """Runs ``generate`` on it."""
    drawn(40, 32).save(folder.parent / "picture.png")
    asked = ("--image", folder.parent / "picture.png", "--question", "w1 w2 w3", "--max-new-tokens", 2)
    return lambda *options: command("generate", folder, *asked, "--plan", *options)


def test_a_model_without_an_adapter_is_told_of_the_option(generate):
    done = generate(PLAN)
    assert done.code == 2 and "saccade check MODEL --generic" in done.err


@pytest.mark.e2e
def test_a_report_lets_plans_be_used_without_another_check(command, generate, folder, tmp_path):
    report = tmp_path / "check.json"
    done = command("check", folder, "--generic", "--plan", PLAN, "--json", report)
    assert done.code == 0, done.err + done.out
    assert "an adapter made by inspection (1 kind of attention)" in done.err
    assert "accepted, with an adapter made by inspection: shortv, uniform" in done.out
    saved = json.loads(report.read_text("utf-8"))
    assert saved["accepted"] == ["shortv", "uniform"]
    done = generate(PLAN, "--accepted", report)
    assert done.code == 0, done.err
    assert "checked first" not in done.err
    done = generate("fastervlm(keep=0.5)", "--accepted", report)
    assert done.code == 2 and "does not hold" in done.err and "cannot be looked into" in done.err
    change(report, model=saved["model"] | {"identity": {"model_type": "vipllava"}})
    done = generate(PLAN, "--accepted", report)
    assert done.code == 2 and "is of another model" in done.err


@pytest.mark.e2e
def test_without_a_report_a_plan_is_checked_when_it_is_first_used(generate):
    done = generate(PLAN, "--generic")
    assert done.code == 0, done.err
    assert f"{PLAN}: checked first" in done.err and f"{PLAN}: holds" in done.err


def test_costs_need_the_configuration_alone(command, folder):
    done = command("cost", folder, "--generic", "--plan", PLAN, "--visual", 16)
    assert done.code == 0, done.err
    assert command("cost", folder, "--plan", PLAN).code == 2
