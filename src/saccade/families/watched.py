"""A decoder that nobody wrote an adapter for, watched while it runs on a few words: what each layer did.

Shape letters: B batch, N rows, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from saccade.core.shapes import ModelShape
from saccade.families.base import Parts, rows_of, unwrap
from saccade.families.recipes import lenders
from saccade.families.registry import FAMILIES

WORDS = 12
"""Rows that the model is tried on."""
ATTENTIONS = ("self_attn", "attention", "attn")
FFNS = ("mlp", "feed_forward", "block_sparse_moe", "ffn", "moe")
"""What the modules of a decoder layer are called."""

_WORD = "saccade_passes"
"""Keyword that is handed to the decoder, to see whether it reaches the attention of its layers."""
_LOOKS = "saccade_looks"
"""Name of the attention function that sees what modules hand to theirs."""
_ATTENDS = ("scaling", "dropout", "sliding_window", "is_causal")
"""Keywords of attention functions that are known: a window hides rows, of which masks tell as well."""
_handed: ContextVar[list[dict[str, Any]] | None] = ContextVar("handed", default=None)


@dataclass(eq=False)
class LayerRun:
    """What one decoder layer did in a forward.

    Attributes:
        came: What it was given (B, N, D).
        went: What it made of it.
        order: Which of attention and FFN ran, in order.
        attention: Keyword arguments of the attention.
        asked: What its attention was given.
        attended: What its attention gave.
        fed: What its FFN was given.
        cooked: What its FFN gave.
        normed: What each of the layer's norms gave.
        passed: Whether the decoder's keyword reached the attention.
        recurs: Model type of the family that knows the layer as one that recurs; else empty.
    """

    came: torch.Tensor | None = None
    went: torch.Tensor | None = None
    order: list[str] = field(default_factory=list)
    attention: dict[str, Any] = field(default_factory=dict)
    asked: torch.Tensor | None = None
    attended: Any = None
    fed: torch.Tensor | None = None
    cooked: Any = None
    normed: dict[str, torch.Tensor] = field(default_factory=dict)
    passed: bool = False
    recurs: str = ""


def part_in(layer: nn.Module, names: tuple[str, ...]) -> str | None:
    """The first of these names that is a module of a layer; None where it has none of them."""
    return next((name for name in names if isinstance(getattr(layer, name, None), nn.Module)), None)


def lender_of(model: nn.Module, layer: nn.Module) -> str | None:
    """Model type of a family that knows a layer of such a decoder as one that recurs, or None."""
    stock: Any = unwrap(model)
    names = lenders(stock.config.get_text_config())
    return next((name for name in names if FAMILIES[name].recurs(layer)), None)


def attention_in(layer: nn.Module) -> Any:
    """The attention of a decoder layer."""
    return getattr(layer, part_in(layer, ATTENTIONS) or ATTENTIONS[0])


def mixer_in(layer: nn.Module, lender: str | None) -> Any:
    """What lets the rows of a decoder layer know of each other."""
    if lender and part_in(layer, ATTENTIONS) is None:
        return FAMILIES[lender].mixer(layer)
    return attention_in(layer)


def ffn_in(layer: nn.Module) -> Any:
    """The FFN of a decoder layer."""
    return getattr(layer, part_in(layer, FFNS) or FFNS[0])


def say(model: nn.Module, names: frozenset[int], change: bool = False) -> Any:
    """Runs a model on a few words.

    Args:
        model: The model.
        names: Token ids that no word is.
        change: Whether the last word is another one.
    """
    embed: Any = unwrap(model).get_input_embeddings()
    size, device = embed.weight.shape[0], embed.weight.device
    # Words of the middle of the vocabulary: what begins and ends texts lies at its edges.
    draw = torch.Generator().manual_seed(0)
    order = torch.randperm(size - size // 4, generator=draw) + size // 8
    words = [int(token) for token in order[: 4 * WORDS] if int(token) not in names]
    ids = torch.tensor([[*words[: WORDS - 1], words[WORDS if change else WORDS - 1]]])
    ids = ids.to("cpu" if device.type == "meta" else device)
    return unwrap(model)(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)


def _look(
    module: nn.Module, q: Any, k: Any, v: Any, attention_mask: Any = None, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """Attention that notes what it is given beside queries, keys, values and mask, and leaves that out."""
    seen = _handed.get()
    if seen is not None:
        seen.append(kwargs)
    known = {name: value for name, value in kwargs.items() if name in _ATTENDS}
    mixed, _ = sdpa_attention_forward(module, q, k, v, attention_mask, **known)
    return mixed, None


AttentionInterface.register(_LOOKS, _look)


def attended(attn: Any, x_BND: torch.Tensor, given: dict[str, Any]) -> torch.Tensor:
    """What an attention module, a copy of one, makes of rows by queries, keys and values alone.

    Args:
        attn: The module; its configuration is changed.
        x_BND: Rows.
        given: Its other arguments.

    Raises:
        ValueError: If it attends with more than that (a cap on logits, sinks, a bias of positions).
    """
    attn.config._attn_implementation = _LOOKS
    seen: list[dict[str, Any]] = []
    token = _handed.set(seen)
    try:
        made: torch.Tensor = first_of(attn(x_BND, **given))
    finally:
        _handed.reset(token)
    more = {k for one in seen for k, v in one.items() if v is not None and k not in (*_ATTENDS, *given)}
    if more:
        raise ValueError(f"its attention ({type(attn).__name__}) attends with {', '.join(sorted(more))} too")
    return made


@contextmanager
def hooks() -> Iterator[list[Any]]:
    """Hooks that come off at the end."""
    undo: list[Any] = []
    try:
        yield undo
    finally:
        for handle in undo:
            handle.remove()


def first_of(output: Any) -> Any:
    """Rows of what a module gave, whatever stands beside them."""
    return output[0] if isinstance(output, tuple) else output


def _makes_rows(output: Any, given: torch.Tensor) -> bool:
    first = first_of(output)
    return isinstance(first, torch.Tensor) and first.numel() == given.numel()


def given_rows(args: tuple, kwargs: dict[str, Any]) -> Any:
    """Rows that a module was given."""
    return args[0] if args else kwargs.get("hidden_states")


def watched(
    model: nn.Module, parts: Parts, names: frozenset[int]
) -> tuple[list[LayerRun], list[tuple[Any, ...]]]:
    """One forward: what every layer did, and the arguments of the decoder's rotary tables."""
    runs = [LayerRun() for _ in parts.layers]
    tables: list[tuple[Any, ...]] = []

    def hand_in(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, _WORD: None}

    def enter(run: LayerRun) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            run.came = given_rows(args, kwargs)

        return hook

    def leave(run: LayerRun) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            run.went = first_of(output)

        return hook

    def asks(run: LayerRun) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
            run.order.append("its attention")
            run.passed = _WORD in kwargs
            left = {key: value for key, value in kwargs.items() if key != _WORD}
            run.asked, run.attention = given_rows(args, left), dict(left)
            return args, left

        return hook

    def answers(run: LayerRun) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            run.attended = output

        return hook

    def feeds(run: LayerRun) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
            run.order.append("its FFN")
            given = [x for x in (*args, *kwargs.values()) if x is not None]
            run.fed = run.cooked = None
            if len(given) == 1 and isinstance(given[0], torch.Tensor) and _makes_rows(output, given[0]):
                run.fed, run.cooked = given[0], rows_of(output, given[0])

        return hook

    def norms(run: LayerRun, name: str) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            run.normed[name] = output

        return hook

    def rotates(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        tables.append((args, kwargs, output))

    with hooks() as undo:
        undo.append(parts.decoder.register_forward_pre_hook(hand_in, with_kwargs=True))
        for run, layer in zip(runs, parts.layers, strict=True):
            if part_in(layer, ATTENTIONS) is None:
                run.recurs = lender_of(model, layer) or ""
            attention, ffn = mixer_in(layer, run.recurs), ffn_in(layer)
            undo.append(layer.register_forward_pre_hook(enter(run), with_kwargs=True))
            undo.append(layer.register_forward_hook(leave(run)))
            undo.append(attention.register_forward_pre_hook(asks(run), with_kwargs=True))
            undo.append(attention.register_forward_hook(answers(run)))
            undo.append(ffn.register_forward_hook(feeds(run), with_kwargs=True))
            for name, child in layer.named_children():
                if "norm" in name:
                    undo.append(child.register_forward_hook(norms(run, name)))
        rotary = getattr(parts.decoder, "rotary_emb", None)
        if isinstance(rotary, nn.Module):
            undo.append(rotary.register_forward_hook(rotates, with_kwargs=True))
        try:
            say(model, names)
        except TypeError as error:
            if _WORD not in str(error):
                raise
            raise ValueError(
                "its decoder does not hand keywords on to the attention of its layers, by which plans travel"
            ) from None
    return runs, tables


def as_built(shape: ModelShape, layers: nn.ModuleList) -> ModelShape:
    """Sizes of a decoder with those of its FFNs as its modules have them.

    Configurations say neither whether an FFN has a gate, nor all in one way which layers have experts.

    Args:
        shape: Sizes as the configuration says them.
        layers: The decoder's layers.
    """
    ffns = [ffn_in(layer) for layer in layers]
    plain = tuple(n for n, ffn in enumerate(ffns) if not _has_experts(ffn))
    wide, matrices = next((w for w in (_width(ffns[n], shape.hidden) for n in plain) if w), (0, 0))
    shape = replace(shape, ffn_matrices=matrices or shape.ffn_matrices)
    if shape.experts is None:
        return replace(shape, ffn=wide or shape.ffn) if len(plain) == len(ffns) else shape
    return replace(shape, plain=plain, plain_ffn=(wide or shape.plain_ffn) if plain else 0)


def _has_experts(ffn: nn.Module) -> bool:
    return any("expert" in name for name, _ in ffn.named_modules())


def _width(ffn: nn.Module, hidden: int) -> tuple[int, int] | None:
    """Inner width of a plain FFN and its matrices, of which one may hold two; None where it says neither."""
    pairs = [(m.in_features, m.out_features) for m in ffn.modules() if isinstance(m, nn.Linear)]
    inner = next((into for into, out in reversed(pairs) if out == hidden), 0)
    matrices, rest = divmod(sum(into * out for into, out in pairs), max(hidden * inner, 1))
    return (inner, matrices) if inner and matrices in (2, 3) and not rest else None
