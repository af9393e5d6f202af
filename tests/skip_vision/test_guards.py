"""What must not go wrong quietly: adapters, saving, plans of other layouts, single rows, wrong settings."""

import json
from dataclasses import replace

import pytest
import torch
from accelerate import cpu_offload
from PIL import Image

import saccade
from saccade import skip_vision as sv
from saccade.cli import main
from saccade.engine.cache import kv_lengths
from saccade.glance import suite
from saccade.measure import bench
from saccade.models import inputs
from saccade.models import wrap as pair
from saccade.opening.opened import opening_of
from saccade.plans.plan import Plan
from saccade.skip_vision import SkipVisionConfig, wrap, wrapped
from saccade.skip_vision.align import align
from saccade.skip_vision.chain_of_sight import Scale
from skip_vision.small import COS, PICTURE, SCENES, cos, made
from support.models import tiny_llava, tiny_llava_next

ROWS = SkipVisionConfig(retained=20, merged=10, cache="small")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return sv.save(wrap(saccade.load("glance"), ROWS), tmp_path_factory.mktemp("models") / "rows")


# PEFT's own use of it.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_a_projector_that_peft_trained_is_saved_once_adapters_are_merged(tmp_path):
    from peft import LoraConfig, get_peft_model

    loaded = wrap(saccade.load("glance"), ROWS)
    batch = inputs(loaded, suite.samples("count", 1))
    trained = get_peft_model(
        loaded.model, LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["multi_modal_projector"])
    )
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        for _ in range(2):
            with pytest.raises(ValueError, match="merge the adapters first"):
                sv.save(loaded, tmp_path / "model")
        assert not any(tmp_path.iterdir())
        expected = trained.eval()(**batch).logits
        trained.merge_and_unload()
        again = saccade.load(str(sv.save(loaded, tmp_path / "model")))
        for model in (loaded.model, again.model):
            torch.testing.assert_close(model(**batch).logits, expected, atol=1e-4, rtol=1e-4)
        # The copy goes on into another layout as well.
        copy = wrapped(loaded.model).abstractor.project
        wrap(loaded, SkipVisionConfig(retained=30, merged=10))
        assert wrapped(loaded.model).abstractor.project is copy


def test_a_model_taken_apart_is_written_as_a_stock_one(tmp_path):
    tiny, loaded = made(cos(10))
    sv.unwrap_skip_vision(loaded)
    tiny.model.save_pretrained(tmp_path / "stock")
    assert not sv.is_skip_vision(tmp_path / "stock")
    assert (tmp_path / "stock" / "model.safetensors").is_file()


def test_changing_the_cache_under_a_plan_changes_nothing():
    tiny, loaded = made(cos(11))
    before = wrapped(tiny.model).config
    with saccade.apply(tiny.model, "vskip(layers=1)"), pytest.raises(ValueError, match="over its own"):
        sv.set_cache(loaded, "none")
    assert wrapped(tiny.model).config == before and wrapped(tiny.model).abstractor.config == before
    assert saccade.engine.attached(tiny.model) is wrapped(tiny.model).attachment


@pytest.mark.parametrize(
    "config",
    [
        SkipVisionConfig(retained=1, merged=4, former=False, latter=False, cache="small"),
        SkipVisionConfig(
            **COS | dict(scales=(Scale(4, 1), Scale(1, 16))),
            merged=4,
            former=False,
            latter=False,
            cache="small",
        ),
    ],
)
def test_one_retained_row_is_one_row(config):
    tiny, _ = made(config)
    batch = tiny.batch(SCENES["single"])
    with torch.no_grad():
        held = kv_lengths(tiny.model(**batch, use_cache=True).past_key_values)
    assert set(held) == {batch["input_ids"].shape[1] - 4}
    (method,) = wrapped(tiny.model).attachment.plan.methods
    assert Plan.of(str(method)).methods == (method,) and int(method.of_image(5)[0].sum()) == 1


def test_numbers_of_rows_are_written_as_they_always_were():
    (one,), (all_rows,) = (Plan.of(f"skip_vision({k}=1)").methods for k in ("rows", "retained"))
    assert int(one.of_image(9)[0].sum()) == 1 and int(all_rows.of_image(9)[0].sum()) == 9
    assert Plan.of("skip_vision(rows=7)").spec == "skip_vision(retained=7)"
    for wrong in ("rows=0", "rows=3,retained=4"):
        with pytest.raises(ValueError, match="skip_vision: r"):
            Plan.of(f"skip_vision({wrong})")


def test_a_plan_is_for_the_layout_that_it_was_made_on(folder, tmp_path):
    tiny, loaded = made(cos(10))
    mine = Plan.of("vskip(layers=1)").methods
    plan = Plan(mine, model=loaded.family.identity(tiny.model))
    file = plan.save(tmp_path / "plan.json")
    sv.set_cache(loaded, "small")
    saccade.apply(tiny.model, str(file)).remove()
    others = [tiny_llava().model, made(SkipVisionConfig(retained=4, merged=5))[0].model]
    for other in others:
        with pytest.raises(ValueError, match=r"another model .*skip_vision"):
            saccade.apply(other, plan)
    stock = loaded.family.identity(others[0])
    assert stock == loaded.family.fingerprint(others[0].config) and "skip_vision" not in stock
    again = saccade.load(str(folder))
    Plan(mine, model=again.family.identity(again.model)).save(tmp_path / "own.json")
    assert main(["plan", "validate", str(tmp_path / "own.json"), "--model", str(folder)]) == 0
    assert main(["plan", "validate", str(tmp_path / "own.json"), "--model", "glance"]) == 2


def test_an_offloaded_projector_is_refused_and_other_offloaded_parts_are_not(folder, tmp_path):
    parts = ("model.vision_tower", "model.multi_modal_projector", "model.language_model", "lm_head")
    spread, off = dict.fromkeys(parts, "disk"), str(tmp_path / "off")
    with pytest.raises(ValueError, match="the projector is offloaded"):
        saccade.load(str(folder), device_map=spread, offload_folder=off)
    there = saccade.load(str(folder), device_map=spread | {parts[1]: "cpu"}, offload_folder=off)
    here = saccade.load(str(folder), device="cpu")
    batch = inputs(there, suite.samples("count", 2))
    with torch.no_grad():
        torch.testing.assert_close(there.model(**batch).logits, here.model(**batch).logits)


def test_other_processes_open_the_whole_folder(folder):
    assert opening_of(saccade.load(str(folder)).model)[0] == str(folder)


def test_a_check_says_where_the_stock_model_is(folder, capsys):
    assert main(["check", str(folder)]) == 2
    assert "Skip-Vision model" in (told := capsys.readouterr().err) and "base/" in told
    assert main(["check", str(folder / "base"), "--plan", "shortv(layers=1)", "--layers", "2"]) == 0


def test_costs_are_of_what_the_folder_runs(folder, capsys):
    assert main(["cost", str(folder), "--text", "40", "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["visual"], found["stock_visual"], found["visual_tokens"]) == (32, 100, 100)
    assert found["kv_ratio"] == pytest.approx((22 + 40) / (100 + 40))
    assert [(s["alive"], s["ffn"]) for s in found["layer_sets"]] == [(72, 62)]
    assert main(["cost", str(folder), "--visual", "50"]) == 2
    assert "makes 32 visual rows" in capsys.readouterr().err
    assert main(["cost", str(folder)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "lays rows out anew, and is not counted" in told and "not known" not in told


def test_benches_run_the_folder_beside_the_stock_prompt(folder):
    found = bench(str(folder), "vskip(layers=11)", text=8, new_tokens=1, warmup=0, repeats=1, device="cpu")
    assert (found.visual, found.stock_visual) == (32, 100)
    assert found.kv_ratio == pytest.approx((22 + 8) / (100 + 8)) and "skip_vision" in found.resolved
    with pytest.raises(ValueError, match="makes 32 visual rows"):
        bench(str(folder), visual=50, device="cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(levels=("a",)), "whole numbers"),
        (dict(levels=(-1, -1)), "distinct"),
        (dict(levels=(9,)), "hidden states"),
        (dict(levels=(-1, -2)), "keeps the model's own projector"),
        (COS | dict(fine=3), "leaves none to retain"),
        (COS | dict(scales=((4, 2), (1, 16))), "Scale"),
    ],
)
def test_configurations_that_cannot_be_say_so_and_leave_the_model_alone(change, message):
    tiny = tiny_llava()
    projector = tiny.model.model.multi_modal_projector
    with pytest.raises(ValueError, match=message):
        wrap(pair(tiny.model, None, "tiny"), SkipVisionConfig(**dict(retained=4, merged=4) | change))
    assert tiny.model.model.multi_modal_projector is projector and wrapped(tiny.model) is None


def test_a_configuration_is_no_dictionary():
    with pytest.raises(ValueError, match="by a SkipVisionConfig, got dict"):
        wrap(saccade.load("glance"), ROWS.to_dict())


# PEFT's own use of it.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_the_copy_of_a_resampler_that_peft_trains_is_the_one_aligned():
    from peft import LoraConfig, get_peft_model

    teacher = saccade.load("glance")
    scales = [[20, 4], [4, 50]]
    settings = {"row": 0, "layout": "cos", "image_size": 160, "levels": [-2], "scales": scales}
    loaded = wrap(saccade.load("glance"), SkipVisionConfig.from_dict(settings))
    stale = wrapped(loaded.model).abstractor
    kept = LoraConfig(target_modules=r".*language_model.*q_proj", modules_to_save=["multi_modal_projector"])
    adapted = replace(loaded, model=get_peft_model(loaded.model, kept))
    assert wrapped(adapted.model).abstractor is not stale
    before = [p.clone() for p in wrapped(adapted.model).abstractor.parameters()]
    pictures = [Image.new("RGB", (80, 80), "red"), Image.new("RGB", (80, 80), "blue")]
    align(adapted, teacher, lambda step: pictures, steps=2)
    after = [*wrapped(adapted.model).abstractor.parameters()]
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_refusals_on_a_wrapped_model_are_true():
    tiny, _ = made(SkipVisionConfig(retained=4, merged=5))
    batch = tiny.batch(SCENES["single"])
    with pytest.raises(ValueError, match="the prompt in one piece"):
        tiny.model.generate(**batch, max_new_tokens=2, prefill_chunk_size=4)
    with saccade.apply(tiny.model, "tome(r=1)"), pytest.raises(ValueError, match="tome"):
        tiny.model(**batch)


VICTOR = dict(skip_ffn=False, former=False, latter=False, registers=3, register_layer=2)


@pytest.mark.parametrize("layout", ["cos", "llava-hd"])
def test_weights_of_the_abstractor_may_be_offloaded(layout):
    # A resampler's queries lie in a list, and tiles are packed past the abstractor's own forward.
    hd = SkipVisionConfig(layout="llava-hd", merged=6, **VICTOR)
    tiny = tiny_llava() if layout == "cos" else tiny_llava_next()
    wrap(pair(tiny.model, None, "tiny"), cos(10) if layout == "cos" else hd)
    inputs = tiny.batch([[3, PICTURE if layout == "cos" else (48, 24), 5]])
    with torch.no_grad():
        want = tiny.model(**inputs).logits
        cpu_offload(tiny.model, execution_device=torch.device("cpu"))
        assert {p.device.type for p in wrapped(tiny.model).abstractor.parameters()} == {"meta"}
        assert torch.equal(tiny.model(**inputs).logits, want)
