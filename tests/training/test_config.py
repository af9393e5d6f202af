"""Settings are read strictly: what is wrong is named by its key path, and nothing is guessed."""

from __future__ import annotations

import pytest
import yaml

from saccade.training.config import TrainingConfig, read_config
from training.tiny import settings

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
)
"""Few bytes that name each other: 10 to the ninth values."""
BASE = {
    "stage": 2,
    "data": [{"kind": "glance", "images": 8}],
    "optimisation": {"batch": 2, "steps": 3},
}


def written(tmp_path, data, text: str = ""):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(data) + text, "utf-8")
    return path


def test_defaults_and_values(tmp_path):
    config = read_config(written(tmp_path, BASE))
    assert config.parts == ("projector", "decoder")
    assert config.data[0].images == 8 and config.optimisation.accumulation == 1
    assert config.model.name == "glance" and config.plan is None and config.lora is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"optimisaton": {}}, "unknown key optimisaton"),
        ({"optimisation": {"batch": 2, "steps": 3, "rate": 1}}, "unknown key optimisation.rate"),
        ({"optimisation": {"steps": 3}}, "missing key optimisation.batch"),
        ({"optimisation": {"batch": "two", "steps": 3}}, "optimisation.batch is a whole number"),
        ({"optimisation": {"batch": True, "steps": 3}}, "optimisation.batch is a whole number"),
        ({"optimisation": {"batch": 2.5, "steps": 3}}, "optimisation.batch is a whole number"),
        ({"optimisation": {"batch": 0, "steps": 3}}, "optimisation.batch is at least 1"),
        ({"optimisation": {"batch": 2, "steps": 3, "epochs": 1}}, "give steps or epochs"),
        ({"optimisation": {"batch": 2}}, "give steps or epochs"),
        ({"optimisation": {"batch": 2, "steps": 3, "schedule": "wave"}}, "optimisation.schedule is one of"),
        ({"optimisation": {"batch": 2, "steps": 3, "part_lr": {"eyes": 1.0}}}, "optimisation.part_lr.eyes"),
        ({"optimisation": {"batch": 2, "steps": 3, "warmup": 1.5}}, "optimisation.warmup is a share"),
        ({"optimisation": {"batch": 2, "steps": 3, "betas": [0.9]}}, "optimisation.betas is a list of 2"),
        ({"optimisation": 3}, "optimisation: a mapping is needed"),
        ({"optimisation": {"batch": 2, "steps": 3, "lr": 10**400}}, "optimisation.lr is a number too large"),
        (
            {"optimisation": {"batch": 2, "steps": 3, "part_lr": {"tower": 1e-5}}},
            "part_lr.tower: the tower does",
        ),
        ({"data": [{"kind": ["glance"]}]}, "data.0.kind is one of conversations, glance"),
        ({"out": ""}, "out: the run needs the name of a folder"),
        ({"data": []}, "data: at least one source"),
        ({"data": {"kind": "glance"}}, "data is a list"),
        ({"data": [{"kind": "parquet"}]}, "data.0.kind is one of conversations, glance"),
        ({"data": [{"kind": "glance"}]}, "missing key data.0.images"),
        ({"data": [{"kind": "glance", "images": 2, "weight": 0.0}]}, "data.0.weight is a number above 0"),
        ({"train_modules": ["decoder"]}, "give stage (1 or 2) or train_modules"),
        ({"stage": None}, "give stage (1 or 2) or train_modules"),
        ({"stage": 3}, "stage is one of 1, 2"),
        ({"stage": 1, "lora": {}}, "adapters are on the decoder"),
        ({"lora": {"rank": 0}}, "lora.rank is at least 1"),
        ({"save_every": 0}, "save_every is at least 1"),
        ({"threads": 0}, "threads: 0 is below 1"),
        ({"plan": 3}, "plan is text"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, said):
    with pytest.raises(ValueError) as caught:
        read_config(written(tmp_path, BASE | change))
    assert said in str(caught.value) and "run.yaml" in str(caught.value)


@pytest.mark.parametrize("bad", ["nan", "inf", "-inf", "1e999"])
@pytest.mark.parametrize(
    "key",
    ["optimisation." + name for name in ("lr", "part_lr.decoder", "warmup", "weight_decay", "max_grad_norm")]
    + ["optimisation.epochs", "lora.alpha", "lora.dropout", "data.0.weight"],
)
def test_numbers_that_are_none_are_refused(tmp_path, key, bad):
    value = bad if bad[-1].isdigit() else bad.replace("nan", ".nan").replace("inf", ".inf")
    steps = ["optimisation.steps=null"] if key == "optimisation.epochs" else []
    with pytest.raises(ValueError, match=key.replace(".", r"\.") + " is a .*number"):
        read_config(written(tmp_path, BASE), [*steps, f"{key}={value}"])


def test_betas_that_are_no_numbers_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"optimisation\.betas"):
        read_config(written(tmp_path, BASE), ["optimisation.betas=[.nan, 0.9]"])


def test_stage_and_modules_name_the_same_parts():
    def parts(**given):
        return TrainingConfig.from_data({**BASE, "stage": None, **given}).parts

    assert parts(stage=1) == parts(train_modules=["projector"]) == ("projector",)
    assert parts(train_modules=["decoder", "tower"]) == ("tower", "decoder")
    assert parts(train_modules=["all"]) == ("tower", "projector", "decoder")


def test_numbers_as_people_write_them(tmp_path):
    path = written(tmp_path, BASE)
    text = path.read_text("utf-8").replace("steps: 3", "steps: 3\n  lr: 1e-3\n  warmup: 5\n  weight_decay: 0")
    path.write_text(text, "utf-8")
    found = read_config(path).optimisation
    assert (found.lr, found.warmup, found.weight_decay) == (1e-3, 5, 0.0)


def test_a_key_given_twice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="key 'stage' is given twice"):
        read_config(written(tmp_path, BASE, text="stage: 1\n"))


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2\n", "", "\x00"])
def test_what_is_no_mapping_is_refused(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(ValueError, match=r"bad\.yaml"):
        read_config(path)
    with pytest.raises(ValueError, match="no such file"):
        read_config(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match="folder"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("? [a, b]\n: 1\n", "line 1: a key is a word, not a list or a mapping"),
        ("stage: 2\n? {a: 1}\n: 1\n", "line 2: a key is a word"),
        ("a: " + "[" * 3000 + "]" * 3000, "is nested too deeply"),
        (LAUGHS, "it holds more than 100,000 values"),
        ("a: &x [*x]\n", "is nested too deeply, or a part of it stands in itself"),
        ("a: !!bool maybe\n", "a tag does not fit its value"),
        ("a: " + "9" * 5000, "integer string conversion"),
        ("a: {<<: 3}\n", "merging"),
    ],
)
def test_yaml_of_unusual_forms_is_refused_in_one_line(tmp_path, text, said):
    path = tmp_path / "bad.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(ValueError) as caught:
        read_config(path)
    assert said in str(caught.value) and "bad.yaml" in str(caught.value) and "\n" not in str(caught.value)


MERGED = """
stage: 2
data:
  - &scenes {kind: glance, images: 8, tasks: [count]}
  - {<<: *scenes, images: 9}
  - {<<: [*scenes], turns: 2}
optimisation: {batch: 2, steps: 3}
"""


def test_a_merge_key_brings_in_another_mapping_and_may_be_overridden(tmp_path):
    path = tmp_path / "merged.yaml"
    path.write_text(MERGED, "utf-8")
    found = read_config(path, ["data.0.tasks.0=word"]).data
    assert [(source.images, source.turns, source.tasks) for source in found] == [
        (8, 6, ("word",)), (9, 6, ("count",)), (8, 2, ("count",))
    ]  # fmt: skip
    path.write_text(MERGED.replace("turns: 2", "turns: 2, turns: 3"), "utf-8")
    with pytest.raises(ValueError, match="key 'turns' is given twice"):
        read_config(path)


def test_settings_of_the_command_line_replace_those_of_the_file(tmp_path):
    path = written(tmp_path, BASE)
    changes = ["optimisation.lr=1e-3", "data.0.tasks=[count, word]", "lora.rank=4", "plan=vtw(layer=3)"]
    found = read_config(path, changes)
    assert found.optimisation.lr == 1e-3 and found.data[0].tasks == ("count", "word")
    assert found.lora.rank == 4 and found.plan == "vtw(layer=3)"
    for bad, said in [
        ("optimisation", "key=value"),
        ("data.3.images=1", "items 0 to 0"),
        ("stage.x=1", "is no section"),
        ("nothing.here=1", "unknown key nothing"),
    ]:
        with pytest.raises(ValueError, match=said):
            read_config(path, [bad])


def test_plain_data_makes_the_same_settings_again(tmp_path):
    config = settings(tmp_path, "lora.rank=3", "optimisation.part_lr.projector=0.5", "plan=vtw(layer=1)")
    assert TrainingConfig.from_data(config.as_data()) == config


def test_the_shipped_files_can_be_read(root):
    found = sorted((root / "configs").glob("*.yaml"))
    runs = [path for path in found if "optimisation" in path.read_text("utf-8")]
    assert len(runs) >= 4
    for path in runs:
        assert read_config(path).out.startswith("runs/")
