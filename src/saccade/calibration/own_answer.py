"""The model's own answer behind its prompt, so that every token of it can be scored, not the first alone.

Shape letters: B batch (1 here), N rows, A appended rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from saccade.asking import greedy, stop_tokens
from saccade.families import find


def with_answer(model: nn.Module, inputs: Mapping[str, Any], tokens: int) -> tuple[dict[str, Any], int]:
    """A prompt with the model's greedy answer appended, and how many rows at its end choose a token of it.

    The row before the end of the answer is one of them: whether an answer stops belongs to it.

    Args:
        model: A VLM with its generation configuration, under no plan but its own.
        inputs: Keyword arguments of the model for one prompt without padding.
        tokens: Most tokens of the answer that are looked at; with 1 the prompt stays as it is.

    Returns:
        The longer inputs, and between 1 and ``tokens`` rows.
    """
    if tokens == 1:
        return dict(inputs), 1
    rows = inputs["input_ids"].shape[1]
    with torch.no_grad():
        whole_BN = model.generate(**inputs, **greedy(tokens - 1))  # type: ignore[operator]
    answer_BA = whole_BN[:, rows:]
    # A placeholder in an answer would be read as an image that is not there: the answer ends before it.
    family = find(model)
    visual = family.visual_mask(model, answer_BA)[0].nonzero()
    if len(visual):
        answer_BA = answer_BA[:, : int(visual[0])]
    if answer_BA.shape[1] and int(answer_BA[0, -1]) in stop_tokens(model):
        answer_BA = answer_BA[:, :-1]
    return extended(inputs, answer_BA, family.answer_type), answer_BA.shape[1] + 1


def extended(inputs: Mapping[str, Any], answer_BA: torch.Tensor, answer_type: int) -> dict[str, Any]:
    """Inputs with text tokens appended: seen by the attention mask, an answer by every other mark of rows."""
    marks = {"attention_mask": 1, "token_type_ids": answer_type, "mm_token_type_ids": 0}
    found = dict(inputs)
    for name, value in inputs.items():
        if name == "input_ids" or name in marks:
            more = answer_BA if name == "input_ids" else torch.full_like(answer_BA, marks[name])
            found[name] = torch.cat([value, more.to(value)], dim=1)
    return found
