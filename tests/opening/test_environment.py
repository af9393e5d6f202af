"""A torchvision that is installed but broken is told as such before anything else fails."""

from __future__ import annotations

import sys

import pytest
import torch

import saccade
from saccade.cli.app import main
from saccade.opening import open_config
from saccade.opening.environment import has_torchvision

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
def test_a_broken_torchvision_is_one_line_that_says_what_to_do(text, install, whole):
    install(text)
    for read in (lambda: saccade.load(str(whole)), lambda: open_config(str(whole))):
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


def test_one_that_works_is_taken(install):
    install("")
    assert has_torchvision()
