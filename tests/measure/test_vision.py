"""What makes features of a picture is given what its processor made, and what the stock core would add."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from transformers import Llama4Config

from saccade import models
from saccade.families import find
from saccade.measure.vision import _given


def test_a_setting_that_older_cores_hand_on_is_taken_from_the_configuration(monkeypatch):
    """As in transformers 5.17, whose Llama 4 has no default for it."""

    def get_image_features(pixel_values: Any, vision_feature_select_strategy: str, **more: Any) -> None: ...

    config = Llama4Config()
    core = SimpleNamespace(config=config, get_image_features=get_image_features)
    target: Any = SimpleNamespace(
        parts=SimpleNamespace(core=core), family=find(config), loaded=SimpleNamespace(name="m")
    )
    ready = {"pixel_values": torch.zeros(1, 3, 4, 4), "input_ids": torch.zeros(1, 2)}
    monkeypatch.setattr(models, "inputs", lambda *given: ready)
    given = _given(target, SimpleNamespace(), None)  # type: ignore[arg-type]
    assert given == {"pixel_values": ready["pixel_values"], "vision_feature_select_strategy": "default"}
