"""A torchvision that is installed but broken is told as such before anything else fails."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

import saccade
from saccade.cli.app import main
from saccade.glance import weights_path
from saccade.opening import open_config
from saccade.system.environment import has_torchvision

BROKEN = "raise RuntimeError('operator torchvision::nms does not exist')"


@pytest.fixture
def install(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)

    def write(text: str) -> None:
        (tmp_path / "torchvision").mkdir()
        (tmp_path / "torchvision" / "__init__.py").write_text(text, encoding="utf-8")

    yield write
    sys.modules.pop("torchvision", None)


@pytest.mark.parametrize(
    "text", [BROKEN, "import no_such_part", "1 / 0", "raise OSError('libtorch_cuda.so')"]
)
def test_a_broken_torchvision_is_one_line_that_says_what_to_do(text, install):
    install(text)
    for read in (saccade.load, lambda: open_config(str(weights_path()))):
        with pytest.raises(
            ValueError, match=r"torchvision .* is installed but broken beside torch"
        ) as caught:
            read()
        assert torch.__version__ in str(caught.value) and "\n" not in str(caught.value)
        assert "pip uninstall torchvision" in str(caught.value) and "torchvision==0." in str(caught.value)


@pytest.mark.parametrize("words", [["generate", "glance", "--question", "how many?"], ["cost", "glance"]])
def test_the_commands_say_it_with_exit_code_2(words, install, capfd):
    install(BROKEN)
    assert main(words) == 2
    said = capfd.readouterr().err.strip()
    assert "operator torchvision::nms does not exist" in said and "\n" not in said


@pytest.mark.e2e
def test_a_fresh_process_says_it_too_before_any_class_of_a_model_is_imported(install, tmp_path):
    install(BROKEN)
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    words = [sys.executable, "-m", "saccade", "bench", "llava-1.5-7b", "--layers", "1"]
    ran = subprocess.run(
        words, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=240
    )
    assert ran.returncode == 2
    assert ran.stderr.startswith("saccade: error: torchvision") and ran.stderr.count("\n") == 1, ran.stderr


def test_one_that_works_is_taken(install):
    install("")
    assert has_torchvision()
