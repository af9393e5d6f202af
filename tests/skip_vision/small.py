"""Wrapped tiny models, and the configurations and scenes that tests give them."""

import torch

from saccade.models import wrap as pair
from saccade.skip_vision import SkipVisionConfig, ablation_row, wrap, wrapped
from saccade.skip_vision.chain_of_sight import Scale
from support.models import tiny_llava

PICTURE = (32, 32)
COS = dict(layout="cos", scales=(Scale(4, 2), Scale(2, 8), Scale(1, 16)))
SCENES = {"single": [[3, PICTURE, 5]], "ragged": [[3, PICTURE, 5], [4], [2, PICTURE, PICTURE, 6]]}


def cos(row: int, **more) -> SkipVisionConfig:
    return ablation_row(row, SkipVisionConfig(**COS, **more), merged=6)


def made(config: SkipVisionConfig, text: str = "llama"):
    tiny = tiny_llava(text)
    torch.manual_seed(4)
    loaded = wrap(pair(tiny.model, None, "tiny"), config)
    with torch.no_grad():
        for parameter in wrapped(tiny.model).abstractor.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return tiny, loaded
