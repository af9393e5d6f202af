"""Single timed runs: a prefill and greedy decode steps, driven on the decoder alone.

Shape letters: B batch, N rows, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers.cache_utils import Cache, DynamicCache

from saccade.core.layout import Layout
from saccade.core.route import Route
from saccade.engine import Attachment, kv_bytes
from saccade.measure.clock import now
from saccade.measure.target import Target
from saccade.measure.vision import looks_at_tower, made_up, made_up_grid
from saccade.opening.loaded import input_device
from saccade.plans.budget import as_processed
from saccade.plans.plan import Plan


@dataclass(frozen=True)
class TimedRun:
    """Seconds and bytes of one run.

    Attributes:
        prefill_s: The prefill, to the first token.
        decode_s: Mean of the decode steps; 0 where there was none.
        total_s: All of it.
        kv_bytes: KV cache after the prefill.
        held_bytes: Weights and buffers of the model.
    """

    prefill_s: float
    decode_s: float
    total_s: float
    kv_bytes: int
    held_bytes: int


class Runner:
    """Runs one prompt of random embeddings through a target, with or without a plan.

    Attributes:
        target: The model.
        layout: Where its visual rows are, in the stock model's prompt.
        planned: The same under the plan, which may shorten the prompt.
        grid: Where they would lie in the picture, made up.
        vision: What a vision tower would say of them, made up; None unless the plan asks.
        new_tokens: Tokens generated per sample.
    """

    def __init__(
        self,
        target: Target,
        layout: Layout,
        new_tokens: int,
        seed: int = 0,
        plan: Plan | None = None,
        laid: Layout | None = None,
    ) -> None:
        self.target, self.layout, self.new_tokens = target, layout, new_tokens
        # What the model itself makes of the prompt comes before the plan.
        own = layout if laid is None else laid
        self.planned = own if plan is None else as_processed(plan, own)
        parts = target.parts
        if parts.head is None:
            raise ValueError("a bench needs a model with a language-model head, not its bare core")
        self.decoder, self.head = cast(Any, parts.decoder), cast(Any, parts.head)
        self.embed = self.decoder.get_input_embeddings()
        weight = self.embed.weight
        self.device, self.dtype = input_device(target.model), weight.dtype
        draw = torch.Generator().manual_seed(seed)
        shape = (layout.batch, max(layout.rows, self.planned.rows), target.shape.hidden)
        self.prompt_BND = (torch.randn(shape, generator=draw) * 0.02).to(self.device, self.dtype)
        self.grid = made_up_grid(self.planned)
        self.vision = None
        if plan is not None and looks_at_tower(plan, target.shape.layers):
            self.vision = made_up(target, plan, self.planned, self.device, seed)
        self.held_bytes = sum(
            t.numel() * t.element_size() for t in (*target.model.parameters(), *target.model.buffers())
        )

    @torch.inference_mode()
    def prefill(self, handle: Attachment | None) -> tuple[torch.Tensor, Cache]:
        """The prompt: next token of every sample (B, 1) and the cache; stock where there is no handle."""
        cache = DynamicCache(config=self.decoder.config)
        # A shortened prompt is as good as any other: its numbers are random.
        rows = (self.layout if handle is None else self.planned).rows
        prompt_BND = self.prompt_BND[:, :rows]
        given = nullcontext() if handle is None else handle.with_layout(self.planned, self.vision, self.grid)
        with given:
            hidden_BND = self.decoder(
                inputs_embeds=prompt_BND, past_key_values=cache, use_cache=True
            ).last_hidden_state
        return self.head(hidden_BND[:, -1:]).argmax(-1), cache

    def route(self, handle: Attachment) -> Route:
        """The route that a prefill under a plan really takes, and the score rows that it needs."""
        nominal = handle.plan.route(self.planned, self.target.shape.layers)
        with handle.tracing(sources=False) as traces:
            self.prefill(handle)
        return traces[0].route if traces else nominal

    @torch.inference_mode()
    def step(self, token_B1: torch.Tensor, cache: Cache) -> torch.Tensor:
        """One greedy decode step: the next token of every sample (B, 1)."""
        hidden_BND = self.decoder(
            inputs_embeds=self.embed(token_B1), past_key_values=cache, use_cache=True
        ).last_hidden_state
        return self.head(hidden_BND[:, -1:]).argmax(-1)

    def run(self, handle: Attachment | None) -> TimedRun:
        """One timed run."""
        start = now(self.device)
        token, cache = self.prefill(handle)
        first = now(self.device)
        held = kv_bytes(cache)
        resumed = now(self.device)
        for _ in range(self.new_tokens - 1):
            token = self.step(token, cache)
        decode = now(self.device) - resumed
        each = decode / (self.new_tokens - 1) if self.new_tokens > 1 else 0.0
        return TimedRun(first - start, each, first - start + decode, held, self.held_bytes)

    def compare(
        self,
        attach: Callable[[], Attachment],
        warmup: int,
        repeats: int,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> tuple[list[TimedRun], list[TimedRun]]:
        """Timed pairs of stock and planned runs; which of the two goes first alternates.

        Args:
            attach: Puts the plan on the model.
            warmup: Untimed runs of each side.
            repeats: Pairs.
            progress: Called with (what, done, total) after every run.

        Returns:
            Runs of the stock model and of the plan, pair by pair.
        """
        done, total = 0, 2 * (warmup + repeats)

        def once(planned: bool, phase: str) -> TimedRun:
            nonlocal done
            with attach() if planned else nullcontext() as handle:
                found = self.run(handle)
            done += 1
            if progress is not None:
                progress(phase, done, total)
            return found

        for _ in range(warmup):
            once(False, "warm-up")
            once(True, "warm-up")
        dense: list[TimedRun] = []
        plan: list[TimedRun] = []
        for pair in range(repeats):
            for planned in (False, True) if pair % 2 == 0 else (True, False):
                (plan if planned else dense).append(once(planned, "timing"))
        return dense, plan
