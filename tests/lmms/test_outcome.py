"""Results of lmms-eval are read as they are: shares, dictionaries, sums, and logs that are not there."""

from __future__ import annotations

import json

import pytest

from saccade.lmms.outcome import TaskOutcome, read_outcome


def write(folder, tasks: dict[str, tuple[dict, list[str], list[dict]]]):
    """Files of lmms-eval for tasks: (row of results, metrics in order, samples)."""
    path = folder / "now_results.json"
    for name, (_, _, samples) in tasks.items():
        lines = "".join(json.dumps(sample) + "\n" for sample in samples)
        (folder / f"now_samples_{name}.jsonl").write_text(lines, encoding="utf-8")
    data = {
        "results": {name: {"alias": name} | row for name, (row, _, _) in tasks.items()}
        | {"group": {"alias": "g"}},
        "configs": {
            name: {"metric_list": [{"metric": m} for m in order]} for name, (_, order, _) in tasks.items()
        },
        "n-samples": {name: {"original": 99, "effective": 3} for name in tasks},
    }
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def samples(*scores, key="accuracy"):
    return [{"doc_id": i, "target": "t", "filtered_resps": f"r{i}", key: s} for i, s in enumerate(scores)]


def test_single_scores_come_in_the_order_of_the_questions(tmp_path):
    row = {"accuracy,none": 0.5, "accuracy_stderr,none": 0.2, "accuracy_stderr_clustered,none": "N/A"}
    found = read_outcome(write(tmp_path, {"one": (row, ["accuracy"], samples(1, 0, 0.5)[::-1])}))["one"]
    assert [(p.id, p.text, p.score, p.correct) for p in found.predictions] == [
        ("one/0", "r0", 1.0, True), ("one/1", "r1", 0.0, False), ("one/2", "r2", 0.5, False)
    ]  # fmt: skip
    assert found.metrics == {"accuracy": 0.5} and found.metric == "accuracy" and found.n == 3
    assert found.accuracy.low == pytest.approx(0.5 - 1.96 * 0.2, abs=1e-3)


def test_scores_in_dictionaries_and_sums_of_two_metrics(tmp_path):
    # MME gives every answer one of two metrics, whose sums are no shares.
    parts = samples({"score": 1.0, "category": "a"}, {"score": 0.0}, key="first")[:2]
    parts += [{"doc_id": 2, "target": "t", "filtered_resps": ["no"], "second": {"score": 1}}]
    row = {"first,none": 1200.5, "second,none": 300.0}
    found = read_outcome(write(tmp_path, {"mme": (row, ["first", "second"], parts)}))["mme"]
    assert [p.score for p in found.predictions] == [1.0, 0.0, 1.0] and found.predictions[2].text == "no"
    assert found.metric == "first + second" and found.metrics == {"first": 1200.5, "second": 300.0}
    assert found.accuracy.value is None


@pytest.mark.parametrize(
    "logged",
    [
        [],
        samples({"answer": "B", "parsed": "C"}, {"answer": "B"}, {"answer": "A"}),
        samples(1, 0, 37.5),
        samples(1, 0) + samples(1, 0),
    ],
)
def test_where_answers_are_not_scored_alone_the_official_share_is_kept(tmp_path, logged):
    row = {"accuracy,none": 0.25, "accuracy_stderr,none": 0.02}
    found = read_outcome(write(tmp_path, {"mmmu": (row, ["accuracy"], logged)}))["mmmu"]
    assert found.predictions == () and found.accuracy.value == 0.25 and found.metric == "accuracy"
    assert 0.2 < found.accuracy.low < 0.25 < found.accuracy.high < 0.3


def test_outcomes_are_kept_and_read_back(tmp_path):
    row = {"accuracy,none": 0.5}
    found = read_outcome(write(tmp_path, {"one": (row, ["accuracy"], samples(1, 0, 0.5))}))["one"]
    assert TaskOutcome.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize(
    ("text", "match"),
    [('{"results": {}}', "not a results file"), ("[]", "not a results file"), ("{", "not JSON"),
     ('{"results": {}, "configs": {}, "n-samples": {}}', "evaluated no task")],
)  # fmt: skip
def test_other_files_are_refused(tmp_path, text, match):
    (tmp_path / "now_results.json").write_text(text)
    with pytest.raises(ValueError, match=match):
        read_outcome(tmp_path / "now_results.json")
