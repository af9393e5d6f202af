"""How an attention module that nobody wrote an adapter for makes queries, keys and values: found by trial.

What the module holds says what may be: its projections, its norms, the rotation that its own file has. Which
of it is so is decided by numbers: the recipe is taken whose attention is the module's own, on the same rows.

Shape letters: B batch, N rows, D hidden, H heads, K head width.
"""

from __future__ import annotations

import inspect
import sys
from collections import ChainMap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from saccade.families.base import Family, heads_of
from saccade.families.registry import FAMILIES
from saccade.families.turning import Rotary

SEPARATE = (("q_proj", "k_proj", "v_proj"), ("wq", "wk", "wv"), ("query", "key", "value"))
FUSED = ("qkv_proj", "query_key_value", "qkv", "c_attn", "att_proj", "W_pack", "Wqkv")
OUTPUTS = ("o_proj", "out_proj", "dense", "wo", "attn_out", "c_proj")
NORMS = (
    ("q_norm", "k_norm"),
    ("q_layernorm", "k_layernorm"),
    ("query_layernorm", "key_layernorm"),
    ("qk_norm", "qk_norm"),
)
ATTEND = ("eager_attention_forward", "repeat_kv", "rotate_half")
CUTS = ("_split_heads", "_merge_heads", "_shape")
"""Methods that do no more than lay rows out by head."""
VALUE_NORMS = ("v_norm",)
GATES = ("g_proj", "gate_proj")

EXACT, ROUNDED = 1e-4, 5e-2
"""How far an attention may be from the module's own, relative to its length: in float32, in other formats."""


@dataclass(frozen=True)
class AttentionRecipe:
    """How one attention module makes what it attends with.

    Attributes:
        projections: Names of its projections: query, key, value, or the one that makes all three.
        layout: How the rows of a projection that makes all three lie: ``heads`` (query, key and value of
            each head), ``blocks`` (all queries, all keys, all values); empty where there are three.
        output: Name of the projection of mixed values.
        norms: Names of the norms of queries and keys, or None.
        moment: When these norms run: ``flat`` (before rows are cut into heads), ``early`` (before they
            turn), ``late`` (after).
        value_norm: Name of the norm of values' heads, or None.
        turns: Name of the function of the module's file that turns rows, or None where none does.
        part: Whether only the first numbers of a head turn, as many as the tables have.
        gate: Name of the projection whose sigmoid multiplies mixed values, head by head or number by number;
            None where there is none.
    """

    projections: tuple[str, ...]
    layout: str
    output: str
    norms: tuple[str, str] | None = None
    moment: str = ""
    value_norm: str | None = None
    turns: str | None = None
    part: bool = False
    gate: str | None = None

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the modules that it calls."""
        more = (*(self.norms or ()), self.value_norm, self.gate)
        return (*self.projections, self.output, *(name for name in more if name is not None))

    def queries(self, attn: Any, x_BND: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        """Queries (B, H, N, K) as they are scored."""
        return self._ready(attn, self._projected(attn, x_BND, 0), 0, rotary)

    def keys(self, attn: Any, x_BND: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        """Keys (B, kv heads, N, K) as they are cached."""
        return self._ready(attn, self._projected(attn, x_BND, 1), 1, rotary)

    def keys_values(
        self, attn: Any, x_BND: torch.Tensor, rotary: Rotary
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, each (B, kv heads, N, K)."""
        if not self.layout:
            return self.keys(attn, x_BND, rotary), self._values(attn, self._projected(attn, x_BND, 2))
        # One projection makes both: it runs once.
        made = getattr(attn, self.projections[0])(x_BND)
        keys = self._ready(attn, self._cut(attn, made, 1), 1, rotary)
        return keys, self._values(attn, self._cut(attn, made, 2))

    def asking(
        self, attn: Any, x_BND: torch.Tensor, rotary: Rotary
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Queries (B, H, N, K), and what the gate is made of (B, N, H or H * K) or None."""
        gate = None if self.gate is None else getattr(attn, self.gate)(x_BND)
        return self.queries(attn, x_BND, rotary), gate

    def mixed(
        self, attn: Any, context_BHNK: torch.Tensor, gate_BND: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Attention output (B, N, D) of mixed values."""
        mixed = context_BHNK.transpose(1, 2)
        if gate_BND is not None:
            mixed = mixed * torch.sigmoid(gate_BND).unflatten(-1, (mixed.shape[2], -1))
        return getattr(attn, self.output)(mixed.flatten(2))

    def _projected(self, attn: Any, x_BND: torch.Tensor, which: int) -> torch.Tensor:
        if not self.layout:
            return getattr(attn, self.projections[which])(x_BND)
        return self._cut(attn, getattr(attn, self.projections[0])(x_BND), which)

    def _cut(self, attn: Any, made_BNE: torch.Tensor, which: int) -> torch.Tensor:
        """Query, key or value (B, N, heads * K) of what one projection made."""
        heads, shared = heads_in(attn)
        width = attn.head_dim
        if self.layout == "heads":
            groups = heads // shared
            each = made_BNE.unflatten(-1, (shared, groups + 2, width))
            cuts = (each[..., :groups, :], each[..., groups : groups + 1, :], each[..., groups + 1 :, :])
            return cuts[which].flatten(-3)
        return made_BNE.split([heads * width, shared * width, shared * width], dim=-1)[which]

    def _ready(self, attn: Any, x_BNE: torch.Tensor, which: int, rotary: Rotary) -> torch.Tensor:
        norm = None if self.norms is None else getattr(attn, self.norms[which])
        if norm is not None and self.moment == "flat":
            x_BNE = norm(x_BNE)
        x_BHNK = heads_of(x_BNE, attn.head_dim)
        if norm is not None and self.moment == "early":
            x_BHNK = norm(x_BHNK)
        x_BHNK = self._turned(attn, x_BHNK, rotary)
        return norm(x_BHNK) if norm is not None and self.moment == "late" else x_BHNK

    def _values(self, attn: Any, x_BNE: torch.Tensor) -> torch.Tensor:
        x_BHNK = heads_of(x_BNE, attn.head_dim)
        return x_BHNK if self.value_norm is None else getattr(attn, self.value_norm)(x_BHNK)

    def _turned(self, attn: Any, x_BHNK: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        if self.turns is None:
            return x_BHNK
        turn: Callable[..., Any] = _written(attn)[self.turns]
        cos, sin = rotary
        width = cos.shape[-1] if self.part else x_BHNK.shape[-1]
        # The stock functions turn queries and keys together; no head is turned for nothing.
        turned = turn(x_BHNK[..., :width], x_BHNK[:, :0, :, :width], cos, sin)[0]
        return torch.cat((turned, x_BHNK[..., width:]), dim=-1) if self.part else turned


@dataclass(frozen=True)
class LentRecipe:
    """How an attention module works whose decoder another family's adapter takes apart.

    Attributes:
        lender: Model type of that family.
    """

    lender: str

    @property
    def family(self) -> Family:
        """The family's adapter."""
        return FAMILIES[self.lender]

    def asking(
        self, attn: Any, x_BND: torch.Tensor, rotary: Rotary
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Queries (B, H, N, K), and their gate (B, N, H * K) or None."""
        return self.family.asking(attn, x_BND, rotary)

    def queries(self, attn: Any, x_BND: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        """Queries (B, H, N, K) as they are scored."""
        return self.family.queries(attn, x_BND, rotary)

    def keys(self, attn: Any, x_BND: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        """Keys (B, kv heads, N, K) as they are cached."""
        return self.family.keys(attn, x_BND, rotary)

    def keys_values(
        self, attn: Any, x_BND: torch.Tensor, rotary: Rotary
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, each (B, kv heads, N, K)."""
        return self.family.keys_values(attn, x_BND, rotary)

    def mixed(
        self, attn: Any, context_BHNK: torch.Tensor, gate_BND: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Attention output (B, N, D) of mixed values."""
        return self.family.output(attn, context_BHNK, gate_BND)


Recipe = AttentionRecipe | LentRecipe
"""How an attention module makes what it attends with."""


def lenders(text: Any) -> list[str]:
    """Model types of families whose adapters take decoders of this configuration apart."""
    return [name for name in FAMILIES if text.model_type in FAMILIES[name].text_types]


def heads_in(attn: Any) -> tuple[int, int]:
    """Heads of an attention module's queries, and of its keys."""
    heads = attn.config.num_attention_heads
    return heads, getattr(attn.config, "num_key_value_heads", None) or heads


def check_known(attn: Any) -> None:
    """Refuses an attention that holds or calls more than is looked at.

    Raises:
        ValueError: Naming it.
    """
    strange = _other_functions(attn)
    if strange:
        raise ValueError(
            f"its attention ({type(attn).__name__}) calls {', '.join(strange)}, which is not known"
        )
    used = {name for recipe in recipes(attn) for name in recipe.modules}
    more = [
        name
        for name, child in attn.named_children()
        if name not in used and any(True for _ in child.parameters())
    ]
    # Some hold what they attend with themselves (sinks), which not every kernel takes.
    more += [name for name, _ in attn.named_parameters(recurse=False)]
    if used and more:
        raise ValueError(
            f"its attention ({type(attn).__name__}) has {', '.join(more)} beside its projections"
        )


def find_recipe(
    attn: Any,
    x_BND: torch.Tensor,
    rotary: Rotary,
    stock_BND: torch.Tensor,
    first: Sequence[AttentionRecipe] = (),
) -> AttentionRecipe:
    """The recipe whose causal attention is the module's own.

    Args:
        attn: The attention module, in the number format of the rows.
        x_BND: Rows that it was given, without padding.
        rotary: Tables that it was given.
        stock_BND: What it made of them.
        first: Recipes to try first, those of other layers.

    Raises:
        ValueError: If none is, saying what the module holds.
    """
    limit, nearest = _limit(x_BND), float("inf")
    for recipe in (*first, *recipes(attn)):
        far = _distance(recipe, attn, x_BND, rotary, stock_BND)
        if far <= limit:
            return recipe
        nearest = min(nearest, far)
    held = ", ".join(name for name, _ in attn.named_children())
    told = "" if nearest == float("inf") else f"; the nearest of the known ways is off by {nearest:.0e}"
    raise ValueError(f"its attention ({type(attn).__name__}: {held}) works in a way that is not known{told}")


def lent_recipe(
    attn: Any, x_BND: torch.Tensor, rotary: Rotary, stock_BND: torch.Tensor, lenders: Sequence[str]
) -> LentRecipe | None:
    """The recipe of the first of these families (by model type) whose attention is the module's own."""
    limit = _limit(x_BND)
    lent = (LentRecipe(name) for name in lenders)
    return next((one for one in lent if _distance(one, attn, x_BND, rotary, stock_BND) <= limit), None)


def recipes(attn: Any) -> Iterator[AttentionRecipe]:
    """All that a module may do, by what it holds."""
    output = next((name for name in OUTPUTS if hasattr(attn, name)), None)
    three = next((names for names in SEPARATE if all(hasattr(attn, name) for name in names)), None)
    one = next((name for name in FUSED if hasattr(attn, name)), None)
    if output is None or (three is None and one is None):
        return
    made = [(three, "")] if three is not None else [((str(one),), "blocks"), ((str(one),), "heads")]
    norms = next((pair for pair in NORMS if all(_holds(attn, name) for name in pair)), None)
    value_norm = next((name for name in VALUE_NORMS if _holds(attn, name)), None)
    gate = next((name for name in GATES if _holds(attn, name)), None)
    moments = ("",) if norms is None else ("early", "late", "flat")
    for projections, layout in made:
        for moment in moments:
            for turns in (*turning(attn), None):
                for part in (False, True) if turns else (False,):
                    yield AttentionRecipe(
                        projections, layout, output, norms, moment, value_norm, turns, part, gate
                    )


def turning(attn: nn.Module) -> list[str]:
    """Names of functions of the module's file that turn rows, of which its forward names some."""
    there = _written(attn)
    named = (*(name for names in _named(attn) for name in names), *there)
    return list(
        dict.fromkeys(name for name in named if name.startswith("apply_") and "rot" in name and name in there)
    )


def _other_functions(attn: nn.Module) -> list[str]:
    """Functions and methods that a module's forward calls beside those that turn rows and attend.

    What such a function does may show on long prompts alone, where a trial of a few words would not see it.
    """
    kind, there, known = type(attn), _written(attn), {*turning(attn), *ATTEND}
    named = dict.fromkeys(name for names in _named(attn) for name in names if name not in known)
    own = (name for name in named if name not in CUTS and not hasattr(nn.Module, name))
    methods = {name for name in own if inspect.isfunction(getattr(kind, name, None))}
    return [name for name in named if name in methods or inspect.isfunction(there.get(name))]


def _named(attn: nn.Module) -> Iterator[tuple[str, ...]]:
    """What a module's forward names, and then that of the class it derives from where it goes on to that."""
    for kind in _written_in(attn):
        names = inspect.unwrap(vars(kind)["forward"]).__code__.co_names
        yield names
        if "forward" not in names:
            return


def _written(attn: nn.Module) -> ChainMap[str, Any]:
    """What stands in the files of a module's class and of those it derives from, its own first."""
    return ChainMap(*(vars(sys.modules[kind.__module__]) for kind in _written_in(attn)))


def _written_in(attn: nn.Module) -> list[type]:
    """A module's class and those it derives from, as far as they have a forward."""
    return [kind for kind in type(attn).__mro__ if kind is not nn.Module and "forward" in vars(kind)]


def _holds(attn: nn.Module, name: str) -> bool:
    return isinstance(getattr(attn, name, None), nn.Module)


def _limit(x_BND: torch.Tensor) -> float:
    return EXACT if x_BND.dtype == torch.float32 else ROUNDED


def _distance(
    recipe: Recipe, attn: Any, x_BND: torch.Tensor, rotary: Rotary, stock_BND: torch.Tensor
) -> float:
    try:
        q, gate = recipe.asking(attn, x_BND, rotary)
        k, v = recipe.keys_values(attn, x_BND, rotary)
        groups = q.shape[1] // k.shape[1]
        k, v = (part.repeat_interleave(groups, dim=1) for part in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=attn.scaling)
        ours_BND = recipe.mixed(attn, mixed, gate)
    except Exception:  # a recipe that is not the module's may fail in any way
        return float("inf")
    if ours_BND.shape != stock_BND.shape:
        return float("inf")
    far = (ours_BND.float() - stock_BND.float()).norm(dim=-1) / stock_BND.float().norm(dim=-1).clamp(
        min=1e-12
    )
    return float(far.max().nan_to_num(float("inf")))
