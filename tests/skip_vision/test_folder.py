"""A wrapped model as a folder: round trips, guards, damaged folders, LoRA; configurations."""

import copy as copying
import json
import shutil
import subprocess
import sys

import pytest
import torch
import transformers
from PIL import Image

import saccade
from saccade import skip_vision as sv
from saccade.glance import suite
from saccade.models import inputs
from saccade.models import wrap as pair
from saccade.report.explain import explain
from saccade.skip_vision import SkipVisionConfig, ablation_row
from skip_vision.small import SCENES, cos, made
from support.programs import environment

SMALL = dict(row=10, layout="cos", image_size=64, levels=[-2], scales=[[8, 4], [4, 8], [2, 16]], merged=8)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    loaded = sv.wrap(saccade.load("glance"), SkipVisionConfig.from_dict(SMALL))
    folder = sv.save(loaded, tmp_path_factory.mktemp("models") / "small")
    return loaded, folder


@pytest.fixture
def copy(kept, tmp_path):
    return shutil.copytree(kept[1], tmp_path / "copy")


def logits(loaded):
    with torch.no_grad():
        return loaded.model(**inputs(loaded, suite.samples("count", 2))).logits


def test_a_saved_model_comes_back_bit_for_bit_with_its_method_on(kept):
    loaded, folder = kept
    again = saccade.load(str(folder))
    assert torch.equal(logits(again), logits(loaded))
    assert again.shape == loaded.shape.__class__(**{**vars(loaded.shape), "name": str(folder)})
    assert sv.wrapped(again.model).config == sv.wrapped(loaded.model).config
    assert saccade.engine.attached(again.model).plan.spec == saccade.engine.attached(loaded.model).plan.spec


def test_saving_again_replaces_the_folder_and_keeps_the_modules(kept, tmp_path):
    loaded, _ = kept
    module = sv.wrapped(loaded.model).abstractor
    before = logits(loaded)
    for _ in range(2):
        sv.save(loaded, tmp_path / "twice")
    assert loaded.model.model.multi_modal_projector is module and torch.equal(logits(loaded), before)
    assert not [p for p in tmp_path.iterdir() if p.name != "twice"]


ADVICE = r"load this folder with saccade\.load"


@pytest.mark.parametrize("loader", ["AutoModelForImageTextToText", "AutoModel", "AutoConfig"])
def test_stock_loaders_stop_and_their_message_says_what_to_do(kept, loader):
    with pytest.raises(ValueError, match=ADVICE):
        getattr(transformers, loader).from_pretrained(kept[1])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_model_class_stops_too_and_says_what_to_do(kept):
    with pytest.raises(OSError, match=ADVICE):
        transformers.LlavaForConditionalGeneration.from_pretrained(kept[1])


@pytest.mark.long(instead="the other tests of this file")
@pytest.mark.e2e
def test_the_advice_of_stock_loaders_works(kept):
    """What they say is followed to the letter, in a process that has not met saccade before."""
    code = (
        "import sys, transformers\n"
        "try: transformers.AutoModelForImageTextToText.from_pretrained(sys.argv[1])\n"
        "except ValueError as error: said = str(error)\n"
        "assert 'saccade' not in sys.modules\n"
        "words = said.partition('load this folder with ')[2].partition(',')[0]\n"
        "module, name = words.split('.')\n"
        "import importlib\n"
        "loaded = getattr(importlib.import_module(module), name)(sys.argv[1])\n"
        "from saccade.skip_vision import wrapped\n"
        "print(wrapped(loaded.model).config.layout)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(kept[1])], capture_output=True, text=True, env=environment()
    )
    assert (done.returncode, done.stdout) == (0, "cos\n"), done.stderr


def test_the_base_is_a_stock_model(kept):
    _, folder = kept
    assert "saccade.load" in json.loads((folder / "config.json").read_text())["note"]
    assert saccade.load(str(folder / "base")).shape.visual == 100


def test_folders_of_the_first_versions_go_on_loading(kept, copy):
    loaded, _ = kept
    (copy / sv.folder.INDEX).unlink()
    (copy / "config.json").write_text(json.dumps({"model_type": "saccade_skip_vision", "note": "as before"}))
    config = json.loads((copy / sv.folder.CONFIG).read_text())
    del config["processor"]
    (copy / sv.folder.CONFIG).write_text(json.dumps(config))
    assert torch.equal(logits(saccade.load(str(copy))), logits(loaded))
    (copy / sv.folder.CONFIG).unlink()
    with pytest.raises(ValueError, match=f"without its {sv.folder.CONFIG}"):
        saccade.load(str(copy))


def test_save_pretrained_writes_the_whole_folder_and_leaves_others_alone(kept, tmp_path):
    loaded, _ = kept
    module, before = sv.wrapped(loaded.model).abstractor, logits(loaded)
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    for _ in range(2):
        loaded.model.save_pretrained(tmp_path)
        again = saccade.load(str(tmp_path))
        assert torch.equal(logits(again), before) and again.processor is not None
        assert sv.wrapped(again.model).config == sv.wrapped(loaded.model).config
    assert sv.wrapped(loaded.model).abstractor is module and torch.equal(logits(loaded), before)
    ours = {sv.folder.CONFIG, sv.folder.WEIGHTS, sv.folder.BASE, sv.folder.INDEX, "config.json"}
    assert {path.name for path in tmp_path.iterdir()} == ours | {"checkpoint-3", "notes.txt"}
    loaded.model.save_pretrained(tmp_path / "quiet", is_main_process=False)
    assert not (tmp_path / "quiet").exists()
    with pytest.raises(ValueError, match="not saved with push_to_hub"):
        loaded.model.save_pretrained(tmp_path / "hub", push_to_hub=True)
    with pytest.raises(ValueError, match="it is a file"):
        loaded.model.save_pretrained(tmp_path / "notes.txt")


def test_a_model_without_a_processor_is_saved_without(tmp_path):
    tiny, _ = made(cos(10))
    tiny.model.save_pretrained(tmp_path / "mine")
    again = saccade.load(str(tmp_path / "mine"))
    inputs = tiny.batch(SCENES["ragged"])
    with torch.no_grad():
        assert torch.equal(again.model(**inputs).logits, tiny.model(**inputs).logits)
    assert again.processor is None
    twin = copying.deepcopy(made(cos(0))[0].model)
    with pytest.raises(ValueError, match="copy of a wrapped model"):
        twin.save_pretrained(tmp_path / "twin")


def test_a_copy_of_a_wrapped_model_leaves_the_first_one_alone(tmp_path):
    tiny, _ = made(cos(1))
    inputs = tiny.batch(SCENES["ragged"])
    twin = pair(copying.deepcopy(tiny.model), None, "twin")
    with torch.no_grad():
        want = tiny.model(**inputs).logits
        for act in (sv.unwrap_skip_vision, lambda it: sv.wrap(it, cos(10)), lambda it: sv.save(it, tmp_path)):
            with pytest.raises(ValueError, match="a copy of a wrapped model, which is not taken apart"):
                act(twin)
            for model in (tiny.model, twin.model):
                assert torch.equal(model(**inputs).logits, want)


@pytest.mark.parametrize("config", [cos(10), SkipVisionConfig(retained=4, merged=5)], ids=["cos", "llava"])
def test_weights_that_are_handed_over_are_the_ones_saved(config, tmp_path):
    """As a trainer does whose processes hold shards: the model itself has others."""
    tiny, _ = made(config)
    handed = {name: t + torch.randn_like(t) * 0.1 for name, t in tiny.model.state_dict().items()}
    tiny.model.save_pretrained(tmp_path / "mine", state_dict=handed)
    again = saccade.load(str(tmp_path / "mine")).model.state_dict()
    assert again.keys() == handed.keys() and all(torch.equal(again[name], t) for name, t in handed.items())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_checkpoints_of_the_stock_trainer_load(tmp_path):
    tiny, _ = made(SkipVisionConfig(retained=4, merged=5))
    one = {name: t[0] for name, t in tiny.batch(SCENES["single"]).items()}
    one["labels"] = one["input_ids"]
    trainer = transformers.Trainer(
        tiny.model,
        transformers.TrainingArguments(
            str(tmp_path / "run"), max_steps=2, save_steps=1, use_cpu=True, report_to="none",
            per_device_train_batch_size=1, learning_rate=0.01, disable_tqdm=True,
        ),
        train_dataset=[one] * 4,
    )  # fmt: skip
    trainer.train()
    trainer.save_model()
    want = tiny.model.state_dict()
    for folder in (tmp_path / "run" / "checkpoint-2", tmp_path / "run"):
        got = saccade.load(str(folder)).model.state_dict()
        assert got.keys() == want.keys() and all(torch.equal(got[name], t) for name, t in want.items())
    assert (tmp_path / "run" / "checkpoint-1" / "optimizer.pt").is_file()


@pytest.mark.parametrize("part", [sv.folder.WEIGHTS, sv.folder.BASE, sv.folder.CONFIG])
def test_a_missing_part_is_named(copy, part):
    target = copy / part
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    with pytest.raises(ValueError, match=f"without its {part}"):
        saccade.load(str(copy))


def test_damaged_parts_are_named(copy):
    config = json.loads((copy / sv.folder.CONFIG).read_text())
    (copy / sv.folder.CONFIG).write_text(json.dumps(config | {"schema": 99}))
    with pytest.raises(ValueError, match="schema 99"):
        saccade.load(str(copy))
    (copy / sv.folder.CONFIG).write_text(json.dumps(config | {"latter": False, "former": False}))
    with pytest.raises(ValueError, match="do not fit its configuration") as caught:
        saccade.load(str(copy))
    assert "\n" not in str(caught.value)
    for wrong, why in ({"retained": "30"}, "got '30'"), ({"scale": []}, "has no field scale"):
        (copy / sv.folder.CONFIG).write_text(json.dumps(config | wrong))
        with pytest.raises(ValueError, match=f"{sv.folder.CONFIG}: skip_vision.*{why}"):
            saccade.load(str(copy))
    (copy / sv.folder.CONFIG).write_text(json.dumps(config))
    (copy / sv.folder.WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot read"):
        saccade.load(str(copy))


def test_a_folder_of_something_else_is_not_called_half_of_one(kept, tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        sv.load(tmp_path / "none")
    with pytest.raises(ValueError, match="holds no Skip-Vision model"):
        sv.load(kept[1] / sv.folder.BASE)


def test_a_folder_of_something_else_is_not_replaced(kept, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="something else"):
        sv.save(kept[0], tmp_path)
    with pytest.raises(ValueError, match="it is a file"):
        sv.save(kept[0], tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine" and sv.wrapped(kept[0].model)
    with pytest.raises(ValueError, match="not wrapped"):
        sv.save(saccade.load("glance"), tmp_path / "stock")


def test_a_failed_save_leaves_the_model_wrapped_and_the_old_folder_whole(kept, tmp_path, monkeypatch):
    loaded, _ = kept
    folder = sv.save(loaded, tmp_path / "model")
    before = logits(loaded)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sv.folder, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        sv.save(loaded, folder)
    assert torch.equal(logits(loaded), before) and torch.equal(logits(saccade.load(str(folder))), before)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


# PEFT's own use of it.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_lora_trains_beside_the_abstractor_and_merges():
    from peft import LoraConfig, get_peft_model

    loaded = sv.wrap(saccade.load("glance"), SkipVisionConfig.from_dict(SMALL))
    peft = get_peft_model(
        loaded.model,
        LoraConfig(
            r=2,
            target_modules=r".*language_model.*\.(q_proj|up_proj)",
            modules_to_save=["multi_modal_projector"],
        ),
    )
    batch = inputs(loaded, suite.samples("count", 2))
    optimiser = torch.optim.SGD([p for p in peft.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):
        peft(**batch, labels=batch["input_ids"]).loss.backward()
        optimiser.step()
    with torch.no_grad():
        trained = peft(**batch).logits
        merged = peft.merge_and_unload()
        torch.testing.assert_close(merged(**batch).logits, trained, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("number", range(12))
def test_configurations_survive_a_dictionary(number):
    config = ablation_row(number)
    assert SkipVisionConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert SkipVisionConfig.from_dict({"row": number, "layout": "cos"}) == config
    # Models from before the first layer could be chosen are still found by what they are.
    assert "skip_ffn_layer" not in config.to_dict()


def test_the_first_layer_without_ffns_survives_a_dictionary():
    config = SkipVisionConfig.from_dict({"row": 10, "skip_ffn_layer": 4})
    assert SkipVisionConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.identity() != ablation_row(10).identity() and config.methods(1296)[0].layer == 4


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"layers": 3}, "no field layers"),
        ({"layout": "tiles"}, "cos, llava, llava-hd"),
        ({"row": 12}, "rows 0 to 11"),
        ({"retained": 0}, "whole number from 1"),
        ({"scales": [[4]]}, "side of a window"),
        ({"scales": 5}, "is a list"),
        ({"former": 1}, "true or false"),
        ({"registers": 4}, "replace the other parts"),
        ({"skip_ffn_layer": -1}, "whole number from 0"),
        ({"row": 1, "skip_ffn_layer": 2}, "goes with skip_ffn"),
        ([1], "fields by name"),
    ],
)
def test_wrong_configurations_are_named(data, message):
    with pytest.raises(ValueError, match=message):
        SkipVisionConfig.from_dict(data)


@pytest.mark.parametrize(
    "given", [{"levels": None}, {"levels": 3}, {"scales": None}, {"scales": ((4, 1),)}, {"levels": (1, 1)}]
)
def test_wrong_fields_are_named_too(given):
    with pytest.raises(ValueError, match=f"skip_vision: ({next(iter(given))}|scales are)"):
        SkipVisionConfig(layout="cos", **given)


@pytest.mark.parametrize("score", ["vig", "lc"])
def test_layers_are_scored_under_the_models_own_method(kept, score):
    """Replay equals forwards of the whole model: what is tried stands beside the model's own plan."""
    loaded, _ = kept
    samples = suite.samples("count", 1)
    plan = saccade.calibrate(
        loaded.model, loaded.processor, samples, method="vskip", score=score, budget=2, num_samples=1
    )
    assert plan.calibration["cost"]["largest_difference"] < 1e-4


def test_costs_need_no_weights(kept, capsys):
    from saccade.cli import main

    assert main(["cost", str(kept[1]), "--plan", "vskip(budget=3)", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["ratio"] < 1


def test_what_lies_nowhere_in_a_picture_is_not_drawn(kept):
    loaded, _ = kept
    picture = Image.new("RGB", (64, 64), "red")
    # Before anything is answered, and not as if pictures had not been given.
    with pytest.raises(ValueError, match=r"is a Skip-Vision model.* nothing to draw"):
        explain(loaded, [picture], "how many ?", "vskip(layers=6)")
