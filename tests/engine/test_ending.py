"""The next token is read at the last row that is left, as in a prompt that really is shorter.

Shape letters: B batch, N rows, V vocabulary.
"""

from __future__ import annotations

import pytest
import torch

from saccade import apply
from support.models import FACTORIES, FIRST_WORD, SQUARE, WIDE
from support.reference import gap
from support.shortened import shortened

MIXED = [[4, SQUARE], [2, SQUARE, 3], [5], [1, SQUARE, 2, WIDE], [SQUARE, 2], [WIDE]]
FAMILIES = (
    "llava-llama",
    "llava_next-mistral",
    "qwen2_5_vl",
    "qwen2_vl",
    "qwen3_vl",
    "llava_onevision",
    "internvl-qwen3",
)
SPECS = (
    "vtw(layer=2)",
    "vtw(layer=0)",
    "victor(layer=1,registers=2)",
    "fastv(layer=1,keep=0.5)+vtw(layer=2)",
    "random(keep=0.3)",
    "random(keep=0)",
    "divprune(keep=0.3)",
    "visionzip(dominant=2,contextual=2)",
    "pool(factor=2)",
    "fastv(layer=1,keep=0.3)",
    "fastv(layer=2,keep=0)",
    "pyramiddrop(layers=1/2,keep=0.5)",
    "sparsevlm(tokens=0.4,layers=1/2,recycle=false)",
    "dart(layer=1,keep=0.5,pivots=2)",
    "random(keep=0.5)+fastv(layer=2,keep=0.4)",
)
CLOSING = ("divprune(keep=0.3,position_policy=compact)", "fastv(layer=1,keep=0.3,position_policy=compact)")


@torch.no_grad()
def check_rows(tiny, spec: str, padding: str = "left") -> None:
    """Every row of a batch that anything is left before, against each sample's shortened prompt."""
    inputs, singles = tiny.batch(MIXED, padding, seed=1), tiny.singles(MIXED, seed=1)
    with apply(tiny.model, spec):
        ours = tiny.model(**inputs).logits
        last = tiny.model(**inputs, logits_to_keep=2).logits
    assert gap(last, ours[:, -2:]) < 1e-6
    for b, given in enumerate(singles):
        found = shortened(tiny, spec, given)
        if found is None:
            continue
        logits, rows = found
        mine = ours[b, inputs["attention_mask"][b].bool()]
        at = torch.searchsorted(rows, torch.arange(len(mine)), right=True) - 1
        if len(rows):
            assert gap(mine[at >= 0], logits[at[at >= 0]]) < 2e-5, b


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_dropped_row_shows_the_last_one_left_before_it(name, spec):
    check_rows(FACTORIES[name](layers=3), spec)


@pytest.mark.parametrize("spec", [*CLOSING, "vtw(layer=1)", "pyramiddrop(layers=1/2,keep=0.5)"])
@pytest.mark.parametrize("name", ["llava-llama", "llava_next-llama", "internvl-qwen2", "llava_onevision"])
def test_with_padding_on_the_right_and_positions_that_close_up(name, spec):
    check_rows(FACTORIES[name](layers=3), spec, padding="right")


@pytest.mark.parametrize(
    "spec", ["vtw(layer=1)", "divprune(keep=0.3)", "fastv(layer=1,keep=0.3)", CLOSING[0]]
)
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_generation_goes_on_from_there(name, spec):
    tiny, spec = (
        FACTORIES[name](layers=3),
        spec if "qwen" not in name[:4] else spec.replace("compact", "keep"),
    )
    inputs, singles = tiny.batch(MIXED[:4], "left", seed=1), tiny.singles(MIXED[:4], seed=1)
    go = dict(max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True)
    with apply(tiny.model, spec):
        ours = tiny.model.generate(**inputs, **go)
    said = ours.sequences[:, inputs["input_ids"].shape[1] :]
    for b, given in enumerate(singles):
        found = shortened(tiny, spec, given, said[b : b + 1, :-1])
        if found is None:
            continue
        logits = found[0][-4:]
        assert gap(torch.stack([step[b] for step in ours.logits]), logits) < 2e-5, b
        assert (logits[:, FIRST_WORD:].argmax(-1) + FIRST_WORD).tolist() == said[b].tolist()
