"""``saccade check``: a table, one line for each refusal, and exit codes 0, 1 and 2."""

from __future__ import annotations

import pytest
import torch

from saccade.engine import layers
from support import folders
from support.models import FACTORIES

FAMILIES = sorted(folders.FILES)


VIEWS_APART = ("idefics3-llama", "smolvlm-llama")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Writes the folder of a tiny model, once."""
    made = {}

    def write(name, **how):
        key = (name, *how.items())
        if key not in made:
            where = tmp_path_factory.mktemp("check") / name
            made[key] = folders.write(where, name, FACTORIES[name](**how))
        return made[key]

    return write


@pytest.mark.parametrize("name", FAMILIES)
def test_smaller_pictures_of_every_family(command, folder, name):
    done = command("check", folder(name), "--plan", "resize(scale=0.5)", "--layers", 1, "--json", "-")
    assert done.code == 0, done.err
    _, row = done.json["rows"]
    assert row["status"] == "passed"
    found = row["outcomes"]
    assert [found[key]["status"] for key in ("identical", "outputs")] == ["passed", "passed"]
    for key in ("batch", "cache"):
        # Where text stands between a picture's views, a prompt of several pictures cannot be taken apart.
        apart = found[key]["status"] == "passed" or "cannot be told from outside" in found[key]["why"]
        assert apart if name in VIEWS_APART else found[key]["status"] == "passed"
    assert (done.json["model"]["layers"], done.json["model"]["layers_checked"]) == (4, 1)


@pytest.mark.e2e
def test_one_plan_of_every_group_on_a_checkpoint(command, folder, tmp_path):
    where = folder("llava-llama", dtype=torch.bfloat16)
    done = command("check", where, "--layers", 2, "--json", tmp_path / "check.json")
    assert done.code == 0, done.out
    assert "bfloat16, sdpa attention, on cpu" in done.err and "about " in done.err
    assert "all 24 that were checked hold" in done.out
    assert (tmp_path / "check.json").is_file()


def test_what_fails_is_named_and_ends_with_exit_code_1(command, folder, monkeypatch):
    def dense(self, rows, hidden, *args, **kwargs):
        return self.inner(hidden, *args, **kwargs)

    monkeypatch.setattr(layers.MlpStandIn, "_routed", dense)
    done = command("check", folder("llava-llama"), "--plan", "shortv(layers=0-1)")
    assert done.code == 1
    assert "FAILED shortv(layers=0-1) (float32): the prompt's rows: off by " in done.out
    assert "1 of 2 hold" in done.out


def test_a_plan_that_is_refused_was_not_checked(command, folder, tmp_path):
    """Of all plans one that the model cannot do is no failure; the one that was asked for is."""
    words = ("check", folder("qwen2_5_vl"), "--plan", "tome(r=2)", "--layers", 2)
    done = command(*words, "--json", tmp_path / "check.json")
    assert done.code == 2
    assert "refused tome(r=2): tokens cannot merge inside the vision tower" in done.out
    assert "the plan was not checked: tokens cannot merge inside the vision tower" in done.err
    assert (tmp_path / "check.json").is_file()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("no/such/folder",), "no/such/folder"),
        (("--layers", "0"), "--layers"),
        (("--plan", "vskip(layers=99)"), "names layer 99"),
        (("--plan", "nomethod(layers=1)"), "no method 'nomethod'"),
        (("--image", "no-such.png"), "no such image: no-such.png"),
        (("--question", " "), "question is empty"),
    ],
)
def test_what_cannot_be_opened_is_one_line_and_exit_code_2(command, words, expected):
    done = command("check", *words)
    assert done.code == 2 and done.out == ""
    last = done.err.strip().splitlines()[-1]
    assert last.startswith("saccade: error: ") and expected in last


def test_the_embedded_model_and_a_picture_of_ones_own(command, tmp_path):
    from PIL import Image

    Image.new("RGB", (90, 70), "teal").save(tmp_path / "scene.png")
    own = ("--image", tmp_path / "scene.png", "--question", "how many ?")
    done = command("check", "--plan", "vtw(layer=6)", *own, "--json", "-")
    assert done.code == 0 and done.json["model"]["visual_rows"] == 100


def test_bug_reports_ask_for_its_report(command, root):
    import yaml

    form = yaml.safe_load((root / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text("utf-8"))
    asked = {part["id"]: part for part in form["body"]}
    assert "saccade check MODEL --layers 4 --json check.json" in asked["check"]["attributes"]["description"]
    assert asked["check"]["validations"]["required"]
    offered = command("check", "--help").out
    for word in ("--layers", "--json", "--plan", "--dtype", "--attn", "--quantize", "--device-map"):
        assert word in offered
