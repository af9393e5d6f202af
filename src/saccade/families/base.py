"""What the engine must know of a model family.

Shape letters: B batch, N rows, D hidden, H heads, K head width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from saccade.core.shapes import ModelShape, Recurrence
from saccade.core.sight_rule import SightRule
from saccade.families.deepstack import Added
from saccade.families.projector import ReplaceableProjector, projector_stand_in
from saccade.families.turning import Rotary, rotate
from saccade.families.vision import Picture, VisionAdapter, made_lengths

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Attend = Callable[..., torch.Tensor]
"""An attention function of a model, see ``Family.attention``."""


@dataclass(frozen=True, eq=False)
class Parts:
    """The modules of one model that the engine works with.

    Attributes:
        core: Module that receives token ids and images and merges them.
        decoder: Text decoder; it is called with embeddings and loops over the layers.
        layers: Decoder layers, each with an FFN (``Family.ffn_of``) and a ``mixer`` (``Family.mixer``).
        norm: Norm after the last layer.
        head: Language-model head, or None for a bare core.
    """

    core: nn.Module
    decoder: nn.Module
    layers: nn.ModuleList
    norm: nn.Module
    head: nn.Module | None


class Family(VisionAdapter, ReplaceableProjector, ABC):
    """Adapter of one model family: the only kind of code that names transformers' internals."""

    name: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]]
    since: ClassVar[str] = "0.0"
    """First release of transformers that has its models, where that is later than the oldest supported."""
    text_types: ClassVar[tuple[str, ...]]
    """Text decoders whose attention this adapter can take apart."""
    version: ClassVar[int] = 1
    """Raised when answers of its models come out otherwise; those that were kept are then not used again."""
    norms_outputs: ClassVar[bool] = False
    """Whether a layer norms what attention and FFN give before it is added, or may, for all that is known."""
    tells_blocks: ClassVar[bool] = False
    """Whether its models are told of rows that are not visual, too, that they see others both ways."""
    generic: ClassVar[bool] = False
    """Whether it was made by inspection, so that a check has to accept it for a plan."""
    answer_type: ClassVar[int] = 0
    """What ``token_type_ids`` say of the rows of an answer, where the model takes them."""
    decoder_name: ClassVar[str] = "language_model"
    """Attribute of the core that is the text decoder."""
    norm_name: ClassVar[str] = "norm"
    """Attribute of the decoder that is the norm after its last layer."""
    compact_positions: bool = True
    """Whether positions can close up over dropped rows; not where they have several axes (mRoPE)."""
    gated: ClassVar[bool] = False
    """Whether every query brings a gate of its width, by which what the attention gives it is weighed."""
    layouts: ClassVar[tuple[str, ...]] = ()
    """Layouts of ``SkipVisionConfig`` that its images can have; a family that names some writes
    ``projector_place`` and ``replace_projector``. ``cos`` and ``llava`` are of an image in one view,
    ``llava-hd`` of one with tiles beside it."""

    def told(self) -> dict[str, Any] | None:
        """How an adapter made by inspection works, as plain data; None of one that somebody wrote."""
        return None

    def accept(self, methods: Iterable[str]) -> None:
        """Takes note that a check found plans of these methods to hold; only inspected adapters ask."""

    def check_accepted(self, methods: Iterable[str], plan: Any) -> None:
        """Refuses plans that no check has found to hold, where the adapter was made by inspection.

        Args:
            methods: Names of the plan's methods.
            plan: The plan, for a check that was promised (``prove_with``).

        Raises:
            ValueError: Naming the first that was not checked, and what to do; or what the check found.
        """

    def prove_with(self, check: Callable[[Any], None]) -> None:
        """Promises a check for the first time that a plan needs one; it raises, or accepts the plan."""

    @contextmanager
    def on_trial(self) -> Iterator[None]:
        """A check is going on: plans are put on to see whether they hold."""
        yield

    def visual_ids(self, config: Any) -> tuple[int, ...]:
        """Token ids that stand for a visual row."""
        return (config.image_token_id,)

    def vision_config(self, config: Any) -> Any:
        """Configuration of the vision tower; None where it has none of its own."""
        return config.vision_config

    def written_ids(self, config: Any) -> tuple[int, ...]:
        """Token ids that stand for a whole picture in a prompt, before its processor puts rows there.

        None at all where its processor alone knows them.
        """
        return self.visual_ids(config)

    def typical_visual(self, config: Any) -> int:
        """Visual rows of a typical image; a row for every patch of a square one, unless it is overridden."""
        return (config.vision_config.image_size // config.vision_config.patch_size) ** 2

    def view_patches(self, config: PreTrainedConfig) -> int | None:
        """Patches of a view, where images are cut into views; None where they are not."""
        return None

    def picture(self, model: nn.Module, inputs: Mapping[str, Any]) -> Picture | None:
        made, pixels = made_lengths(inputs), inputs.get("pixel_values")
        if made is None and pixels is None:
            return None
        rows = self.typical_visual(unwrap(model).config)
        return Picture.unmapped((rows,) * len(pixels) if made is None else made)

    @abstractmethod
    def config(
        self, shape: ModelShape, layers: int | None = None, vision_layers: int = 1
    ) -> PreTrainedConfig:
        """Configuration of a model of this shape, for random weights.

        Args:
            shape: Sizes of the decoder.
            layers: Decoder layers, the shape's own if None.
            vision_layers: Layers of the vision tower; a bench of the decoder needs none of it.
        """

    @abstractmethod
    def model_class(self) -> type[nn.Module]:
        """Class to build from a configuration."""

    def parts(self, model: nn.Module) -> Parts:
        """Finds the modules of a model.

        Raises:
            ValueError: If the text decoder is of a kind this family cannot take apart.
        """
        model, core = unwrap(model), core_of(model)
        decoder: Any = getattr(core, self.decoder_name)
        kind = decoder.config.model_type
        if kind not in self.text_types:
            raise ValueError(
                f"{self.name} with a {kind!r} text decoder is not supported; "
                f"supported: {', '.join(self.text_types)}. An adapter made by inspection may do: "
                "saccade check MODEL --generic"
            )
        norm = getattr(decoder, self.norm_name)
        return Parts(core, decoder, decoder.layers, norm, getattr(model, "lm_head", None))

    def visual_mask(
        self, model: nn.Module, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Boolean (B, N): rows that hold a visual placeholder.

        Args:
            model: The model, for its configuration and embeddings.
            input_ids: Token ids (B, N), or None if embeddings are given.
            inputs_embeds: Embeddings (B, N, D) in which placeholders have their own embedding.
        """
        model = unwrap(model)
        ids = self.visual_ids(model.config)
        if input_ids is not None:
            found = torch.zeros_like(input_ids, dtype=torch.bool)
            for token in ids:
                found |= input_ids == token
            return found
        embed = model.get_input_embeddings()
        assert inputs_embeds is not None
        found = torch.zeros(inputs_embeds.shape[:2], dtype=torch.bool, device=inputs_embeds.device)
        for token in ids:
            vector = embed(torch.tensor(token, device=inputs_embeds.device))
            found |= (inputs_embeds == vector).all(-1)
        return found

    def shape(self, config: PreTrainedConfig, name: str = "") -> ModelShape:
        """Sizes of the decoder of a configuration."""
        text = config.get_text_config()
        heads = text.num_attention_heads
        return ModelShape(
            name=name or config.model_type,
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            heads=heads,
            kv_heads=getattr(text, "num_key_value_heads", None) or heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
            ffn=self.ffn(text),
            vocab=text.vocab_size,
            visual=self.typical_visual(config),
            view=self.view_patches(config),
            rules=_plain(self.rules(config)),
            tower=self.tower_shape(config),
            gated=self.gated,
            recurrent=self.recurrent(config),
        )

    def ffn(self, text: Any) -> int:
        """Inner width of the FFN that a row passes in a layer, by the decoder's configuration."""
        return int(text.intermediate_size)

    def fingerprint(self, config: PreTrainedConfig) -> dict[str, Any]:
        """Fields that tell one architecture from another, stable over versions of transformers."""
        text, vision = config.get_text_config(), config.vision_config
        shape = self.shape(config)
        sizes = {
            key: getattr(shape, key)
            for key in ("layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab")
        }
        fields = ("model_type", "hidden_size", "num_hidden_layers", "depth", "image_size", "patch_size")
        seen = {
            key: getattr(vision, key) for key in fields if isinstance(getattr(vision, key, None), int | str)
        }
        return {"model_type": config.model_type, "text_type": text.model_type, "text": sizes, "vision": seen}

    def identity(self, model: nn.Module) -> dict[str, Any]:
        """The ``fingerprint`` of a model, and what lays its visual rows out where the stock way does not."""
        stand_in = projector_stand_in(core_of(model))
        found = self.fingerprint(unwrap(model).config)
        return found if stand_in is None else found | stand_in.identity()

    def mixer(self, layer: Any) -> nn.Module:
        """The module of a decoder layer that lets its rows know of each other: attention, or a recurrence."""
        return layer.self_attn

    def ffn_of(self, layer: Any) -> nn.Module:
        """The module of a decoder layer that works row by row."""
        return layer.mlp

    def fed(self, layer: Any, x_BND: torch.Tensor) -> torch.Tensor:
        """FFN output (B, N, D) of normed hidden states."""
        return rows_of(self.ffn_of(layer)(x_BND), x_BND)

    def recurs(self, layer: Any) -> bool:
        """Whether a decoder layer mixes its rows through a state, in attention's place.

        Its ``mixer`` takes hidden states, a 2-D mask of the rows that enter (``attention_mask``) and a cache,
        all by name but the first, and gives the rows' output alone; rows of zeros write nothing on an empty
        state.
        """
        return False

    def recurrent(self, config: PreTrainedConfig) -> Recurrence | None:
        """What mixes rows in the layers that recur, and which they are; None where all have attention."""
        return None

    def rules(self, config: PreTrainedConfig) -> tuple[SightRule, ...]:
        """For every decoder layer who sees whom in it: causal, within its window where it has one."""
        text = config.get_text_config()
        window, depth = getattr(text, "sliding_window", None), text.num_hidden_layers
        kinds = getattr(text, "layer_types", None) or ("sliding_attention",) * depth
        made = {kind: self.rule(window if kind == "sliding_attention" else None) for kind in set(kinds)}
        if "chunked_attention" in made:
            made["chunked_attention"] = SightRule(chunk=text.attention_chunk_size)
        return tuple(made[kind] for kind in kinds)

    def rule(self, window: int | None) -> SightRule:
        """Who sees whom in a layer with this window, or without one."""
        return SightRule(window)

    def causal_within(self, decoder: nn.Module, number: int) -> int | None:
        """Rows from which on a layer hides some that ``rules`` do not speak of; None where it hides none."""
        return None

    def blocks(self, given: Mapping[str, Any], past: int) -> torch.Tensor | None:
        """Block of every row of the full sequence (B, up to T), -1 for none, as the stock core takes it.

        Rows of a block see each other both ways. None where no row does so in this forward.

        Args:
            given: Arguments of the core, by name; empty where the decoder was called by itself.
            past: Rows of the full sequence before this forward.
        """
        return None

    def implementation(self, asked: str | Mapping[str, str]) -> str | Mapping[str, str]:
        """The attention implementation that is asked for, by part where not every part has it."""
        return asked

    def attention(self, attn: Any) -> Attend | None:
        """The model's own attention, where no kernel does what it does to logits; None where one serves.

        It takes queries, keys, values, what is added to the logits (or None) and the dropout, and returns the
        mixed values (B, H, Q, K).
        """
        return None

    def capped(self, attn: Any, logits: torch.Tensor) -> torch.Tensor:
        """What the model's attention makes of scaled logits before the mask."""
        return logits

    def said(self, model: nn.Module, logits: torch.Tensor) -> torch.Tensor:
        """What the whole model returns of what its head gives."""
        return logits

    def heads(self, attn: Any) -> tuple[int, int]:
        """Heads of a decoder layer's queries, and of its keys: all, also where processes share them."""
        config = attn.config
        heads = config.num_attention_heads
        return heads, getattr(config, "num_key_value_heads", None) or heads

    def queries(self, attn: nn.Module, x_BND: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        """Rotated queries (B, H, N, K) of normed hidden states."""
        return self.turn(heads_of(attn.q_proj(x_BND), attn.head_dim), rotary)

    def asking(
        self, attn: nn.Module, x_BND: torch.Tensor, rotary: Rotary
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Queries as ``queries``, and their gate (B, N, heads * K) where they bring one, for ``output``."""
        return self.queries(attn, x_BND, rotary), None

    def keys_values(
        self, attn: nn.Module, x_BND: torch.Tensor, rotary: Rotary
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotated keys and values, each (B, kv heads, N, K), of normed hidden states."""
        return self.keys(attn, x_BND, rotary), heads_of(attn.v_proj(x_BND), attn.head_dim)

    def keys(self, attn: nn.Module, x_BND: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        """Rotated keys (B, kv heads, N, K) of normed hidden states."""
        return self.turn(heads_of(attn.k_proj(x_BND), attn.head_dim), rotary)

    def turn(self, x_BHNK: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        """Rows by head turned to their positions; where tables are narrower than a head, the rest stays."""
        return rotate(x_BHNK, rotary)

    def input_norm(self, layer: nn.Module, hidden_BND: torch.Tensor) -> torch.Tensor:
        """What the attention of a decoder layer gets of the residual stream."""
        return self.norms(layer)[0](hidden_BND)

    def norms(self, layer: Any) -> tuple[nn.Module, nn.Module]:
        """The norms of a decoder layer: before its attention, and before its FFN."""
        return layer.input_layernorm, layer.post_attention_layernorm

    def norm_gain(self, norm: Any) -> tuple[torch.Tensor, float]:
        """Per-channel gain (D) of an RMS norm, and what it adds to the mean square."""
        return norm.weight, float(norm.variance_epsilon)

    def activation(self, config: PreTrainedConfig) -> str:
        """Name of the activation in the decoder's gated FFN."""
        return str(config.get_text_config().hidden_act)

    def linears(self, layer: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor | None]]:
        """Weights (out, in) and biases of a decoder layer: query, key, value, output, gate, up, down.

        Raises:
            ValueError: If a projection is not a plain linear layer (adapters, quantised weights).
        """
        attn, mlp = layer.self_attn, layer.mlp
        found = {
            **{"query": attn.q_proj, "key": attn.k_proj, "value": attn.v_proj, "output": attn.o_proj},
            **{"gate": mlp.gate_proj, "up": mlp.up_proj, "down": mlp.down_proj},
        }
        for name, module in found.items():
            if not isinstance(module, nn.Linear) or not module.weight.is_floating_point():
                raise ValueError(
                    f"{self.name}: the {name} projection is a {type(module).__name__}, whose weights cannot "
                    "be read as they act; merge adapters into the model, and load it without quantisation"
                )
        return {name: (module.weight, module.bias) for name, module in found.items()}

    def flat_ffn(self, mlp: nn.Module) -> bool:
        """Whether an FFN views the rows of all samples as one list, so that they must lie side by side."""
        return False

    def shows_router(self, decoder: nn.Module, given: Mapping[str, Any]) -> bool:
        """Whether a forward of the decoder is asked for what routers think of rows, of its arguments."""
        return False

    numbered: ClassVar[tuple[str, ...]] = ()
    """Kinds of layers (``rotary_kind``) whose tables go by the numbers of rows, padding counted."""

    def tables(self, attn: Any, stock: Any, numbers: Callable[[], torch.Tensor]) -> Rotary:
        """Tables of the new rows of what the stock loop gives a layer; ``numbers`` makes theirs (1, N)."""
        return stock

    def rotary_kind(self, attn: Any) -> str | None:
        """Kind of a layer, by its attention module, where kinds turn by tables of their own."""
        return None

    def rotary(
        self,
        decoder: nn.Module,
        hidden_BND: torch.Tensor,
        position_ids: torch.Tensor,
        kind: str | None = None,
    ) -> Rotary:
        """Cosines and sines of positions (B or 1, N), as the stock loop makes them for a kind of layer."""
        return decoder.rotary_emb(hidden_BND, position_ids)

    def output(
        self, attn: nn.Module, context_BHNK: torch.Tensor, gate_BND: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Attention output (B, N, D) of mixed values, of the rows that ``asking`` gave the gate of."""
        return attn.o_proj(context_BHNK.transpose(1, 2).flatten(2))

    def added(self, given: Mapping[str, Any]) -> Added | None:
        """What the stock loop adds to rows between layers, of the decoder's arguments; None for nothing."""
        return None


def _plain(rules: tuple[SightRule, ...]) -> tuple[SightRule, ...]:
    """Rules of a shape; none at all where every layer is causal."""
    return () if all(rule == SightRule() for rule in rules) else rules


def heads_of(x_BND: torch.Tensor, width: int) -> torch.Tensor:
    """Projected rows by head (B, H, N, K)."""
    return x_BND.unflatten(-1, (-1, width)).transpose(1, 2)


def rows_of(output: Any, given_BND: torch.Tensor) -> torch.Tensor:
    """What an FFN made of rows (B, N, D); some say beside it which experts they passed, or lay it flat."""
    first: torch.Tensor = output[0] if isinstance(output, tuple) else output
    flat = first.ndim == given_BND.ndim - 1 and first.numel() == given_BND.numel()
    return first.view(given_BND.shape) if flat else first


ADVICE = "give the model itself (.module) and run that, or wrap it in DistributedDataParallel"
"""What to do instead of ``DataParallel``."""


def unwrap(model: nn.Module) -> nn.Module:
    """The stock model inside PEFT, DDP and compile wrappers.

    Raises:
        ValueError: If ``DataParallel`` wraps it, which runs copies that no plan is on.
    """
    while True:
        if hasattr(model, "get_base_model"):
            model = model.get_base_model()
        elif "_orig_mod" in getattr(model, "_modules", {}):
            model = model.get_submodule("_orig_mod")
        elif isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(model, nn.DataParallel):
            raise ValueError(f"DataParallel runs copies of the model, which no plan is on: {ADVICE}")
        else:
            return model


def is_replica(module: nn.Module) -> bool:
    """Whether a module is one of the copies that ``DataParallel`` runs."""
    return getattr(module, "_is_replica", False)


def checkpoints(module: nn.Module) -> bool:
    """Whether a module of transformers recomputes its layers in the backward pass (in training mode)."""
    return getattr(module, "gradient_checkpointing", False)


def run_as_layer(
    layer: Any, run: Callable[[torch.Tensor], torch.Tensor], hidden: torch.Tensor
) -> torch.Tensor:
    """Runs a function in place of a layer's own forward, checkpointed where that would be."""
    # Most layers checkpoint in their class's call, around whatever forward they have; these in the forward.
    if type(layer).__call__ is nn.Module.__call__ and checkpoints(layer) and layer.training:
        return layer._gradient_checkpointing_func(run, hidden)
    return run(hidden)


def core_of(model: nn.Module) -> nn.Module:
    """The module that receives token ids and images: the stock model without its head."""
    stock: Any = unwrap(model)
    return stock.model if hasattr(stock, "lm_head") else stock


def text_sizes(shape: ModelShape, layers: int | None, positions: int) -> dict[str, int]:
    """Arguments of a text configuration: a decoder of this shape, of another depth if ``layers`` says so."""
    return {
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers if layers is None else layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": positions,
    }
