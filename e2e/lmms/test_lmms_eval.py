"""What only the real lmms-eval can tell: its splitting of arguments, its chats, its failures."""

from __future__ import annotations

import json

import numpy as np
import pytest
from e2e.lmms.support import answers, lmms_eval, plain, saccade
from lmms_eval.models.registry_v2 import ModelRegistryV2
from lmms_eval.tasks import TaskManager
from lmms_eval.utils import simple_parse_args_string
from PIL import Image

from saccade.glance import suite
from saccade.inputs.samples import Sample
from saccade.lmms import write_tasks
from saccade.lmms.arguments import read_spec, read_text, write_arguments
from saccade.plans.plan import Plan

# Each run of lmms-eval imports for a while; a busy machine takes minutes for several.
pytestmark = pytest.mark.timeout(900)

UTILS = """
from PIL import Image


def to_visual(doc):
    return [Image.open(path).convert("RGB") for path in doc["paths"]]


def to_text(doc):
    return doc["question"]


def process(doc, results):
    return {"length": float(len(results[0]) > 0)}
"""

TASK = """
task: mixed
dataset_path: json
dataset_kwargs: {data_files: {test: mixed.jsonl}}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.to_visual
doc_to_text: !function utils.to_text
doc_to_target: question
process_results: !function utils.process
generation_kwargs: {max_new_tokens: 12, temperature: 0, top_p: 1.0, num_beams: 1, until: [UNTIL]}
metric_list: [{metric: length, aggregation: mean, higher_is_better: true}]
metadata: [{version: 0.0}]
"""


@pytest.mark.parametrize("value", ["vskip(layers=1,3-4)+vtw(layer=5)", "it's, here.json", "{a},[b].json"])
def test_arguments_survive(value):
    found = simple_parse_args_string(
        write_arguments({"pretrained": "glance", "plan": value, "blind": "true"})
    )
    assert {key: read_text(each) for key, each in found.items()} == {
        "pretrained": "glance", "plan": value, "blind": "True"
    }  # fmt: skip


def test_a_spec_may_be_written_with_semicolons():
    found = simple_parse_args_string("pretrained=glance,plan=fastv(layer=2;keep=0.5),batch_size=4")
    assert (
        Plan.of(read_spec(found["plan"])) == Plan.of("fastv(layer=2,keep=0.5)") and found["batch_size"] == 4
    )


def test_the_model_is_found_by_its_entry_point():
    registry = ModelRegistryV2()
    registry.load_entrypoint_manifests()
    assert registry.get_model_class("saccade").__name__ == "Saccade"


def test_all_of_glance_is_found(tmp_path):
    manager = TaskManager("WARNING", include_path=str(write_tasks(tmp_path, 1)), include_defaults=False)
    assert set(manager.all_subtasks) == {f"glance_{task}" for task in suite.TASKS}
    assert manager.all_groups == ["glance"]


def test_no_image_one_and_several_stand_in_one_batch_and_answers_stop_where_they_should(tmp_path, loaded):
    rng = np.random.default_rng(0)
    samples, lines = [], []
    for i in range(6):
        paths = []
        for j in range(i % 3):
            paths.append(str(tmp_path / f"{i}-{j}.png"))
            Image.fromarray(rng.integers(0, 255, (60, 90, 3), dtype=np.uint8)).save(paths[-1])
        question = "list all objects ." if i % 2 else "what color is the circle ?"
        images = tuple(Image.open(path).convert("RGB") for path in paths)
        samples.append(Sample(str(i), "mixed", "", images, question))
        lines.append(json.dumps({"paths": paths, "question": question}))
    want = plain(loaded, samples, "", tokens=12)
    stop = next(text for text in want if len(text.split()) > 2).split()[1]
    (tmp_path / "utils.py").write_text(UTILS)
    (tmp_path / "mixed.yaml").write_text(TASK.replace("UNTIL", json.dumps(stop)))
    (tmp_path / "mixed.jsonl").write_text("".join(line + "\n" for line in lines))
    results = lmms_eval(tmp_path / "out", "--tasks", "mixed", "--include_path", tmp_path, "--batch_size", 6)
    assert answers(results, "mixed") == [text.split(stop)[0].strip() for text in want]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--suite", "lmms:glance_count", "--samples", 1, "--plan", "vskip(layers=99)"), "layer 99"),
        (("--suite", "lmms:nosuch"), "Tasks not found: nosuch"),
        (("--suite", "lmms:pope"), "wrote no results"),  # no network here
    ],
)
def test_a_failed_evaluation_is_an_error_with_its_reason(words, message):
    code, result, err = saccade("eval", "glance", "--no-blind", "--json", "-", "--device", "cpu", *words)
    assert code == 2 and result is None
    assert message in err.strip().split("\n")[-1]
