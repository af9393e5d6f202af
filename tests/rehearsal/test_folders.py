"""The small copies are laid out as on the hub, and stock transformers reads them whole."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, AutoTokenizer

from rehearsal import checkpoint, layout
from rehearsal.cases import CASES, PLANS
from saccade.families import FAMILIES
from saccade.methods import METHODS
from saccade.plans.spec import parse

CHECKPOINTS = checkpoint.every()


@pytest.fixture(params=list(CHECKPOINTS))
def known(request) -> checkpoint.Checkpoint:
    return CHECKPOINTS[request.param]


def test_every_family_has_a_checkpoint():
    assert {one.family for one in CHECKPOINTS.values()} == set(FAMILIES)


def test_every_value_says_how_sure_it_is(known):
    assert set(known.sure) == {*known.files, "tokenizer", "chat", "weights"}


def test_case_names_are_told_apart():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert all(before in names[: names.index(case.name)] for case in CASES for before in case.after)


def test_the_plans_are_of_methods_that_save_different_things():
    """Of each group one: a composition names two methods, the others one each, no two the same."""
    named = {group: [method.name for method in parse(spec)] for group, spec in PLANS.items()}
    assert len(named.pop("composed")) == 2
    single = [names[0] for names in named.values()]
    assert len(set(single)) == len(single) and set(single) <= set(METHODS)


def test_weights_lie_in_shards_under_the_hubs_names(known, hub_folder):
    folder = hub_folder(known)
    index = json.loads((folder / "model.safetensors.index.json").read_text("utf-8"))["weight_map"]
    assert len(set(index.values())) > 1
    begun = known.weights["names"]
    assert all(any(name.startswith(one) for one in begun) for name in index)
    assert all(any(name.startswith(one) for name in index) for one in begun)
    for file in set(index.values()):
        with safe_open(folder / file, "pt") as shard:
            for name in shard.keys():  # noqa: SIM118 - not a dictionary
                assert index[name] == file
                others = known.weights.get("others", {}).items()
                kind = next((kind for end, kind in others if name.endswith(end)), known.weights["dtype"])
                assert shard.get_tensor(name).dtype == getattr(torch, kind)


def test_stock_transformers_reads_every_tensor(known, hub_folder):
    _, told = AutoModelForImageTextToText.from_pretrained(
        hub_folder(known), dtype="auto", output_loading_info=True
    )
    assert not any(told.values()), told


def test_files_are_those_of_the_hub(known, hub_folder):
    folder = hub_folder(known)
    for path, data in known.files.items():
        written = json.loads((folder / path).read_text("utf-8"))
        if path == "config.json":
            assert written.keys() == data.keys() | known.small.get("", {}).keys()
        else:
            assert written == data
    for name in known.chat["files"]:
        text = (folder / name).read_text("utf-8")
        held = json.loads(text)["chat_template"] if name.endswith(".json") else text
        assert held == layout.template(known)


def test_special_tokens_have_the_hubs_ids(known, hub_folder):
    tokenizer = AutoTokenizer.from_pretrained(hub_folder(known))
    special = known.tokenizer["special"]
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in special} == dict(special)
    for token in special:
        assert special[token] in tokenizer(f"a{token}b").input_ids
    # A question comes back whole, also with letters that no small table has whole.
    text = "What is 7 \u00d7 6?\nIt's 42."
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True).strip() == text
