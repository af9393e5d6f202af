"""The embedded models by name, and whose questions a model is asked."""

from __future__ import annotations

import json

import pytest

from saccade import load, skip_vision
from saccade.glance import suite
from saccade.glance.draw import GRID, LOOKS, PATCH
from saccade.skip_vision import SkipVisionConfig
from saccade.system.embedded import EMBEDDED, GAZE, GLANCE, Embedded, of_result, suite_of, title_of


@pytest.mark.parametrize("one", EMBEDDED.values(), ids=lambda one: one.name)
def test_an_embedded_model_is_there_and_its_pictures_are_as_large_as_they_say(one):
    config = json.loads((one.checkpoint() / "config.json").read_text("utf-8"))
    assert config["vision_config"]["image_size"] == one.image_size
    assert suite_of(one.name) == suite_of(str(one.folder)) == one and title_of(one.name) == one.title


@pytest.mark.parametrize("one", [GLANCE, GAZE], ids=lambda one: one.name)
def test_the_suite_is_drawn_as_large_as_the_model_sees(one):
    (sample,) = suite.samples("count", 1, scale=one.scale)
    assert sample.images[0].size == (one.image_size, one.image_size)
    assert LOOKS[one.scale].side * PATCH == one.image_size == GRID * PATCH * one.scale


def test_another_scale_is_another_drawing_of_as_many_questions():
    small, large = (suite.samples("exist", 3, scale=scale) for scale in (1, 2))
    assert [s.id for s in small] == [s.id for s in large]
    assert [s.subtask for s in small] == [s.subtask for s in large]
    with pytest.raises(ValueError, match="no pictures at scale 3"):
        suite.samples("exist", 1, scale=3)


def test_a_folder_is_asked_what_is_drawn_for_pictures_of_its_size(tmp_path):
    def told(**config) -> Embedded:
        (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return suite_of(str(tmp_path))

    large = {"image_size": 160, "patch_size": 8}
    assert told(model_type="llava", vision_config=large) == GAZE
    assert told(model_type="llava", vision_config={**large, "image_size": 80}) == GLANCE
    assert told(model_type="llava", vision_config={**large, "patch_size": 14}) == GLANCE
    assert told(model_type="qwen2_vl", vision_config=large) == GLANCE
    assert told(model_type="llava") == GLANCE
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    assert suite_of(str(tmp_path)) == GLANCE and suite_of("owner/name") == GLANCE


def test_a_skip_vision_folder_is_asked_what_its_stock_model_is(tmp_path):
    folder = skip_vision.save(skip_vision.wrap(load("gaze"), SkipVisionConfig()), tmp_path / "model")
    assert suite_of(str(folder)) == GAZE


def test_weights_that_an_installation_lacks_are_told_in_one_line():
    with pytest.raises(ValueError, match=r"no weights of Nobody.*saccade train nobody"):
        Embedded("nobody", "Nobody", 1, 80).checkpoint()


def test_a_result_has_the_place_of_the_embedded_model_it_names():
    assert of_result("Gaze") is of_result("Gaze with Chain-of-Sight") is GAZE
    assert of_result("Glance") is of_result("Gazelle-7b") is of_result("somebody/Gaze") is GLANCE
