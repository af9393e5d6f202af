"""Settings are read strictly: what is wrong is named by its key path, and nothing is guessed."""

from __future__ import annotations

import pytest
import yaml

from saccade.training.config import TrainingConfig, read_config
from training.tiny import settings

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
