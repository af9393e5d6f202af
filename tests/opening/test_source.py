"""Hub ids, against a server on this machine that speaks the hub's file API."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

import saccade
from saccade import skip_vision
from saccade.glance.suite import samples
from saccade.measure.target import laid_of, shape_of
from saccade.models import inputs, load_config
from saccade.opening import Opening
from saccade.opening.opened import how_opened, opening_of
from saccade.skip_vision import SkipVisionConfig
from support import folders, hub

NAME = "somebody/tiny-llava"


@pytest.fixture(autouse=True)
def online(monkeypatch):
    """The suite runs offline; these tests reach for a server on this machine."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def served(whole):
    with hub.serving() as found:
        found.repositories[NAME] = {"main": whole}
        yield found


@pytest.fixture
def how(served, tmp_path):
    return {"endpoint": served.url, "cache_dir": tmp_path / "cache"}


def weights(loaded) -> torch.Tensor:
    return loaded.model.lm_head.weight


def test_a_hub_id_opens_as_the_folder_behind_it(whole, how):
    there, here = saccade.load(NAME, device="cpu", **how), saccade.load(str(whole), device="cpu")
    assert torch.equal(weights(there), weights(here))
    assert there.processor.chat_template == here.processor.chat_template


def test_what_was_fetched_serves_without_the_hub(how):
    saccade.load(NAME, device="cpu", **how)
    gone = how | {"endpoint": "http://127.0.0.1:1"}
    assert saccade.load(NAME, device="cpu", **gone).name == NAME
    assert saccade.load(NAME, device="cpu", local_files_only=True, **gone).name == NAME


def test_a_revision_is_the_one_that_was_asked_for(whole, served, how, tmp_path):
    other = folders.write(tmp_path / "other", "llava-llama", folders.FACTORIES["llava-llama"](seed=7))
    served.repositories[NAME]["v2"] = other
    first = saccade.load(NAME, device="cpu", **how)
    second = saccade.load(NAME, device="cpu", revision="v2", **how)
    by_commit = saccade.load(NAME, device="cpu", revision=served.commit(NAME, "v2"), **how)
    assert not torch.equal(weights(first), weights(second))
    assert torch.equal(weights(second), weights(by_commit))
    with pytest.raises(ValueError, match=r"somebody/tiny-llava has no revision 'v3'"):
        saccade.load(NAME, revision="v3", **how)


def test_a_configuration_is_fetched_without_the_weights(served, how):
    from saccade.opening import Opening

    assert load_config(NAME, Opening.of(**how)).model_type == "llava"
    assert not [path for path in served.asked if path.endswith(".safetensors")]
    assert saccade.load(NAME, device="cpu", **how).family.name == "LLaVA-1.5"


def test_pickles_lie_where_weights_are_taken_instead(whole, served, how, tmp_path):
    both = shutil.copytree(whole, tmp_path / "both")
    for file in ("pytorch_model.bin", "consolidated.safetensors", "onnx/model.onnx"):
        (both / file).parent.mkdir(exist_ok=True)
        (both / file).write_bytes(b"not to be fetched")
    served.repositories[NAME]["main"] = both
    saccade.load(NAME, device="cpu", **how)
    assert not [path for path in served.asked if path.endswith((".bin", ".onnx", "consolidated.safetensors"))]


def test_no_such_repository_is_one_line(how):
    with pytest.raises(ValueError, match=r"no folder 'somebody/else', and the hub has no repository"):
        saccade.load("somebody/else", **how)


def test_gated_says_log_in(served, how):
    served.gated.add(NAME)
    with pytest.raises(ValueError, match=r"tiny-llava is gated: ask for access.*hf auth login"):
        saccade.load(NAME, **how)


def test_a_download_that_breaks_is_one_line_that_names_it(served, how, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    served.cut.add("model-00002-of-00008.safetensors")
    with pytest.raises(ValueError, match=r"somebody/tiny-llava") as caught:
        saccade.load(NAME, device="cpu", **how)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_nowhere_is_told_within_seconds(tmp_path):
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"no folder 'no/body', and the hub \(http://127.*\) cannot be"):
        saccade.load("no/body", endpoint="http://127.0.0.1:1", cache_dir=tmp_path)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("name", ["./missing", "llava", "a/b/c", "~/model", "some body/x", "/nowhere/at/all"])
def test_what_cannot_be_a_hub_id_is_told_at_once(name):
    with pytest.raises(ValueError, match="not a folder, nor a hub id"):
        saccade.load(name)


def test_a_file_is_not_a_folder(whole):
    with pytest.raises(ValueError, match=r"config\.json is a file; give the folder"):
        saccade.load(str(whole / "config.json"))


@pytest.mark.e2e
def test_generate_works_end_to_end_from_the_hub(served, tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    words = ["generate", NAME, "--revision", "main", "--image", str(tmp_path / "red.png")]
    words += ["--question", "w3 w4", "--max-new-tokens", "2", "--device", "cpu", "--plan", "fastv(layer=1)"]
    outside = {"HF_ENDPOINT": served.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    ran = subprocess.run(
        [sys.executable, "-m", "saccade", *words],
        env={**os.environ, **outside, "PYTHONPATH": os.pathsep.join(filter(None, map(str, sys.path)))},
        capture_output=True,
        text=True,
        timeout=240,
        cwd=Path(tmp_path),
    )
    assert ran.returncode == 0, ran.stderr
    assert "fastv" in ran.stdout


def test_a_skip_vision_model_of_the_hub_is_the_folder_behind_it(served, how, tmp_path):
    glance = saccade.load("glance", device="cpu")
    here = skip_vision.wrap(glance, SkipVisionConfig(retained=30, merged=20, cache="small"))
    folder = skip_vision.save(here, tmp_path / "mine")
    (folder / "other.bin").write_bytes(b"no part of it")
    served.repositories["somebody/skips"] = {"main": folder, "v2": folder}
    at = served.commit("somebody/skips", "v2")
    there = saccade.load("somebody/skips", device="cpu", revision="v2", **how)
    batch = inputs(here, samples("count", 2))
    with torch.no_grad():
        assert torch.equal(there.model(**batch).logits, here.model(**batch).logits)
    assert (there.name, there.shape.visual) == ("somebody/skips", here.shape.visual)
    assert how_opened(there.model)["commit"] == at
    assert opening_of(there.model)[0] == "somebody/skips"
    assert not [path for path in served.asked if path.endswith("other.bin")]
    opening = Opening.of(revision="v2", **how)
    assert load_config("somebody/skips", opening).model_type == "llava"
    assert shape_of("somebody/skips", opening).visual == here.shape.visual
    assert laid_of("somebody/skips", opening) == laid_of(str(folder))
    identity = skip_vision.identity("somebody/skips", glance.model.config, opening)
    assert identity == skip_vision.identity(str(folder), glance.model.config) and "skip_vision" in identity
