"""Teacher forcing under skip KV-cache: how likely the right answer is, token by token, once rows have left.

The first token of an answer is chosen before anything leaves the cache, so answers of one token cannot show
what skip KV-cache costs. Here every later token of the reference is scored on the cache that decoding has.

Shape letters: B batch, A tokens of an answer.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch

from saccade import models
from saccade.evaluation.statistics import Z95
from saccade.inputs.samples import Sample
from saccade.models import Loaded


@torch.inference_mode()
def surprise(loaded: Loaded, samples: Sequence[Sample], batch_size: int = 32) -> list[float]:
    """Negative log-likelihood of the reference per token after the first, in nats, sample by sample.

    Args:
        loaded: The model with its plan.
        samples: Questions whose reference has two tokens at least, the end of the answer counted.
        batch_size: Questions of equally long references that are asked together.

    Raises:
        ValueError: If a reference is a single token.
    """
    tokenizer: Any = loaded.processor.tokenizer
    ends = tokenizer.eos_token_id
    groups: dict[int, list[int]] = defaultdict(list)
    ids = [[*tokenizer(s.answer, add_special_tokens=False).input_ids, ends] for s in samples]
    for place, answer in enumerate(ids):
        if len(answer) < 2:
            raise ValueError(f"sample {samples[place].id} has an answer of one token; nothing follows it")
        groups[len(answer)].append(place)
    found = [0.0] * len(samples)
    for length, places in groups.items():
        for start in range(0, len(places), batch_size):
            part = places[start : start + batch_size]
            batch = models.inputs(loaded, [samples[i] for i in part])
            answer_BA = torch.tensor([ids[i] for i in part], device=loaded.device)
            mask = torch.nn.functional.pad(batch["attention_mask"], (0, length - 1), value=1)
            # As generate counts them: a prompt that is padded begins at 0 too.
            positions = (mask.cumsum(1) - 1).clamp_min(0)
            prompt = batch["input_ids"].shape[1]
            out = loaded.model(**batch, position_ids=positions[:, :prompt], use_cache=True, logits_to_keep=1)
            later = loaded.model(
                input_ids=answer_BA[:, :-1],
                attention_mask=mask,
                position_ids=positions[:, prompt:],
                past_key_values=out.past_key_values,
            )
            likely = later.logits.float().log_softmax(-1).gather(2, answer_BA[:, 1:, None])[..., 0]
            for place, value in zip(part, (-likely.mean(1)).tolist(), strict=True):
                found[place] = value
    return found


def compared(before: Sequence[float], after: Sequence[float]) -> dict[str, float]:
    """Mean surprise before and after something left the cache; the paired difference and its interval."""
    gaps = [b - a for a, b in zip(before, after, strict=True)]
    half = Z95 * statistics.stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else 0.0
    mean = statistics.fmean(gaps)
    return {
        "n": len(gaps),
        "before": statistics.fmean(before),
        "after": statistics.fmean(after),
        "difference": mean,
        "difference_low": mean - half,
        "difference_high": mean + half,
    }
