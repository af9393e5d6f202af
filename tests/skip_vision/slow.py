"""A slow account of Skip-Vision's decoder: dense layers on all rows, FFN outputs zeroed, rows masked.

Roles of the rows of an image are written out from the paper's layout tables; nothing of the method is used.

Shape letters: B batch, N rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from saccade.skip_vision import wrapped


def roles(coarse: int, middle: int, skipped: int, *, fs: bool, ls: bool, lv: bool) -> list[str]:
    """Names of an image's rows in order: G, M, FS, S, LV, LS."""
    rows = ["G"] * coarse + ["M"] * middle + ["FS"] * fs + ["S"] * (skipped - lv) + ["LV"] * lv + ["LS"] * ls
    return rows


def marks(inputs: dict[str, torch.Tensor], image: int, names: list[str], wanted: set[str]) -> torch.Tensor:
    """Boolean (B, N): rows of images with one of these roles."""
    ids = inputs["input_ids"]
    found = torch.zeros_like(ids, dtype=torch.bool)
    for b, row in enumerate(ids.tolist()):
        place = 0
        for n, token in enumerate(row):
            if token == image:
                found[b, n] = names[place % len(names)] in wanted
                place += 1
    return found


@contextmanager
def dense(model: Any) -> Iterator[None]:
    """Takes the model's own plan off for a while."""
    attachment = wrapped(model).attachment
    if attachment is not None:
        attachment.remove()
    try:
        yield
    finally:
        if attachment is not None:
            attachment.attach()


@contextmanager
def recomputing(
    model: Any, skips_BN: torch.Tensor, *hidden: tuple[torch.Tensor, int], layer: int = 0
) -> Iterator[None]:
    """Forwards of the whole sequence without a cache, meaning what the method means.

    Args:
        model: The model; its plan is taken off.
        skips_BN: Rows without FFN.
        *hidden: Rows (B, N), and the row from which on they are not seen any more.
        layer: First layer where rows go without FFN.
    """
    state: dict[str, torch.Tensor] = {}

    def before_model(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        ids = args[0] if args else kwargs["input_ids"]
        rows = ids.shape[1]
        real = kwargs.get("attention_mask", torch.ones_like(ids)).bool()
        allowed = torch.ones(rows, rows, dtype=torch.bool).tril()[None] & real[:, None, :]
        for hidden_BN, since in hidden:
            gone = torch.nn.functional.pad(hidden_BN, (0, rows - hidden_BN.shape[1]))
            late = torch.arange(rows) >= since
            allowed = allowed & ~(late[None, :, None] & gone[:, None, :])
        state["allowed"] = allowed | torch.eye(rows, dtype=torch.bool)[None]

    def before_attention(module: Any, args: tuple, kwargs: dict[str, Any]):
        dtype = kwargs["hidden_states"].dtype
        allowed = state["allowed"][:, None]
        mask = torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)
        return args, kwargs | {"attention_mask": mask, "past_key_values": None}

    def silence(module: Any, args: tuple, output: torch.Tensor) -> torch.Tensor:
        rows = output.shape[1]
        keep = ~torch.nn.functional.pad(skips_BN, (0, rows - skips_BN.shape[1]))
        return output * keep[..., None]

    with dense(model):
        handles = [model.model.register_forward_pre_hook(before_model, with_kwargs=True)]
        for number, block in enumerate(model.model.language_model.layers):
            handles.append(block.self_attn.register_forward_pre_hook(before_attention, with_kwargs=True))
            if number >= layer:
                handles.append(block.mlp.register_forward_hook(silence))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def merge_groups(rows: Sequence[torch.Tensor], keep: int, rule: str) -> dict[int, list[int]]:
    """By row that stays, in the authors' order: the rows that become one with it, one pair at a time."""
    total = len(rows)
    if rule == "mean":
        return {
            (2 * n + 1) * total // (2 * keep): [
                i for i in range(total) if i * keep < (n + 1) * total and (i + 1) * keep > n * total
            ]
            for n in range(keep)
        }
    unit = [row / row.norm() for row in rows]
    likeness = [sum(float(a @ b) for j, b in enumerate(unit) if j != i) for i, a in enumerate(unit)]
    order = sorted(range(total), key=lambda i: (-likeness[i], i))
    homes = order[total - keep :]
    members = {home: [home] for home in homes}
    for row in order[: total - keep]:
        members[max(homes, key=lambda home: (float(unit[row] @ unit[home]), -home))].append(row)
    return {home: sorted(found) for home, found in members.items()}
