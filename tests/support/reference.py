"""An independent, slow account of what every method means; it uses nothing of saccade.

The stock dense layers run on every row, without a cache; hooks then zero the attention and FFN outputs that
should not have been computed, and every layer gets an N x N mask that hides what should not be seen. Row
sets come from the published meaning of each method:

    method      alive A   query Q   ffn F
    vskip       all       text      all      (mask reading: all query, visual rows see no other visual row)
    ffn_skip    all       all       text
    shortv      all       text      text
    vtw, l>=K   text      text      text

A layer that recurs has no mask: its stock module runs, sample by sample, on the rows of A alone
(``support.recurrent``).

A recipe is a list of ``(method, layers)``; where several touch a layer, their sets intersect.

Shape letters: B batch, N rows, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from support.ending import showing
from support.models import IMAGE, SEVERAL_AXES, decoder_of
from support.recurrent import OnRows, ffn_of, kept, last_norm, mixer_of, recurs
from support.sight import sees_BNN, told_kinds

Recipe = Sequence[tuple[str, Iterable[int]]]

LOSES = {
    "vskip": {"query"},
    "vskip_mask": {"sight"},
    "ffn_skip": {"ffn"},
    "shortv": {"query", "ffn"},
    "vtw": {"alive", "query", "ffn"},
}
"""What visual rows lose in a layer that a method touches."""


@dataclass
class Forward:
    """What the hooks know of the forward that is running."""

    visual_BN: torch.Tensor
    real_BN: torch.Tensor
    kinds_BN: torch.Tensor | None = None


def lost(recipe: Recipe, layer: int) -> set[str]:
    """What visual rows lose in one layer."""
    found: set[str] = set()
    for name, layers in recipe:
        if layer in layers:
            found |= LOSES[name]
    return found


def seen_BNN(now: Forward, gone: set[str], config: Any, number: int) -> torch.Tensor:
    """Which key (last axis) each query row sees; a row that may see nothing sees itself, to stay finite."""
    rows = now.visual_BN.shape[1]
    # Parts of a prompt are counted from where its sample begins.
    place_BN = torch.arange(rows)[None] - (now.real_BN.cumsum(1) == 0).sum(1, keepdim=True)
    allowed = sees_BNN(config, number, now.kinds_BN, rows, place_BN) & now.real_BN[:, None, :]
    if "alive" in gone:
        allowed = allowed & ~now.visual_BN[:, None, :]
    if "sight" in gone:
        allowed = allowed & ~(now.visual_BN[:, :, None] & now.visual_BN[:, None, :])
    own = torch.eye(rows, dtype=torch.bool)[None]
    if "sight" in gone and "alive" not in gone:
        allowed = allowed | (own & now.visual_BN[:, None, :])
    return allowed | (own & ~allowed.any(-1, keepdim=True))


@contextmanager
def masked(model: nn.Module, recipe: Recipe) -> Iterator[None]:
    """Makes a stock model compute what the recipe means, in forwards without a cache.

    Forwards need ``input_ids`` of the whole sequence and a 2-D ``attention_mask``; ``generate`` works with
    ``use_cache=False``.
    """
    recipe = [(name, frozenset(layers)) for name, layers in recipe]
    placeholders = [
        getattr(model.config, key)
        for key in ("image_token_id", "video_token_id")
        if hasattr(model.config, key)
    ]
    state: list[Forward] = []

    def before_model(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        cache = kwargs.get("past_key_values")
        assert cache is None or cache.get_seq_length() == 0, "the reference recomputes everything"
        ids = args[0] if args else kwargs["input_ids"]
        padding = kwargs.get("attention_mask")
        real = torch.ones_like(ids).bool() if padding is None else padding.bool()
        visual = torch.isin(ids, torch.tensor(placeholders)) & real
        state[:] = [Forward(visual, real, told_kinds(kwargs))]

    def before_attention(gone: set[str], number: int):
        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]):
            allowed = seen_BNN(state[0], gone, model.config, number)[:, None]
            dtype = kwargs["hidden_states"].dtype
            mask = torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)
            return args, kwargs | {"attention_mask": mask, "past_key_values": None}

        return hook

    def entering(gone: set[str]):
        def enters() -> torch.Tensor:
            assert "sight" not in gone, "a state hides no row from some"
            now = state[0]
            return now.real_BN & ~now.visual_BN if "alive" in gone else now.real_BN

        return enters

    def silence(module: nn.Module, args: tuple, output: Any) -> Any:
        return kept(output, ~state[0].visual_BN[..., None])

    handles = [model.model.register_forward_pre_hook(before_model, with_kwargs=True)]
    try:
        for number, layer in enumerate(decoder_of(model).layers):
            gone = lost(recipe, number)
            mixer = mixer_of(layer)
            if recurs(layer):
                handles.append(OnRows(mixer, entering(gone)))
            else:
                hook = before_attention(gone, number)
                handles.append(mixer.register_forward_pre_hook(hook, with_kwargs=True))
            if "query" in gone:
                handles.append(mixer.register_forward_hook(silence))
            if "ffn" in gone:
                handles.append(ffn_of(layer).register_forward_hook(silence))
        last = lost(recipe, len(decoder_of(model).layers) - 1)

        def rows() -> tuple[torch.Tensor, torch.Tensor]:
            now = state[0]
            return now.real_BN & ~now.visual_BN if "alive" in last else now.real_BN, now.visual_BN

        handles.append(showing(last_norm(decoder_of(model)), rows))
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def recompute(model: nn.Module, recipe: Recipe, inputs: dict[str, torch.Tensor], **kwargs: Any) -> Any:
    """Output of one forward over the whole sequence, without a cache."""
    with masked(model, recipe):
        return model(**inputs, use_cache=False, **kwargs)


def extend(inputs: dict[str, torch.Tensor], sequences: torch.Tensor) -> dict[str, torch.Tensor]:
    """Inputs of the whole sequence that ``generate`` returned for these inputs."""
    new = sequences.shape[1] - inputs["input_ids"].shape[1]
    longer = {
        "input_ids": sequences,
        "attention_mask": nn.functional.pad(inputs["attention_mask"], (0, new), value=1),
    }
    if "token_type_ids" in inputs:
        # A generated token is text for Gemma 3, and a part of the answer for PaliGemma.
        kinds, images = inputs["token_type_ids"], inputs["input_ids"] == IMAGE
        longer["token_type_ids"] = nn.functional.pad(kinds, (0, new), value=int(not kinds[images][:1].any()))
    if "mm_token_type_ids" in inputs:
        longer["mm_token_type_ids"] = nn.functional.pad(inputs["mm_token_type_ids"], (0, new))
    return inputs | longer


def step_logits(
    model: nn.Module, recipe: Recipe, inputs: dict[str, torch.Tensor], sequences: torch.Tensor
) -> torch.Tensor:
    """Logits (B, steps, V) that chose each generated token, recomputed from the whole sequence.

    The last token of ``sequences`` was chosen, but nothing was computed from it.
    """
    whole = extend(inputs, sequences)
    several = model.config.model_type.startswith(SEVERAL_AXES)
    positions = {} if several else {"position_ids": _positions(whole["attention_mask"])}
    if model.config.model_type == "paligemma":
        positions["position_ids"] = positions["position_ids"] + 1
    logits = recompute(model, recipe, whole, **positions).logits
    return logits[:, inputs["input_ids"].shape[1] - 1 : -1]


def _positions(mask: torch.Tensor) -> torch.Tensor:
    """Positions as ``generate`` counts them: padding takes none."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def kv_rows(
    recipe: Recipe, layers: int, visual_BN: torch.Tensor, mask_BN: torch.Tensor, new: int = 0
) -> list[list[int]]:
    """Rows each layer's cache has to hold for each sample after ``new`` more text rows, windows aside.

    A layer that drops visual rows drops padding too; a layer that drops none keeps it, as stock.
    """
    text = (mask_BN.bool() & ~visual_BN).sum(1).tolist()
    total = visual_BN.shape[1]
    return [[(t if "alive" in lost(recipe, n) else total) + new for t in text] for n in range(layers)]


def gap(ours: torch.Tensor, theirs: torch.Tensor, real_BN: torch.Tensor | None = None) -> float:
    """Largest difference over real rows, relative to the largest logit."""
    keep = slice(None) if real_BN is None else real_BN.bool()
    ours, theirs = ours[keep].double(), theirs[keep].double()
    assert ours.shape == theirs.shape and bool(ours.isfinite().all())
    return float((ours - theirs).abs().max() / theirs.abs().max())
