"""Prompts of different requests in one batch: read together, joined to those that are being answered.

Everything is left padded and masked, so that an answer does not change by what stands beside it.

Shape letters: B batch, T rows of the full sequence, N new rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from saccade.engine import kv_bytes
from saccade.engine.join import join, joins, part, parts
from saccade.models import Loaded, greedy

ROOM = 2**16
"""Tokens that the stock loop is told may follow a prompt; it writes none of them here."""


@dataclass(frozen=True, eq=False)
class ReadPrompts:
    """Sequences that a model has read, and what it says comes next.

    Attributes:
        logits_BV: Of the next token, in float32.
        cache: Keys and values of their rows.
        mask_BT: False where a row pads a shorter sequence.
        next_B: Position of the next token.
    """

    logits_BV: torch.Tensor
    cache: Any
    mask_BT: torch.Tensor
    next_B: torch.Tensor

    @property
    def joins(self) -> bool:
        """Whether they may stand beside others, and be taken apart."""
        return joins(self.cache)

    @property
    def parts(self) -> bool:
        """Whether the beginning of one can be taken out of it, for prompts that begin alike."""
        return parts(self.cache)


@dataclass(frozen=True, eq=False)
class Beginning:
    """The beginning of a prompt, with its pictures: what other questions about them share.

    Attributes:
        cache: Keys and values of its rows, without padding.
        ids: The tokens of its rows.
        position: Position of the row that follows.
    """

    cache: Any
    ids: tuple[int, ...]
    position: int

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return len(self.ids)

    @property
    def size(self) -> int:
        """Bytes of its keys and values."""
        return kv_bytes(self.cache)


def read(loaded: Loaded, batch: Any) -> ReadPrompts:
    """Reads whole prompts, under the plan that is on the model.

    Args:
        loaded: The model.
        batch: Inputs that `saccade.models.encode` made.
    """
    positions = loaded.family.positions(loaded.model.config, batch)

    def first(
        model: Any, input_ids: torch.Tensor, logits_processor: Any, generation_config: Any, **named: Any
    ) -> Any:
        del logits_processor, generation_config, named["stopping_criteria"]
        return model(
            **model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **named),
            return_dict=True,
        )

    # What lies around the first forward of an answer is the stock model's: positions, masks, the cache.
    out = loaded.model.generate(**batch, **greedy(ROOM), custom_generate=first)
    mask_BT = batch["attention_mask"].bool()
    return ReadPrompts(
        out.logits[:, -1].float(),
        out.past_key_values,
        mask_BT,
        torch.tensor(positions, device=mask_BT.device),
    )


def read_on(loaded: Loaded, beginnings: Sequence[Beginning], rests: Sequence[Sequence[int]]) -> ReadPrompts:
    """Reads what follows beginnings that were read before; no plan but one without methods is on the model.

    Args:
        loaded: The model.
        beginnings: Of every prompt.
        rests: The tokens that follow, at least one; none of them stands for a picture.
    """
    cache = join([part(one.cache, [0], 0, one.rows) for one in beginnings])
    device = loaded.device
    past, new = cache.get_seq_length(), max(map(len, rests))
    ids_BN = torch.zeros(len(rests), new, dtype=torch.long)
    at_BN, mask_BT = torch.zeros_like(ids_BN), torch.zeros(len(rests), past + new, dtype=torch.bool)
    for b, (one, rest) in enumerate(zip(beginnings, rests, strict=True)):
        ids_BN[b, new - len(rest) :] = torch.tensor(rest)
        at_BN[b, new - len(rest) :] = torch.arange(one.position, one.position + len(rest))
        mask_BT[b, past - one.rows : past] = True
        mask_BT[b, past + new - len(rest) :] = True
    return _forward(loaded, cache, ids_BN.to(device), at_BN.to(device), mask_BT.to(device))


def go_on(loaded: Loaded, prompts: ReadPrompts, tokens_B: torch.Tensor) -> ReadPrompts:
    """Adds one token to every sequence.

    Args:
        loaded: The model.
        prompts: What was read.
        tokens_B: The tokens.
    """
    mask_BT = F.pad(prompts.mask_BT, (0, 1), value=True)
    return _forward(loaded, prompts.cache, tokens_B[:, None], prompts.next_B[:, None], mask_BT)


def together(apart: Sequence[ReadPrompts]) -> ReadPrompts:
    """Sequences that were read apart, side by side in order."""
    if len(apart) == 1:
        return apart[0]
    longest = max(one.mask_BT.shape[1] for one in apart)
    masks = [F.pad(one.mask_BT, (longest - one.mask_BT.shape[1], 0), value=False) for one in apart]
    return ReadPrompts(
        torch.cat([one.logits_BV for one in apart]),
        join([one.cache for one in apart]),
        torch.cat(masks),
        torch.cat([one.next_B for one in apart]),
    )


def only(prompts: ReadPrompts, samples: Sequence[int]) -> ReadPrompts:
    """Some of the sequences, without the padding that they have in common."""
    if len(samples) == len(prompts.next_B):
        return prompts
    taken = torch.tensor(list(samples), device=prompts.next_B.device)
    mask_BT = prompts.mask_BT.index_select(0, taken)
    start, rows = int(mask_BT.int().argmax(1).min()), mask_BT.shape[1]
    return ReadPrompts(
        prompts.logits_BV.index_select(0, taken),
        part(prompts.cache, samples, start, rows),
        mask_BT[:, start:],
        prompts.next_B.index_select(0, taken),
    )


def beginning(prompts: ReadPrompts, sample: int, ids: Sequence[int], rest: int) -> Beginning:
    """The beginning of a prompt that was just read.

    Args:
        prompts: What was read.
        sample: Which of them.
        ids: Its tokens.
        rest: Its last rows that do not belong to the beginning; pictures lie before them.
    """
    rows, taken = prompts.mask_BT.shape[1], len(ids)
    cache = part(prompts.cache, [sample], rows - taken, rows - rest)
    return Beginning(cache, tuple(ids[: taken - rest]), int(prompts.next_B[sample]) - rest)


def _forward(
    loaded: Loaded, cache: Any, ids_BN: torch.Tensor, at_BN: torch.Tensor, mask_BT: torch.Tensor
) -> ReadPrompts:
    # Text has the same position on every axis.
    at = at_BN if loaded.family.compact_positions else at_BN.expand(3, -1, -1)
    out = loaded.model(
        input_ids=ids_BN,
        position_ids=at,
        # A mask of ones is no mask: kernels without one are faster, and the same.
        attention_mask=None if bool(mask_BT.all()) else mask_BT.long(),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
        return_dict=True,
    )
    return ReadPrompts(out.logits[:, -1].float(), out.past_key_values, mask_BT, at_BN[:, -1] + 1)
