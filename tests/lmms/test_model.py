"""The class that lmms-eval makes: found by its entry point, it answers requests of lmms-eval's form."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pytest
from PIL import Image

from saccade.lmms import manifests, model


class Request:
    def __init__(self, *args):
        self.args = args


@pytest.fixture
def chat_model(stand_in):
    model._build.cache_clear()
    yield model.Saccade
    model._build.cache_clear()


def docs(count: int) -> list[dict]:
    rng = np.random.default_rng(0)
    return [
        {
            "image": Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)),
            "question": f"what {i} ?",
        }
        for i in range(count)
    ]


def messages(doc):
    content = [{"type": "image", "url": doc["image"]}, {"type": "text", "text": doc["question"]}]
    return [{"role": "user", "content": content}]


def requests(count: int, **settings):
    return [Request(f"what {i} ?", messages, settings, i, "noise", "test") for i in range(count)]


def test_the_entry_point_names_a_class_that_is_there(stand_in, chat_model):
    (manifest,) = manifests()
    module, name = manifest.chat_class_path.rsplit(".", 1)
    cls = getattr(importlib.import_module(module), name)
    base = importlib.import_module("lmms_eval.api.model").lmms
    assert manifest.model_id == "saccade" and cls is chat_model
    assert issubclass(cls, base) and cls.is_simple is False


def test_other_names_are_not_there():
    with pytest.raises(AttributeError, match="no attribute 'Other'"):
        model.__getattr__("Other")


def test_requests_are_answered_in_order_under_a_plan_and_their_cost_is_noted(
    chat_model, toy_folder, tmp_path
):
    told = {}
    for plan in ("", '"fastv(layer=1,keep=0.5)"', "fastv(layer=1;keep=0.5)"):
        place = tmp_path / str(len(told))
        asked = chat_model(
            pretrained=str(toy_folder), plan=plan, device="cpu", batch_size=2, record=str(place)
        )
        asked.task_dict = {"noise": {"test": docs(5)}}
        told[plan] = asked.generate_until(requests(5, max_new_tokens=4, do_sample=False))
        assert (asked.rank if hasattr(asked, "rank") else asked._rank, asked.batch_size) == (0, 2)
        note = json.loads((place / "cost-0.json").read_text())
        assert note["prompts"] == 5 and (note["cost"]["flops_ratio"] < 1) == bool(plan)
    dense, quoted, written = told.values()
    assert quoted == written != dense and len(set(dense)) > 1
    backwards = chat_model(pretrained=str(toy_folder), device="cpu", batch_size="3")
    backwards.task_dict = {"noise": {"test": docs(5)}}
    assert backwards.generate_until(requests(5, max_new_tokens=4)[::-1]) == dense[::-1]


def test_settings_that_mean_nothing_are_told_once(chat_model, toy_folder):
    asked = chat_model(pretrained=str(toy_folder), device="cpu")
    asked.task_dict = {"noise": {"test": docs(3)}}
    asked.generate_until(requests(3, max_new_tokens=2, typo=1))
    said = importlib.import_module("loguru").logger.said
    assert len(said) == 1 and "noise: generation setting typo" in said[0]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"nosuch": 1}, "takes no argument nosuch; it takes pretrained, plan"),
        ({"batch_size": "auto"}, "batch_size is a whole number"),
        ({"plan": "vskip(budget=2)"}, "does not know its layers"),
        ({"plan": "vskip(layers=9)"}, "layer 9"),
        ({"plan": "nosuch(x=1)"}, "no method 'nosuch'"),
        ({"blind": "perhaps"}, "blind is true or false"),
        ({"dtype": "int8"}, "no data type 'int8'"),
        ({"pretrained": "no/such/folder"}, "no model 'no/such/folder'"),
    ],
)
def test_bad_arguments_are_refused(chat_model, toy_folder, arguments, match):
    with pytest.raises(ValueError, match=match):
        chat_model(**({"pretrained": str(toy_folder), "device": "cpu"} | arguments))


def test_a_plan_of_another_model_is_used_only_if_forced(chat_model, toy_folder, tmp_path):
    plan = tmp_path / "plan.json"
    methods = [{"name": "vskip", "layers": [1]}]
    plan.write_text(json.dumps({"schema": 1, "methods": methods, "model": {"model_type": "other"}}))
    with pytest.raises(ValueError, match="another model"):
        chat_model(pretrained=str(toy_folder), device="cpu", plan=str(plan))
    assert chat_model(pretrained=str(toy_folder), device="cpu", plan=str(plan), force=True)


def test_a_process_that_fails_beside_others_ends_them_all(chat_model, toy_folder, capsys):
    asked = chat_model(pretrained=str(toy_folder), device="cpu")
    asked.task_dict = {"noise": {"test": []}}
    with pytest.raises(IndexError):
        asked.generate_until(requests(1))
    asked._world_size = 2
    with pytest.raises(SystemExit):
        asked.generate_until(requests(1))
    assert "IndexError" in capsys.readouterr().err


def test_other_kinds_of_task_are_refused(chat_model, toy_folder):
    asked = chat_model(pretrained=str(toy_folder), device="cpu")
    with pytest.raises(ValueError, match="likelihoods"):
        asked.loglikelihood([])
    with pytest.raises(ValueError, match="several rounds"):
        asked.generate_until_multi_round([])
