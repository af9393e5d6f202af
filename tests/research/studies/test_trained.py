"""The ablation of trained models: its rows, what is read off answers, teacher forcing under skip KV-cache."""

import pickle
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import saccade
from saccade import skip_vision
from saccade.cli import main
from saccade.core.shapes import SHAPES
from saccade.evaluation.results import Prediction
from saccade.glance import suite
from saccade.inputs.samples import Sample
from saccade.research.studies import Store, StudyQuestions
from saccade.research.studies.lineup import KEPT
from saccade.research.studies.run import write
from saccade.research.studies.skip_vision import STUDY
from saccade.research.studies.trained import step
from saccade.research.studies.trained.ablation import Ablation, AblationRow
from saccade.research.studies.trained.ask import Asked, Way
from saccade.research.studies.trained.claims import findings
from saccade.research.studies.trained.forced import compared, surprise
from saccade.research.studies.trained.judge import judge
from saccade.research.studies.trained.make import claimed, place, remember
from saccade.research.studies.trained.rows import (
    ABLATIONS,
    DENSE,
    FULL,
    LATE_SF,
    LATER,
    LONGER,
    MERGE,
    later,
)
from saccade.research.studies.trained.run import run
from saccade.skip_vision import SkipVisionConfig, set_cache
from saccade.training import TrainingConfig
from saccade.training.config import PARTS

GLANCE = ABLATIONS["glance"]
GAZE = ABLATIONS["gaze"]
BY_NAME = {row.name: row for row in GLANCE.rows}

SOME = tuple(
    BY_NAME[name + KEPT if name != DENSE else name]
    for name in (DENSE, MERGE, FULL, f"{FULL} SK", f"{FULL} SK middle+small")
)


def quick(rows, ablation: Ablation = GLANCE) -> Ablation:
    """A few steps of some rows."""
    return replace(ablation.quick(), rows=tuple(rows))


def test_rows_have_the_layouts_of_the_papers_table_scaled_down():
    entries = {row.name: judge_entry(row) for row in GLANCE.rows}
    counts = {name: entry["rows"]["attend"] for name, entry in entries.items()}
    assert counts[DENSE] == counts["SF"] == 266 and counts["FastV"] == 80
    assert counts[MERGE + KEPT] == counts["mean pooling" + KEPT] == 116
    assert counts["SF LS"] == 267 and counts["SF FS LS"] == 268
    assert counts["SF FS LS Merge" + KEPT] == counts[f"{FULL} SK{KEPT}"] == 118
    assert counts[FULL] == counts[FULL + KEPT] == 118
    assert counts["Victor"] == 16
    passing = {name: entry["rows"]["pass_ffn"] for name, entry in entries.items()}
    assert passing[DENSE] == 266 and passing["SF"] == 66 and passing[FULL] == passing[FULL + KEPT] == 69
    cached = {name: entry["rows"]["cached"] for name, entry in entries.items()}
    assert cached[f"{FULL} SK{KEPT}"] == 69 and cached[f"{FULL} SK middle+small{KEPT}"] == 16 + 3


def test_what_a_plan_over_a_model_saves_is_counted():
    """Rows that merge before the decoder cost what rows that merge in the projector's place cost."""
    own, over = (judge_entry(BY_NAME[name]) for name in (FULL, FULL + KEPT))
    for key in ("flops_ratio", "kv_ratio", "visual_tokens"):
        assert own["cost"][key] == pytest.approx(over["cost"][key], rel=1e-9)
    assert own["visual_ratio_paper"] == pytest.approx(over["visual_ratio_paper"])
    fastv, victor = (judge_entry(BY_NAME[name]) for name in ("FastV", "Victor"))
    # Two of 32 layers with all rows, then three tenths; three with all rows and registers, then those.
    assert fastv["visual_ratio_paper"] == pytest.approx((2 + 30 * 0.3) / 32, abs=0.02)
    assert 0.1 < victor["visual_ratio_paper"] < 0.2


def judge_entry(row: AblationRow, ablation: Ablation = GLANCE, shape=SHAPES["llava-1.5-7b"]) -> dict:
    ablation = replace(ablation, rows=(ablation.rows[0], row))
    said = {name: asked({0: "a"}) for name in (ablation.dense, row.name)}
    return judge(ablation, said, shape, text=20)[-1]


def asked(answers: dict[int, str], wrong: int = 0) -> Asked:
    """Ten questions of two tasks, shared among seeds; the first ``wrong`` of a share are answered wrongly."""
    each = 10 // len(answers)

    def said(task: str, text: str, start: int = 0, count: int = 10) -> tuple[Prediction, ...]:
        return tuple(
            Prediction(f"{task}/{n}", task, "a", "b" if (bad := n < start + wrong) else text, not bad)
            for n in range(start, start + count)
        )

    by_seed = {
        seed: {task: said(task, text, place * each, each) for task in ("x", "y")}
        for place, (seed, text) in enumerate(answers.items())
    }
    whole = {task: said(task, "a") for task in ("x", "y")}
    unseen = {task: tuple(replace(p, text="b", score=0.0) for p in whole[task]) for task in ("x", "y")}
    return Asked(by_seed, whole, unseen)


def test_a_row_is_paired_with_the_dense_row_of_its_seed():
    said = {DENSE: asked({0: "a", 1: "a"}), FULL: asked({0: "a", 1: "a"}, wrong=2), "SF": asked({0: "a"})}
    dense, full, one = judge(
        quick(BY_NAME[n] for n in (DENSE, FULL, "SF")), said, SHAPES["llava-1.5-7b"], text=20
    )
    assert dense["mean"]["difference"] == 0 and dense["mean"]["accuracy"] == 1
    assert full["mean"]["accuracy"] == pytest.approx(0.6)
    assert full["mean"]["difference"] == pytest.approx(-0.4)
    assert full["mean"]["n"] == 20 and full["seeds"] == {"0": 0.6, "1": 0.6} and full["sd_over_seeds"] == 0
    low, high = full["mean"]["difference_low"], full["mean"]["difference_high"]
    assert -0.7 < low < -0.4 < high < 0
    assert full["mean"]["retention"] == pytest.approx(0.6) and full["tasks"]["x"]["n"] == 10
    # A row of one seed has answered all, and is held against all of the dense row's first seed.
    assert one["mean"]["n"] == 20 and one["seeds"] == {"0": 1.0} and one["sd_over_seeds"] is None


def test_a_seed_that_the_dense_row_lacks_is_named():
    said = {DENSE: asked({0: "a"}), FULL: asked({0: "a", 1: "a"})}
    with pytest.raises(ValueError, match="seed 1"):
        judge(quick((BY_NAME[DENSE], BY_NAME[FULL])), said, SHAPES["llava-1.5-7b"], text=20)


def entry(name: str, accuracy: float, gap: float, **more) -> dict:
    half = 0.005
    mean = {"accuracy": accuracy, "low": accuracy - half, "high": accuracy + half, "n": 900}
    mean |= {"difference": gap, "difference_low": gap - half, "difference_high": gap + half}
    return {"name": name, "mean": mean, "seeds": {"0": accuracy}, "visual_ratio_paper": 0.3} | more


def verdicts(*entries: dict) -> dict[str, str]:
    return {found["claim"]: found["verdict"] for found in findings({"plans": entries})}


def test_claims_are_judged_by_the_rows_that_speak_of_them():
    times = {"train_s": {"ratio": 0.6, "low": 0.58, "high": 0.64}}
    rows = [
        entry(DENSE, 0.8, 0.0),
        entry(FULL + KEPT, 0.4, -0.4, times=times),
        entry(MERGE + KEPT, 0.7, -0.1, times=times),
    ]
    said = verdicts(*rows)
    assert set(said.values()) == {"supported", "not supported"} and len(said) == 2
    assert said["Training takes 35 % less time"] == "supported"
    for ratio, verdict in (((0.6, 0.7), "undecided"), ((0.66, 0.7), "not supported")):
        times["train_s"] |= dict(zip(("low", "high"), ratio, strict=True))
        assert verdicts(*rows)["Training takes 35 % less time"] == verdict
    late = [entry(later(n), 0.4 + 0.05 * n, -0.4 + 0.05 * n) for n in LATER]
    mean = [0.9, 0.7, 0.5, 0.4, 0.8, 0.3] + [0.1] * 5 + [0.0]
    score = {"mean": mean, "order": [11, 6, 7, 8, 10, 9, 5, 3, 2, 1, 4, 0], "n": 20}
    data = {"plans": [*rows, *late, entry(LATE_SF, 0.8, 0.0)], "ffn": {"score": score}}
    hurts, free = (f["found"] for f in findings(data)[-2:])
    assert hurts.endswith("0.700 in layers 0-2, 0.500 in layers 3-5, 0.100 in layers 6-10.")
    assert "on 20 samples" in free and free.endswith("in layers 6, 7, 8, 9, 10, 11 as the first 6.")
    alone = entry(LATE_SF, 0.8, 0.0)
    said = verdicts(*rows, *late, alone)
    assert said["FFNs in the first layers win back accuracy that Skip-FFN costs"] == "supported"
    free = "Skipped rows can bypass the FFNs of the last layers at no cost"
    assert said[free] == "supported" and free not in verdicts(*rows, *late)
    assert verdicts(*rows, *late, entry(LATE_SF, 0.7, -0.1))[free] == "mixed"
    longer = [entry(DENSE + LONGER, 0.82, 0.02), entry(FULL + KEPT + LONGER, 0.815, 0.015)]
    (claim,) = set(verdicts(*rows, *longer)) - set(verdicts(*rows))
    # Half a point below, with an interval of seven tenths: within a point cannot be said.
    assert "three times as long" in claim and verdicts(*rows, *longer)[claim] == "undecided"


def test_a_study_of_one_row_trains_it_and_the_dense_one_with_its_seeds():
    one = GLANCE.only(["FastV"])
    assert [row.name for row in one.rows] == [DENSE, "FastV"]
    assert [one.seeds(row) for row in one.rows] == [(0,), (0,)]
    kept = GLANCE.only([f"{FULL} SK{KEPT}"])
    assert [row.name for row in kept.rows] == [DENSE, FULL + KEPT, f"{FULL} SK{KEPT}"]
    assert GLANCE.only([DENSE]).seeds(GLANCE.rows[0]) == (0, 1, 2)
    with pytest.raises(ValueError, match="no row 'Nobody'; there are 'CoS, dense', "):
        GLANCE.only(["Nobody"])


def test_claims_that_a_study_of_one_row_cannot_judge_are_left_out():
    assert verdicts(entry(DENSE, 0.8, 0.0), entry("FastV", 0.4, -0.4)) == {}
    said = verdicts(entry(DENSE, 0.8, 0.0), entry("SF", 0.4, -0.4))
    assert said == {"Skipped rows can bypass every FFN at no cost": "not supported"}


def test_rows_that_train_for_longer_take_more_steps_of_the_same_recipe():
    usual, longer = (
        GLANCE.training("glance", "out", row, 1)
        for row in (BY_NAME[FULL + KEPT], BY_NAME[FULL + KEPT + LONGER])
    )
    assert longer["optimisation"].pop("steps") == 3 * usual["optimisation"].pop("steps") == 1200
    assert longer == usual


def test_times_are_written_row_by_row_and_go_on_where_they_were(tmp_path, monkeypatch):
    from saccade.research.studies.trained import run as running

    asked: list[list[str]] = []

    def timed(base, ablation, rows, device):
        asked.append([row.name for row in rows])
        for row in rows:
            if row.name == "SF LS" and len(asked) == 1:
                raise OSError("the machine went away")
            yield row.name, {"train_s": {"ratio": 1.0}}

    monkeypatch.setattr(running, "compare_steps", timed)
    rows = [BY_NAME[name] for name in (DENSE, "SF", "SF LS", DENSE + LONGER)]
    parts = (tmp_path / "times.json", tmp_path, quick(rows), Way(), lambda text: None)
    with pytest.raises(OSError, match="went away"):
        running._timed(*parts)
    assert set(running._timed(*parts)) == {"SF", "SF LS"}
    assert asked == [["SF", "SF LS"], ["SF LS"]]


def test_seeds_share_the_questions():
    whole = StudyQuestions.of_suite(("list", "count"), 7, 2, 0)
    parts = whole.shares(3)
    assert [part.samples for part in parts] == [2, 2, 3]
    for task in whole.tasks:
        assert sum((part.asked(task) for part in parts), ()) == whole.asked(task)
        assert parts[1].bare(task)[0] == whole.bare(task)[0][2:4]
    assert len({part.bare("list")[1] for part in parts}) == 3
    assert parts[0].calibration("list") == whole.calibration("list")
    (same,) = whole.shares(1)
    assert same.bare("list") == whole.bare("list")
    with pytest.raises(ValueError, match="3 questions a task do not make 4 shares"):
        replace(whole, samples=3).shares(4)
    assert pickle.loads(pickle.dumps(parts[1])).asked("list") == parts[1].asked("list")


@pytest.mark.parametrize(
    ("ablation", "row"),
    [(one, row) for one in ABLATIONS.values() for row in one.rows],
    ids=lambda part: part.title if isinstance(part, Ablation) else part.name,
)
def test_every_row_is_a_training_run_that_can_be_read(ablation, row):
    config = TrainingConfig.from_data(ablation.training("glance", "out", row, 1))
    assert SkipVisionConfig.from_dict(dict(config.model.skip_vision)) == ablation.config(row)
    assert config.data[0].scale == ablation.model.scale and config.plan == row.plan
    assert config.parts == (("projector", "decoder") if ablation is GAZE else PARTS)


def test_rows_that_set_nothing_apart_stand_in_the_pictures_order():
    """Or the dense row would be another model than Gaze, and rivals would be ranked before they choose."""
    for row in GAZE.rows:
        config, rows = GAZE.config(row), GAZE.rows_of(row)
        apart = config.split(rows)[0] < rows
        assert apart == ((row.number is not None and row.number > 0) or row.name == "mean pooling"), row.name
        assert config.split(rows)[0] == (84 if apart else rows)


def test_rivals_of_the_llava_layout_cost_what_the_full_method_does():
    """Of 400 rows as many are retained as of the paper's 1,296, and a quarter of the others merged."""
    gaze = replace(SHAPES["llava-1.5-7b"], layers=12, hidden=128, ffn=320, heads=4, kv_heads=4, head_dim=32)
    entries = {row.name: judge_entry(row, GAZE, gaze) for row in GAZE.rows}
    counts = {name: entry["rows"]["attend"] for name, entry in entries.items()}
    assert counts["dense"] == counts["SF"] == 400 and counts["lower resolution"] == 100
    assert counts[MERGE] == counts["mean pooling"] == 84 + 79
    assert counts[FULL] == counts[FULL + KEPT] == 165
    assert entries[FULL]["rows"]["pass_ffn"] == 84 + 2 + 1
    shares = {name: entry["visual_ratio_paper"] for name, entry in entries.items()}
    assert shares[FULL] < 0.25 < shares["SF"]
    for name in ("FastV", "lower resolution", "Victor"):
        assert abs(shares[name] - shares[FULL]) < 0.08, name
    assert entries[f"{FULL} SK"]["rows"]["cached"] == 87


def test_a_run_keeps_its_recipe_and_a_folder_has_one_worker(tmp_path):
    remember(tmp_path, quick(SOME))
    remember(tmp_path, quick(GLANCE.rows))  # more rows of the same
    remember(tmp_path, replace(quick(SOME), recipe=replace(quick(SOME).recipe, repeats=9)))
    longer = replace(quick(SOME), recipe=replace(quick(SOME).recipe, steps=4))
    for other in (longer, replace(quick(SOME), merged=40)):
        with pytest.raises(ValueError, match="otherwise"):
            remember(tmp_path, other)
    aligned = replace(quick(SOME), recipe=replace(quick(SOME).recipe, align_steps=9))
    for other in (aligned, replace(quick(SOME), model=GAZE.model)):
        with pytest.raises(ValueError, match=r"another recipe|otherwise"):
            remember(tmp_path, other)
    out = place(tmp_path, BY_NAME[f"{FULL} SK{KEPT}"], 0)
    assert out == place(tmp_path, BY_NAME[FULL + KEPT], 0)
    with claimed(out) as first, claimed(out) as second:
        assert first and not second
    (out / "model").mkdir(parents=True)
    with claimed(out) as again:
        assert not again


@pytest.fixture(scope="module")
def small():
    config = SkipVisionConfig.from_dict(
        dict(row=10, layout="cos", image_size=64, levels=[-2], scales=[[8, 4], [4, 8], [2, 16]], merged=8)
    )
    return skip_vision.wrap(saccade.load("glance"), config)


def test_teacher_forcing_without_release_is_one_forward_over_prompt_and_answer(small):
    samples = suite.samples("list", 3)
    found = surprise(small, samples, batch_size=2)
    tokenizer = small.processor.tokenizer
    for sample, value in zip(samples, found, strict=True):
        batch = saccade.models.inputs(small, [sample])
        answer = [*tokenizer(sample.answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        ids = torch.cat([batch["input_ids"], torch.tensor([answer])], 1)
        with torch.no_grad():
            whole = dict(batch) | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            logits = small.model(**whole, use_cache=False).logits[0, -len(answer) : -1]
        likely = logits.log_softmax(-1)[range(len(answer) - 1), answer[1:]]
        assert value == pytest.approx(-float(likely.mean()), abs=1e-4)


def test_prompts_of_unlike_length_are_scored_as_each_alone(small):
    samples = [
        replace(sample, question=question, answer=suite.samples("list", 1)[0].answer)
        for sample, question in zip(
            suite.samples("list", 2),
            ("list the colors", "what is in the picture ? list the colors"),
            strict=True,
        )
    ]
    together = surprise(small, samples)
    assert together == pytest.approx([surprise(small, [sample])[0] for sample in samples], abs=1e-4)


def test_what_leaves_the_cache_changes_later_tokens_alone(small):
    samples = suite.samples("list", 3)
    try:
        levels = {}
        for level in ("none", "small", "middle+small"):
            set_cache(small, level)
            levels[level] = surprise(small, samples)
    finally:
        set_cache(small, "none")
    assert levels["none"] != levels["small"] != levels["middle+small"]
    found = compared(levels["none"], levels["small"])
    assert found["difference"] == pytest.approx(found["after"] - found["before"])
    assert found["difference_low"] < found["difference"] < found["difference_high"]


def test_an_answer_of_one_token_is_refused(small):
    empty = replace(suite.samples("list", 1)[0], answer="")
    assert isinstance(empty, Sample)
    with pytest.raises(ValueError, match="answer of one token"):
        surprise(small, [empty])


def test_the_study_trains_asks_and_tells_and_goes_on_where_it_was(tmp_path):
    """A few steps of the main rows; nothing is learned."""
    questions, notes = StudyQuestions.of_suite(("list", "count"), 2, 2, 0), []
    parts = (tmp_path / "run", quick(SOME), questions, Store(tmp_path / "store"))
    result = run(*parts, note=notes.append)
    assert [entry["name"] for entry in result["plans"]] == [row.name for row in SOME]
    assert result["plans"][0]["mean"]["difference"] == 0 and len(result["findings"]) == 3
    assert result["plans"][2]["times"]["kv_bytes"]["ratio"] < 0.6
    # Every row has a cell in each of two tasks, the dense row a blind one beside it.
    assert result["seconds"]["cells"] == result["seconds"]["cells_of_this_run"] == 2 * len(SOME) + 2
    assert sum(by["cells"] for by in result["provenance"]["answers"]) == result["seconds"]["cells"]
    assert all("source" in told for told in result["training"].values())
    paths = write(STUDY, result, tmp_path / "out")
    page = paths["page"].read_text()
    ffn = result["ffn"]
    assert ffn["added"]["samples"] == 4 and len(ffn["added"]["skipped"]["mean"]) == 12
    assert sorted(ffn["score"]["order"]) == list(range(12)) and ffn["score"]["score"] == "ffn"
    assert (
        "What FFNs do" in page
        and "Teacher forcing" in page
        and "FLOPs of a step" in page
        and "SF FS LS Merge LV SK" in page
    )
    assert paths["cost"].read_bytes().startswith(b"\x89PNG")
    assert "training Merge, positions kept, seed 0" in notes
    notes.clear()
    again = run(*parts, note=notes.append)
    assert not [text for text in notes if text.startswith(("training", "aligning", "timing"))]
    assert again["seconds"]["cells_of_this_run"] == 0
    assert again["plans"] == result["plans"] and again["forced"] == result["forced"]


def test_too_few_questions_for_the_seeds_are_refused_before_anything_is_trained(tmp_path):
    questions = StudyQuestions.of_suite(("list",), 2, 2, 0)
    with pytest.raises(ValueError, match="2 questions a task do not make 3 shares; take more"):
        run(tmp_path / "run", GLANCE, questions, Store(tmp_path / "store"))
    assert not list(tmp_path.iterdir())


@pytest.mark.long(instead="test_the_study_trains_asks_and_tells_and_goes_on_where_it_was")
def test_two_processes_share_it_in_the_number_format_that_is_asked_for(tmp_path):
    """Of one short task: half precision is slow on a processor that has no units for it."""
    questions, notes = StudyQuestions.of_suite(("count",), 2, 2, 0), []
    rows = SOME[:3]
    parts = (tmp_path / "run", quick(rows), questions, Store(tmp_path / "store"))
    cells = len(rows) + 1
    result = run(*parts, Way(workers=2, dtype="bfloat16"), note=notes.append)
    trained = [text for text in notes if text.startswith("training ") and "seed" in text]
    assert sorted(trained) == sorted(f"training {row.name}, seed 0" for row in rows)
    assert sum(text == "asking Merge, positions kept" for text in notes) == 3
    assert result["provenance"]["dtype"] == "bfloat16"
    assert result["seconds"]["cells_of_this_run"] == result["seconds"]["cells"] == cells
    # Another format is another cell.
    other = run(*parts, note=notes.append)
    assert other["seconds"]["cells_of_this_run"] == cells
    assert other["provenance"]["dtype"] == "float32"


def test_a_training_that_is_told_to_stop_stops_the_study(tmp_path, monkeypatch):
    from saccade.research.studies.trained import make as making

    asked = []

    def stopped(config, resume):
        asked.append(config.out)
        return SimpleNamespace(finished=False)

    monkeypatch.setattr("saccade.training.train", stopped)
    monkeypatch.setattr(making, "aligned", lambda *parts: tmp_path / "aligned")
    with pytest.raises(KeyboardInterrupt):
        making.make(tmp_path / "run", quick(SOME), lambda text: None)
    assert asked == [str(tmp_path / "run" / "base")]


@pytest.mark.parametrize("wrong", [["--data", "x.jsonl"], ["somebody/my-model"]])
def test_the_command_takes_an_embedded_model_and_no_data_for_it(wrong, tmp_path, capsys):
    (tmp_path / "x.jsonl").write_text('{"question": "a", "answer": "b"}\n' * 4)
    words = [str(tmp_path / word) if word == "x.jsonl" else word for word in wrong]
    assert main(["study", "skip-vision", *words]) == 2
    assert "trains an embedded model on its own suite" in capsys.readouterr().err


def test_steps_are_timed_in_float32_whatever_weights_were_shipped_in():
    ablation = ABLATIONS["gaze"]
    base = Path(saccade.__file__).parent / "gaze" / "weights"
    loaded = step._model(base, ablation.config(ablation.rows[0]), None)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
