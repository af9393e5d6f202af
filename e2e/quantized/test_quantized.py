"""Quantised models: opened, counted, calibrated and run under plans, beside the same quantisation undone.

Needs torchao, bitsandbytes and compressed-tensors (``make quantized``).
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import saccade
from saccade import models
from saccade.calibration import calibrate
from saccade.cli.app import main
from saccade.inputs.samples import Sample
from saccade.measure.counter import dispatched_flops
from saccade.opening import Opening
from saccade.opening.digest import weights_digest
from support import folders
from support.models import FACTORIES, SQUARE, WIDE

KINDS = ("int8", "int4", "nf4", "fp8")
FAMILIES = ("llava-llama", "qwen2_5_vl", "internvl-qwen2")
PLANS = (
    "vskip(layers=1-2)",
    "shortv(layers=1)",
    "ffn_skip(layers=1)",
    "fastv(layer=2,keep=0.5)",
    "pyramiddrop(layers=1,2,3)",
    "sparsevlm(layers=1,tokens=4)",
    "vtw(layer=2)",
    "divprune(keep=0.5)",
    "fastv(layer=1,keep=0.5)+vskip(layers=3)",
)
PROMPTS = [[3, SQUARE, 5], [4, WIDE, 3]]


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    made = {}

    def read(family: str, kind: str | None):
        if family not in made:
            made[family] = folders.write(tmp_path_factory.mktemp("hub") / family, family)
        if (family, kind) not in made:
            opening = Opening(device="cpu", dtype="float32", quantize=kind)
            made[family, kind] = models.open_as(str(made[family]), opening)
        return made[family, kind]

    yield read


def linear(module: nn.Module) -> nn.Linear:
    """A plain layer with the weights that a quantised one acts with, read off its answers to unit rows."""
    width = module.in_features
    plain = nn.Linear(width, module.out_features, bias=True)
    with torch.no_grad():
        bias = module(torch.zeros(1, width))[0]
        plain.weight.copy_((module(torch.eye(width)) - bias).T)
        plain.bias.copy_(bias)
    return plain


def undone(model: nn.Module) -> nn.Module:
    """The model with every quantised layer in plain float32, its quantisation's error kept."""
    found = copy.deepcopy(model)
    for name, module in list(found.named_modules()):
        packed = isinstance(module, nn.Linear) and type(module.weight.data) is not torch.Tensor
        if packed or type(module).__name__ == "Linear4bit":
            parent, _, last = name.rpartition(".")
            setattr(found.get_submodule(parent), last, linear(module))
    return found


def quantised(model: nn.Module) -> list[str]:
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and (type(module.weight.data) is not torch.Tensor or module.weight.dtype == torch.uint8)
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_decoder_is_quantised_and_what_sees_is_not(family, kind, opened):
    names = quantised(opened(family, kind).model)
    assert len(names) == 7 * 4 and all("language_model.layers" in name for name in names)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_plans_give_what_they_give_with_the_quantisation_undone(family, kind, opened):
    tiny, model = FACTORIES[family](), opened(family, kind).model
    plain = undone(model)
    batch = tiny.batch(PROMPTS)
    text = batch["attention_mask"].bool() & ~tiny.visual(batch)
    for plan in ("", *PLANS):
        logits = []
        for each in (model, plain):
            with torch.no_grad():
                if not plan:
                    logits.append(each(**batch).logits[text])
                    continue
                with saccade.apply(each, plan):
                    logits.append(each(**batch).logits[text])
        wrong = (logits[0] - logits[1]).norm() / logits[1].norm()
        assert wrong < 2e-4, (plan, float(wrong))


@pytest.mark.parametrize("kind", KINDS)
def test_flops_are_those_of_plain_layers_dense_and_under_a_plan(kind, opened):
    tiny, model = FACTORIES["qwen2_5_vl"](), opened("qwen2_5_vl", kind).model
    batch = tiny.batch(PROMPTS)

    def count(which: nn.Module) -> int:
        with torch.no_grad():
            return dispatched_flops(lambda: which(**batch))

    assert count(model) == count(tiny.model)
    with saccade.apply(model, "vskip(layers=1-2)"), saccade.apply(tiny.model, "vskip(layers=1-2)"):
        assert count(model) == count(tiny.model)


@pytest.mark.parametrize("kind", KINDS)
def test_calibration_scores_a_quantised_model_as_it_acts(kind, opened):
    from PIL import Image

    loaded = opened("qwen2_5_vl", kind)
    samples = [
        Sample(f"s{n}", "t", "", (Image.new("RGB", (40, 30), color),), "w3 w4", ("w5",))
        for n, color in enumerate(("red", "green"))
    ]
    plans = [
        calibrate(model, loaded.processor, samples, "vskip", budget=2, num_samples=2, check=False)
        for model in (loaded.model, undone(loaded.model))
    ]
    assert plans[0].spec == plans[1].spec


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_kept_apart_by_quantisation(kind, opened):
    plain, packed = opened("qwen2_5_vl", None).model, opened("qwen2_5_vl", kind).model
    assert weights_digest(plain) != weights_digest(packed) == weights_digest(packed)


@pytest.mark.parametrize("kind", KINDS)
def test_generate_works_from_the_command_line(kind, opened, tmp_path, capfd):
    opened("llava-llama", None)
    folder = folders.write(tmp_path / "model", "llava-llama")
    words = ["--question", "w3 w4", "--quantize", kind, "--device", "cpu", "--max-new-tokens", "2"]
    assert main(["generate", str(folder), *words, "--plan", "fastv(layer=1)"]) == 0
    assert "fastv" in capfd.readouterr().out


def test_a_folder_that_bitsandbytes_wrote_opens_as_it_is(opened, tmp_path):
    loaded = opened("llava-llama", "nf4")
    folder = folders.write(tmp_path / "model", "llava-llama")
    for shard in folder.glob("model*"):
        shard.unlink()
    loaded.model.save_pretrained(folder)
    again = saccade.load(str(folder), device="cpu")
    assert quantised(again.model) == quantised(loaded.model)
    batch = FACTORIES["llava-llama"]().batch(PROMPTS)
    with torch.no_grad(), saccade.apply(again.model, PLANS[3]), saccade.apply(loaded.model, PLANS[3]):
        torch.testing.assert_close(again.model(**batch).logits, loaded.model(**batch).logits)


def test_a_folder_that_compressed_tensors_wrote_opens_as_it_is(tmp_path):
    from transformers import AutoModelForImageTextToText, CompressedTensorsConfig

    folder = folders.write(tmp_path / "plain", "llava-llama")
    groups = {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"},
        }
    }
    kept = ["lm_head", "re:.*vision_tower.*", "re:.*multi_modal_projector.*"]
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config

    config = QuantizationConfig(
        config_groups=groups, ignore=kept, format="pack-quantized", quantization_status="frozen"
    )
    model = AutoModelForImageTextToText.from_pretrained(folder)
    apply_quantization_config(model, config)
    for module in model.modules():
        if hasattr(module, "weight_scale"):
            scale = module.weight.detach().abs().amax(1, keepdim=True) / 127
            module.weight_scale.data.copy_(scale)
    compressor = ModelCompressor(quantization_config=config)
    compressor.compress_model(model)
    packed = folders.write(tmp_path / "packed", "llava-llama")
    for shard in packed.glob("model*"):
        shard.unlink()
    model.save_pretrained(packed)
    compressor.update_config(str(packed))
    assert CompressedTensorsConfig is not None
    loaded = saccade.load(str(packed), device="cpu")
    plain = saccade.load(str(folder), device="cpu")
    batch = FACTORIES["llava-llama"]().batch(PROMPTS)
    with torch.no_grad(), saccade.apply(loaded.model, PLANS[0]), saccade.apply(plain.model, PLANS[0]):
        one, other = loaded.model(**batch).logits, plain.model(**batch).logits
    text = ~FACTORIES["llava-llama"]().visual(batch) & batch["attention_mask"].bool()
    assert (one - other)[text].norm() / other[text].norm() < 0.1
