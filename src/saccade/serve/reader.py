"""Reads the prompts of requests: those of a plan together, and no picture twice."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from saccade.core.layout import Layout
from saccade.core.route import Route
from saccade.engine import Attachment, apply
from saccade.inputs.prompts import check_length, most_positions
from saccade.models import Loaded, chat_prompt, encode
from saccade.plans.plan import Plan
from saccade.serve.asked import ChatTask
from saccade.serve.beginnings import Beginnings
from saccade.serve.errors import RequestRefused
from saccade.serve.metrics import ServeMetrics
from saccade.serve.together import Beginning, ReadPrompts, beginning, read, read_on

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Begun:
    """A request whose prompt was read.

    Attributes:
        asked: The request.
        prompt: Tokens of the prompt.
        reused: Rows that were read for an earlier request.
        room: Tokens that the model has positions for; None where they never end.
    """

    asked: ChatTask
    prompt: tuple[int, ...]
    reused: int
    room: int | None


Read = tuple[list[Begun], ReadPrompts]


class Reader:
    """Reads prompts.

    Attributes:
        plans: The plans that requests may name, and the model without one under the empty name.
        reuses: Those under which the beginning of a prompt serves for others.
        joins: Whether prompts can stand side by side and be taken apart; else each is answered alone.
    """

    def __init__(
        self, loaded: Loaded, plans: Mapping[str, Plan], kept: Beginnings, metrics: ServeMetrics
    ) -> None:
        """Tries every plan on the model.

        Raises:
            ValueError: If one does not fit it, does not know its layers, or was healed.
        """
        healed = next((plan.file or plan.spec for plan in plans.values() if plan.adapter is not None), None)
        if healed is not None:
            raise ValueError(
                f"{healed} brings weights of its own, and requests under several plans are decoded "
                "together with the model's: merge them (saccade heal --merge) and serve that folder with the "
                "plan beside it"
            )
        self.loaded, self.plans, self._kept, self._metrics = loaded, {"": Plan(), **plans}, kept, metrics
        self._on: tuple[str, Attachment] | None = None
        self.reuses = {name for name in self.plans if not self.attach(name).looks_at_end}
        # What they were made for has been looked at.
        self.plans = {name: plan.for_any() for name, plan in self.plans.items()}
        prompts = self._try()
        self.joins = prompts.joins
        self.reuses = self.reuses if prompts.parts else set()
        self.detach()

    def _try(self) -> ReadPrompts:
        """Reads a prompt, so that what does not work fails before anybody asks."""
        if self.loaded.model.generation_config.stop_strings:
            raise ValueError(
                f"{self.loaded.name}: its generation_config.json holds stop_strings, at which the server "
                "would not stop: take them out, and let requests say them (stop)"
            )
        self.attach("")
        words = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
        with torch.inference_mode():
            return read(self.loaded, encode(self.loaded, [chat_prompt(self.loaded, words)], []))

    def attach(self, name: str) -> Attachment:
        """Puts a plan on the model, in place of the one that is on it."""
        if self._on is None or self._on[0] != name:
            self.detach()
            self._on = name, apply(self.loaded.model, self.plans[name])
        return self._on[1]

    def detach(self) -> None:
        """Takes the plan off the model."""
        if self._on is not None:
            self._on[1].remove()
            self._on = None

    def read(self, asked: Sequence[ChatTask]) -> list[Read]:
        """Reads the prompts of requests; those that cannot be read are told so."""
        found: list[Read] = []
        known: list[tuple[ChatTask, Beginning, list[int]]] = []
        fresh: dict[str, list[ChatTask]] = {}
        for one in asked:
            held = None if one.key is None or one.plan not in self.reuses else self._kept.get(one.key)
            if one.key is not None:
                state = "hit" if held else "miss" if one.plan in self.reuses else "never"
                self._metrics.lookups.labels(one.plan, state).inc()
            if held is None:
                fresh.setdefault(one.plan, []).append(one)
            else:
                known.append((one, held, self._rest(one)))
        for name, group in fresh.items():
            found += self._fresh(name, group)
        if known:
            found += self._known(known)
        self._metrics.beginnings.set(self._kept.size)
        return found

    def _rest(self, one: ChatTask) -> list[int]:
        """Tokens after the last picture's placeholder."""
        return self.loaded.processor.tokenizer(one.rest, add_special_tokens=False)["input_ids"][1:]

    def _fresh(self, name: str, group: list[ChatTask]) -> list[Read]:
        """Reads whole prompts under a plan; if they cannot be read together, each alone."""
        plan = self.plans[name]
        try:
            images = [image for one in group for image in one.images]
            batch = encode(self.loaded, [one.text for one in group], images, plan)
            prompts, route = self._forward(name, batch)
        except Exception as error:
            if len(group) > 1:
                return [each for one in group for each in self._fresh(name, [one])]
            group[0].tell(refusal(error))
            return []
        if route is not None:
            self._metrics.read(name, route)
        begun = []
        for number, one in enumerate(group):
            ids = tuple(batch["input_ids"][number][prompts.mask_BT[number]].tolist())
            begun.append(Begun(one, ids, 0, self._room(int(prompts.next_B[number]))))
            self._metrics.prompt_rows.labels(name, "read").inc(len(ids))
            if one.key is not None and name in self.reuses and prompts.joins:
                self._keep(one, ids, prompts, number)
        return [(begun, prompts)]

    def _forward(self, name: str, batch: Any) -> tuple[ReadPrompts, Route | None]:
        handle = self.attach(name)
        if not handle.plan.methods:
            prompts = read(self.loaded, batch)
            visual_BN = self.loaded.family.visual_mask(self.loaded.model, batch["input_ids"])
            layout = Layout.from_mask(visual_BN, batch["attention_mask"])
            return prompts, Route.dense(layout, self.loaded.shape.layers)
        with handle.tracing(sources=False) as traces:
            prompts = read(self.loaded, batch)
        return prompts, traces[0].route if traces else None

    def _keep(self, one: ChatTask, ids: tuple[int, ...], prompts: ReadPrompts, number: int) -> None:
        """Keeps the beginning of a prompt, if the tokens after it can be made without it."""
        rest = self._rest(one)
        if rest and len(rest) < len(ids) and list(ids[-len(rest) :]) == rest and one.key is not None:
            self._kept.put(one.key, beginning(prompts, number, ids, len(rest)))

    def _known(self, known: list[tuple[ChatTask, Beginning, list[int]]]) -> list[Read]:
        """Reads what follows beginnings that are kept."""
        config, taken = self.loaded.model.config, []
        for one, held, rest in known:
            try:
                check_length([held.position + len(rest)], config)
            except ValueError as error:
                one.tell(refusal(error))
                continue
            taken.append((one, held, rest))
        if not taken:
            return []
        asked, kept, rests = zip(*taken, strict=True)
        # What follows is text, of which every plan leaves every row; the cache knows what was dropped.
        self.attach("")
        try:
            prompts = read_on(self.loaded, kept, rests)
        except Exception as error:
            for one in asked:
                one.tell(refusal(error))
            return []
        begun = []
        for number, (one, held, rest) in enumerate(taken):
            self._metrics.prompt_rows.labels(one.plan, "read").inc(len(rest))
            self._metrics.prompt_rows.labels(one.plan, "reused").inc(held.rows)
            room = self._room(int(prompts.next_B[number]))
            begun.append(Begun(one, (*held.ids, *rest), held.rows, room))
        return [(begun, prompts)]

    def _room(self, position: int) -> int | None:
        most = most_positions(self.loaded.model.config)
        return None if most is None else most - position


def refusal(error: Exception) -> RequestRefused:
    """What a client is told of an error."""
    if isinstance(error, RequestRefused):
        return error
    if isinstance(error, ValueError):
        return RequestRefused(str(error), code="invalid_prompt", param="messages")
    LOG.error("a request failed", exc_info=error)
    with suppress(Exception):
        torch.cuda.empty_cache()
    return RequestRefused("the server failed at this request; its log says why", 500)
