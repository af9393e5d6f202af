"""FitPrune's search: what samples attend to becomes rows by layer, at the FLOPs that were asked for."""

from __future__ import annotations

import json

import pytest
import torch

import saccade
from calibration.vlm import LAYERS, question, save_model
from cli.runner import run
from saccade import models
from saccade.calibration import CalibrationOptions, calibrate
from saccade.calibration.fitting import STEPS, Fitter, spare
from saccade.calibration.reach import prompts_of
from saccade.methods.fitprune import FitPrune, with_recipe
from saccade.plans.budget import flops_ratio
from saccade.plans.plan import Plan
from saccade.system.journal import Journal
from support import fitprune_reference as reference

SAMPLES = [question(0), question(1, images=2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def loaded(folder):
    return models.load(str(folder))


@pytest.fixture(scope="module")
def fitter(loaded):
    return Fitter(loaded, SAMPLES)


@pytest.mark.parametrize("step", [20, 70])
def test_rows_leave_as_in_a_search_on_prompts_that_really_shrink(folder, loaded, fitter, step):
    plain = models.load(str(folder), attn="eager").model
    (token,) = loaded.family.visual_ids(loaded.model.config)
    shares = []
    for sample in SAMPLES:
        inputs = models.inputs(loaded, [sample])
        counts = reference.alive(plain, inputs, step / 2**STEPS, token)
        shares += [[layer[image] / whole for layer in counts[1:]] for image, whole in enumerate(counts[0])]
    wanted = torch.tensor(shares).mean(0)
    assert 0 < float(wanted[-1]) < float(wanted[0]) < 1
    torch.testing.assert_close(torch.tensor(fitter.left(step)), wanted, rtol=0, atol=1e-4)


def test_the_smallest_alpha_that_is_cheap_enough_is_found(loaded, fitter):
    layouts, weights = prompts_of(loaded, SAMPLES)

    def ratio(left: tuple[float, ...]) -> float:
        return flops_ratio(Plan((with_recipe(left),)), loaded.shape, layouts, weights)

    method, alpha = fitter.fitted(lambda m: flops_ratio(Plan((m,)), loaded.shape, layouts, weights) <= 0.6)
    step = round(alpha * 2**STEPS)
    assert ratio(fitter.left(step)) <= 0.6 < ratio(fitter.left(step - 1))
    shares = dict(method.recipe(LAYERS))
    assert shares and all(fitter.left(step)[layer - 1] == share for layer, share in shares.items())
    # No layer drops rows that the budget did not ask for.
    *before, last = method.recipe(LAYERS)
    assert not before or ratio(tuple(dict(before).get(n, before[-1][1]) for n in range(1, LAYERS))) > 0.6


def test_what_may_be_lost_is_what_the_least_attended_rows_get():
    got = torch.tensor([0.5, 0.1, 0.3, 0.1], dtype=torch.float64)
    assert spare(got, 1.0, 0.25).tolist() == [False, True, False, True]
    assert spare(got, 1.0, 1.0).all() and not spare(got, 1.0, 0.05).any()
    # Rows that have left before have had their share.
    assert spare(got, 1.2, 0.25).tolist() == [False, True, False, False]


def test_a_plan_says_how_it_was_fitted_and_is_resumed(tmp_path, loaded, monkeypatch):
    out, done = tmp_path / "plan.json", []
    whole = calibrate(loaded.model, loaded.processor, SAMPLES, "fitprune", flops=0.6)

    def stop(now: int, total: int) -> None:
        done.append(now)
        if now == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(loaded.model, loaded.processor, SAMPLES, "fitprune", flops=0.6, out=out, progress=stop)
    again: list[int] = []
    told = calibrate(
        loaded.model, loaded.processor, SAMPLES, "fitprune", flops=0.6, out=out, progress=lambda n, t: again.append(n)
    )
    assert again[0] == 5 and [*tmp_path.iterdir()] == [out]
    read = Plan.load(out)
    assert read.spec == told.spec == whole.spec and isinstance(read.methods[0], FitPrune)
    facts = read.calibration
    assert facts["metric"] == "attention" and facts["asked"] == {"flops": 0.6} and facts["fit"]["images"] == 3
    assert facts["fit"]["left"][0] == 1 and len(facts["fit"]["left"]) == LAYERS
    wrong = json.loads(out.read_text())
    wrong["calibration"]["fit"]["left"].append(0.1)
    with pytest.raises(ValueError, match=r"calibration\.fit\.left: a share for each of the model's 4 layers"):
        Plan.from_dict(wrong)
    with torch.no_grad(), saccade.apply(loaded.model, read):
        loaded.model(**models.inputs(loaded, SAMPLES))


def test_methods_beside_it_count_and_positions_are_kept_as_said(loaded):
    alone = calibrate(loaded.model, loaded.processor, SAMPLES, "fitprune(position_policy=compact)", flops=0.6)
    both = calibrate(loaded.model, loaded.processor, SAMPLES, "fitprune+shortv(layers=0)", flops=0.6)
    assert alone.methods[0].position_policy == "compact"
    assert both.spec.endswith("+shortv(layers=0)") and both.methods[0].left[-1] > alone.methods[0].left[-1]


@pytest.mark.parametrize(
    ("method", "asked", "said"),
    [
        ("fitprune", {}, "a FLOPs ratio to reach"),
        ("fitprune", {"budget": 3}, "give no budget"),
        ("fitprune(flops=0.5)", {"flops": 0.4}, "one FLOPs ratio"),
        ("fitprune(keep=0.4)", {"flops": 0.5}, "is what is looked for"),
        ("fitprune(layers=1,left=0.5)", {"flops": 0.5}, "is what is looked for"),
        ("fitprune", {"flops": 0.5, "score": "vig"}, "leave score"),
        ("fitprune", {"flops": 0.5, "answer_tokens": 2}, "leave score"),
    ],
)
def test_what_has_no_meaning_is_refused_before_a_model_is_opened(method, asked, said):
    with pytest.raises(ValueError, match=said):
        CalibrationOptions(method=method, **asked).check_fit()


def test_a_ratio_out_of_reach_and_samples_without_pictures_are_refused(loaded):
    with pytest.raises(ValueError, match="cannot reach a FLOPs ratio of 0.1"):
        calibrate(loaded.model, loaded.processor, SAMPLES, "fitprune", flops=0.1)
    with pytest.raises(ValueError, match="nothing to fit"):
        Fitter(loaded, [question(0, images=0)], Journal(None))


def test_the_command_writes_a_plan_and_shows_it(tmp_path, folder):
    from calibration.vlm import questions_file

    data = questions_file(tmp_path, [{}, {}])
    out = tmp_path / "plan.json"
    command = ["calibrate", str(folder), "--method", "fitprune", "--flops", "0.6", "--data", data]
    shown = run([*command, "--samples", "2", "--out", str(out)])
    assert shown.exit_code == 0, shown.output
    assert "rows alive" in shown.output and f"written to {out}" in shown.output.replace("\n", "")
    again = run(["plan", "show", str(out)])
    assert again.exit_code == 0 and "rows alive" in again.output
    assert run(["plan", "validate", str(out)]).exit_code == 0
