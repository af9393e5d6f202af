"""A whole analysis: means over samples, what is left out, resuming, and models that skip by themselves."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from PIL import Image

from calibration.vlm import LAYERS, question, save_model
from saccade import models
from saccade.engine import apply
from saccade.methods.ffn_skip import FFNSkip
from saccade.plans.plan import Plan
from saccade.research.analysis import PARTS, analyze, study
from saccade.research.analysis.write import write

PLAN = "ffn_skip(layers=1-2)"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """A tiny random model with its processor."""
    return models.load(str(save_model(tmp_path_factory.mktemp("model"))))


@pytest.fixture(scope="module")
def found(loaded):
    """An analysis of three samples, one of them text only."""
    return analyze(loaded, [question(1), question(2, images=0), question(3)], PLAN)


@pytest.mark.e2e
def test_everything_is_there_and_text_only_samples_are_counted(found):
    data = found.data
    assert data["samples"] == [question(1).id, question(3).id] and data["without_image"] == 1
    assert data["plan"] == PLAN and set(PARTS) <= set(data)
    assert set(found.pictures) == {*PARTS, "attention_maps"} and len(found.maps) == LAYERS
    skipped = data["ffn"]["groups"]["skipped"]
    assert [value is None for value in skipped["p3"]["mean"]] == [True, False, False, True]
    assert len(data["bounds"]["constants"]["layers"]) == LAYERS
    assert list(data["bounds"]["by_sample"]) == data["samples"]


@pytest.mark.e2e
def test_means_are_over_samples(loaded, found):
    each = [analyze(loaded, [question(n)], PLAN).data for n in (1, 3)]
    for path in (("ffn", "groups", "visual", "p3"), ("attention", "vig"), ("bounds", "residual")):
        both, alone = found.data, list(each)
        for key in path:
            both, alone = both[key], [one[key] for one in alone]
        for layer in range(LAYERS):
            values = [one["mean"][layer] for one in alone]
            assert both["mean"][layer] == pytest.approx(statistics.fmean(values))
            assert both["sd"][layer] == pytest.approx(statistics.stdev(values))
            assert alone[0]["sd"][layer] is None
    total = sum(one["comparisons"] for data in each for one in data["bounds"]["verdicts"])
    assert total == sum(one["comparisons"] for one in found.data["bounds"]["verdicts"])


@pytest.mark.long(instead="cli/test_kills.py")
def test_an_interrupted_analysis_goes_on_and_ends_the_same(loaded, found, tmp_path):
    samples = [question(1), question(2, images=0), question(3)]
    checkpoint, seen = tmp_path / "part.jsonl", []

    def stop(done, total):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyze(loaded, samples, PLAN, checkpoint=checkpoint, step=stop)
    record = study.record

    def counted(*args, **kwargs):
        seen.append(args)
        return record(*args, **kwargs)

    study.record = counted
    try:
        again = analyze(loaded, samples, PLAN, checkpoint=checkpoint)
    finally:
        study.record = record
    # Two forwards for the sample that was missing, one for the pictures.
    assert len(seen) == 3
    assert again.data == found.data and again.pictures == found.pictures
    before = checkpoint.read_text()
    analyze(loaded, samples[:1], "ffn_skip(layers=0)", checkpoint=checkpoint)
    # Another plan's samples stand beside the first one's, which are there still.
    assert checkpoint.read_text().startswith(before)


@pytest.mark.e2e
def test_without_a_plan_there_are_no_bounds_unless_the_model_skips_by_itself(loaded):
    stock = analyze(loaded, [question(1)])
    assert stock.data["plan"] is None and "bounds" not in stock.data
    assert not any(stock.data["ffn"]["groups"]["skipped"]["rows"])
    with pytest.raises(ValueError, match="nothing here skips the FFN"):
        analyze(loaded, [question(1)], parts=("bounds",))
    with apply(loaded.model, FFNSkip(layers=(1, 2)), resident=True):
        # A plan of the same method would take the place of the model's own: this one is of another.
        own = analyze(loaded, [question(1)], "skip_vision(ffn=false)", parts=("ffn", "bounds"))
    assert own.data["ffn"]["groups"]["skipped"]["rows"][1] > 0
    plain = analyze(loaded, [question(1)], PLAN, parts=("bounds",))
    kls = [one.data["bounds"]["by_sample"][question(1).id]["kl"] for one in (own, plain)]
    assert kls[0] == pytest.approx(kls[1], rel=1e-4)


def test_parts_are_read_and_asked_for_alone(loaded):
    assert study.read_parts(None) is None and study.read_parts("bounds, ffn,bounds") == ("bounds", "ffn")
    for wrong in ("", "ffn,maps"):
        with pytest.raises(ValueError, match="--what is a list of"):
            study.read_parts(wrong)
    found = analyze(loaded, [question(1)], parts=("ffn",))
    assert set(found.pictures) == {"ffn"} and "attention" not in found.data and found.maps == ()


def test_bad_samples_and_plans_are_refused(loaded):
    with pytest.raises(ValueError, match="has an image"):
        analyze(loaded, [question(1, images=0)])
    with pytest.raises(ValueError, match="distinct"):
        analyze(loaded, [question(1), question(1)])
    with pytest.raises(ValueError, match=r"names layer 9, but the model has 4"):
        analyze(loaded, [question(1)], "ffn_skip(layers=9)")
    with pytest.raises(ValueError, match="needs a calibration"):
        analyze(loaded, [question(1)], "ffn_skip(budget=2)")
    with pytest.raises(ValueError, match="made for another model"):
        analyze(loaded, [question(1)], Plan(Plan.of(PLAN).methods, model={"model_type": "other"}))


def test_files_are_the_pictures_the_data_and_the_maps(found, tmp_path):
    paths = write(found, {"some": "data"}, tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(
        [
            "analysis.json",
            "attention.png",
            "attention_maps.npz",
            "attention_maps.png",
            "bounds.png",
            "ffn.png",
        ]
    )
    with Image.open(paths["ffn"]) as picture:
        assert picture.width > 1000
    with np.load(paths["maps"]) as maps:
        for number, one in enumerate(found.maps):
            assert np.array_equal(maps[f"weights_{number}"], one.weights_VV.numpy())
            assert np.array_equal(maps[f"rows_{number}"], one.rows_V.numpy())
            assert np.array_equal(maps[f"from_last_{number}"], one.received_V.numpy())
