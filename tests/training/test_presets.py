"""The shipped Chain-of-Sight configurations, on a tower of CLIP-L's layers and grid in miniature."""

from __future__ import annotations

import json

import pytest
import torch
import transformers as T
import yaml

import saccade
from saccade.models import wrap as pair
from saccade.skip_vision import ROWS, SkipVisionConfig, ablation_row, wrap, wrapped
from saccade.training.config import TrainingConfig, read_config
from skip_vision.test_model import PUBLISHED
from support.models import IMAGE, VOCAB
from support.programs import ROOT

STAGE1, SFT = ROOT / "configs" / "cos-stage1.yaml", ROOT / "configs" / "cos-sft.yaml"


def settings(path, *changes: str) -> SkipVisionConfig:
    return SkipVisionConfig.from_dict(read_config(path, changes).model.skip_vision)


@pytest.fixture(scope="module")
def loaded():
    """A LLaVA whose tower has 24 layers and patches of 14 pixels, as CLIP-L at 336, wrapped for stage 1."""
    small = dict(hidden_size=8, intermediate_size=16, num_attention_heads=2)
    config = T.LlavaConfig(
        vision_config=T.CLIPVisionConfig(num_hidden_layers=24, image_size=336, patch_size=14, **small),
        text_config=T.LlamaConfig(num_hidden_layers=2, vocab_size=VOCAB, **small),
        image_token_index=IMAGE,
    )
    torch.manual_seed(0)
    model = T.LlavaForConditionalGeneration(config).eval()
    made = wrap(pair(model, None, "tiny"), settings(STAGE1))
    with torch.no_grad():
        for parameter in wrapped(model).abstractor.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return made


def rows_of(model, side: int) -> torch.Tensor:
    with torch.no_grad():
        return model.model.get_image_features(torch.randn(1, 3, side, side)).pooler_output[0]


@pytest.mark.parametrize("name", ROWS.values())
def test_every_row_goes_on_from_eighty_tokens(loaded, name, tmp_path):
    wrap(loaded, settings(STAGE1))
    source = wrapped(loaded.model).abstractor.project
    assert rows_of(loaded.model, 224).shape == (80, 8) and source.grid == 16
    assert loaded.model.model.config.vision_feature_layer == [16, 23]
    config = settings(SFT, f"model.skip_vision.row={name}")
    number = {name: number for number, name in ROWS.items()}[name]
    wrap(loaded, config)
    project = wrapped(loaded.model).abstractor.project
    assert project.grid == 32 and loaded.model.model.config.vision_feature_layer == [16, 23]
    large, fine = (project.queries[place].detach() for place in (0, 2))
    assert torch.equal(large, source.queries[0])
    local = source.queries[1][0].view(4, 4, 4, 8)
    assert torch.equal(fine[0].view(16, 16, 4, 8), local.repeat_interleave(4, 0).repeat_interleave(4, 1))
    attend, pass_ffn = PUBLISHED[number]
    ids = torch.tensor([[7] + [IMAGE] * attend + [8, 9]])
    fed = []
    mlp = loaded.model.model.language_model.layers[0].mlp
    handle = mlp.gate_proj.register_forward_hook(lambda *seen: fed.append(seen[1][0].shape[-2]))
    with torch.no_grad():
        out = loaded.model(input_ids=ids, pixel_values=torch.randn(1, 3, 448, 448))
    handle.remove()
    assert out.logits.isfinite().all() and fed == [pass_ffn + 3]
    if name in ("dense", "sf-fs-ls-merge-lv-sk"):
        loaded.model.save_pretrained(tmp_path)
        again = saccade.load(str(tmp_path))
        assert wrapped(again.model).config == wrapped(loaded.model).config


def test_a_row_is_named_or_numbered_alike_and_files_keep_it(tmp_path):
    assert ROWS[0] == "dense" and ROWS[10] == "sf-fs-ls-merge-lv" and len(set(ROWS.values())) == 12
    for number, name in ROWS.items():
        assert ablation_row(name) == ablation_row(number)
        run = read_config(SFT, [f"model.skip_vision.row={name}"])
        file = tmp_path / "run.yaml"
        file.write_text(yaml.safe_dump(json.loads(json.dumps(run.as_data()))), "utf-8")
        assert read_config(file) == run == TrainingConfig.from_data(run.as_data())
        assert settings(file) == settings(SFT, f"model.skip_vision.row={number}")
        assert SkipVisionConfig.from_dict(settings(file).to_dict()) == settings(file)
    assert settings(SFT).to_dict() == settings(SFT, "model.skip_vision.row=10").to_dict()
    for wrong in ("sf-lv-ls", "", "10", None, True, 12):
        with pytest.raises(ValueError, match=r"rows 0 to 11, or by name dense, merge, sf, "):
            ablation_row(wrong)
