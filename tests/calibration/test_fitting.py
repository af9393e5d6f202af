"""FitPrune's search: what samples attend to becomes rows by layer, at the FLOPs that were asked for."""

from __future__ import annotations

import json

import pytest
import torch

import saccade
from calibration.vlm import LAYERS, question, questions_file, save_model
from saccade import models
from saccade.calibration import CalibrationOptions, calibrate
from saccade.calibration.fitting import STEPS, Fitter, spare
from saccade.calibration.reach import prompts_of
from saccade.cli import main
from saccade.methods.fitprune import FitPrune, with_recipe
from saccade.plans.budget import flops_ratio
from saccade.plans.plan import Plan
from saccade.system.journal import Journal
from support import fitprune_reference as reference

SAMPLES = [question(0), question(1)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def loaded(folder):
    return models.load(str(folder))


@pytest.fixture(scope="module")
def plain(folder):
    return models.load(str(folder), attn="eager").model


@pytest.fixture(scope="module")
def fitter(loaded):
    return Fitter(loaded, SAMPLES)


@pytest.mark.parametrize("step", [20, 70])
def test_rows_leave_as_in_a_search_on_prompts_that_really_shrink(loaded, plain, fitter, step):
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
    *before, _ = method.recipe(LAYERS)
    assert not before or ratio(tuple(dict(before).get(n, before[-1][1]) for n in range(1, LAYERS))) > 0.6


def test_what_may_be_lost_is_what_the_least_attended_rows_get():
    got = torch.tensor([0.5, 0.1, 0.3, 0.1], dtype=torch.float64)
    assert spare(got, 1.0, 0.25).tolist() == [False, True, False, True]
    assert spare(got, 1.0, 1.0).all() and not spare(got, 1.0, 0.05).any()
    # Rows that have left before have had their share.
    assert spare(got, 1.2, 0.25).tolist() == [False, True, False, False]


def test_a_plan_says_how_it_was_fitted_and_is_resumed(tmp_path, loaded, fitter):
    out, done = tmp_path / "plan.json", []

    def stop(now: int, total: int) -> None:
        done.append(now)
        if now == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(loaded.model, loaded.processor, SAMPLES, "fitprune", flops=0.6, out=out, progress=stop)
    again: list[int] = []
    told = calibrate(
        loaded.model,
        loaded.processor,
        SAMPLES,
        "fitprune",
        flops=0.6,
        out=out,
        progress=lambda n, t: again.append(n),
    )
    assert again[0] == 5 and [*tmp_path.iterdir()] == [out]
    read = Plan.load(out)
    layouts, weights = prompts_of(loaded, SAMPLES)
    found = fitter.fitted(lambda m: flops_ratio(Plan((m,)), loaded.shape, layouts, weights) <= 0.6)
    assert read.methods == told.methods == (found[0],) and isinstance(read.methods[0], FitPrune)
    facts = read.calibration
    assert facts["metric"] == "attention" and facts["asked"] == {"flops": 0.6} and facts["fit"]["images"] == 2
    assert facts["fit"]["left"][0] == 1 and len(facts["fit"]["left"]) == LAYERS
    wrong = json.loads(out.read_text())
    wrong["calibration"]["fit"]["left"].append(0.1)
    with pytest.raises(ValueError, match=r"calibration\.fit\.left: a share for each of the model's 4 layers"):
        Plan.from_dict(wrong)
    with torch.no_grad(), saccade.apply(loaded.model, read):
        loaded.model(**models.inputs(loaded, SAMPLES))


def test_methods_beside_it_count_and_positions_are_as_asked_for(loaded):
    samples = [question(2, images=2)]
    spec = "fitprune(position_policy=compact)+shortv(layers=0)"
    plan = calibrate(loaded.model, loaded.processor, samples, spec, flops=0.6)
    fitted, beside = plan.methods
    assert fitted.position_policy == "compact" and str(beside) == "shortv(layers=0)"
    assert plan.calibration["fit"]["images"] == 2
    layouts, weights = prompts_of(loaded, samples)
    both, alone = (flops_ratio(Plan(ms), loaded.shape, layouts, weights) for ms in (plan.methods, (fitted,)))
    assert 0.5 < both <= 0.6 < alone


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
    with pytest.raises(ValueError, match=r"cannot reach a FLOPs ratio of 0\.1"):
        calibrate(loaded.model, loaded.processor, SAMPLES, "fitprune", flops=0.1)
    with pytest.raises(ValueError, match="nothing to fit"):
        Fitter(loaded, [question(0, images=0)], Journal(None))


def test_the_command_writes_a_plan_and_shows_it(tmp_path, folder, capsys):
    data, out = questions_file(tmp_path, [{}, {}]), tmp_path / "plan.json"
    words = ["--method", "fitprune", "--flops", "0.6", "--data", data, "--samples", "2", "--out", str(out)]
    assert main(["calibrate", str(folder), *words]) == 0
    shown = capsys.readouterr()
    rows = [line.split("│")[1:3] for line in shown.out.splitlines() if line.startswith("│")]
    left = Plan.load(out).calibration["fit"]["left"]
    assert [(int(n), share.strip()) for n, share in rows] == [
        (n, f"{100 * share:.1f} %") for n, share in enumerate(left)
    ]
    assert f"written to {out}" in shown.out and "of the attention that its rows get" in shown.out
    assert main(["plan", "show", str(out)]) == 0 and "rows alive" in capsys.readouterr().out
    assert main(["plan", "validate", str(out)]) == 0
    assert main(["calibrate", str(folder), *words[:-6], "--score", "vig", "--data", data]) == 2
