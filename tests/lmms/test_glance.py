"""Glance as tasks of lmms-eval: the files fit together, and the data say what the suite says."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from saccade.evaluation import is_match
from saccade.glance import suite
from saccade.lmms import glance
from saccade.lmms.conversation import ChatMessages
from saccade.lmms.generation import Generation


class Loader(yaml.SafeLoader):
    """Reads lmms-eval's ``!function`` as the function it names."""


def _function(loader, node):
    module, name = loader.construct_scalar(node).rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


Loader.add_constructor("!function", _function)


def load(path: Path) -> dict:
    data = yaml.load(path.read_text("utf-8"), Loader)
    return (load(path.parent / data.pop("include")) | data) if "include" in data else data


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return glance.write_tasks(tmp_path_factory.mktemp("tasks"), 3, seed=5)


def docs(folder: Path, task: str) -> list[dict]:
    return [json.loads(line) for line in (folder / "data" / f"{task}.jsonl").read_text("utf-8").splitlines()]


def test_the_group_has_every_task_of_the_suite_and_no_other(written):
    group = load(written / "glance.yaml")
    assert group["group"] == "glance"
    assert group["task"] == [f"glance_{name}" for name in suite.TASKS]
    assert {p.name for p in written.glob("glance_*.yaml")} == {f"{name}.yaml" for name in group["task"]}


@pytest.mark.parametrize("task", list(suite.TASKS))
def test_a_task_file_is_whole_and_its_data_are_beside_it(written, task):
    config = load(written / f"glance_{task}.yaml")
    assert config["task"] == f"glance_{task}" and config["output_type"] == "generate_until"
    data = config["dataset_kwargs"]["data_files"][config["test_split"]]
    assert config["dataset_path"] == "json" and len(docs(written, task)) == 3
    assert (written / data).is_file() and not Path(data).is_absolute()
    doc = docs(written, task)[0]
    assert config["doc_to_target"] in doc
    assert config["process_results"](doc, [doc["answer"]]) == {config["metric_list"][0]["metric"]: 1.0}
    wanted = Generation.read(config["generation_kwargs"])
    assert wanted.max_new_tokens == 24 and wanted.until == () and not dict(wanted.how)["do_sample"]


def test_a_document_is_the_sample_pixel_for_pixel(written):
    for task in ("count", "list", "digit"):
        for doc, sample in zip(docs(written, task), suite.samples(task, 3, "test", 5), strict=True):
            (image,) = glance.doc_to_visual(doc)
            assert np.array_equal(np.asarray(image), np.asarray(sample.images[0]))
            conversation = ChatMessages.read(glance.doc_to_messages(doc))
            assert [part.get("text") for part in conversation.messages[0]["content"]] == [
                None,
                sample.question,
            ]
            assert glance.doc_to_text(doc) == sample.question and doc["answer"] == sample.answer


def test_results_are_ours():
    for said in ("Red , blue.", "red", "RED,  BLUE", ""):
        found = glance.process_results({"answer": "red, blue"}, [said])
        assert found == {"accuracy": float(is_match(said, "red, blue"))}


def test_some_tasks_come_without_the_group(tmp_path):
    folder = glance.write_tasks(tmp_path / "some", 1, tasks=["count"])
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    assert names == ["_glance.yaml", "data/count.jsonl", "glance_count.yaml"]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"tasks": ["nosuch"]}, "unknown task 'nosuch'; choose from exist"),
        ({"n": 0}, "at least one question"),
        ({"split": "nosuch"}, "split"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, settings, match):
    with pytest.raises(ValueError, match=match):
        glance.write_tasks(tmp_path, **({"tasks": ["count"], "n": 1} | settings))
