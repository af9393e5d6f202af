"""A model that nobody wrote an adapter for, looked at while it runs on a few words.

Everything that a plan relies on is tried on the model itself: that words see no later words, that a row
without attention and FFN passes a layer unchanged, that an FFN works row by row, that what is handed to the
decoder reaches its attention, and in which way that attention works. What does not hold is refused in a line.

Shape letters: B batch, N rows, D hidden.
"""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from saccade.families.base import Parts, core_of, rows_of, unwrap
from saccade.families.recipes import AttentionRecipe, Recipe, check_known, find_recipe, lenders, lent_recipe
from saccade.families.turning import Rotary
from saccade.families.watched import (
    ATTENTIONS,
    FFNS,
    LayerRun,
    attended,
    attention_in,
    ffn_in,
    first_of,
    given_rows,
    hooks,
    lender_of,
    mixer_in,
    part_in,
    say,
    watched,
)

LAYER_KIND = "layer_type"
"""What rotary tables that differ by kind of layer are asked for by."""
SIGHTS = ("full_attention", "sliding_attention", "chunked_attention")
"""Kinds of layers that see all rows before them, or the last of those."""
CLOSE, ROUNDED = 1e-4, 5e-2
"""How far rows that should be equal may be apart, relative to their length: in float32, in other formats."""


@dataclass(frozen=True, eq=False)
class Found:
    """What was found of a model.

    Attributes:
        parts: Its modules.
        recipes: How the attention of each layer works; None where a layer recurs.
        input_norms: Name of the norm before the attention of each layer; None where there is none.
        ffn_norms: Name of the norm before the FFN of each layer, likewise.
        axes: Axes of positions, 1 unless pictures lie on grids of positions.
        scale: What the whole model multiplies the logits of its head with.
        kinds: Kind of each layer, where kinds turn by tables of their own; else None.
        lender: Model type of the family whose adapter knows the layers that recur; None where none does.
    """

    parts: Parts
    recipes: tuple[Recipe | None, ...]
    input_norms: tuple[str | None, ...]
    ffn_norms: tuple[str | None, ...]
    axes: int
    scale: float = 1.0
    kinds: tuple[str | None, ...] = ()
    lender: str | None = None


def find_parts(model: nn.Module, names: frozenset[int] = frozenset()) -> Parts:
    """The modules of a model, by running it on a few words.

    Args:
        model: Any vision-language model, in eval mode.
        names: Token ids that stand for pictures, which no word is.

    Raises:
        ValueError: If it has no decoder layers of an attention and an FFN, saying what they have.
    """
    stock, core = unwrap(model), core_of(model)
    lists = {name: m for name, m in core.named_modules() if isinstance(m, nn.ModuleList) and len(m)}
    ran: set[int] = set()
    with hooks() as undo:
        for members in lists.values():
            undo += [one.register_forward_pre_hook(lambda m, args: ran.add(id(m))) for one in members]
        try:
            say(model, names)
        except Exception as error:  # models raise whatever their authors chose
            line = (str(error) or type(error).__name__).strip().splitlines()[0]
            raise ValueError(f"it does not run on words alone ({line})") from None
    alive = {name: m for name, m in lists.items() if all(id(one) in ran for one in m)}
    for members in sorted(lists.values(), key=len, reverse=True):
        idle = [n for n, one in enumerate(members) if id(one) not in ran]
        if 0 < len(idle) < len(members) and all(part_in(one, FFNS) for one in members):
            raise ValueError(
                f"its layer {idle[0]} ({type(members[idle[0]]).__name__}) does not run on words alone: "
                "pictures are seen by cross-attention, and not as rows"
            )
    if not alive:
        raise ValueError("it has no list of layers that runs on a prompt of words alone")
    # Experts and heads are lists inside layers: the decoder's own is the one that no other holds.
    outer = [n for n in alive if not any(n != o and n.startswith(f"{o}.") for o in alive)]
    name = max(outer, key=lambda n: sum(p.numel() for p in alive[n].parameters()))
    layers = alive[name]
    for number, layer in enumerate(layers):
        lacking = [names[0] for names in (ATTENTIONS, FFNS) if part_in(layer, names) is None]
        if lacking == [ATTENTIONS[0]] and lender_of(model, layer) is not None:
            continue
        if lacking:
            has = ", ".join(child for child, _ in layer.named_children())
            raise ValueError(
                f"its decoder layer {number} ({type(layer).__name__}) has no {' and no '.join(lacking)}, but "
                f"{has}: recurrent, cross-attention and otherwise named layers are not taken apart"
            )
    decoder = core.get_submodule(name.rpartition(".")[0])
    if decoder is core:
        raise ValueError("its decoder is not a module of its own beside the vision tower")
    children = dict(decoder.named_children())
    if all(part_in(layer, ATTENTIONS) is None for layer in layers):
        raise ValueError("none of its layers has an attention")
    norm = children.get("norm") or next((child for key, child in children.items() if "norm" in key), None)
    if norm is None:
        raise ValueError(f"its decoder ({type(decoder).__name__}) has no norm after its last layer")
    return Parts(core, decoder, layers, norm, getattr(stock, "lm_head", None))


@torch.no_grad()
def look(model: nn.Module, names: frozenset[int] = frozenset()) -> Found:
    """Tries everything that a plan relies on.

    Args:
        model: Any vision-language model, in eval mode; it is left as it was.
        names: Token ids that stand for pictures, which no word is.

    Raises:
        ValueError: If anything does not hold, saying what.
    """
    parts = find_parts(model, names)
    runs, tables = watched(model, parts, names)
    norms = [
        _check_layer(number, layer, run)
        for number, (layer, run) in enumerate(zip(parts.layers, runs, strict=True))
    ]
    _check_loop(runs)
    _check_sight(model, parts, names)
    _check_silence(model, parts, names)
    found: list[Recipe | None] = []
    for number, (layer, run) in enumerate(zip(parts.layers, runs, strict=True)):
        if run.recurs:
            found.append(None)
            continue
        first = [recipe for recipe in reversed(found) if isinstance(recipe, AttentionRecipe)]
        try:
            found.append(_recipe(layer, run, list(dict.fromkeys(first))))
        except ValueError as error:
            raise ValueError(f"layer {number}: {error}") from None
    axes, kinds = _axes(parts, runs, tables)
    before, after = zip(*norms, strict=True)
    scale = _scale(model, parts, names)
    lender = next((run.recurs for run in runs if run.recurs), None)
    return Found(parts, tuple(found), before, after, axes, scale, kinds, lender)


def _check_layer(number: int, layer: Any, run: LayerRun) -> tuple[str | None, str | None]:
    """What one layer must be like; the names of its norms."""
    where = f"layer {number} ({type(layer).__name__})"
    attention, ffn = mixer_in(layer, run.recurs), ffn_in(layer)
    if run.order != ["its attention", "its FFN"]:
        ran = ", ".join(run.order) or "neither attention nor FFN"
        raise ValueError(f"{where} runs {ran}, and not once its attention and then its FFN")
    if not run.passed:
        raise ValueError(f"{where} does not hand keywords on to its attention, by which plans travel")
    if run.cooked is None or run.fed is None:
        raise ValueError(f"{where}: its FFN takes or returns something else than rows")
    if not run.recurs:
        _check_attention(number, attention, run, where)
    rows = run.fed.shape[1]
    some = torch.arange(rows, device=run.fed.device)[rows // 3 :: 2]
    fewer = run.fed[:, some]
    if _apart(rows_of(ffn(fewer), fewer), run.cooked[:, some]) > _limit(run.fed):
        raise ValueError(f"{where}: its FFN does not work row by row")
    before = _norm_of(run, run.asked)
    if before is None and not (
        run.asked is not None and run.came is not None and torch.equal(run.asked, run.came)
    ):
        raise ValueError(f"{where}: its attention is given something else than a norm of the stream")
    return before, _norm_of(run, run.fed)


def _check_attention(number: int, attention: Any, run: LayerRun, where: str) -> None:
    """What the attention of a layer must be like."""
    if not isinstance(run.attended, tuple) or len(run.attended) != 2:
        raise ValueError(f"{where}: its attention returns something else than an output and its weights")
    rotary = run.attention.get("position_embeddings")
    if not (isinstance(rotary, tuple) and len(rotary) == 2 and all(t.ndim == 3 for t in rotary)):
        raise ValueError(f"{where}: its attention is not given rotary tables of rows")
    for name in ("layer_idx", "scaling", "head_dim", "config"):
        if not hasattr(attention, name):
            raise ValueError(f"{where}: its attention does not know its {name}")
    taken = inspect.signature(type(attention).forward).parameters
    for name in ("hidden_states", "past_key_values"):
        if name not in taken:
            raise ValueError(f"{where}: its attention takes no {name}")
    kinds = getattr(attention.config, "layer_types", None)
    if kinds is not None and kinds[number] not in SIGHTS:
        raise ValueError(f"{where} is a layer of {kinds[number]}, which is not taken apart")


def _norm_of(run: LayerRun, given: torch.Tensor | None) -> str | None:
    """Name of the norm whose output is given; None where it is that of none."""
    found = (
        n
        for n, x in run.normed.items()
        if given is not None and x.shape == given.shape and torch.equal(x, given)
    )
    return next(found, None)


def _check_loop(runs: list[LayerRun]) -> None:
    for number, (one, other) in enumerate(pairwise(runs), start=1):
        if (
            one.went is None
            or other.came is None
            or not torch.equal(one.went, other.came.to(one.went.device))
        ):
            raise ValueError(f"something is done to rows between its layers {number - 1} and {number}")


def _check_sight(model: nn.Module, parts: Parts, names: frozenset[int]) -> None:
    """No word sees later words."""
    seen: list[torch.Tensor] = []
    with hooks() as undo:
        undo.append(
            parts.layers[-1].register_forward_hook(lambda m, a, output: seen.append(first_of(output)))
        )
        say(model, names)
        say(model, names, change=True)
    first, second = seen
    if _apart(first[:, :-1], second[:, :-1]) > _limit(first):
        raise ValueError("its words see later words, and plans here are for decoders that look back alone")
    if torch.equal(first[:, -1], second[:, -1]):
        raise ValueError("another last word changes nothing in its decoder")


def _check_silence(model: nn.Module, parts: Parts, names: frozenset[int]) -> None:
    """A row that gets neither attention nor FFN output leaves every layer as it came."""
    far: list[tuple[int, float]] = []

    def silent(module: nn.Module, args: tuple, output: Any) -> Any:
        first = torch.zeros_like(first_of(output))
        return (first, *output[1:]) if isinstance(output, tuple) else first

    with hooks() as undo:
        for number, layer in enumerate(parts.layers):
            recurs = None if part_in(layer, ATTENTIONS) else lender_of(model, layer)
            undo.append(mixer_in(layer, recurs).register_forward_hook(silent))
            undo.append(ffn_in(layer).register_forward_hook(silent))

            def leave(
                module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any, number: int = number
            ) -> None:
                far.append((number, _apart(first_of(output), given_rows(args, kwargs))))

            undo.append(layer.register_forward_hook(leave, with_kwargs=True))
        say(model, names)
    limit = _limit(next(parts.layers.parameters()))
    for number, distance in far:
        if distance > limit:
            raise ValueError(
                f"layer {number} changes rows also where its attention and its FFN are silent, so that a row "
                "cannot ride past it"
            )


def _recipe(layer: Any, run: LayerRun, first: list[AttentionRecipe]) -> Recipe:
    """How the attention of a layer works, tried in float32 where its weights are as they act."""
    attn, x, rotary = attention_in(layer), run.asked, run.attention["position_embeddings"]
    assert x is not None
    plain = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    kinds = {type(p.data) for p in attn.parameters()}
    if kinds != {torch.Tensor} or any(p.is_meta or p.dtype not in plain for p in attn.parameters()):
        # Quantised weights, and those that lie elsewhere until they are used, act as they are alone.
        return _found_recipe(attn, x, rotary, first_of(run.attended), first)
    exact = copy.deepcopy(attn).float()
    tables: Rotary = (rotary[0].float(), rotary[1].float())
    rows = x.shape[1]
    mask = torch.full((rows, rows), torch.finfo(torch.float32).min, device=x.device).triu(1)[None, None]
    given = {**run.attention, "position_embeddings": tables, "attention_mask": mask, "past_key_values": None}
    given.pop("hidden_states", None)
    stock = attended(exact, x.float(), given)
    return _found_recipe(exact, x.float(), tables, stock, first)


def _found_recipe(
    attn: Any, x: torch.Tensor, rotary: Rotary, stock: torch.Tensor, first: list[AttentionRecipe]
) -> Recipe:
    """A recipe of its own, or that of a family whose adapter takes such a decoder apart."""
    check_known(attn)
    try:
        return find_recipe(attn, x, rotary, stock, first)
    except ValueError:
        lent = lent_recipe(attn, x, rotary, stock, lenders(attn.config))
        if lent is None:
            raise
        return lent


def _axes(
    parts: Parts, runs: list[LayerRun], tables: list[tuple[Any, ...]]
) -> tuple[int, tuple[str | None, ...]]:
    """Axes of the decoder's positions, and the kind of table that each layer is given (None: the only one).

    Raises:
        ValueError: If its layers get other tables than those that it makes of positions.
    """
    if not tables:
        raise ValueError("its decoder makes no rotary tables (rotary_emb)")
    made: dict[str | None, Rotary] = {}
    signature = inspect.signature(type(parts.decoder.rotary_emb).forward)
    for args, kwargs, output in tables:
        named = dict(zip(list(signature.parameters)[1:], args, strict=False)) | kwargs
        ids, kind = named.get("position_ids"), named.get(LAYER_KIND)
        if ids is None or set(named) - {"x", "position_ids", LAYER_KIND} or len(output) != 2:
            raise ValueError("its rotary tables are not made of rows and their positions alone")
        if kind in made:
            raise ValueError("its decoder makes rotary tables of one kind twice (rotary_emb)")
        made[kind] = output
    kinds: list[str | None] = []
    for number, run in enumerate(runs):
        if run.recurs:
            kinds.append(None)
            continue
        here = run.attention["position_embeddings"]
        fits = [
            kind
            for kind, output in made.items()
            if all(torch.equal(a, b.to(a.device)) for a, b in zip(here, output, strict=True))
        ]
        if not fits:
            raise ValueError(f"its layer {number} is given other rotary tables than its decoder makes")
        kinds.append(fits[0])
    return 1 if ids.ndim == 2 else int(ids.shape[0]), tuple(kinds)


def _scale(model: nn.Module, parts: Parts, names: frozenset[int]) -> float:
    """What the whole model multiplies the logits of its head with."""
    if parts.head is None:
        return 1.0
    given: list[torch.Tensor] = []
    with hooks() as undo:
        undo.append(parts.head.register_forward_hook(lambda m, args, output: given.append(output)))
        said = say(model, names).logits.float()
    if len(given) != 1:
        raise ValueError("its head does not run once")
    head = given[0].float()
    scale = float((said * head).sum() / head.square().sum())
    if _apart(head * scale, said) > _limit(given[0]):
        raise ValueError("it does more to the logits of its head than scale them")
    return 1.0 if abs(scale - 1) < 1e-3 else scale


def _apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """How far the worst row is from another, relative to its length."""
    if ours.shape != theirs.shape:
        return float("inf")
    theirs = theirs.to(ours.device).float()
    far = (ours.float() - theirs).norm(dim=-1) / theirs.norm(dim=-1).clamp(min=1e-12)
    return float(far.max().nan_to_num(float("inf")))


def _limit(like: torch.Tensor) -> float:
    return CLOSE if like.dtype in (torch.float32, torch.float64) else ROUNDED
