"""The adapter of a family that nobody wrote one for, made by looking at the model (``inspection``).

Shape letters: B batch, N rows, D hidden, H heads, K head width.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import nn

from saccade.core.shapes import Experts, ModelShape, Recurrence
from saccade.core.sight_rule import SightRule
from saccade.families.base import Family, Parts, core_of, unwrap
from saccade.families.deepstack import Added
from saccade.families.inspection import Found, look
from saccade.families.recipes import Recipe, heads_in, lenders
from saccade.families.registry import FAMILIES
from saccade.families.turning import Rotary
from saccade.families.vision import Picture
from saccade.families.watched import ATTENTIONS, as_built, ffn_in, mixer_in, part_in

PLACEHOLDER = re.compile(r"(image|img|video|vision|visual|media|im)(_\w+)?_(id|index)")
NO_PLACEHOLDER = re.compile(r"start|end|begin|newline|break|row|col|bo[iv]|eo[iv]|sep|global|low|high|audio")
ROWS = ("image_seq_length", "image_seq_len", "mm_tokens_per_image", "num_image_tokens", "num_query_tokens")
"""Fields that hold how many rows a picture becomes."""
TYPICAL = 576
"""Rows of a typical picture where no field says it: those of LLaVA-1.5."""
DEEPSTACK = ("visual_pos_masks", "deepstack_visual_embeds")
"""Arguments of decoders that add states of the vision tower to rows between their layers."""


class GenericFamily(Family):
    """An adapter made by inspection. It serves one model; without one it knows its configuration alone."""

    name = "Generic"
    model_types = ()
    text_types = ()
    generic = True
    norms_outputs = True

    def __init__(self, found: Found | None = None, rows: int | None = None) -> None:
        """Makes it.

        Args:
            found: What was found of the model; None for a configuration alone.
            rows: Visual rows of a typical picture, where its processor told.
        """
        self._found, self._rows = found, rows
        self._accepted: set[str] = set()
        self._trials = 0
        self._check: Callable[[Any], None] | None = None
        if found is not None:
            self.compact_positions = found.axes == 1
            self.image_inputs = (*_pixel_arguments(found.parts.core), "mm_encoder_outputs")

    @classmethod
    def of(cls, model: nn.Module, rows: int | None = None) -> GenericFamily:
        """Looks at a model.

        Args:
            model: The model; it is left as it was.
            rows: Visual rows of a typical picture, where its processor told.

        Raises:
            ValueError: If it is no model of this kind, saying why.
        """
        config: Any = unwrap(model).config
        training, names = model.training, frozenset(cls().visual_ids(config))
        try:
            return cls(look(model.eval(), names), rows)
        except ValueError as error:
            raise ValueError(_refusal(config, str(error))) from None
        except Exception as error:  # models raise whatever their authors chose
            line = (str(error) or type(error).__name__).strip().splitlines()[0]
            raise ValueError(_refusal(config, f"it cannot be looked at ({line})")) from None
        finally:
            model.train(training)

    def recipe(self, attn: Any) -> Recipe:
        """How an attention module of the decoder works."""
        assert self._found is not None
        found = self._found.recipes[attn.layer_idx]
        assert found is not None
        return found

    def told(self) -> dict[str, Any] | None:
        if self._found is None:
            return None
        recipes = [
            {"layers": layers}
            | {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(recipe).items()}
            for recipe, layers in _by_recipe(self._found.recipes)
        ]
        return {"version": self.version, "axes": self._found.axes, "attention": recipes}

    def accept(self, methods: Iterable[str]) -> None:
        self._accepted |= set(methods)

    def prove_with(self, check: Callable[[Any], None]) -> None:
        self._check = check

    def check_accepted(self, methods: Iterable[str], plan: Any) -> None:
        unproven = [name for name in methods if name not in self._accepted]
        if not unproven or self._trials:
            return
        if self._check is None:
            raise ValueError(
                f"no check has accepted this model's adapter, made by inspection, for {unproven[0]}: run "
                "saccade check MODEL --generic --json FILE, then give its report (--accepted FILE), or "
                "call saccade.check.run first"
            )
        self._check(plan)

    @contextmanager
    def on_trial(self) -> Iterator[None]:
        self._trials += 1
        try:
            yield
        finally:
            self._trials -= 1

    def visual_ids(self, config: Any) -> tuple[int, ...]:
        named = {
            name: value
            for name, value in vars(config).items()
            if PLACEHOLDER.fullmatch(name) and not NO_PLACEHOLDER.search(name) and isinstance(value, int)
        }
        if not named:
            raise ValueError(
                _refusal(
                    config, "its configuration names no token that stands for a picture (image_token_id)"
                )
            )
        return tuple(dict.fromkeys(value for value in named.values() if value >= 0))

    def vision_config(self, config: Any) -> Any:
        parts: Iterator[Any] = (getattr(config, name, None) for name in ("vision_config", "vq_config"))
        return next((part for part in parts if part is not None), None)

    def typical_visual(self, config: Any) -> int:
        if self._rows is not None:
            return self._rows
        vision = self.vision_config(config)
        said = (getattr(part, name, None) for part in (config, vision) for name in ROWS)
        found = next((value for value in said if isinstance(value, int) and value > 0), None)
        if found is not None:
            return found
        side, patch = (getattr(vision or config, name, None) for name in ("image_size", "patch_size"))
        if isinstance(side, int) and isinstance(patch, int) and side >= patch > 0:
            return (side // patch) ** 2
        return TYPICAL

    def shape(self, config: Any, name: str = "") -> ModelShape:
        text = config.get_text_config()
        gated = any(FAMILIES[lender].gated for lender in lenders(text))
        try:
            shape = replace(super().shape(config, name), gated=gated)
        except AttributeError as error:
            lacks = error.name or str(error)
            raise ValueError(_refusal(config, f"its configuration does not say its {lacks}")) from None
        except (TypeError, RuntimeError):
            # A list of them, or such as are of one layer alone.
            why = "its layers have sizes of their own each, and plans here are for layers of one size"
            raise ValueError(_refusal(config, why)) from None
        experts, plain = _experts(text), _plain_layers(text)
        if experts is not None and len(plain) < shape.layers:
            wide = _said(text, "dense_intermediate_size", "intermediate_size") if plain else 0
            shape = replace(shape, ffn=experts.passed, experts=experts, plain=plain, plain_ffn=wide)
        return shape if self._found is None else as_built(shape, self._found.parts.layers)

    def ffn(self, text: Any) -> int:
        experts = _experts(text)
        return super().ffn(text) if experts is None or _said(text, "intermediate_size") else experts.passed

    def config(self, shape: ModelShape, layers: int | None = None, vision_layers: int = 1) -> Any:
        raise ValueError(
            "an adapter made by inspection builds no model of random weights; give a model folder"
        )

    def model_class(self) -> type[nn.Module]:
        raise ValueError(
            "an adapter made by inspection builds no model of random weights; give a model folder"
        )

    def parts(self, model: nn.Module) -> Parts:
        assert self._found is not None
        own = self._found.parts
        core = core_of(model)
        if own.core is core:
            return own
        # A copy of the model has the same modules under the same names.
        names = {id(module): name for name, module in own.core.named_modules()}
        decoder, layers, norm = (
            core.get_submodule(names[id(one)]) for one in (own.decoder, own.layers, own.norm)
        )
        assert isinstance(layers, nn.ModuleList)
        return Parts(core, decoder, layers, norm, getattr(unwrap(model), "lm_head", None))

    def fingerprint(self, config: Any) -> dict[str, Any]:
        text, vision, shape = config.get_text_config(), self.vision_config(config), self.shape(config)
        sizes = ("layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab")
        fields = ("model_type", "hidden_size", "num_hidden_layers", "depth", "image_size", "patch_size")
        seen = {key: getattr(vision, key, None) for key in fields}
        return {
            "model_type": config.model_type,
            "text_type": text.model_type,
            "text": {key: getattr(shape, key) for key in sizes},
            "vision": {key: value for key, value in seen.items() if isinstance(value, int | str)},
        }

    def rules(self, config: Any) -> tuple[SightRule, ...]:
        # That a window hides what its configuration says, only a prompt longer than it would show.
        return (SightRule(),) * config.get_text_config().num_hidden_layers

    def causal_within(self, decoder: nn.Module, number: int) -> int | None:
        config: Any = decoder.config
        kinds = getattr(config, "layer_types", None)
        if kinds is not None and kinds[number] == "chunked_attention":
            return getattr(config, "attention_chunk_size", None)
        # Where the configuration names no kinds, a layer may know its own.
        layers: Any = decoder.layers
        own = getattr(self.mixer(layers[number]), "sliding_window", None)
        if kinds is None or kinds[number] == "sliding_attention":
            own = getattr(config, "sliding_window", None) or own
        return own if isinstance(own, int) else None

    def mixer(self, layer: Any) -> nn.Module:
        return mixer_in(layer, None if self._found is None else self._found.lender)

    def recurs(self, layer: Any) -> bool:
        return part_in(layer, ATTENTIONS) is None

    def recurrent(self, config: Any) -> Recurrence | None:
        found = (FAMILIES[name].recurrent(config) for name in lenders(config.get_text_config()))
        return next((one for one in found if one is not None), None)

    def ffn_of(self, layer: Any) -> nn.Module:
        return ffn_in(layer)

    def flat_ffn(self, mlp: nn.Module) -> bool:
        return any("expert" in name for name, _ in mlp.named_modules())

    def shows_router(self, decoder: Any, given: Mapping[str, Any]) -> bool:
        asked = given.get("output_router_logits")
        return bool(getattr(decoder.config, "output_router_logits", False) if asked is None else asked)

    def said(self, model: nn.Module, logits: torch.Tensor) -> torch.Tensor:
        return logits if self._found is None else logits * self._found.scale

    def heads(self, attn: Any) -> tuple[int, int]:
        return heads_in(attn)

    def queries(self, attn: nn.Module, x_BND: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        return self.recipe(attn).queries(attn, x_BND, rotary)

    def keys(self, attn: nn.Module, x_BND: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        return self.recipe(attn).keys(attn, x_BND, rotary)

    def keys_values(
        self, attn: nn.Module, x_BND: torch.Tensor, rotary: Rotary
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.recipe(attn).keys_values(attn, x_BND, rotary)

    def asking(
        self, attn: nn.Module, x_BND: torch.Tensor, rotary: Rotary
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.recipe(attn).asking(attn, x_BND, rotary)

    def output(
        self, attn: nn.Module, context_BHNK: torch.Tensor, gate_BND: torch.Tensor | None = None
    ) -> torch.Tensor:
        return self.recipe(attn).mixed(attn, context_BHNK, gate_BND)

    def norms(self, layer: Any) -> tuple[nn.Module, nn.Module]:
        assert self._found is not None
        mixer: Any = self.mixer(layer)
        number = mixer.layer_idx
        names = (self._found.input_norms[number], self._found.ffn_norms[number])
        before, after = (nn.Identity() if name is None else getattr(layer, name) for name in names)
        return before, after

    def linears(self, layer: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor | None]]:
        raise ValueError("what an adapter made by inspection knows of weights is not enough for bounds")

    def rotary(
        self,
        decoder: nn.Module,
        hidden_BND: torch.Tensor,
        position_ids: torch.Tensor,
        kind: str | None = None,
    ) -> Rotary:
        assert self._found is not None
        axes = self._found.axes
        if axes > 1:
            if position_ids.ndim == 2:
                position_ids = position_ids.expand(axes, *position_ids.shape)
            # A fourth axis in front is that of the text, for packed sequences.
            position_ids = position_ids[-axes:]
        return decoder.rotary_emb(hidden_BND, position_ids, *(() if kind is None else (kind,)))

    def rotary_kind(self, attn: Any) -> str | None:
        kinds = () if self._found is None else self._found.kinds
        return kinds[attn.layer_idx] if kinds else None

    def added(self, given: Mapping[str, Any]) -> Added | None:
        rows, features = (given.get(name) for name in DEEPSTACK)
        return None if rows is None or features is None else Added(DEEPSTACK[1], rows, features)

    def picture(self, model: nn.Module, inputs: Mapping[str, Any]) -> Picture | None:
        given = any(inputs.get(name) is not None for name in self.image_inputs)
        return self.grouped(model, Picture.unmapped((0,)), inputs) if given else None

    def feature_makers(self, core: nn.Module) -> dict[str, str]:
        # Pictures and videos of one prompt are not told apart.
        return {kind: name for kind, name in super().feature_makers(core).items() if kind == "image"}

    def features(self, output: Any) -> Any:
        fields = output.values() if isinstance(output, Mapping) else output
        lists = [one for one in (super().features(output), *fields) if one is not None and len(one)]
        # All of a prompt is one image, which any of its features stands for.
        firsts = (one if isinstance(one, torch.Tensor) else one[0] for one in lists)
        return next(((one,) for one in firsts if isinstance(one, torch.Tensor)), None)

    def grouped(self, model: nn.Module, picture: Picture, inputs: Mapping[str, Any]) -> Picture:
        # Which rows are tiles or lines of one image no two processors say alike: a prompt counts as one.
        ids, embeds = inputs.get("input_ids"), inputs.get("inputs_embeds")
        if ids is None and embeds is None:
            return picture
        rows = self.visual_mask(model, ids, embeds).sum(1).tolist()
        return Picture.unmapped([count for count in rows if count])


def _said(text: Any, *names: str) -> int:
    """The first of these fields that holds a number above 0; 0 where none does."""
    values = (getattr(text, name, None) for name in names)
    # Where rows of pictures have experts of their own (Ernie), their width is the last.
    last = (value[-1] if isinstance(value, list | tuple) and value else value for value in values)
    return next((value for value in last if isinstance(value, int) and value > 0), 0)


def _experts(text: Any) -> Experts | None:
    """What a sparse FFN is made of, as configurations of several decoders have it."""
    count = _said(text, "num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    chosen = _said(text, "num_experts_per_tok", "moe_topk", "moe_k")
    width = _said(text, "moe_intermediate_size", "intermediate_size")
    if not (count and chosen and width):
        return None
    beside = _said(text, "n_shared_experts", "num_shared_experts", "moe_num_shared_experts") * width
    wide = _said(text, "shared_expert_intermediate_size", "shared_intermediate_size")
    return Experts(count, chosen, width, wide or beside)


def _plain_layers(text: Any) -> tuple[int, ...]:
    """Layers with a plain FFN in a decoder that has experts."""
    kinds = getattr(text, "mlp_layer_types", None)
    if kinds:
        return tuple(number for number, kind in enumerate(kinds) if kind == "dense")
    only = getattr(text, "mlp_only_layers", None)
    return tuple(only) if only else tuple(range(_said(text, "first_k_dense_replace")))


def _by_recipe(recipes: Sequence[Recipe | None]) -> list[tuple[Recipe, list[int]]]:
    """Recipes with the layers that they are of."""
    found: dict[Recipe, list[int]] = {}
    for number, recipe in enumerate(recipes):
        if recipe is not None:
            found.setdefault(recipe, []).append(number)
    return list(found.items())


def _refusal(config: Any, why: str) -> str:
    kind = f"model type {config.model_type!r}"
    if config.model_type in FAMILIES:
        kind += f" with a {config.get_text_config().model_type!r} text decoder"
    return f"no adapter for {kind}, and none can be made by inspection: {why}"


def _pixel_arguments(core: nn.Module) -> list[str]:
    named = inspect.signature(type(core).forward).parameters
    return [name for name in named if "pixel_values" in name or name.endswith("_patches")]
