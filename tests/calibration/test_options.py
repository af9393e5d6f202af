"""What a calibration and an evaluation are asked for is one value, whichever way it is said."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from saccade.calibration import CalibrationOptions
from saccade.evaluation import EvaluationOptions
from saccade.methods.vskip import VSkip


def test_keywords_and_a_whole_value_are_the_same():
    whole = CalibrationOptions("vskip", budget=2, num_samples=4, seed=7)
    assert CalibrationOptions.of("vskip", {"budget": 2, "num_samples": 4, "seed": 7}) == whole
    assert CalibrationOptions.of(whole, {}) == whole
    assert CalibrationOptions.of(whole, {"seed": 8}).seed == 8 and whole.seed == 7
    with pytest.raises(FrozenInstanceError):
        whole.seed = 8  # type: ignore[misc]
    with pytest.raises(TypeError, match="bugdet"):
        CalibrationOptions.of("vskip", {"bugdet": 2})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"draw": "some"}, "draw is global or stratified"),
        ({"direction": "left"}, "direction is perturbed-full or full-perturbed"),
        ({"answer_tokens": 0}, "1 token of the answer or more"),
        ({"eta": -1.0}, "eta is a KL in nats"),
        ({"eta": float("nan")}, "eta is a KL in nats"),
    ],
)
def test_values_that_cannot_be_meant_are_refused_at_once(wrong, said):
    with pytest.raises(ValueError, match=said):
        CalibrationOptions(**wrong)


def test_what_does_not_fit_together_is_refused_without_a_model():
    for options, said in (
        (CalibrationOptions("vskip"), "give a budget"),
        (CalibrationOptions(VSkip(budget=2), budget=3), "give one budget or one FLOPs ratio"),
        (CalibrationOptions("fastv(keep=0.5)"), "nothing to calibrate"),
        (CalibrationOptions("vskip(budget=2)", score="withdrawal"), "does not fit vskip"),
        (CalibrationOptions("vskip(budget=2)", score="nosuch"), "no score 'nosuch'"),
    ):
        with pytest.raises(ValueError, match=said):
            options.check_fit()


def test_how_samples_are_drawn_is_told_as_it_was():
    assert CalibrationOptions(draw="stratified").drawn == "all"
    assert CalibrationOptions(draw="stratified", num_samples=3).drawn == "stratified"


def test_sizes_of_an_evaluation_are_at_least_one():
    assert EvaluationOptions(batch_size=1, max_new_tokens=1).blind
    for wrong in ({"batch_size": 0}, {"max_new_tokens": 0}):
        with pytest.raises(ValueError, match="batch size and new tokens are at least 1"):
            EvaluationOptions(**wrong)
