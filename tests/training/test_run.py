"""A run from its settings to a model folder: what it minimises, what it changes, what it leaves."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from saccade import models
from saccade.engine import apply
from saccade.opening import checks
from saccade.training import TrainingConfig, run, train
from saccade.training import build as building
from saccade.training.collate import Collator
from saccade.training.curve import loss_curve
from saccade.training.mixture import RecordMixture, Stream
from saccade.training.records import BadRecord
from saccade.training.sources import open_source
from training.tiny import RECORDS, settings

PROJECTOR, DECODER, TOWER = "multi_modal_projector", "language_model", "vision_tower"


def weights(here, folder="run"):
    """The saved model's tensors."""
    return load_file(here / folder / "model" / "model.safetensors")


def lines(here, folder="run"):
    """The run's metrics."""
    return [json.loads(line) for line in (here / folder / "metrics.jsonl").read_text("utf-8").splitlines()]


def changed(here) -> set[str]:
    """Parts of the model that differ from the model it started from."""
    before, after = load_file(here / "model" / "model.safetensors"), weights(here)
    assert before.keys() == after.keys()
    names = [name for name in before if not torch.equal(before[name], after[name])]
    return {part for name in names for part in (PROJECTOR, TOWER, DECODER, "lm_head") if part in name}


def first_batch(here, count, spec=None):
    """Sum of losses over the labels of the first records, and the number of labels, by hand."""
    config = settings(here)
    mixture = RecordMixture([open_source(source, 0, False) for source in config.data], 0)
    records = [mixture[key] for key in list(Stream(mixture, count))]
    loaded = models.load(config.model.name)
    batch = Collator(loaded, 200, always_image=False)(records)
    handle = apply(loaded.model, spec) if spec else None
    with torch.no_grad():
        logits = loaded.model(**{k: v for k, v in batch.inputs.items() if k != "labels"}).logits
    if handle:
        handle.remove()
    likely = torch.log_softmax(logits.float(), -1)[:, :-1]
    wanted = batch.inputs["labels"][:, 1:]
    found = likely.gather(-1, wanted.clamp(min=0)[..., None])[..., 0]
    return -float(found[wanted >= 0].sum()), batch.counts.labels


@pytest.mark.parametrize("plan", [None, "ffn_skip(layers=0-3)", "fastv(layer=1,keep=0.5)"])
def test_the_loss_is_the_mean_over_the_labels_of_the_global_batch(here, plan):
    change = ["optimisation.batch=2", "optimisation.accumulation=2", "optimisation.steps=1"]
    train(settings(here, *change, *([f'plan="{plan}"'] if plan else [])))
    total, labels = first_batch(here, 4, plan)
    (line,) = lines(here)
    assert line["loss"] == pytest.approx(total / labels, rel=1e-5)
    assert line["label_tokens"] == labels


def test_accumulated_batches_are_one_large_batch(here):
    train(settings(here, "optimisation.batch=4"))
    change = ("optimisation.batch=1", "optimisation.accumulation=4", f"out={here / 'other'}")
    train(settings(here, *change))
    one, other = weights(here), weights(here, "other")
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-4, rtol=1e-4)
    for line, same in zip(lines(here), lines(here, "other"), strict=True):
        assert line["loss"] == pytest.approx(same["loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("modules", "parts"),
    [
        ("[projector]", {PROJECTOR}),
        ("[decoder]", {DECODER, "lm_head"}),
        ("[projector, decoder]", {PROJECTOR, DECODER, "lm_head"}),
        ("[all]", {PROJECTOR, DECODER, TOWER, "lm_head"}),
    ],
)
def test_what_is_chosen_trains_and_nothing_else(here, modules, parts):
    outcome = train(
        settings(here, f"train_modules={modules}", "optimisation.steps=2", "optimisation.batch=6")
    )
    assert changed(here) == parts
    trained = {name: part["trained"] for name, part in outcome.report["parameters"].items()}
    assert [trained[name] > 0 for name in ("tower", "projector", "decoder")] == [
        part in parts for part in (TOWER, PROJECTOR, DECODER)
    ]


def test_a_frozen_tower_runs_without_gradients_in_eval_mode(here, monkeypatch):
    seen = []

    def watched(config, real=building.build):
        built = real(config)
        tower = built.loaded.model.model.vision_tower
        tower.register_forward_hook(
            lambda module, args, output: seen.append(
                (module.training, output.last_hidden_state.requires_grad)
            )
        )
        return built

    monkeypatch.setattr(building, "build", watched)
    train(settings(here, "optimisation.steps=2"))
    assert set(seen) == {(False, False)}
    seen.clear()
    train(settings(here, "optimisation.steps=2", "train_modules=[all]", f"out={here / 'other'}"))
    assert set(seen) == {(True, True)}


def test_every_part_has_its_learning_rate_and_schedule(here):
    change = ["optimisation.part_lr.projector=0.1", "optimisation.schedule=linear", "optimisation.warmup=2"]
    train(settings(here, *change))
    rates = [line["lr"] for line in lines(here)]
    assert [rate["decoder"] for rate in rates] == pytest.approx([0, 0.005, 0.01, 0.0075, 0.005, 0.0025])
    assert [rate["projector"] for rate in rates] == pytest.approx([10 * rate["decoder"] for rate in rates])


def test_a_run_of_one_step_learns(here):
    """As few records as one batch holds make one, and a share of it is warm-up."""
    train(settings(here, "optimisation.steps=1", "optimisation.warmup=0.03"))
    assert lines(here)[0]["lr"]["decoder"] == 0.01
    before = load_file(here / "model" / "model.safetensors")
    assert any(not torch.equal(tensor, before[name]) for name, tensor in weights(here).items())


def test_a_warmup_that_never_ends_is_told(here):
    change = ("optimisation.steps=3", "optimisation.warmup=100")
    with pytest.warns(UserWarning, match=r"rises over 100 steps, and the run takes 3: it gets to 2\.0% of"):
        train(settings(here, *change))
    assert lines(here)[-1]["lr"]["decoder"] == pytest.approx(0.01 * 2 / 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        train(settings(here, "optimisation.steps=3", "optimisation.warmup=2", f"out={here / 'other'}"))


def test_recomputed_activations_and_background_loading_change_nothing(here):
    train(settings(here))
    train(settings(here, "optimisation.checkpointing=true", f"out={here / 'checked'}"))
    train(settings(here, "workers=2", f"out={here / 'workers'}"))
    for name, tensor in weights(here).items():
        torch.testing.assert_close(weights(here, "checked")[name], tensor, atol=1e-5, rtol=1e-4)
        assert torch.equal(weights(here, "workers")[name], tensor)


def test_bf16_keeps_float32_weights(here):
    train(settings(here, "optimisation.precision=bf16", "optimisation.lr=1e-4"))
    train(settings(here, "optimisation.lr=1e-4", f"out={here / 'full'}"))
    assert {tensor.dtype for tensor in weights(here).values()} == {torch.float32}
    for line, full in zip(lines(here), lines(here, "full"), strict=True):
        assert line["loss"] == pytest.approx(full["loss"], rel=0.05) and line["loss"] != full["loss"]


def test_it_learns(here):
    train(settings(here, "optimisation.steps=25", "optimisation.batch=6", "save_every=99"))
    found = lines(here)
    assert found[-1]["loss"] < 0.2 * found[0]["loss"]


def test_what_a_run_leaves(here, monkeypatch):
    monkeypatch.setattr(run, "loss_curve", loss_curve)
    config = settings(here, "logging_every=2", "plan=vtw(layer=3)")
    outcome = train(config)
    folder = here / "run"
    assert outcome.finished and outcome.main and outcome.steps == 6 and outcome.model == folder / "model"
    report = json.loads((folder / "run.json").read_text("utf-8"))
    assert report["finished"] and TrainingConfig.from_data(report["config"]) == config
    digest = hashlib.sha256((here / "data" / "data.json").read_bytes()).hexdigest()
    assert report["data"][0] | {"name": ""} == {
        "name": "", "records": len(RECORDS), "refused": 0, "weight": 1.0, "sha256": digest,
    }  # fmt: skip
    assert report["provenance"]["versions"]["torch"] == torch.__version__
    assert [line["step"] for line in lines(here)] == [2, 4, 6] and report["final"] == lines(here)[-1]
    for key in ("grad_norm", "step_seconds", "images_per_second", "tokens_per_second"):
        assert all(line[key] > 0 for line in lines(here)), key
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == [
        f"checkpoint-{n}" for n in (2, 4, 6)
    ]
    assert not [p for p in folder.rglob("*") if p.name.endswith((".part", ".old"))]


def test_the_saved_model_is_the_trained_one(here, monkeypatch):
    kept = []
    monkeypatch.setattr(building, "save", lambda loaded, skips, folder, real=building.save: (
        kept.append(loaded), real(loaded, skips, folder)))  # fmt: skip
    train(settings(here, "plan=vtw(layer=2)"))
    trained, again = kept[0], models.load(str(here / "run" / "model"))
    stock = models.load(str(here / "model")).model.config.to_dict()
    assert again.model.config.to_dict() == stock | {"_name_or_path": str(here / "run" / "model")}
    inputs = Collator(again, 200, always_image=False)([open_pool(here).load(2, 0)]).inputs
    with torch.no_grad():
        assert torch.equal(again.model(**inputs).logits, trained.model(**inputs).logits)
    generated = again.model.generate(
        **{k: v for k, v in inputs.items() if k != "labels"}, max_new_tokens=3, do_sample=False
    )
    assert generated.shape[1] > inputs["input_ids"].shape[1]


def open_pool(here):
    return open_source(settings(here).data[0], 0, False)


def test_threads_are_of_the_run_alone(here, monkeypatch):
    used = []

    def build(config, real=building.build):
        used.append(torch.get_num_threads())
        return real(config)

    monkeypatch.setattr(building, "build", build)
    before = torch.get_num_threads()
    outcome = train(settings(here, "threads=2", "optimisation.steps=1"))
    assert used == [2] and torch.get_num_threads() == before
    assert outcome.report["provenance"]["threads"] == 2


def test_old_checkpoints_go(here):
    train(settings(here, "keep=1"))
    assert [p.name for p in (here / "run" / "checkpoints").iterdir()] == ["checkpoint-6"]


def test_epochs_and_weights_decide_the_length(here):
    change = ["optimisation.steps=null", "optimisation.epochs=2", "optimisation.batch=4", "data.0.weight=0.5"]
    assert train(settings(here, *change)).steps == 2


def test_a_record_that_does_not_decode_stops_the_run_or_is_counted(here):
    (here / "data" / "wide.png").write_bytes(b"no image")
    with pytest.raises(BadRecord, match=r"data\.json, index [23]: cannot read image .*wide\.png"):
        train(settings(here))
    outcome = train(settings(here, "on_bad_record=skip", f"out={here / 'other'}"))
    refused = outcome.report["refused"]
    assert outcome.finished and refused["before"] == 0
    assert refused["on_the_way"] == 2  # met twice each: six steps of two records are two epochs
    assert all("wide.png" in example for example in refused["examples"])


def test_a_record_that_is_too_long_stops_the_run_or_is_counted(here):
    with pytest.raises(BadRecord, match=r"first answer ends at row \d+, and max_length is 48"):
        train(settings(here, "optimisation.max_length=48"))
    change = ["optimisation.max_length=48", "on_bad_record=skip", "workers=1", f"out={here / 'other'}"]
    assert train(settings(here, *change)).report["refused"]["on_the_way"] > 0


def test_records_that_are_bad_on_the_face_of_it_stop_the_run_before_it_starts(here):
    path = here / "data" / "data.json"
    path.write_text(json.dumps([*RECORDS, {"conversations": []}]), "utf-8")
    with pytest.raises(BadRecord, match="index 6"):
        train(settings(here))
    assert not (here / "run").exists()
    refused = train(settings(here, "on_bad_record=skip")).report["refused"]
    assert (refused["before"], refused["on_the_way"]) == (1, 0)


def test_a_loss_that_is_no_number_stops_the_run(here, monkeypatch):
    # Weights that are no numbers are refused when they are read; a loss may become one later.
    monkeypatch.setattr(checks, "check_finite", lambda where, model: None)
    path = here / "model" / "model.safetensors"
    broken = load_file(path)
    name = next(key for key in broken if "lm_head" in key)
    broken[name] = torch.full_like(broken[name], float("nan"))
    save_file(broken, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="the loss is nan at step 1; lower the learning rate"):
        train(settings(here))


def test_a_polite_kill_saves_first(here, monkeypatch):
    train(settings(here, f"out={here / 'whole'}"))
    asked = []

    def getitem(self, key, real=RecordMixture.__getitem__):
        asked.append(key)
        if len(asked) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, key)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(RecordMixture, "__getitem__", getitem)
    outcome = train(settings(here, "save_every=99"))
    monkeypatch.undo()
    assert not outcome.finished and 0 < outcome.steps < 6 and signal.getsignal(signal.SIGTERM) is before
    assert not (here / "run" / "model").exists()
    assert train(settings(here, "save_every=99"), resume=True).finished
    assert all(torch.equal(t, weights(here)[k]) for k, t in weights(here, "whole").items())


@pytest.mark.parametrize("lora", [(), ("lora.rank=2",)], ids=["plain", "lora"])
def test_a_model_that_no_process_holds_whole_is_put_together_again(here, lora):
    """What sharded training ends with: gathered weights, and a fresh model that takes them."""
    config = settings(here, *lora)
    built = building.build(config)
    with torch.no_grad():
        for parameter in built.model.parameters():
            parameter.add_(0.01)
    gathered = {name: parameter.clone() for name, parameter in built.model.named_parameters()}
    want = building.finish(built, None, config)
    got = building.finish(building.build(config), gathered, config)
    found = dict(got.model.named_parameters())
    for name, parameter in want.model.named_parameters():
        assert torch.equal(parameter, found[name]), name
