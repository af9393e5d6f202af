"""Merged rows that keep their positions, against stock layers on the short sequence, positions with gaps."""

from __future__ import annotations

import pytest
import torch

import saccade
from saccade import skip_vision
from saccade.engine.cache import kv_lengths
from saccade.engine.replay import replaying
from saccade.glance import suite
from saccade.skip_vision import SkipVisionConfig, wrapped
from skip_vision.slow import dense, merge_groups
from skip_vision.small import PICTURE, cos, made
from support.models import IMAGE
from support.reference import gap

FIRST, SKIPPED, STEPS = 10, 16, 4


def by_hand(model, row: int, merge: str, given) -> tuple[list[torch.Tensor], list[int], list[bool]]:
    """Embeddings, positions and whether the FFN is skipped, of every row that is left of one prompt."""
    seen = []
    hook = wrapped(model).abstractor.register_forward_hook(
        lambda module, args, output: seen.append(output[0])
    )
    with torch.no_grad():
        model(**given)
    hook.remove()
    fs, ls, lv = (row in rows for rows in ((6, 8, 10), (4, 6, 7, 8, 9, 10), (9, 10)))
    image = list(seen[0])
    start, end = FIRST + fs, FIRST + fs + SKIPPED - lv
    members = merge_groups(image[start:end], 6 - lv, merge)
    means = {
        start + home: torch.stack([image[start + m] for m in ms]).mean(0) for home, ms in members.items()
    }
    rows, positions, skips, place = [], [], [], 0
    table = model.get_input_embeddings().weight
    for position, token in enumerate(given["input_ids"][0].tolist()):
        if token != IMAGE:
            rows.append(table[token])
        else:
            now, place = place, place + 1
            merges = start <= now < end
            if merges and now not in means:
                continue
            rows.append(means[now] if merges else image[now])
        positions.append(position)
        skips.append(token == IMAGE and merges and row > 1)
    assert place == len(image) == FIRST + SKIPPED + fs + ls
    return rows, positions, skips


def short_forward(model, rows, positions, skips) -> torch.Tensor:
    """Logits of stock layers on these rows."""
    keep = ~torch.tensor(skips)[None, :, None]
    hooks = [
        layer.mlp.register_forward_hook(lambda module, args, output: output * keep[:, : output.shape[1]])
        for layer in model.model.language_model.layers
    ]
    try:
        with dense(model), torch.no_grad():
            # With a mask of ones: without one the stock loop takes gaps for borders of packed sequences.
            out = model.model.language_model(
                inputs_embeds=torch.stack(rows)[None],
                position_ids=torch.tensor([positions]),
                attention_mask=torch.ones(1, len(rows), dtype=torch.long),
                use_cache=False,
            )
            return model.lm_head(out.last_hidden_state)
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize(
    ("row", "merge"),
    [*((row, "similarity") for row in (1, 7, 8, 10)), (1, "mean"), (10, "mean")],
)
def test_a_prompt_and_its_answer_are_those_of_the_short_sequence(row, merge):
    changed = cos(row).to_dict() | {"merge_order": "kept", "merge": merge}
    tiny, loaded = made(SkipVisionConfig.from_dict(changed))
    given = tiny.batch([[3, PICTURE, 5]])
    length = given["input_ids"].shape[1]
    assert loaded.shape.visual == length - 8
    rows, positions, skips = by_hand(tiny.model, row, merge, given)
    out = tiny.model.generate(
        **given, max_new_tokens=STEPS, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    answer = out.sequences[0, length:]
    table = tiny.model.get_input_embeddings().weight
    rows += [table[token] for token in answer[:-1]]
    positions += range(length, length + STEPS - 1)
    skips += [False] * (STEPS - 1)
    theirs = short_forward(tiny.model, rows, positions, skips)[0, -STEPS:]
    assert gap(torch.stack(out.logits, 1)[0], theirs) < 1e-5
    assert set(kv_lengths(out.past_key_values)) == {len(rows)}
    with torch.no_grad(), dense(tiny.model):
        stock = tiny.model(**given).logits[0, -1]
    assert (stock - out.logits[0][0]).abs().max() > 1e-3


def test_a_batch_equals_its_singles_and_trains():
    tiny, _ = made(SkipVisionConfig.from_dict(cos(10).to_dict() | {"merge_order": "kept"}))
    scenes = [[3, PICTURE, 5], [4], [2, PICTURE, PICTURE, 6]]
    batch = tiny.batch(scenes)
    with torch.no_grad():
        logits = tiny.model(**batch).logits
        for number, single in enumerate(tiny.singles(scenes)):
            assert gap(logits[number, -1], tiny.model(**single).logits[0, -1]) < 1e-5
    labels = batch["input_ids"].masked_fill(
        (batch["input_ids"] == IMAGE) | (batch["attention_mask"] == 0), -100
    )
    tiny.model(**batch, labels=labels).loss.backward()
    abstractor = wrapped(tiny.model).abstractor
    assert all(bool(p.grad.abs().sum() > 0) for p in abstractor.scorer.parameters())


def test_a_folder_brings_it_back_and_its_layers_are_scored_under_it(tmp_path):
    config = SkipVisionConfig(retained=30, merged=20, merge_order="kept")
    loaded = skip_vision.wrap(saccade.load("glance"), config)
    samples = suite.samples("count", 2)
    skip_vision.save(loaded, tmp_path / "model")
    again = saccade.load(str(tmp_path / "model"))
    assert wrapped(again.model).attachment.plan == wrapped(loaded.model).attachment.plan
    batch = saccade.models.inputs(loaded, samples)
    with torch.no_grad():
        assert torch.equal(loaded.model(**batch).logits, again.model(**batch).logits)
    # Its own plan decides on the way: every layer takes a forward of its own.
    plan = saccade.calibrate(again.model, again.processor, samples, budget=2)
    assert not plan.calibration["cost"] and plan.calibration["scores"]["mean"][0] > 0
    with pytest.raises(ValueError, match="decides on the way"), replaying(again.model):
        pass
    assert wrapped(again.model).attachment.plan == wrapped(loaded.model).attachment.plan


@pytest.mark.parametrize(
    "change",
    [{"merged": 1}, {"merged": 2, "local": True}, {"row": 0, "merged": 9, "registers": 4}],
)
def test_what_does_not_go_with_it_is_refused(change):
    with pytest.raises(ValueError, match="merge_order=kept goes with"):
        SkipVisionConfig.from_dict({"merge_order": "kept"} | change)
