"""vLLM's models, run under a plan. Without one they are as vLLM has them.

Shape letters: N rows of the step, K rows of a picture that are kept, D decoder width.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from vllm.distributed import get_tensor_model_parallel_rank
from vllm.model_executor.models.interns1 import InternS1ForConditionalGeneration
from vllm.model_executor.models.llava import LlavaForConditionalGeneration
from vllm.model_executor.models.llava_next import LlavaNextForConditionalGeneration
from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLForConditionalGeneration
from vllm.model_executor.models.qwen3_5 import (
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeForConditionalGeneration,
)
from vllm.model_executor.models.qwen3_vl import Qwen3VLForConditionalGeneration
from vllm.multimodal import MULTIMODAL_REGISTRY

from saccade.engine.tower_vision import Captured
from saccade.vllm.counter import RowCounter, place
from saccade.vllm.inside.asked import logger, serving_of, work_for
from saccade.vllm.inside.decoder import Decoder
from saccade.vllm.inside.pictures import Pictures
from saccade.vllm.inside.positions import Gaps
from saccade.vllm.inside.processing import under_plan
from saccade.vllm.inside.tower import TowerWatch, see
from saccade.vllm.keep import axes_of, kept_rows, read, written
from saccade.vllm.serving import check_serving
from saccade.vllm.work import PlanWork


class PlannedModel:
    """Put in front of a model of vLLM: its decoder runs under the plan, and pictures give the rows that are
    kept.

    Attributes:
        saccade: What runs the decoder; None without a plan.
    """

    saccade: Decoder | None = None
    """None without a plan."""
    axes: int = 0
    """Axes of positions; 0 where they are plain numbers."""
    language_model: Any

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        work = work_for(vllm_config.model_config)
        if work is not None:
            # vLLM settles more of an engine once the plug-in has looked at it: graphs, transfers, types.
            check_serving(work, serving_of(vllm_config))
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        if work is None:
            return
        self._config = vllm_config.model_config.hf_config
        self.use_plan(work, _counter(vllm_config, work))

    def use_plan(self, work: PlanWork, counter: RowCounter | None = None) -> None:
        """Runs the model under a plan from now on; another plan of the same model may take its place."""
        if self.saccade is None:
            self.saccade = Decoder(self.language_model.model, work, counter)
            self._pictures: Pictures | None = None
            self._is_visual: torch.Tensor | None = None
            self._places: torch.Tensor | None = None
            self._gaps = Gaps(self.saccade)
            self._watch: TowerWatch | None = None
        self.saccade.work = work
        if self._watch is not None:
            self._watch.remove()
            self._watch = None

    @property
    def _prunes(self) -> bool:
        return self.saccade is not None and bool(self.saccade.work.stages)

    @property
    def _columns(self) -> int:
        """Columns that say where a kept row was, beside its embedding."""
        if self.saccade is None or not self._prunes:
            return 0
        return 2 * self.axes if self.axes else 4 * self.saccade.work.gaps

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """Rows of pictures: those that are kept, each with what says where it was."""
        looks = () if self.saccade is None else self.saccade.work.looks
        if looks and self._watch is None:
            # Once weights are loaded: what hooks stand on is what runs.
            self._watch = TowerWatch(self, self._config, looks)
        if self._watch is not None:
            self._watch.begin()
        found = super().embed_multimodal(**kwargs)
        if self.saccade is None or not self._prunes or not len(found):
            return found
        if self._pictures is None:
            self._pictures = Pictures(self._config)
        pictures = self._pictures.of(kwargs, [len(rows) for rows in found])
        seen = [None] * len(found) if self._watch is None else self._watch.take(pictures, kwargs)
        each = enumerate(zip(found, seen, strict=True))
        return tuple(self._kept(pictures.take([number]), *both) for number, both in each)

    def _kept(self, picture: Any, rows_ND: torch.Tensor, seen: Captured | None) -> torch.Tensor:
        assert self.saccade is not None
        width = self._config.get_text_config().hidden_size
        knows = None if seen is None else functools.partial(see, seen)
        kept = kept_rows(self.saccade.work, picture, rows_ND[:, :width], rows_ND[:, width:], knows)
        if self.saccade.counter is not None:
            self.saccade.counter.pictures(len(rows_ND), len(kept.row_K))
        parts = [kept.hidden_KD, kept.added_KE]
        if self.axes:
            parts.append(written(axes_of(picture).to(kept.row_K.device)[kept.row_K], rows_ND))
        elif self._columns:
            count = torch.arange(len(kept.row_K), device=kept.row_K.device)
            after = torch.zeros_like(count)
            after[-1:] = kept.span - len(count)
            parts.append(written(torch.stack((kept.place_K - count, after), dim=1), rows_ND))
        return torch.cat(parts, dim=1)

    def embed_input_ids(
        self,
        input_ids: torch.Tensor,
        multimodal_embeddings: Any = None,
        *,
        is_multimodal: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Embeddings of a step; notes which of its rows are visual."""
        if self.saccade is not None:
            self._is_visual, self._places = is_multimodal, None
            cut = self._columns
            if cut and multimodal_embeddings is not None and len(multimodal_embeddings):
                self._places = read(torch.cat([rows[:, -cut:] for rows in multimodal_embeddings]))
                multimodal_embeddings = [rows[:, :-cut] for rows in multimodal_embeddings]
        return super().embed_input_ids(input_ids, multimodal_embeddings, is_multimodal=is_multimodal)

    def forward(
        self,
        input_ids: Any,
        positions: torch.Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Runs a step: here, where rows of it are visual and the plan spares them work; else as vLLM does."""
        stock = super().forward
        if self.saccade is None or inputs_embeds is None:
            return stock(input_ids, positions, intermediate_tensors, inputs_embeds, **kwargs)
        is_visual, places = self._is_visual, self._places
        self._is_visual = self._places = None
        ours = self.saccade.begin(is_visual, positions.shape[-1])
        if self.axes and places is not None and is_visual is not None:
            positions = _shifted(positions, is_visual, places)
        elif self.saccade.work.gaps:
            positions = self._gaps.spread(positions, is_visual, places)
        if not ours:
            return stock(input_ids, positions, intermediate_tensors, inputs_embeds, **kwargs)
        added = self.added_between(positions.shape[-1])
        given = self.saccade.run(positions, inputs_embeds, added)
        if added:
            self.forget_added(positions.shape[-1])
        return given

    def added_between(self, rows: int) -> list[torch.Tensor]:
        """What the decoder adds to rows after its first layers."""
        return []

    def forget_added(self, rows: int) -> None:
        """Takes back what was added in this step."""


def _shifted(positions_AN: torch.Tensor, is_visual_N: torch.Tensor, places_KA: torch.Tensor) -> torch.Tensor:
    """Positions with those of kept rows, which stand at their pictures' first, moved to their places."""
    rows = torch.from_numpy(np.flatnonzero(is_visual_N.numpy())).to(positions_AN.device, non_blocking=True)
    return positions_AN.index_add(1, rows, places_KA.T.to(positions_AN.dtype))


def _counter(vllm_config: Any, work: PlanWork) -> RowCounter | None:
    """Where rows are counted: by the first of the processes that share a model, beside the server."""
    if get_tensor_model_parallel_rank() != 0:
        return None
    try:
        return RowCounter(place(vllm_config.instance_id), len(work.layers), create=False)
    except OSError:
        logger.warning("saccade: rows are not counted, since this process is not on the server's machine")
        return None


class PlannedAxes(PlannedModel):
    """The same where positions have several axes: kept rows keep theirs, and so does the text after them."""

    axes = 3

    def get_mrope_input_positions(
        self, input_tokens: Sequence[int], mm_features: Sequence[Any]
    ) -> tuple[torch.Tensor, int]:
        """Positions of a prompt; kept rows stand at their pictures' first, and are moved as they come."""
        stock = super().get_mrope_input_positions
        if not self._prunes or not mm_features:
            return stock(input_tokens, mm_features)
        features = sorted(mm_features, key=lambda one: one.mm_position.offset)
        merge, whole, longer = self._config.vision_config.spatial_merge_size, [], 0
        for one in features:
            rows = int(one.data["image_grid_thw"].data.prod()) // merge**2
            at = replace(one.mm_position, offset=one.mm_position.offset + longer, length=rows, is_embed=None)
            whole.append(replace(one, mm_position=at))
            longer += rows - one.mm_position.length
        full, delta = stock([0] * (len(input_tokens) + longer), whole)
        parts, upto = [], 0
        for before, one in zip(features, whole, strict=True):
            start = one.mm_position.offset
            parts += [full[:, upto:start], full[:, start : start + 1].expand(-1, before.mm_position.length)]
            upto = start + one.mm_position.length
        return torch.cat((*parts, full[:, upto:]), dim=1), delta + longer


def _planned(stock: Any) -> Any:
    return MULTIMODAL_REGISTRY.register_processor(**under_plan(stock._processor_factory))


@_planned(LlavaForConditionalGeneration)
class PlannedLlava(PlannedModel, LlavaForConditionalGeneration):
    """LLaVA-1.5."""


@_planned(LlavaNextForConditionalGeneration)
class PlannedLlavaNext(PlannedModel, LlavaNextForConditionalGeneration):
    """LLaVA-NeXT."""


@_planned(InternS1ForConditionalGeneration)
class PlannedInternVL(PlannedModel, InternS1ForConditionalGeneration):
    """InternVL, as transformers has it."""


@_planned(Qwen2_5_VLForConditionalGeneration)
class PlannedQwen25VL(PlannedAxes, Qwen2_5_VLForConditionalGeneration):
    """Qwen2.5-VL."""


@_planned(Qwen3VLForConditionalGeneration)
class PlannedQwen3VL(PlannedAxes, Qwen3VLForConditionalGeneration):
    """Qwen3-VL, whose decoder adds features of the tower to visual rows after its first layers."""

    def added_between(self, rows: int) -> list[torch.Tensor]:
        """The features of every level."""
        held = self._get_deepstack_input_embeds(rows)
        if held is None:
            return []
        return [held[f"deepstack_input_embeds_{level}"] for level in range(self.deepstack_num_level)]

    def forget_added(self, rows: int) -> None:
        """Clears the features for the next step."""
        self._clear_deepstack_input_embeds(rows)


@_planned(Qwen3_5ForConditionalGeneration)
class PlannedQwen35(PlannedAxes, Qwen3_5ForConditionalGeneration):
    """Qwen3.5, most of whose layers mix rows through a state."""


@_planned(Qwen3_5MoeForConditionalGeneration)
class PlannedQwen35Moe(PlannedAxes, Qwen3_5MoeForConditionalGeneration):
    """The same with experts."""
