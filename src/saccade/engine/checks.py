"""The check of a forward: what a plan cannot honour is refused before anything runs."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

import torch
from torch import nn
from transformers import GenerationMixin

from saccade.core.program import Program
from saccade.engine.cache import CACHE_LAYERS, Cache
from saccade.families import Family
from saccade.families.base import ADVICE, checkpoints, is_replica

_GENERATE, _PREFILL, _ASSISTED = (
    inspect.unwrap(one).__code__.co_qualname
    for one in (GenerationMixin.generate, GenerationMixin._prefill, GenerationMixin._assisted_decoding)
)
"""What ``generate`` is made of, as a stack of calls names it."""


def check_supported(
    family: Family, decoder: nn.Module, kwargs: dict[str, Any], rows: torch.Tensor, cache: Cache | None
) -> int:
    """Refuses what a routed forward cannot honour.

    Returns:
        Rows of the full sequence before this forward.

    Raises:
        ValueError: Naming what is not supported and what to do.
    """
    if cache is not None:
        wrong = next((layer for layer in cache.layers if type(layer) not in CACHE_LAYERS), None)
        if wrong is not None:
            raise ValueError(
                f"saccade plans need a dynamic KV cache, this one has a {type(wrong).__name__}; "
                "leave cache_implementation unset"
            )
    if cache is not None and decoder.training and checkpoints(decoder):
        raise ValueError(
            "gradient checkpointing in training mode keeps no KV cache, so that tokens would be made without "
            "their prompt: call model.eval() before they are; in a training step leave the cache out "
            "(use_cache=False)"
        )
    past = cache.get_seq_length() if cache is not None else 0
    config: Any = decoder.config
    if kwargs.get("output_attentions") or config.output_attentions:
        raise ValueError("output_attentions is not available under a plan; remove the plan, or leave it off")
    mask = kwargs.get("attention_mask")
    if isinstance(mask, dict) or (isinstance(mask, torch.Tensor) and mask.ndim != 2):
        raise ValueError("a plan takes no ready-made attention mask; give the 2-D padding mask")
    positions = kwargs.get("position_ids")
    if mask is None and past == 0 and positions is not None and (positions.ndim == 2 or len(positions) == 4):
        text = positions if positions.ndim == 2 else positions[0]
        if bool((text.diff(dim=-1) != 1).any()):
            raise ValueError("packed sequences are not supported under a plan; give one sequence per sample")
    total = past + rows.shape[1]
    if mask is not None and tuple(mask.shape) != (rows.shape[0], total):
        raise ValueError(
            f"the attention mask is {tuple(mask.shape)}, but rows, cached ones included, are "
            f"{rows.shape[0]} x {total}; give the mask of the full sequence"
        )
    for number in range(config.num_hidden_layers):
        window = family.causal_within(decoder, number)
        if window is not None and total >= window:
            raise ValueError(
                f"layer {number} sees a sliding window of {window} rows and the sequence has {total}; on "
                "this model plans support sequences shorter than the window"
            )
    return past


def check_router(family: Family, decoder: nn.Module, kwargs: Mapping[str, Any], program: Program) -> None:
    """Refuses logits of routers where some rows are routed to no expert.

    They would be of fewer rows than the attention mask, by which the stock loss that balances experts weighs
    them, row by row.

    Raises:
        ValueError: If they are asked for.
    """
    if not family.shows_router(decoder, kwargs):
        return
    fed = (one.ffn_BN for one in dict.fromkeys(program.route.layers))
    if program.stages or not all(bool(rows_BN.all()) for rows_BN in fed):
        raise ValueError(
            "under this plan some rows pass no expert, so that router logits, and the loss that balances "
            "experts by them, are not of every row: leave output_router_logits off, or choose a plan that "
            "skips no FFN"
        )


def refuse_replicas(module: nn.Module) -> None:
    """Refuses the copies that ``DataParallel`` makes of a model: their layers would run those of the model.

    Raises:
        ValueError: Saying what to take instead.
    """
    if is_replica(module):
        raise ValueError(f"a model with a saccade plan is not run by DataParallel: {ADVICE}")


def refuse_split_prompts(spec: str, looks_at_end: bool) -> None:
    """Refuses a prompt that ``generate`` shows in pieces, with guessed tokens after it, or for every token.

    Nothing that a core is given tells, so whoever called it is asked: it may be another model than the one
    that the plan was put on.

    Args:
        spec: The plan, for the message.
        looks_at_end: Whether the end of the prompt counts, where assisted decoding puts guessed tokens and
            decoding without a cache those that were said.

    Raises:
        ValueError: Saying what to leave out.
    """
    for step, names in _generating():
        if step == _PREFILL:
            if _in_chunks(names):
                raise ValueError(
                    f"{spec} chooses rows by the whole prompt, so it needs the prompt in one piece: "
                    "leave prefill_chunk_size unset"
                )
            if looks_at_end and not names["model_kwargs"].get("use_cache", True):
                raise ValueError(
                    f"{spec} decides once, at the end of the prompt, and without a cache generate would have "
                    "it decide anew for every token: leave use_cache on"
                )
        elif looks_at_end:
            raise ValueError(
                f"{spec} chooses rows by the whole prompt, so assisted decoding is not supported with it"
            )


def refuse_split_pictures(family: str) -> None:
    """Refuses a prompt that ``generate`` shows in chunks where rows of a picture see rows behind them.

    The stock model hides from them there what the next chunk brings, and answers otherwise than in one piece.

    Args:
        family: The model's family, for the message.

    Raises:
        ValueError: Saying what to leave out.
    """
    if chunked_prompt() is not None:
        raise ValueError(
            f"rows of a picture see rows behind them ({family}), which chunks hide from them: "
            "leave prefill_chunk_size unset"
        )


def chunked_prompt() -> torch.Tensor | None:
    """Token ids of the whole prompt where ``generate`` shows it in chunks just now; None elsewhere."""
    chunks = (names for step, names in _generating() if step == _PREFILL and _in_chunks(names))
    found = next(chunks, None)
    return None if found is None else found["input_ids"]


def _generating() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Prefill and assisted decoding of the ``generate`` that is calling, innermost first, with their names.

    It ends at ``generate`` itself: an assistant's own generation is no part of the one that it assists.
    """
    caller: FrameType | None = sys._getframe(1)
    while caller is not None and (step := caller.f_code.co_qualname) != _GENERATE:
        if step in (_PREFILL, _ASSISTED):
            yield step, caller.f_locals
        caller = caller.f_back


def _in_chunks(names: Mapping[str, Any]) -> bool:
    config = names.get("generation_config")
    return config is not None and config.prefill_chunk_size is not None
