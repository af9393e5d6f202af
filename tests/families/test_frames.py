"""Frames are chosen by stock's own samplers; where as many are asked for as they cannot give, evenly."""

from __future__ import annotations

from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest
from transformers.models.glm4v.video_processing_glm4v import Glm4vVideoProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

from saccade.families.frames import Clip, shown_frames

CLASSES: dict[str, tuple[Any, bool]] = {
    "qwen3": (Qwen3VLVideoProcessor, False),
    "glm": (Glm4vVideoProcessor, True),
    "smolvlm": (SmolVLMVideoProcessor, True),
}
if find_spec("transformers.models.molmo2"):
    from transformers.models.molmo2.video_processing_molmo2 import Molmo2VideoProcessor

    CLASSES["molmo2"] = (Molmo2VideoProcessor, False)


def part(name: str, **settings: Any) -> Any:
    """A stock part for videos without what needs torchvision: its settings and its sampler."""
    cls, _ = CLASSES[name]
    kinds = [*cls.__mro__]
    usual = {key: value for kind in reversed(kinds) for key, value in vars(kind).items() if key[0] != "_"}
    made = SimpleNamespace(
        **{**{"num_frames": None, "fps": None, "do_sample_frames": None}, **usual, **settings}
    )
    made.sample_frames = lambda **how: cls.sample_frames(made, **how)
    return made


@pytest.mark.parametrize("asked", [2, 4, 7, 16])
@pytest.mark.parametrize("name", CLASSES)
def test_as_many_frames_are_shown_as_were_asked_for(name, asked):
    clip = Clip(90, 30.0, (64, 48), asked)
    found = shown_frames(part(name), clip, CLASSES[name][1])
    assert len(set(found)) == asked and found == sorted(found) and 0 <= found[0] <= found[-1] < 90
    gaps = {later - one for one, later in zip(sorted(set(found)), sorted(set(found))[1:], strict=False)}
    assert max(gaps) - min(gaps) <= 1 or name == "qwen3"


@pytest.mark.parametrize("name", CLASSES)
def test_frames_that_were_chosen_are_all_shown_and_fewer_where_asked(name):
    _, by_rate = CLASSES[name]
    assert shown_frames(part(name), Clip(6, 24.0, (9, 9), chosen=True), by_rate) == [0, 1, 2, 3, 4, 5]
    assert shown_frames(part(name), Clip(6, 24.0, (9, 9), 9, chosen=True), by_rate) == [0, 1, 2, 3, 4, 5]
    assert len(shown_frames(part(name), Clip(6, 24.0, (9, 9), 2, chosen=True), by_rate)) == 2


def test_without_a_number_the_settings_choose():
    clip = Clip(90, 30.0, (64, 48))
    assert len(shown_frames(part("qwen3", fps=2), clip)) == 6
    assert len(shown_frames(part("glm"), clip, by_rate=True)) == 6
    assert len(shown_frames(part("smolvlm", num_frames=64, fps=1), clip, by_rate=True)) == 3
    if "molmo2" in CLASSES:
        assert len(shown_frames(part("molmo2"), clip)) == 6
    # What samples by nothing shows everything.
    bare = part("qwen3", do_sample_frames=False, fps=None)
    assert len(shown_frames(bare, clip)) == 90


def test_what_stock_cannot_sample_is_one_line():
    torn = part("qwen3", min_frames=None)
    with pytest.raises(ValueError, match="cannot choose its frames of a video of 90"):
        shown_frames(torn, Clip(90, 30.0, (64, 48)))
