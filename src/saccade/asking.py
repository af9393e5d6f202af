"""Asking a model: the arguments of ``generate`` that every command uses, and what is made of its tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

from saccade.engine import attached
from saccade.opening.errors import reason
from saccade.opening.loaded import Loaded

OTHER_WAYS = {
    *("cache_implementation", "prefill_chunk_size", "prompt_lookup_num_tokens", "max_time", "stop_strings"),
    *("penalty_alpha", "dola_layers"),
}
"""Settings of a generation configuration that say how an answer is computed, or when it is broken off."""
USUAL_SETTINGS = {
    *("bos_token_id", "eos_token_id", "pad_token_id", "do_sample", "temperature", "top_p", "top_k"),
    *("transformers_version", "use_cache"),
}
"""Settings that any checkpoint may have, and that cannot fail."""


@cache
def _other_ways() -> tuple[str, ...]:
    """Those of ``OTHER_WAYS`` that this release of transformers knows."""
    from transformers import GenerationConfig

    return tuple(OTHER_WAYS & vars(GenerationConfig()).keys())


def greedy(max_new_tokens: int) -> dict[str, Any]:
    """Arguments of ``generate`` with which every command asks a model.

    The checkpoint's generation configuration stands: ends of a turn, penalties, banned tokens. What would
    make something else than one greedy answer of it is off (Qwen-VL models sample by default).

    Args:
        max_new_tokens: Longest answer.
    """
    off: dict[str, Any] = dict.fromkeys(_other_ways())
    off |= {"do_sample": False, "num_beams": 1, "num_return_sequences": 1, "return_dict_in_generate": False}
    # Folders that were saved in training may say otherwise; the answer is the same, and plans need the cache.
    return {**off, "use_cache": True, "max_new_tokens": max_new_tokens}


def ask(loaded: Loaded, inputs: Mapping[str, Any], max_new_tokens: int, **how: Any) -> Any:
    """What ``generate`` gives as every command asks a model (``greedy``).

    Args:
        loaded: The model.
        inputs: The prompts.
        max_new_tokens: Longest answer.
        how: More arguments of the model's ``generate``.

    Raises:
        LogitsNotFinite: If logits are not finite: the tokens chosen by them say nothing.
        ValueError: If the model does not answer.
    """
    seen, said = FiniteLogits(), loaded.model.generation_config
    settings = greedy(max_new_tokens) | {"logits_processor": [seen]}
    if said.stop_strings:
        settings |= {"stop_strings": said.stop_strings, "tokenizer": loaded.processor.tokenizer}
    try:
        made = loaded.model.generate(**inputs, **settings | how)
    except (AssertionError, ImportError, LookupError, TypeError) as error:
        unusual = sorted(said.to_diff_dict().keys() - USUAL_SETTINGS - OTHER_WAYS)
        if not unusual:
            raise
        raise ValueError(
            f"{loaded.name} does not answer ({type(error).__name__}: {reason(error)}); its "
            f"generation_config.json holds {', '.join(unusual)}: do they fit the model?"
        ) from None
    if seen.broken:
        raise LogitsNotFinite(not_finite(loaded.model))
    return made


class LogitsNotFinite(ValueError):
    """The tokens that a model chose say nothing; of other prompts they may."""


class FiniteLogits:
    """A logits processor that changes none, and notes those that are not finite without waiting for them."""

    def __init__(self) -> None:
        self._broken: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        # Banned tokens have -inf, which is as it should be.
        broken = ~(scores < math.inf).all()
        self._broken = broken if self._broken is None else self._broken | broken
        return scores

    @property
    def broken(self) -> bool:
        """Whether any were not finite; waits for the device."""
        return self._broken is not None and bool(self._broken)


def not_finite(model: Any) -> str:
    """What to say of logits that are not finite."""
    own = attached(model)
    under = f" under {own.plan.spec}" if own is not None and own.plan.methods else ""
    return (
        f"the model's logits are not finite{under} ({model.dtype}), so that its answers say nothing: check "
        "its weights and configuration, or take another --dtype (float32)"
    )


def stop_tokens(model: Any) -> frozenset[int]:
    """Tokens that end an answer, as the model's generation configuration has them."""
    ends = model.generation_config.eos_token_id
    return frozenset(ends if isinstance(ends, list) else () if ends is None else (ends,))


def answers(loaded: Loaded, output_ids: torch.Tensor, prompt_rows: int) -> list[str]:
    """The new text of each sample of a ``generate`` output (B, N).

    Args:
        loaded: The model and its processor.
        output_ids: Tokens of the prompt and the answer.
        prompt_rows: Rows of the prompt, padding included.
    """
    texts = loaded.processor.batch_decode(output_ids[:, prompt_rows:], skip_special_tokens=True)
    return [text.strip() for text in texts]
