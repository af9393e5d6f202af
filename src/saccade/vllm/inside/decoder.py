"""A step under a plan: which of its rows are visual, and the decoder's loop over its layers.

Steps without visual rows run as vLLM runs them, compiled. Where rows are gone from some layer on, such steps
get the metadata of the rows that are left, layer by layer, and run as ever.

Shape letters: N rows of the step, padding included, Q requests, T text rows, D decoder width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from vllm.forward_context import get_forward_context, is_forward_context_available

from saccade.core.rows import RowIndex
from saccade.vllm.counter import RowCounter
from saccade.vllm.inside.layer import Carried, TextStep, check_layers, dense_layer, recurrent, run_layer
from saccade.vllm.inside.metadata import Note, Noted, SomeRows, metadata_of, watch
from saccade.vllm.inside.slots import SlotMemory, slots_of
from saccade.vllm.inside.weights import Projections
from saccade.vllm.split import Ints, Mask, shown_at, text_rows, text_runs
from saccade.vllm.work import PlanWork


class Decoder:
    """Runs the text decoder of a model under a plan.

    Attributes:
        work: The plan; may be exchanged between steps for another of the same model.
        counter: Where rows are counted, if they are.
    """

    def __init__(self, stock: Any, work: PlanWork, counter: RowCounter | None) -> None:
        """Gets ready before weights are loaded.

        Args:
            stock: vLLM's module that holds the layers and the last norm.
            work: The plan.
            counter: Where to count rows.

        Raises:
            ValueError: If the decoder is not of a known kind.
        """
        self.stock, self.work, self.counter = stock, work, counter
        self.layers: list[Any] = list(stock.layers)
        check_layers(self.layers)
        recurs = [recurrent(layer) for layer in self.layers]
        self.attentions = [
            layer.self_attn.attn for layer, state in zip(self.layers, recurs, strict=True) if not state
        ]
        self._projections = [
            None if state else Projections(layer.self_attn, does.alive and not does.asks)
            for layer, does, state in zip(self.layers, work.layers, recurs, strict=True)
        ]
        self._noted, self._text_before = Noted(), SlotMemory()
        self.rows = StepRows(self._noted, self.attentions[0].layer_name)
        watch(self.attentions, self._noted)

    def begin(self, is_visual: torch.Tensor | None, rows: int) -> bool:
        """Comes to a step of so many rows, padding included.

        Args:
            is_visual: Which rows are visual, on the host; None where none is.
            rows: Rows, padding included.

        Returns:
            Whether the step is to be run here; else vLLM's own model runs it.
        """
        if not self.rows.real:
            return False
        visual = is_visual is not None and bool(is_visual.any())
        drops = self.work.first_without is not None
        if not visual and not drops:
            self._count(self.rows.common.num_actual_tokens, 0)
            return False
        self.rows.read(is_visual, rows)
        self._count(len(self.rows.visual) - self.rows.seen, self.rows.seen)
        if drops:
            self._leave_out(visual)
        return visual and self.work.skips

    def _count(self, text: int, visual: int) -> None:
        if self.counter is not None:
            self.counter.step(self.work.layers, text, visual)

    def _leave_out(self, visual: bool) -> None:
        """Gives the layers without visual rows the metadata and slots of the text rows alone."""
        rows, common, context = self.rows, self.rows.common, get_forward_context()
        part, device = text_rows(rows.visual, rows.starts), common.query_start_loc.device
        table, block = common.block_table_tensor, rows.block_size
        before_Q = self._text_before.before(self.attentions[0], table, block, rows.computed)

        def on(x: Ints) -> torch.Tensor:
            return torch.from_numpy(x).to(device, non_blocking=True)

        text_T, whose_T = on(part.nth_T), on(part.request_T)
        slots_T = slots_of(table, block, part.request_T, before_Q.index_select(0, whose_T) + text_T)
        upto_N = before_Q.index_select(0, on(rows.request)) + on(
            _upto(rows.visual, rows.starts, rows.request)
        )
        stock_slots = common.slot_mapping[: len(rows.visual)]
        self._text_before.note(stock_slots, upto_N)
        requests = on(part.request_S)
        lengths_S = (before_Q + on(part.count_Q)).index_select(0, requests).to(torch.int32)
        longest = int(rows.lengths.max())
        metadata = metadata_of(
            SomeRows(part.starts_S1, part.request_S, lengths_S, longest, slots_T), rows.note
        )
        names = [attention.layer_name for attention in self.attentions[self.work.first_without :]]
        if not visual:
            # Padding is written nowhere.
            spare = common.slot_mapping.new_full((rows.padded - len(slots_T),), -1)
            slots_T = torch.cat((slots_T.to(spare.dtype), spare))
        slots: Any = context.slot_mapping
        held: Any = context.attn_metadata
        context.slot_mapping = {**slots, **dict.fromkeys(names, slots_T.to(common.slot_mapping.dtype))}
        context.attn_metadata = {**held, **dict.fromkeys(names, metadata)}

    def run(
        self, positions_N: torch.Tensor, hidden_ND: torch.Tensor, added: list[torch.Tensor]
    ) -> torch.Tensor:
        """Runs all layers of a step that has visual rows, and the last norm.

        Args:
            positions_N: Positions, perhaps on several axes (3, N).
            hidden_ND: What enters the decoder.
            added: What is added after the first layers, (N, D) each.
        """
        rows, first = self.rows, self.work.first_without
        step = self._step(positions_N, hidden_ND.device)
        carried: Carried = (hidden_ND, None)
        last = len(self.layers) if first is None else first
        for number, layer in enumerate(self.layers[:last]):
            work = self.work.layers[number]
            if work.dense:
                carried = dense_layer(layer, positions_N, carried)
            else:
                carried = run_layer(layer, work, self._projections[number], step, carried)
            if number < len(added):
                carried = (carried[0] + added[number], carried[1])
        if first is None:
            return self._normed(carried)
        hidden_ND, stream_ND = carried
        if stream_ND is not None:
            hidden_ND = hidden_ND + stream_ND
        if not step.text.count:
            # No text row is in this step: nothing of it is read, and nothing of it is kept in these layers.
            return self._normed((hidden_ND, None))
        carried = (step.text.take(hidden_ND[None])[0].contiguous(), None)
        for layer in self.layers[last:]:
            carried = dense_layer(layer, step.positions_T, carried)
        shown_N = np.zeros(rows.padded, dtype=np.int64)
        shown_N[: len(rows.visual)] = shown_at(rows.visual, rows.starts)
        shown = torch.from_numpy(shown_N).to(hidden_ND.device, non_blocking=True)
        return self._normed(carried).index_select(0, shown)

    def _normed(self, carried: Carried) -> torch.Tensor:
        hidden_ND, stream_ND = carried
        if stream_ND is None:
            return self.stock.norm(hidden_ND)
        normed_ND, _ = self.stock.norm(hidden_ND, stream_ND)
        return normed_ND

    def _step(self, positions_N: torch.Tensor, device: torch.device) -> TextStep:
        rows = self.rows
        text_N = np.zeros(rows.padded, dtype=bool)
        text_N[: len(rows.visual)] = ~rows.visual
        text = RowIndex.from_mask(torch.from_numpy(text_N)[None]).on(device)
        runs = text_runs(rows.visual, rows.starts, rows.lengths)
        lengths = torch.from_numpy(runs.lengths_S.astype(np.int32)).to(device, non_blocking=True)
        longest = int(runs.lengths_S.max(initial=0))
        built: dict[Any, Any] = {}
        for note in set(self._noted.by_layer.values()):
            slots = note.common.slot_mapping.index_select(0, text.flat_T)
            some = SomeRows(runs.starts_S1, runs.request_S, lengths, longest, slots)
            built[note] = metadata_of(some, note)
        metadata = {name: built[note] for name, note in self._noted.by_layer.items()}
        return TextStep(text, positions_N, positions_N.index_select(-1, text.flat_T), metadata)


class StepRows:
    """The rows of a step as the host knows them.

    Attributes:
        visual: Which rows are visual, padding left out.
        seen: How many of them.
        starts: Where the rows of each request begin, and their number at the end.
        lengths: Rows of each request once the step is over.
        computed: Rows of each request that were computed earlier.
        request: Whose row each is.
        padded: Rows, padding included.
    """

    visual: Mask
    starts: Ints
    lengths: Ints
    computed: Ints
    request: Ints
    seen: int = 0
    padded: int = 0

    def __init__(self, noted: Noted, layer: str) -> None:
        """Reads the note of one layer: of the rows of a step all say the same, of blocks its own."""
        self._noted, self._layer = noted, layer

    @property
    def real(self) -> bool:
        """Whether this is a step of requests, and not one that measures memory or warms up."""
        if self._layer not in self._noted.by_layer or not is_forward_context_available():
            return False
        return isinstance(get_forward_context().attn_metadata, dict)

    @property
    def note(self) -> Note:
        """What the metadata of this step was built from."""
        return self._noted.by_layer[self._layer]

    @property
    def common(self) -> Any:
        """The same as all backends are given it."""
        return self.note.common

    @property
    def block_size(self) -> int:
        """Slots of a block, as the block tables count them."""
        return int(self.note.builder.kv_cache_spec.block_size)

    def read(self, is_visual: torch.Tensor | None, padded: int) -> None:
        """Reads them off what the metadata was built from; waits for no device."""
        common = self.common
        count, self.padded = common.num_actual_tokens, padded
        starts = common.query_start_loc_cpu.numpy().astype(np.int64)
        requests = int(np.searchsorted(starts, count, side="left"))
        self.starts = starts[: requests + 1]
        self.lengths = common.seq_lens_cpu_upper_bound[:requests].numpy().astype(np.int64)
        scheduled = np.diff(self.starts)
        self.computed = self.lengths - scheduled
        self.request = np.repeat(np.arange(requests), scheduled)
        self.visual = np.zeros(count, dtype=bool)
        if is_visual is not None:
            self.visual[: len(is_visual)] = is_visual[:count].numpy()
        self.seen = int(self.visual.sum())


def _upto(visual_N: Mask, starts_Q1: Ints, request_N: Ints) -> Ints:
    """Text rows of its request in this step up to and with each row."""
    upto_N1 = np.concatenate(([0], np.cumsum(~visual_N)))
    found: Ints = upto_N1[1:] - upto_N1[starts_Q1[:-1]][request_N]
    return found
