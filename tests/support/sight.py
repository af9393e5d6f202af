"""Which rows each row sees in the stock models, in words of their own; it uses nothing of saccade.

Shape letters: B batch, N rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from support.models import decoder_of
from support.recurrent import last_norm


def told_kinds(given: Any) -> torch.Tensor | None:
    """What a core is told of the kinds of rows, among its arguments by name."""
    return given.get("token_type_ids", given.get("mm_token_type_ids"))


def kind_of(config: Any, number: int) -> str:
    """``sliding_attention``, ``full_attention``, or another where kinds turn by other tables."""
    text = config.get_text_config()
    if text.model_type == "molmo2_text" and number not in text.rope_scaling_layers:
        return "unscaled"
    kinds = getattr(text, "layer_types", None)
    if kinds and kinds[number] == "chunked_attention":
        # Its cache lets go as where a window slides.
        return "sliding_attention"
    if getattr(text, "sliding_window", None) is None:
        return "full_attention"
    return kinds[number] if kinds else "sliding_attention"


def span(config: Any) -> int:
    """How far back a row sees at most where a window or parts bound it."""
    text = config.get_text_config()
    return getattr(text, "sliding_window", None) or text.attention_chunk_size


def held(config: Any, layers: Sequence[Sequence[int]]) -> list[int]:
    """Columns of every layer's cache, from the rows that each sample has had there.

    A window lets go of what no later row sees, as far as all samples have rows to let go of.
    """
    found = []
    for number, counts in enumerate(layers):
        most = 0 if _recurs(config, number) else max(counts)
        if kind_of(config, number) == "sliding_attention":
            most = min(most, span(config) - 1 + most - min(counts))
        found.append(most)
    return found


def held_after(
    config: Any, first: Sequence[Sequence[int]], second: Sequence[Sequence[int]], more: int
) -> list[int]:
    """The same after two forwards, each padded to its longest sample, and so many rows of every sample."""
    found = []
    for number, turns in enumerate(zip(first, second, strict=True)):
        most, padding = sum(map(max, turns)) + more, sum(max(rows) - min(rows) for rows in turns)
        if kind_of(config, number) == "sliding_attention":
            most = min(most, span(config) - 1 + padding)
        found.append(0 if _recurs(config, number) else most)
    return found


def _recurs(config: Any, number: int) -> bool:
    kinds = getattr(config.get_text_config(), "layer_types", None) or ()
    return number < len(kinds) and kinds[number] in ("linear_attention", "conv")


def sees_BNN(
    config: Any, number: int, kinds_BN: torch.Tensor | None, rows: int, place_BN: torch.Tensor | None = None
) -> torch.Tensor:
    """Which row (second) sees which (last), padding aside.

    Args:
        config: The model's configuration.
        number: Layer.
        kinds_BN: ``token_type_ids`` as the model was given them, perhaps of fewer rows; or None.
        rows: How many rows there are.
        place_BN: Where each stands, by which windows are counted; its number if omitted.
    """
    place_BN = torch.arange(rows)[None] if place_BN is None else place_BN
    before = torch.ones(rows, rows, dtype=torch.bool).tril()[None]
    near = torch.ones_like(before)
    if kind_of(config, number) == "sliding_attention":
        chunk = getattr(config.get_text_config(), "attention_chunk_size", None)
        near = place_BN[:, :, None] - place_BN[:, None, :] < span(config)
        if chunk is not None:
            near = place_BN[:, :, None] // chunk == place_BN[:, None, :] // chunk
    both = torch.zeros_like(before)
    if kinds_BN is not None and config.model_type == "molmo2":
        # All pictures of a turn are one block, the marks among their rows with them.
        told_BN = torch.nn.functional.pad(kinds_BN, (0, rows - kinds_BN.shape[1]))
        both = (told_BN[:, :, None] == told_BN[:, None, :]) & (told_BN > 0)[:, None, :]
    if kinds_BN is not None and config.model_type in ("gemma3", "paligemma"):
        both = torch.stack([_both(config.model_type, kinds.tolist(), rows) for kinds in kinds_BN])
    return (before & near) | both if config.model_type == "paligemma" else (before | both) & near


def _both(family: str, kinds: list[int], rows: int) -> torch.Tensor:
    """Pairs of rows that see each other both ways: an image's, or all of a prompt's."""
    found = torch.zeros(rows, rows, dtype=torch.bool)
    start = 0
    for row in range(len(kinds) + 1):
        if row < len(kinds) and kinds[row] == kinds[start]:
            continue
        if kinds[start] == (1 if family == "gemma3" else 0):
            found[start:row, start:row] = True
        start = row
    return found


def angles(decoder: Any, hidden: torch.Tensor, ids: torch.Tensor, number: int) -> Any:
    """The stock tables of a layer for some positions."""
    if decoder.config.model_type == "gemma3_text":
        return decoder.rotary_emb(hidden, ids, decoder.config.layer_types[number])
    if decoder.config.model_type == "molmo2_text" and number not in decoder.config.rope_scaling_layers:
        return decoder.rotary_emb_unscaled(hidden, ids)
    return decoder.rotary_emb(hidden, ids)


def last_logits(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    """What a stock model makes of the states after its last norm."""
    if not hidden.shape[1]:
        return hidden.new_zeros(*hidden.shape[:2], model.get_output_embeddings().out_features)
    ids = torch.full(hidden.shape[:2], 9)
    handle = last_norm(decoder_of(model)).register_forward_hook(lambda module, args, output: hidden)
    try:
        return model(input_ids=ids, use_cache=False).logits
    finally:
        handle.remove()
