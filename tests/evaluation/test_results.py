"""Scores are paired by id and say what they are made of."""

import json

import pytest

from saccade.evaluation.results import Prediction, score


def predictions(pattern: str, task: str = "count") -> list[Prediction]:
    return [
        Prediction(f"{task}/{i}", task, "3", "3" if c == "1" else "4", c == "1")
        for i, c in enumerate(pattern)
    ]


def test_counts_and_pairs_by_id_not_by_place():
    dense, plan, blind = predictions("1110"), predictions("1001"), predictions("1000")
    found = score("p", "vskip(layers=1)", list(reversed(plan)), dense, blind)
    only = found.tasks["count"]
    assert (only.n, only.accuracy.value, only.blind) == (4, 0.5, 0.25)
    assert (only.gained, only.lost) == (1, 2)
    assert only.difference.value == pytest.approx(-0.25)
    assert only.retention.value == pytest.approx(2 / 3)
    assert only.retention_above_blind.value == pytest.approx(0.25 / 0.5)


def test_mean_weighs_tasks_alike():
    dense = predictions("11", "a") + predictions("1111111100", "b")
    found = score("dense", "dense", dense, dense, None)
    assert found.mean.accuracy.value == pytest.approx((1 + 0.8) / 2)
    assert found.mean.n == 12
    assert found.mean.blind is None and found.mean.retention_above_blind.value is None


def test_json_has_the_promised_fields_and_no_nan():
    dense = predictions("0000")
    data = score("dense", "dense", dense, dense, dense).to_dict(predictions=True)
    text = json.dumps(data, allow_nan=False)
    assert {"accuracy", "n", "low", "high", "blind", "retention"} <= set(json.loads(text)["tasks"]["count"])
    assert len(data["predictions"]) == 4
    assert "predictions" not in score("dense", "dense", dense, dense, dense).to_dict()


def test_other_questions_are_refused():
    with pytest.raises(ValueError, match="same questions"):
        score("p", "x", predictions("11"), predictions("111"), None)


def test_repeated_ids_are_refused():
    with pytest.raises(ValueError, match="more than once"):
        score("p", "x", predictions("11") * 2, predictions("11"), None)


def test_fractional_scores_are_averaged_and_paired():
    def told(*scores):
        return [Prediction(str(i), "t", "abc", "abd", worth == 1, worth) for i, worth in enumerate(scores)]

    dense, plan = told(1.0, 0.75, 0.5, 0.0), told(0.75, 0.75, 0.75, 0.0)
    only = score("p", "x", plan, dense, told(0.0, 0.0, 0.5, 0.0)).tasks["t"]
    assert only.accuracy.value == pytest.approx(0.5625) and only.accuracy.low < 0.5625 < only.accuracy.high
    assert only.difference.value == pytest.approx(0) and only.retention.value == pytest.approx(1)
    assert only.blind == pytest.approx(0.125)
    assert (only.gained, only.lost, only.p_value) == (1, 1, 1.0)


def test_a_prediction_without_a_score_is_right_or_wrong():
    right, wrong = Prediction("a", "t", "x", "x", True), Prediction("b", "t", "x", "y", False)
    assert (right.score, wrong.score) == (1.0, 0.0)
    assert json.dumps(score("d", "d", [right, wrong], [right, wrong], None).to_dict(True), allow_nan=False)
