"""What a training step, a prefill and a decoded token take under each row, paired with the dense row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from saccade import models, skip_vision
from saccade.engine import apply
from saccade.engine.cache import kv_bytes
from saccade.glance import suite
from saccade.measure.clock import now
from saccade.measure.counter import dispatched_flops
from saccade.measure.results import PairedRuns
from saccade.models import Loaded
from saccade.research.studies.trained.ablation import Ablation, AblationRow
from saccade.training.config import parts_named
from saccade.training.parts import choose


def compare_steps(
    base: Path,
    ablation: Ablation,
    rows: Sequence[AblationRow],
    *,
    device: str | None = None,
    new_tokens: int = 16,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Times every row against the dense one: both run in this process, alternately, on the same questions.

    A training step is forward and backward of the recipe's batch and parts (float32, one question an image,
    no optimiser, whose work is the same for all). Ratios are medians over pairs, with quartiles. The FLOPs of
    a step are those that torch dispatches, vision tower and head included.

    Args:
        base: Folder of the dense model that rows start from.
        ablation: The ablation; its recipe says how large batches are, and how many pairs are timed after one
            that warms up.
        rows: Rows of it to time.
        device: Where to time; None for the CPU.
        new_tokens: Tokens decoded per question.

    Yields:
        The name of a row, and what it takes.
    """
    recipe = ablation.recipe
    dense = _model(base, ablation.config(ablation.rows[0]), device)
    samples = suite.samples("list", recipe.batch, split="train", scale=ablation.model.scale)
    dense_flops = _step_flops(dense, samples, recipe.parts)
    for row in rows:
        loaded = _model(base, ablation.config(row), device)
        attached = apply(loaded.model, row.plan) if row.plan is not None else None
        pairs = [
            [_once(side, samples, recipe.parts, new_tokens) for side in (dense, loaded)]
            for _ in range(recipe.repeats + 1)
        ][1:]
        flops = PairedRuns.of([dense_flops], [_step_flops(loaded, samples, recipe.parts)])
        if attached is not None:
            attached.remove()
        found = {
            name: asdict(
                PairedRuns.of(*([side[name] for side in sides] for sides in zip(*pairs, strict=True)))
            )
            for name in ("train_s", "prefill_s", "decode_s", "kv_bytes")
        }
        yield row.name, found | {"train_flops": asdict(flops)}


def _model(base: Path, config: skip_vision.SkipVisionConfig, device: str | None) -> Loaded:
    # Shipped weights are in half precision, in which a CPU is several times as slow.
    loaded = models.load(str(base), device=device or "cpu", dtype="float32")
    return skip_vision.wrap(loaded, config)


def _questions(loaded: Loaded, samples: Sequence[Any]) -> tuple[Any, torch.Tensor]:
    """A batch, and labels at its text rows."""
    batch = models.inputs(loaded, samples)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    return batch, labels.masked_fill(loaded.family.visual_mask(loaded.model, batch["input_ids"]), -100)


def _train(model: Any, batch: Any, labels: torch.Tensor) -> None:
    model(**batch, labels=labels, use_cache=False).loss.backward()


def _learning(loaded: Loaded, parts: Sequence[str]) -> None:
    """Lets the parts that train have gradients."""
    loaded.model.train()
    choose(loaded.model, loaded.family, parts_named(parts))


def _step_flops(loaded: Loaded, samples: Sequence[Any], parts: Sequence[str]) -> float:
    """FLOPs of a training step."""
    model = loaded.model
    batch, labels = _questions(loaded, samples)
    _learning(loaded, parts)
    found = dispatched_flops(lambda: _train(model, batch, labels))
    model.zero_grad(set_to_none=True)
    return float(found)


def _once(loaded: Loaded, samples: Sequence[Any], parts: Sequence[str], new_tokens: int) -> dict[str, float]:
    model = loaded.model
    batch, labels = _questions(loaded, samples)
    _learning(loaded, parts)
    start = now(model.device)
    _train(model, batch, labels)
    trained = now(model.device) - start
    model.zero_grad(set_to_none=True)
    model.eval()
    with torch.inference_mode():
        start = now(model.device)
        out = model(**batch, use_cache=True, logits_to_keep=1)
        prefill = now(model.device) - start
        held = kv_bytes(out.past_key_values)
        cache, mask = out.past_key_values, batch["attention_mask"]
        token = out.logits[:, -1:].argmax(-1)
        start = now(model.device)
        for _ in range(new_tokens):
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
            positions = mask.sum(1, keepdim=True) - 1
            out = model(
                input_ids=token,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
            token = out.logits[:, -1:].argmax(-1)
        decode = (now(model.device) - start) / new_tokens
    return {"train_s": trained, "prefill_s": prefill, "decode_s": decode, "kv_bytes": float(held)}
