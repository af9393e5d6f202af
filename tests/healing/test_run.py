"""A healing from questions to files: what it brings, leaves as it was and refuses, and that it resumes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import saccade
from calibration.vlm import question, save_model
from saccade import models
from saccade.evaluation.comparison import compare
from saccade.healing import HealingSettings, heal
from saccade.healing.run import HealingWatch
from saccade.healing.touched import adapted_names, first_touched
from saccade.healing.trainer import HealingTrainer, distance
from saccade.opening.digest import weights_digest
from saccade.plans.plan import Plan
from saccade.plans.schema import unknown_fields
from saccade.tuning.judge import Judge
from saccade.tuning.questions import split

SAMPLES = [question(i, task="ab"[i % 2]) for i in range(20)]
SPEC = "fastv(layer=1,keep=0.4)+shortv(layers=2)"
SMALL = {
    "steps": 16,
    "batch": 4,
    "num_samples": 8,
    "num_held_out": 12,
    "tokens": 3,
    "lr": 0.01,
    "save_every": 4,
}
peft_asks = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def loaded(folder):
    return models.load(str(folder))


def met(loaded):
    """All that a healing must leave as it was."""
    model = loaded.model
    named = {
        name: (parameter.data_ptr(), parameter.requires_grad) for name, parameter in model.named_parameters()
    }
    kinds = [type(module).__name__ for module in model.modules()]
    config = {key: str(value).removeprefix("torch.") for key, value in vars(model.config).items()}
    return {"named": named, "kinds": kinds, "own": sorted(vars(model)), "training": model.training, **config}


@pytest.fixture(scope="module")
def made(loaded, tmp_path_factory):
    out, said = tmp_path_factory.mktemp("healed") / "run", []
    before = met(loaded)
    found = saccade.heal(
        loaded.model,
        loaded.processor,
        SAMPLES,
        SPEC,
        out,
        merge=True,
        watch=HealingWatch(said.append),
        **SMALL,
    )
    after = met(loaded)
    assert [key for key in before | after if before.get(key) != after.get(key)] == []
    assert "from layer 1 on" in said[0]
    return found, out


def logits(loaded, plan=None, samples=SAMPLES[:3]):
    """Logits of prompts under a plan, or of the model as it is."""
    inputs = models.inputs(loaded, samples)
    with torch.inference_mode():
        if plan is None:
            return loaded.model(**inputs).logits[:, -1]
        with saccade.apply(loaded.model, plan):
            return loaded.model(**inputs).logits[:, -1]


def test_under_the_plan_the_model_says_more_of_what_it_says_without(made, loaded):
    found, _ = made
    judge = Judge(loaded, split(SAMPLES, HealingSettings(**SMALL)).search, tokens=3)
    assert judge.whole(found.plan).mean < 0.7 * judge.whole(Plan.of(SPEC)).mean
    training = found.data["heal"]["training"]
    assert training["kl_last"] < training["kl_first"] and training["steps"] == 16
    assert {len(found.before.predictions), len(found.after.predictions)} == {12}
    assert {plan["name"] for plan in found.data["plans"]} == {"before", "after"}


def test_the_dense_model_stays_bit_for_bit(made, folder):
    found, _ = made
    fresh = models.load(str(folder))
    own = {name: parameter for name, parameter in fresh.model.named_parameters()}
    before = logits(fresh)
    healed, plain = logits(fresh, found.plan), logits(fresh, SPEC)
    assert torch.equal(before, logits(fresh))
    assert all(parameter is own[name] for name, parameter in fresh.model.named_parameters())
    assert not torch.allclose(healed, plain, atol=1e-3)


@peft_asks
def test_the_adapter_is_one_of_peft_and_the_merged_model_holds_it(made, folder):
    from peft import PeftModel

    _, out = made
    fresh = models.load(str(folder))
    healed = logits(fresh, out / "plan.json")
    merged = models.load(str(out / "model"))
    torch.testing.assert_close(logits(merged, out / "model.plan.json"), healed, atol=1e-5, rtol=1e-4)
    assert Plan.load(out / "model.plan.json").adapter is None
    over = models.wrap(PeftModel.from_pretrained(fresh.model, out / "adapter").eval(), fresh.processor)
    torch.testing.assert_close(logits(over, SPEC), healed, atol=1e-4, rtol=1e-3)


def test_the_plan_file_says_how_it_was_healed(made):
    found, out = made
    plan = Plan.load(out / "plan.json")
    assert plan == found.plan and unknown_fields(plan.to_dict(out / "plan.json")) == []
    told = json.loads((out / "plan.json").read_text())
    assert told["schema"] == 2 and told["adapter"]["folder"] == "adapter"
    assert told["calibration"]["healed"]["steps"] == 16 and told["calibration"]["healed"]["samples"] == 8
    assert plan.key.startswith(f"{plan.spec} [healed ") and Plan.of(plan.spec).key == plan.spec
    assert not list(out.glob("*.partial*"))


def test_plan_and_healed_plan_are_two_columns(made, loaded, tmp_path):
    found, out = made
    seen = compare(
        loaded.model,
        loaded.processor,
        answered(),
        [SPEC, out / "plan.json"],
        blind=False,
        ledger=tmp_path / "l",
    )
    names = list(seen.plans)
    assert names == [found.plan.spec, found.plan.key]
    told = [[p.text for p in seen.plans[name].predictions] for name in names]
    assert told[0] != told[1]


def test_what_is_done_to_a_model_that_wears_a_healed_plan_is_done_to_its_own_weights(made, folder, tmp_path):
    found, _ = made
    fresh = models.load(str(folder))
    own = {name: weight.clone() for name, weight in fresh.model.state_dict().items()}
    with saccade.apply(fresh.model, found.plan):
        fresh.model.save_pretrained(tmp_path)
        saved = fresh.model.state_dict()
        with pytest.raises(ValueError, match="remove the plan before other weights are loaded"):
            fresh.model.load_state_dict(own)
        fresh.model.to(torch.bfloat16)
    again = type(fresh.model).from_pretrained(tmp_path).state_dict()
    for name, weight in own.items():
        assert torch.equal(saved[name], weight) and torch.equal(again[name], weight), name
        assert torch.equal(fresh.model.state_dict()[name], weight.bfloat16()), name
    fresh.model.load_state_dict(own)


def answered():
    from dataclasses import replace

    return [replace(sample, answer="red") for sample in SAMPLES]


def moved(out: Path, to: Path) -> Path:
    """A copy of the plan with its adapter."""
    to.mkdir()
    shutil.copy(out / "plan.json", to)
    shutil.copytree(out / "adapter", to / "adapter")
    return to / "plan.json"


def test_plan_and_adapter_move_together(made, loaded, tmp_path):
    found, out = made
    there = moved(out, tmp_path / "there")
    assert torch.equal(logits(loaded, there), logits(loaded, found.plan))
    elsewhere = (
        Plan.load(there).save(tmp_path / "deep" / "er.json") if (tmp_path / "deep").mkdir() is None else None
    )
    assert torch.equal(logits(loaded, elsewhere), logits(loaded, found.plan))


def test_other_weights_are_refused_unless_forced(made, tmp_path):
    _, out = made
    other = models.load(str(save_model(tmp_path / "other", seed=5)))
    with pytest.raises(ValueError, match="was healed on other weights of this shape"):
        saccade.apply(other.model, out / "plan.json")
    before = logits(other)
    plan = Plan.load(out / "plan.json").for_any()
    assert not torch.equal(logits(other, plan), logits(other, SPEC)) and torch.equal(before, logits(other))


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("plan", "was trained under another plan"),
        ("numbers", "is not the one that the plan was healed with"),
        ("torn", "is damaged"),
        ("gone", "is not there: keep both together"),
        ("schema", "a plan with one has schema 2"),
    ],
)
def test_what_does_not_belong_together_is_refused(what, said, made, loaded, tmp_path):
    _, out = made
    path = moved(out, tmp_path / "there")
    weights = path.parent / "adapter" / "adapter_model.safetensors"
    data = json.loads(path.read_text())
    if what == "plan":
        data["methods"][-1]["layers"] = [3]
    elif what == "schema":
        data["schema"] = 1
    elif what == "numbers":
        config = path.parent / "adapter" / "adapter_config.json"
        config.write_text(config.read_text().replace('"lora_alpha": 32', '"lora_alpha": 64'))
    elif what == "torn":
        weights.write_bytes(weights.read_bytes()[:999])
    else:
        weights.unlink()
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=said):
        saccade.apply(loaded.model, path)
    assert torch.equal(logits(loaded), logits(loaded))


def test_nothing_trains_under_a_healed_plan(made, loaded):
    found, _ = made
    inputs = models.inputs(loaded, SAMPLES[:1])
    with saccade.apply(loaded.model, found.plan), pytest.raises(ValueError, match="do not train"):
        loaded.model.train()
        try:
            loaded.model(**inputs)
        finally:
            loaded.model.eval()


def test_a_healing_that_is_cut_off_goes_on_and_ends_alike(made, loaded, tmp_path, monkeypatch):
    found, _ = made

    class Cut(Exception):
        pass

    step = HealingTrainer.training_step

    def cut(self, *args, **kwargs):
        if self.state.global_step == 6:
            raise Cut
        return step(self, *args, **kwargs)

    before = met(loaded)
    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(HealingTrainer, "training_step", cut)
        heal(loaded.model, loaded.processor, SAMPLES, SPEC, tmp_path / "run", **SMALL)
    assert met(loaded) == before and not (tmp_path / "run" / "plan.json").exists()
    again = heal(loaded.model, loaded.processor, SAMPLES, SPEC, tmp_path / "run", **SMALL)
    assert again.plan.adapter is not None and found.plan.adapter is not None
    assert again.plan.adapter.digest == found.plan.adapter.digest
    with pytest.raises(ValueError, match="choose another folder with --out"):
        heal(loaded.model, loaded.processor, SAMPLES, "shortv(layers=1)", tmp_path / "run", **SMALL)


def test_a_plan_file_of_these_weights_is_healed_without_a_word(loaded, tmp_path, recwarn):
    digest = weights_digest(loaded.model)
    made_for = {"weights_hash": digest, "dtype": str(loaded.model.dtype).removeprefix("torch.")}
    Plan(Plan.of(SPEC).methods, loaded.family.identity(loaded.model), made_for).save(tmp_path / "plan.json")
    heal(
        loaded.model,
        loaded.processor,
        SAMPLES,
        tmp_path / "plan.json",
        tmp_path / "run",
        **SMALL | {"steps": 1},
    )
    assert [str(one.message) for one in recwarn if "made for" in str(one.message)] == []


@pytest.mark.parametrize(
    ("plan", "wanted", "said"),
    [
        ("dense", {}, "changes nothing"),
        ("vskip(budget=2)", {}, "does not know its layers"),
        (SPEC, {"steps": 0}, "steps is a number from 1"),
        (SPEC, {"lr": -1.0}, "lr is a number above 0"),
        (SPEC, {"num_held_out": 0}, "num_held_out is a number from 1"),
    ],
)
def test_what_cannot_be_healed_is_refused(plan, wanted, said, loaded, tmp_path):
    with pytest.raises(ValueError, match=said):
        heal(loaded.model, loaded.processor, SAMPLES, plan, tmp_path / "run", **SMALL | wanted)
    assert not (tmp_path / "run").exists()


@peft_asks
def test_a_wrapped_model_is_not_healed(folder, tmp_path):
    from peft import LoraConfig, get_peft_model

    fresh = models.load(str(folder))
    over = get_peft_model(fresh.model, LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="heal the stock model inside"):
        heal(over, fresh.processor, SAMPLES, SPEC, tmp_path / "run", **SMALL)


def test_a_healed_plan_is_not_healed_again(made, loaded, tmp_path):
    found, _ = made
    with pytest.raises(ValueError, match="is healed already"):
        heal(loaded.model, loaded.processor, SAMPLES, found.plan, tmp_path / "run", **SMALL)


@pytest.mark.parametrize(
    ("spec", "first"),
    [
        ("shortv(layers=2)", 2),
        ("fastv(layer=3,keep=0.5)", 3),
        ("uniform(keep=0.5)", 0),
        ("resize(scale=0.5)", 0),
        ("vtw(layer=1)", 1),
    ],
)
def test_adapters_go_on_what_the_plan_leaves_work(spec, first, loaded):
    assert first_touched(Plan.of(spec), 4) == first
    _, names = adapted_names(loaded, Plan.of(spec))
    assert len(names) == 7 * (4 - first) and all(
        int(name.split("layers.")[1].split(".")[0]) >= first for name in names
    )


def test_the_distance_is_the_kl_of_the_teacher_against_the_pupil():
    teacher, pupil = torch.randn(5, 7, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64)
    p, q = teacher.softmax(-1), pupil.softmax(-1)
    torch.testing.assert_close(distance(teacher, pupil), (p * (p / q).log()).sum())


def test_narrower_decoders_take_larger_steps():
    settings = HealingSettings()
    assert settings.rate(4096) == pytest.approx(2e-4) and settings.rate(256) == pytest.approx(8e-4)
    assert HealingSettings(lr=0.1).rate(256) == 0.1
