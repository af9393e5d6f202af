"""What a vision tower of vLLM tells of pictures: hooks on its layers, read once its features are made.

Shape letters: T views, P rows of a view, H heads, K head width, V tower width.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from math import isqrt
from typing import Any

import torch
from vllm.distributed import tensor_model_parallel_all_gather
from vllm.model_executor.models.clip import CLIPAttention
from vllm.model_executor.models.interns1_vit import InternSdpaAttention

from saccade.core.layout import Layout
from saccade.core.stages import Look, Vision
from saccade.engine.tower_scores import TowerScores, look, received
from saccade.engine.tower_vision import Captured, Seen, TowerRun, Which, vision
from saccade.families.base import heads_of
from saccade.families.vision import Picture, Tower, joined

Pair = tuple[torch.Tensor, torch.Tensor]
"""Queries and keys (T, H, P, K)."""
SERVES: Mapping[Which, Which] = {"made": "made", "reads": "made"}
"""Which layer is looked at in place of which: vLLM runs none that reads the features."""


class TowerWatch:
    """Notes what plans look at while the tower runs.

    Attributes:
        tower: The parts of the tower; layers that vLLM does not load are None.
    """

    def __init__(self, model: Any, config: Any, looks: Sequence[Look]) -> None:
        """Puts hooks on the layers that are looked at.

        Args:
            model: vLLM's model, whose tower is of a kind in ``LOOKED_INTO``.
            config: Its configuration.
            looks: What the decisions of a plan want to see.
        """
        sight, depth = config.vision_config, config.vision_config.num_hidden_layers
        clip = sight.model_type == "clip_vision_model"
        module = model.vision_tower.vision_model if clip else model.vision_tower
        own = module.encoder.layers if clip else module.encoder.layer
        state = config.vision_feature_layer % (depth + 1)
        layers: Any = [*own[:state], *[None] * (depth - state)]
        side = 1 if clip else round(1 / config.downsample_ratio)
        self._side, name = side, "self_attn" if clip else "attention"
        self.tower = Tower(
            module,
            layers,
            states=(state,) if clip else (),
            made=layers[state - 1].get_submodule(name),
            reads=None,
            heads=sight.num_attention_heads,
            has_cls=True,
            merge=side**2,
            projector=model.multi_modal_projector if clip else None,
            strips=True,
            attention=name,
        )
        wanted = {self.tower.number(layer) for one in looks for layer in one.received}
        self._runs: list[TowerRun] = []
        made = self.tower.made
        assert made is not None
        hooks = [module.register_forward_pre_hook(self._begin)]
        hooks.append(made.register_forward_pre_hook(self._scores, with_kwargs=True))
        for number in wanted:
            hook = functools.partial(self._receives, number)
            hooks.append(self.tower.attention_of(number).register_forward_pre_hook(hook, with_kwargs=True))
        if clip:
            hooks.append(layers[state - 1].register_forward_hook(functools.partial(self._state, state)))
        self._hooks = hooks

    def remove(self) -> None:
        """Takes the hooks off."""
        while self._hooks:
            self._hooks.pop().remove()

    def begin(self) -> None:
        """Forgets what an earlier call left behind, if it failed."""
        self._runs = []

    def _begin(self, module: Any, args: Any) -> None:
        self._runs.append(TowerRun())

    def _scores(self, module: Any, args: Any, kwargs: Any) -> None:
        self._runs[-1].scores["made"] = look([_pair(module, _given(args, kwargs))], cls_only=True)

    def _receives(self, number: int, module: Any, args: Any, kwargs: Any) -> None:
        self._runs[-1].received[number] = (received(*_pair(module, _given(args, kwargs))),)

    def _state(self, number: int, module: Any, args: Any, output: torch.Tensor) -> None:
        self._runs[-1].states[number] = output

    def take(self, pictures: Picture, inputs: Mapping[str, Any]) -> list[Captured]:
        """What was seen of the pictures whose features were made since, one by one.

        Args:
            pictures: All of them, in the order of their views.
            inputs: What the call that made them was given.
        """
        runs, self._runs = self._runs, []
        run = _joined(runs, _real(pictures, inputs))
        if self._side > 1:
            views, rows = run.scores["made"].attention[0].shape
            cells = isqrt(rows - 1)
            run.order = joined([(cells, cells)] * views, self._side)
        seen, keys = (Seen(pictures, run, (), None),), SERVES
        return [
            Captured(pictures.take([n]), seen, tuple(pictures.views_of([n])), self.tower, keys)
            for n in range(len(pictures.lengths))
        ]


def see(captured: Captured, what: Look, layout: Layout, rows_BND: torch.Tensor) -> Vision:
    """What the tower knows of one picture."""
    assert what.tower is not None
    return vision(captured, what.tower, layout, rows_BND, what.received)


def _real(pictures: Picture, inputs: Mapping[str, Any]) -> torch.Tensor:
    """Which of the views that ran are of the pictures: vLLM runs tiles too that pad a prompt's others."""
    pixels = inputs["pixel_values"]
    ran = [len(one) if one.ndim == 4 else 1 for one in pixels]
    if sum(ran) == sum(pictures.views):
        return torch.arange(sum(ran))
    parts = zip(ran, pictures.views, strict=True)
    return torch.cat([torch.arange(tiles) < views for tiles, views in parts]).nonzero()[:, 0]


def _joined(runs: Sequence[TowerRun], real_T: torch.Tensor) -> TowerRun:
    """Several runs of the tower as one, view after view, of these views alone."""

    def together(parts: Iterable[torch.Tensor]) -> torch.Tensor:
        whole = torch.cat(list(parts))
        return whole if len(real_T) == len(whole) else whole[real_T.to(whole.device)]

    def scored(name: str) -> tuple[torch.Tensor, ...]:
        return (together(part for run in runs for part in getattr(run.scores["made"], name)),)

    heads = runs[0].scores["made"].heads
    return TowerRun(
        scores={"made": TowerScores(heads, scored("attention"), scored("single"), scored("keys"))},
        states={n: together(run.states[n] for run in runs) for n in runs[0].states},
        received={n: (together(run.received[n][0] for run in runs),) for n in runs[0].received},
    )


def _given(args: Any, kwargs: Any) -> torch.Tensor:
    return args[0] if args else kwargs["hidden_states"]


def _pair(attn: Any, x_TPV: torch.Tensor) -> Pair:
    """Queries and keys of all heads, also where ranks share them.

    Raises:
        ValueError: If the attention is not of a known kind.
    """
    if isinstance(attn, CLIPAttention):
        fused, _ = attn.qkv_proj(x_TPV)
        q, k, _ = fused.chunk(3, dim=-1)
        q, k = heads_of(q, attn.head_dim), heads_of(k, attn.head_dim)
        if attn.tp_size == 1:
            return q, k
        # All at once, for ranks have to agree on rows to the last bit.
        return tuple(tensor_model_parallel_all_gather(torch.stack((q, k)), dim=2))
    if isinstance(attn, InternSdpaAttention):
        q, k = attn.q_proj(x_TPV), attn.k_proj(x_TPV)
        if attn.qk_normalization:
            q, k = attn.q_norm(q), attn.k_norm(k)
        return heads_of(q, attn.head_dim), heads_of(k, attn.head_dim)
    raise ValueError(
        f"saccade: {type(attn).__name__} of a vision tower is not one that plans know inside vLLM"
    )
