"""``saccade generate``: the answer, with and without a plan, and errors that name the file."""

from __future__ import annotations

import pytest
from PIL import Image


@pytest.fixture
def picture(tmp_path):
    file = tmp_path / "scene.png"
    Image.new("RGB", (24, 24), "red").save(file)
    return file


def ask(command, *words):
    return command("generate", "--question", "how many?", "--max-new-tokens", 4, *words)


def test_prints_the_answer_and_nothing_else(command, asked, picture):
    done = ask(command, "--image", picture)
    assert done.code == 0
    assert len(done.out.split()) == 4 and done.out.count("\n") == 1


def test_a_plan_is_answered_beside_the_stock_model(command, asked, picture):
    plain = ask(command, "--image", picture, "--json", "-").json
    data = ask(command, "--image", picture, "--plan", "vtw(layer=1)", "--json", "-").json
    assert data["dense"]["answer"] == plain["dense"]["answer"]
    assert data["resolved"] == "vtw(layer=1)"
    # 3 + 16 + 5 rows and 3 decoded ones in the first layer, no visual rows in the others.
    assert data["planned"]["kv_lengths"] == [27, 11, 11, 11]
    assert data["planned"]["kv_bytes"] < data["dense"]["kv_bytes"] == 4 * 27 * 2 * 64 * 4
    assert data["visual_tokens"] == 16 and data["text_tokens"] == 8
    assert 0.3 < data["flops_ratio"] < 0.55


def test_a_plan_that_changes_nothing_gives_the_same_answer(command, asked, picture):
    done = ask(command, "--image", picture, "--plan", "shortv(layers=none)")
    assert done.code == 0
    assert "same answer" in done.out


@pytest.mark.parametrize(("plan", "said"), [("shortv(budget=1)", True), ("shortv(layers=1)", False)])
def test_layers_that_nothing_chose_are_said_to_be_the_last_ones(command, asked, picture, plan, said):
    done = ask(command, "--image", picture, "--plan", plan)
    assert done.code == 0
    assert ("the last ones are taken here; saccade calibrate" in " ".join(done.out.split())) is said


def test_several_images_and_none(command, asked, picture):
    two = ask(
        command, "--image", picture, "--image", picture, "--plan", "shortv(budget=2)", "--json", "-"
    ).json
    none = ask(command, "--plan", "shortv(budget=2)", "--json", "-").json
    assert (two["visual_tokens"], none["visual_tokens"]) == (32, 0)
    assert none["flops_ratio"] == 1
    assert none["dense"]["answer"] == none["planned"]["answer"]


def test_the_model_is_as_it_was_afterwards(command, asked, picture):
    from saccade.engine import attached

    ask(command, "--image", picture, "--plan", "vtw(layer=1)")
    assert attached(asked.model) is None


def test_a_plan_file_for_another_model_needs_force(command, asked, picture, tmp_path):
    from saccade.plans.plan import Plan

    file = Plan(Plan.of("shortv(layers=1)").methods, model={"model_type": "other"}).save(
        tmp_path / "plan.json"
    )
    refused = ask(command, "--image", picture, "--plan", file)
    assert refused.code == 2 and "made for another model" in refused.err
    assert ask(command, "--image", picture, "--plan", file, "--force").code == 0


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "no such image: "),
        (b"not a picture", "cannot read image "),
        (b"\x89PNG\r\n\x1a\n\x00", "cannot read image "),
    ],
)
def test_a_bad_image_is_named(command, tmp_path, content, expected):
    file = tmp_path / "broken.png"
    if content is not None:
        file.write_bytes(content)
    done = ask(command, "--image", file)
    assert done.code == 2
    assert done.err.startswith(f"saccade: error: {expected}{file}") and done.err.count("\n") == 1


def test_a_folder_is_not_an_image(command, tmp_path):
    done = ask(command, "--image", tmp_path)
    assert done.code == 2 and str(tmp_path) in done.err


def test_an_empty_question_is_refused(command):
    done = command("generate", "--question", "  ")
    assert done.code == 2 and "question is empty" in done.err


def test_layers_the_model_does_not_have_are_refused(command, asked, picture):
    done = ask(command, "--image", picture, "--plan", "vskip(layers=12-31)")
    assert done.code == 2
    assert "names layer 31, but the model has 4 (0-3)" in done.err


def test_the_embedded_model_answers_about_a_picture(command, tmp_path):
    from saccade.glance.suite import samples

    sample = samples("count", 1, "test", 0)[0]
    file = tmp_path / "scene.png"
    sample.images[0].save(file)
    words = ("generate", "glance", "--image", file, "--question", sample.question)
    plain = command(*words)
    data = command(*words, "--plan", "vtw(layer=10)", "--json", "-").json
    assert plain.code == 0 and plain.out.strip() == data["dense"]["answer"] != ""
    lengths = data["planned"]["kv_lengths"]
    assert len(lengths) == 12 and len(set(lengths[:10])) == 1
    assert lengths[0] - lengths[10] == lengths[0] - lengths[11] == data["visual_tokens"] >= 100


def test_a_picture_is_turned_as_the_camera_was_held(tmp_path):
    from saccade.inputs.pictures import open_picture

    picture = Image.new("RGB", (8, 4))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "photo.jpg", exif=exif)
    assert open_picture(tmp_path / "photo.jpg").size == (4, 8)


@pytest.mark.parametrize(("margin", "who"), [(1.0, "stock"), (0.0, "plan")])
def test_where_a_plan_is_unsure_the_stock_model_answers(margin, who, command, asked, picture, tmp_path):
    from saccade.plans.plan import Plan

    seen = {"cost": "FLOPs", "ratio": 0.4, "kl": 0.1, "agreement": 0.9, "samples": 8}
    held = {"ratio": 0.4, "samples": 9, "loss": 0.1, "bound": 0.2, "candidates": 1, "tasks": {}}
    guard = {"margin": margin, "share": 0.25, "ratio": 0.65, "loss": 0.0, "bound": 0.1}
    tuned = {"search": {}, "predicted": seen, "held_out": held, "unsure": guard}
    path = Plan(Plan.of("vtw(layer=1)").methods, {}, {"tuned": tuned}).save(tmp_path / "plan.json")
    data = ask(command, "--image", picture, "--plan", path, "--json", "-").json
    told, answers = data["unsure"], {"stock": data["dense"]["answer"], "plan": data["planned"]["answer"]}
    assert told["answered_by"] == who and data["answer"] == answers[who]
    assert told["flops_ratio"] == pytest.approx(data["flops_ratio"] + (who == "stock"))
    assert 0 <= told["lead"] == data["planned"]["lead"] <= 1 and told["expected_share"] == 0.25
    said = ask(command, "--image", picture, "--plan", path).out
    assert f"answered by the {'stock model' if who == 'stock' else 'plan'}: {answers[who]}" in said
    bare = ask(command, "--image", picture, "--plan", path, "--no-guard", "--json", "-").json
    assert "unsure" not in bare and "answer" not in bare
