"""``saccade explain``: pictures of what was kept, from any image file, and errors that name what is wrong."""

from __future__ import annotations

import json

import pytest
from PIL import Image

PLAN = "fastv(layer=3,keep=0.5)"


@pytest.fixture
def question():
    from saccade.glance.suite import samples

    return samples("count", 1, "test", 0)[0]


@pytest.fixture
def scene(question, tmp_path):
    file = tmp_path / "scene.png"
    question.images[0].save(file)
    return file


@pytest.fixture
def explained(command, question, scene, tmp_path):
    """Explains the scene; pictures go where they are found again."""

    def run(*words, plan=PLAN, out="out"):
        given = ("explain", scene, question.question, "--plan", plan, "--output", tmp_path / out)
        return command(*given, "--max-new-tokens", 4, *words)

    return run


def test_it_writes_a_figure_and_a_page_and_says_what_was_kept(explained, tmp_path):
    done = explained()
    assert done.code == 0
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["explain.html", "explain.png"]
    with Image.open(tmp_path / "out" / "explain.png") as figure:
        assert figure.width >= 900
    page = (tmp_path / "out" / "explain.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and "50 of 100 patches kept by fastv(" in page
    assert "before layer 3" in done.out and str(tmp_path / "out" / "explain.html") in done.out


def test_json_holds_every_stage(explained, question):
    done = explained("--json", "-", plan="pool(factor=2)+fastv(layer=3,keep=0.4)")
    data = done.json
    first, second = data["stages"]
    assert [(stage["before"], stage["method"].split("(")[0]) for stage in data["stages"]] == [
        (0, "pool"),
        (3, "fastv"),
    ]
    pooled, cut = first["images"][0], second["images"][0]
    assert (
        pooled["counts"]["left"] == len(pooled["kept"]) == len(pooled["boxes"]) == len(pooled["merged"]) == 25
    )
    assert all(
        len(parts) == 4 and all(weight == pytest.approx(0.25) for _, weight in parts)
        for parts in pooled["merged"].values()
    )
    assert set(cut["kept"]) < set(pooled["kept"]) and cut["counts"]["left"] == 10
    assert data["alive"] == [25] * 3 + [10] * 9
    assert data["question"] == question.question and data["answers"]["dense"]
    assert data["cost"]["ratio"] < 0.4 and data["provenance"]["device"]


def test_a_static_plan_shows_what_layers_skip(explained, tmp_path):
    done = explained(plan="vskip(layers=4-6)+ffn_skip(layers=5)", out="page.html")
    assert done.code == 0 and "skip attention in layers 4-6 and skip the FFN in layer 5" in done.out
    assert not (tmp_path / "out").exists() and (tmp_path / "page.html").is_file()


def test_layers_that_nothing_chose_are_said_to_be_the_last_ones(explained):
    assert "saccade calibrate chooses them" in explained(plan="vskip(flops=0.9)").out.replace("\n", " ")


def test_a_plan_without_a_stage_changes_nothing(explained):
    data = explained("--json", "-", plan="dense", out="only.png").json
    assert data["stages"] == [] and data["cost"]["ratio"] == 1
    assert data["answers"]["dense"] == data["answers"]["planned"]


def test_a_lower_resolution_says_what_it_left_out(explained):
    data = explained("--json", "-", plan=f"resize(scale=0.5)+{PLAN}", out="only.html").json
    assert len(data["images"][0]["rows"]) == 25 and data["alive"][0] == 25 and data["alive"][-1] == 12
    assert data["cost"]["ratio"] < 0.3


def test_several_images_and_several_files(explained, scene, tmp_path):
    photo = tmp_path / "photo.jpg"
    Image.radial_gradient("L").resize((300, 200)).save(photo)
    extra = ("--image", photo, "--output", tmp_path / "b" / "x.html", "--json", tmp_path / "x.json")
    assert explained(*extra, out="a.png").code == 0
    data = json.loads((tmp_path / "x.json").read_text())
    assert [len(image["rows"]) for image in data["images"]] == [100, 100]
    assert [image["counts"]["left"] for image in data["stages"][0]["images"]] == [50, 50]
    assert data["files"] == [str(scene), str(photo)]
    assert (
        "image 2" in (tmp_path / "b" / "x.html").read_text(encoding="utf-8") and (tmp_path / "a.png").exists()
    )


def test_a_model_folder_is_a_model(explained):
    from saccade.glance import weights_path

    folder = str(weights_path())
    assert explained("--model", folder, "--json", "-", out="x.html").json["model"] == folder


def test_the_api_gives_the_same(explained, question):
    from saccade import models
    from saccade.report.explain import explain

    shown = explain(models.load("glance"), question.images, question.question, PLAN, max_new_tokens=4)
    data = explained("--json", "-", out="x.html").json
    assert json.loads(json.dumps(shown.to_dict()["stages"])) == data["stages"]


@pytest.mark.parametrize(
    ("content", "expected"), [(None, "no such image: "), (b"not a picture", "cannot read image ")]
)
def test_an_image_that_cannot_be_read_is_named(command, tmp_path, content, expected):
    file = tmp_path / "broken.png"
    if content is not None:
        file.write_bytes(content)
    done = command("explain", file, "how many?", "--plan", PLAN, "--output", tmp_path / "out")
    assert done.code == 2 and f"{expected}{file}" in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--plan", "nomethod(keep=1)"), "no method 'nomethod'"),
        (("--plan", "fastv(layer=40)"), "layer 40"),
        (("--plan", PLAN, "--output", "picture.jpg"), "ends in .png or .html"),
        (("--plan", PLAN, "--model", "no/such/model"), "no model 'no/such/model'"),
        ((), "--plan"),
    ],
)
def test_bad_input_is_named_and_writes_nothing(command, scene, tmp_path, monkeypatch, words, expected):
    monkeypatch.chdir(tmp_path)
    done = command("explain", scene, "how many?", *words)
    error = done.err.strip().splitlines()[-1]
    assert done.code == 2 and done.out == "" and error.startswith("saccade: error: ") and expected in error
    assert list(tmp_path.iterdir()) == [scene]


def test_text_alone_is_refused(command):
    done = command("explain", "how many?", "--plan", PLAN)
    assert done.code == 2 and "QUESTION" in done.err
    done = command("explain", "x.png", " ", "--plan", PLAN)
    assert done.code == 2 and "question is empty" in done.err


def test_a_plan_for_another_model_needs_force(explained, tmp_path):
    from saccade.plans.plan import Plan

    file = Plan(Plan.of(PLAN).methods, model={"model_type": "other"}).save(tmp_path / "plan.json")
    refused = explained(plan=file)
    assert refused.code == 2 and "made for another model" in refused.err
    assert explained("--force", plan=file, out="x.html").code == 0
