"""A model that nobody wrote an adapter for, looked at while it runs on a few words.

Everything that a plan relies on is tried on the model itself: that words see no later words, that a row
without attention and FFN passes a layer unchanged, that an FFN works row by row, that what is handed to the
decoder reaches its attention, and in which way that attention works. What does not hold is refused in a line.

Shape letters: B batch, N rows, D hidden.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from saccade.families.base import Parts, Rotary, core_of, unwrap
from saccade.families.recipes import AttentionRecipe, find_recipe

WORDS = 12
"""Rows that the model is tried on."""
SIGHTS = ("full_attention", "sliding_attention", "chunked_attention")
"""Kinds of layers that see all rows before them, or the last of those."""
CLOSE, ROUNDED = 1e-4, 5e-2
"""How far rows that should be equal may be apart, relative to their length: in float32, in other formats."""

_WORD = "saccade_passes"
"""Keyword that is handed to the decoder, to see whether it reaches the attention of its layers."""


@dataclass(eq=False)
class LayerRun:
    """What one decoder layer did in a forward.

    Attributes:
        came: What it was given (B, N, D).
        went: What it made of it.
        order: Which of ``self_attn`` and ``mlp`` ran, in order.
        attention: Keyword arguments of the attention.
        asked: What its attention was given.
        attended: What its attention gave.
        fed: What its FFN was given.
        cooked: What its FFN gave.
        normed: What each of the layer's norms gave.
        passed: Whether the decoder's keyword reached the attention.
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


@dataclass(frozen=True, eq=False)
class Found:
    """What was found of a model.

    Attributes:
        parts: Its modules.
        recipes: How the attention of each layer works.
        input_norms: Name of the norm before the attention of each layer; None where there is none.
        ffn_norms: Name of the norm before the FFN of each layer, likewise.
        axes: Axes of positions, 1 unless pictures lie on grids of positions.
        scale: What the whole model multiplies the logits of its head with.
    """

    parts: Parts
    recipes: tuple[AttentionRecipe, ...]
    input_norms: tuple[str | None, ...]
    ffn_norms: tuple[str | None, ...]
    axes: int
    scale: float = 1.0


def find_parts(model: nn.Module, names: frozenset[int] = frozenset()) -> Parts:
    """The modules of a model, by running it on a few words.

    Args:
        model: Any vision-language model, in eval mode.
        names: Token ids that stand for pictures, which no word is.

    Raises:
        ValueError: If it has no decoder layers of ``self_attn`` and ``mlp``, saying what they have.
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
        if 0 < len(idle) < len(members) and all(hasattr(one, "mlp") for one in members):
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
        lacking = [part for part in ("self_attn", "mlp") if not hasattr(layer, part)]
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
    runs, tables = _watched(model, parts, names)
    norms = [
        _check_layer(number, layer, run)
        for number, (layer, run) in enumerate(zip(parts.layers, runs, strict=True))
    ]
    _check_loop(runs)
    _check_sight(model, parts, names)
    _check_silence(model, parts, names)
    found: list[AttentionRecipe] = []
    for number, (layer, run) in enumerate(zip(parts.layers, runs, strict=True)):
        try:
            recipe = _recipe(layer, run, list(dict.fromkeys(reversed(found))))
        except ValueError as error:
            raise ValueError(f"layer {number}: {error}") from None
        found.append(recipe)
    axes = _axes(parts, runs, tables)
    before, after = zip(*norms, strict=True)
    return Found(parts, tuple(found), before, after, axes, _scale(model, parts, names))


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


@contextmanager
def hooks() -> Iterator[list[Any]]:
    """Hooks that come off at the end."""
    undo: list[Any] = []
    try:
        yield undo
    finally:
        for handle in undo:
            handle.remove()


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


def _given(args: tuple, kwargs: dict[str, Any]) -> Any:
    return args[0] if args else kwargs.get("hidden_states")


def _watched(
    model: nn.Module, parts: Parts, names: frozenset[int]
) -> tuple[list[LayerRun], list[tuple[Any, ...]]]:
    """One forward: what every layer did, and the arguments of the decoder's rotary tables."""
    runs = [LayerRun() for _ in parts.layers]
    tables: list[tuple[Any, ...]] = []

    def hand_in(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, _WORD: None}

    def enter(run: LayerRun) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            run.came = _given(args, kwargs)

        return hook

    def leave(run: LayerRun) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            run.went = _first(output)

        return hook

    def asks(run: LayerRun) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
            run.order.append("self_attn")
            run.passed = _WORD in kwargs
            left = {key: value for key, value in kwargs.items() if key != _WORD}
            run.asked, run.attention = _given(args, left), dict(left)
            return args, left

        return hook

    def answers(run: LayerRun) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            run.attended = output

        return hook

    def feeds(run: LayerRun) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
            run.order.append("mlp")
            run.fed, run.cooked = (args[0] if len(args) == 1 and not kwargs else None), output

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
            made: Any = layer
            undo.append(layer.register_forward_pre_hook(enter(run), with_kwargs=True))
            undo.append(layer.register_forward_hook(leave(run)))
            undo.append(made.self_attn.register_forward_pre_hook(asks(run), with_kwargs=True))
            undo.append(made.self_attn.register_forward_hook(answers(run)))
            undo.append(made.mlp.register_forward_hook(feeds(run), with_kwargs=True))
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


def _check_layer(number: int, layer: Any, run: LayerRun) -> tuple[str | None, str | None]:
    """What one layer must be like; the names of its norms."""
    where = f"layer {number} ({type(layer).__name__})"
    if run.order != ["self_attn", "mlp"]:
        raise ValueError(
            f"{where} runs {', '.join(run.order) or 'neither'}, not its attention and then its FFN"
        )
    if not run.passed:
        raise ValueError(f"{where} does not hand keywords on to its attention, by which plans travel")
    if not isinstance(run.attended, tuple) or len(run.attended) != 2:
        raise ValueError(f"{where}: its attention returns something else than an output and its weights")
    if not isinstance(run.cooked, torch.Tensor) or run.fed is None:
        raise ValueError(f"{where}: its FFN takes or returns something else than rows")
    rotary = run.attention.get("position_embeddings")
    if not (isinstance(rotary, tuple) and len(rotary) == 2 and all(t.ndim == 3 for t in rotary)):
        raise ValueError(f"{where}: its attention is not given rotary tables of rows")
    for name in ("layer_idx", "scaling", "head_dim", "config"):
        if not hasattr(layer.self_attn, name):
            raise ValueError(f"{where}: its attention does not know its {name}")
    if "past_key_values" not in inspect.signature(type(layer.self_attn).forward).parameters:
        raise ValueError(f"{where}: its attention takes no past_key_values")
    kinds = getattr(layer.self_attn.config, "layer_types", None)
    if kinds is not None and kinds[number] not in SIGHTS:
        raise ValueError(f"{where} is a layer of {kinds[number]}, which is not taken apart")
    rows = run.fed.shape[1]
    some = torch.arange(rows, device=run.fed.device)[rows // 3 :: 2]
    if _apart(layer.mlp(run.fed[:, some]), run.cooked[:, some]) > _limit(run.fed):
        raise ValueError(f"{where}: its FFN does not work row by row")
    before = _norm_of(run, run.asked)
    if before is None and not (
        run.asked is not None and run.came is not None and torch.equal(run.asked, run.came)
    ):
        raise ValueError(f"{where}: its attention is given something else than a norm of the stream")
    return before, _norm_of(run, run.fed)


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
        undo.append(parts.layers[-1].register_forward_hook(lambda m, a, output: seen.append(_first(output))))
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
        first = torch.zeros_like(_first(output))
        return (first, *output[1:]) if isinstance(output, tuple) else first

    with hooks() as undo:
        for number, layer in enumerate(parts.layers):
            made: Any = layer
            undo.append(made.self_attn.register_forward_hook(silent))
            undo.append(made.mlp.register_forward_hook(silent))

            def leave(
                module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any, number: int = number
            ) -> None:
                far.append((number, _apart(_first(output), _given(args, kwargs))))

            undo.append(layer.register_forward_hook(leave, with_kwargs=True))
        say(model, names)
    limit = _limit(next(parts.layers.parameters()))
    for number, distance in far:
        if distance > limit:
            raise ValueError(
                f"layer {number} changes rows also where its attention and its FFN are silent, so that a row "
                "cannot ride past it"
            )


def _recipe(layer: Any, run: LayerRun, first: list[AttentionRecipe]) -> AttentionRecipe:
    """How the attention of a layer works, tried in float32 where its weights are as they act."""
    attn, x, rotary = layer.self_attn, run.asked, run.attention["position_embeddings"]
    assert x is not None
    plain = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    kinds = {type(p.data) for p in attn.parameters()}
    if kinds != {torch.Tensor} or any(p.is_meta or p.dtype not in plain for p in attn.parameters()):
        # Quantised weights, and those that lie elsewhere until they are used, act as they are alone.
        return find_recipe(attn, x, rotary, _first(run.attended), first)
    exact = copy.deepcopy(attn).float()
    exact.config._attn_implementation = "sdpa"
    tables: Rotary = (rotary[0].float(), rotary[1].float())
    rows = x.shape[1]
    mask = torch.full((rows, rows), torch.finfo(torch.float32).min, device=x.device).triu(1)[None, None]
    given = {**run.attention, "position_embeddings": tables, "attention_mask": mask, "past_key_values": None}
    given.pop("hidden_states", None)
    stock = _first(exact(x.float(), **given))
    return find_recipe(exact, x.float(), tables, stock, first)


def _axes(parts: Parts, runs: list[LayerRun], tables: list[tuple[Any, ...]]) -> int:
    """Axes of the decoder's positions.

    Raises:
        ValueError: If its layers get other tables than those that it makes of positions.
    """
    first = runs[0].attention["position_embeddings"]
    for number, run in enumerate(runs):
        here = run.attention["position_embeddings"]
        if not all(torch.equal(a, b.to(a.device)) for a, b in zip(first, here, strict=True)):
            raise ValueError(f"layer {number} is given other rotary tables than layer 0")
    if len(tables) != 1:
        raise ValueError("its decoder does not make its rotary tables once (rotary_emb)")
    args, kwargs, output = tables[0]
    signature = inspect.signature(type(parts.decoder.rotary_emb).forward)
    named = dict(zip(list(signature.parameters)[1:], args, strict=False)) | kwargs
    ids = named.get("position_ids")
    if ids is None or set(named) - {"x", "position_ids"} or len(output) != 2:
        raise ValueError("its rotary tables are not made of rows and their positions alone")
    if not all(torch.equal(a, b.to(a.device)) for a, b in zip(first, output, strict=True)):
        raise ValueError("its layers are given other rotary tables than its decoder makes")
    return 1 if ids.ndim == 2 else int(ids.shape[0])


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
