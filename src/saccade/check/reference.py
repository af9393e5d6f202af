"""The slow account: the stock model computes every row, and hooks hide and silence what should not be there.

It knows nothing of the engine and of no family: layers and rows are given (``finders``), one prompt runs at
a time, without padding, batch and cache. Who sees whom to begin with is read off the masks that the model
itself hands to its layers. Rows that are gone are hidden from all others by a mask, outputs that
should not have been computed are set to zero, merged rows are mixed by a matrix, and positions that close up
are rows of the model's own table of rotations. A layer that recurs takes no mask: it is given the rows that
others may see, and no more.

Shape letters: N rows of the prompt, M rows that run (new tokens included), D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from saccade.check.finders import Inputs, bare, ffn_of, growth_of, head_inputs, mixer_of, named, recurs


@dataclass(frozen=True, eq=False)
class Sets:
    """What one layer does with the rows of a prompt; tokens after it do and see all that is left.

    Attributes:
        seen_N: Rows that others see.
        asks_N: Rows that get an attention output.
        fed_N: Rows that get an FFN output.
        apart_N: Rows that see none of each other, only themselves and the other rows.
        lasting_N: Rows that later tokens see.
        moved_N: Places by which a row has moved down.
    """

    seen_N: torch.Tensor
    asks_N: torch.Tensor
    fed_N: torch.Tensor
    apart_N: torch.Tensor
    lasting_N: torch.Tensor
    moved_N: torch.Tensor


@dataclass(frozen=True, eq=False)
class Mix:
    """Rows that get new contents.

    Attributes:
        before: The layer that is the first to get them.
        rows_N: Which rows.
        weights_NN: What each (first axis) is made of; rows that stay as they are have a 1 for themselves.
        contents_ND: What they hold, where weights do not say it (they merged inside the vision tower).
    """

    before: int
    rows_N: torch.Tensor
    weights_NN: torch.Tensor
    contents_ND: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class Account:
    """What a plan means for one prompt.

    Attributes:
        sets: One for each layer.
        mixes: Rows with new contents, in order.
    """

    sets: tuple[Sets, ...]
    mixes: tuple[Mix, ...] = ()

    @classmethod
    def dense(cls, rows: int, depth: int) -> Account:
        """Every row in every layer."""
        every, none = torch.ones(rows, dtype=torch.bool), torch.zeros(rows, dtype=torch.bool)
        return cls((Sets(every, every, every, none, every, none.long()),) * depth)


@dataclass(eq=False)
class ForwardOutput:
    """What a forward gave.

    Attributes:
        hidden_MD: What the head gets, of every row.
        logits_MV: Logits of the last rows.
        looks: By layer: the attention that the last row of the prompt pays to each row (N), mean over heads.
    """

    hidden_MD: torch.Tensor
    logits_MV: torch.Tensor
    looks: dict[int, torch.Tensor] = field(default_factory=dict)


@torch.no_grad()
def run(
    model: nn.Module,
    layers: nn.ModuleList,
    inputs: Inputs,
    account: Account,
    attention: str = "sdpa",
    logits: int = 1,
    looks: Sequence[int] = (),
    tables: Sequence[Any] = (),
) -> ForwardOutput:
    """One forward of a prompt, with new tokens behind it or none, as the account says.

    Args:
        model: The stock model.
        layers: Its decoder layers.
        inputs: One prompt without padding, perhaps with new tokens behind it.
        account: What a plan means for the prompt.
        attention: Implementation to use, ``sdpa`` or ``eager``.
        logits: Number of last rows whose logits are wanted.
        looks: Layers whose attention is wanted; ``attention`` must be ``eager``.
        tables: Rotary tables of each layer, in the place of those that the model makes for this prompt alone.
    """
    masked = _Masked(layers, account, inputs["input_ids"].shape[1], looks, tables)
    with _attention(layers, attention), masked.on():
        hidden_MD = core_output(model, inputs)
    told = ForwardOutput(hidden_MD, head(model, hidden_MD[-logits:]))
    told.looks = masked.seen
    return told


@torch.no_grad()
def stock(model: nn.Module, inputs: Inputs, logits: int = 1) -> ForwardOutput:
    """One forward of the model as it is."""
    hidden_MD = core_output(model, inputs)
    return ForwardOutput(hidden_MD, head(model, hidden_MD[-logits:]))


def core_output(model: Any, inputs: Inputs) -> torch.Tensor:
    """What the head gets (M, D) of a batch of one, without a cache."""
    with head_inputs(model) as caught:
        bare(model).base_model(**inputs, use_cache=False)
    return caught[0][0]


def head(model: Any, hidden_MD: torch.Tensor) -> torch.Tensor:
    """Logits (M, V) of what the head gets."""
    stock, core = bare(model), bare(model).base_model
    if core is stock:
        return stock.get_output_embeddings()(hidden_MD)
    ids_1M = torch.zeros(1, len(hidden_MD), dtype=torch.long, device=hidden_MD.device)
    # The whole model says what becomes of what its head gives.
    core.forward = lambda *args, **kwargs: _Only(hidden_MD[None])
    try:
        return stock(input_ids=ids_1M, use_cache=False).logits[0]
    finally:
        del core.forward


class _Only:
    """What a core returned, as far as a head asks: its states, and nothing else."""

    def __init__(self, hidden_1MD: torch.Tensor) -> None:
        self.last_hidden_state = hidden_1MD

    def __getitem__(self, number: int) -> torch.Tensor:
        return self.last_hidden_state

    def __getattr__(self, name: str) -> None:
        return None


@contextmanager
def _attention(layers: nn.ModuleList, kind: str) -> Iterator[None]:
    """Lets the decoder's attention run in a way that takes any mask; the vision tower keeps its own."""
    attentions: list[Any] = [mixer_of(layer) for layer in layers if not recurs(layer)]
    configs = {id(attention.config): attention.config for attention in attentions}
    before = {key: config._attn_implementation for key, config in configs.items()}
    for config in configs.values():
        # What runs eagerly may have nothing else.
        config._attn_implementation = kind if config._attn_implementation != "eager" else "eager"
    try:
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation = before[key]


class _Masked:
    """The hooks of one forward."""

    def __init__(
        self,
        layers: nn.ModuleList,
        account: Account,
        rows: int,
        looks: Sequence[int],
        tables: Sequence[Any] = (),
    ) -> None:
        self.layers, self.account, self.rows, self.looks = layers, account, rows, set(looks)
        self.tables = tables or [None] * len(layers)
        self.seen: dict[int, torch.Tensor] = {}
        self._masks: dict[tuple[int, int, str], tuple[torch.Tensor, Any]] = {}
        self._out: torch.Tensor | None = None

    @contextmanager
    def on(self) -> Iterator[None]:
        """Puts the hooks on."""
        with ExitStack() as hooks:
            put = hooks.enter_context
            for number, layer in enumerate(self.layers):
                attn: Any = mixer_of(layer)
                sets = self.account.sets[number]
                put(layer.register_forward_pre_hook(self._enter(number), with_kwargs=True))
                put(layer.register_forward_hook(self._leave))
                if recurs(layer):
                    put(attn.register_forward_pre_hook(self._shorten(sets), with_kwargs=True))
                    put(attn.register_forward_hook(self._spread(sets)))
                else:
                    put(attn.register_forward_pre_hook(self._hide(sets, number), with_kwargs=True))
                if (growth_M := self._growth(attn, sets)) is not None:
                    put(attn.q_proj.register_forward_hook(_times(growth_M)))
                put(attn.register_forward_hook(self._silence(sets.asks_N, number)))
                put(ffn_of(layer).register_forward_hook(self._silence(sets.fed_N)))
            yield

    def _enter(self, number: int) -> Callable:
        mixes = self.account.mixes

        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
            if not any(mix.before <= number for mix in mixes):
                return None
            given = named(module, args, kwargs)
            hidden = given["hidden_states"]
            # What the model's own loop adds to rows between layers goes where their contents went.
            added = None if self._out is None or number == 0 else hidden - self._out.to(hidden.device)
            for mix in mixes:
                if mix.before < number and added is not None and bool(added.any()):
                    moved = _mixed(mix, added)
                    hidden, added = hidden + (moved - added), moved
                elif mix.before == number:
                    hidden = _mixed(mix, hidden) if mix.contents_ND is None else _given(mix, hidden)
            return (), given | {"hidden_states": hidden}

        return hook

    def _leave(self, module: nn.Module, args: tuple, output: Any) -> None:
        if self.account.mixes:
            # A model may add to this very tensor afterwards.
            self._out = (output[0] if isinstance(output, tuple) else output).clone()

    def _growth(self, attention: nn.Module, sets: Sets) -> torch.Tensor | None:
        """What the queries of rows that have moved grow by, beside what they grew by where they were (M)."""
        rows_M = torch.arange(self.rows)
        there_M = growth_of(attention, rows_M)
        here_M = growth_of(attention, rows_M - _longer(sets.moved_N, self.rows))
        return None if here_M is None or there_M is None else here_M / there_M

    def _hide(self, sets: Sets, number: int) -> Callable:
        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
            given = named(module, args, kwargs)
            hidden = given["hidden_states"]
            own = given.get("attention_mask")
            key = (id(sets), id(own), str(hidden.device))
            if key not in self._masks:
                visible = visible_MM(sets, self.rows, shown_MM(own, self.rows)).to(hidden.device)
                mask = torch.zeros(visible.shape, dtype=hidden.dtype, device=hidden.device)
                self._masks[key] = mask.masked_fill(~visible, torch.finfo(hidden.dtype).min)[None, None], own
            given |= {"attention_mask": self._masks[key][0], "past_key_values": None}
            if self.tables[number] is not None:
                given["position_embeddings"] = self.tables[number]
            if bool(sets.moved_N.any()):
                at_M = torch.arange(self.rows) - _longer(sets.moved_N, self.rows)
                tables = given["position_embeddings"]
                if isinstance(tables, torch.Tensor):
                    given["position_embeddings"] = tables[:, at_M.to(tables.device)]
                else:
                    given["position_embeddings"] = tuple(part[:, at_M.to(part.device)] for part in tables)
            return (), given

        return hook

    def _enter_state(self, sets: Sets) -> torch.Tensor:
        """Which rows write a state (M): those that are seen, and what follows the prompt."""
        enters_M = torch.ones(self.rows, dtype=torch.bool)
        enters_M[: len(sets.seen_N)] = sets.seen_N
        return enters_M

    def _shorten(self, sets: Sets) -> Callable:
        if bool((sets.seen_N & ~sets.lasting_N).any()) or bool(sets.apart_N.any()):
            raise ValueError("rows of a state are neither hidden from some rows nor taken out again")

        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
            given = named(module, args, kwargs)
            hidden = given["hidden_states"]
            enters_M = self._enter_state(sets).to(hidden.device)
            return (), given | {"hidden_states": hidden[:, enters_M], "attention_mask": None}

        return hook

    def _spread(self, sets: Sets) -> Callable:
        def hook(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
            out = output.new_zeros(1, self.rows, output.shape[-1])
            out[:, self._enter_state(sets).to(out.device)] = output
            return out

        return hook

    def _silence(self, stays_N: torch.Tensor, number: int | None = None) -> Callable:
        stays_M1 = torch.ones(self.rows, 1, dtype=torch.bool)
        stays_M1[: len(stays_N), 0] = stays_N

        def hook(module: nn.Module, args: tuple, output: Any) -> Any:
            if number in self.looks:
                last = len(stays_N) - 1
                self.seen[number] = output[1][0, :, last, : last + 1].float().mean(0).cpu()
            first = output[0] if isinstance(output, tuple) else output
            quiet = first.masked_fill(~stays_M1.to(first.device), 0)
            return (quiet, *output[1:]) if isinstance(output, tuple) else quiet

        return hook


def _times(growth_M: torch.Tensor) -> Callable:
    def hook(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        return output * growth_M[:, None].to(output)

    return hook


def shown_MM(mask: torch.Tensor | None, rows: int) -> torch.Tensor:
    """Which keys (second axis) a stock layer shows to each row, by the mask it was given; None is causal."""
    if mask is None:
        return torch.ones(rows, rows, dtype=torch.bool).tril()
    shown = mask[0, 0, -rows:, -rows:].cpu()
    return shown if shown.dtype == torch.bool else shown == 0


def as_moved_MM(shown: torch.Tensor, at_M: torch.Tensor) -> torch.Tensor:
    """The same where rows have moved to other places, by which a window is counted, or the part they are in.

    Rows that see a later one see each other wherever they stand. Where rows see all of their own part of the
    prompt and nothing before it, the first part's length is that of all; else the least distance at which a
    row before is hidden is the window.
    """
    rows = torch.arange(len(shown))
    apart = rows[:, None] - rows[None]
    both = shown.triu(1) | shown.triu(1).T
    hidden = (apart > 0) & ~shown
    if not bool(hidden.any()):
        return shown
    begins = torch.cat((shown.new_zeros(1), ~shown.diagonal(-1)))
    part = begins.cumsum(0)
    if bool(begins.any()) and bool((shown == ((apart >= 0) & (part[:, None] == part[None]))).all()):
        part = at_M // int(begins.int().argmax())
        return (apart >= 0) & (part[:, None] == part[None])
    near = at_M[:, None] - at_M[None] < apart[hidden].min()
    bounded = bool((hidden & both).any())
    return ((apart >= 0) & near) | (both & near if bounded else both)


def visible_MM(sets: Sets, rows: int, shown: torch.Tensor | None = None) -> torch.Tensor:
    """Which keys (second axis) each row sees; a row that would see nothing sees itself, to stay finite.

    Args:
        sets: What the layer does.
        rows: Rows that run, those after the prompt included.
        shown: What the stock layer shows; causal if omitted.
    """
    prompt, every = len(sets.seen_N), torch.ones(rows, dtype=torch.bool)
    seen_M, lasting_M = every.clone(), every.clone()
    seen_M[:prompt], lasting_M[:prompt] = sets.seen_N, sets.seen_N & sets.lasting_N
    visible = torch.ones(rows, rows, dtype=torch.bool).tril() if shown is None else shown.clone()
    if bool(sets.moved_N.any()):
        visible = as_moved_MM(visible, torch.arange(rows) - _longer(sets.moved_N, rows))
    visible[:prompt] &= seen_M
    visible[prompt:] &= lasting_M
    own = torch.eye(rows, dtype=torch.bool)
    visible[:prompt, :prompt] &= ~(sets.apart_N[:, None] & sets.apart_N[None]) | own[:prompt, :prompt]
    return visible | (own & ~visible.any(1, keepdim=True))


def _longer(moved_N: torch.Tensor, rows: int) -> torch.Tensor:
    """The same for new tokens: they have moved as far as the prompt's last row."""
    return torch.cat([moved_N, moved_N[-1:].expand(rows - len(moved_N))])


def _mixed(mix: Mix, x_1MD: torch.Tensor) -> torch.Tensor:
    rows = len(mix.rows_N)
    exact = torch.promote_types(x_1MD.dtype, torch.float32)
    mixed = mix.weights_NN.to(x_1MD.device, exact) @ x_1MD[0, :rows].to(exact)
    return _put(mix, mixed, x_1MD)


def _given(mix: Mix, x_1MD: torch.Tensor) -> torch.Tensor:
    assert mix.contents_ND is not None
    return _put(mix, mix.contents_ND, x_1MD)


def _put(mix: Mix, new_ND: torch.Tensor, x_1MD: torch.Tensor) -> torch.Tensor:
    out = x_1MD.clone()
    rows_N = mix.rows_N.to(out.device)
    out[0, : len(rows_N)] = torch.where(rows_N[:, None], new_ND.to(out), out[0, : len(rows_N)])
    return out
