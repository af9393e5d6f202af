"""Stand-ins for the attention and MLP modules of a decoder layer, put in their forward's place."""

from __future__ import annotations

import functools
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch

from saccade.core.rows import RowIndex
from saccade.engine.attention import routed_attention
from saccade.engine.cache import ragged_layer
from saccade.engine.frame import Frame
from saccade.engine.mesh import check_rows
from saccade.engine.recurrent import routed_recurrent
from saccade.engine.steps import Step
from saccade.families import Family
from saccade.families.base import rows_of

FRAME = "saccade_frame"
"""Keyword that carries the frame from the decoder through the stock loop to its layers."""

eager = functools.partial(
    torch.compiler.disable,
    reason="a saccade plan reads the prompt on the host and needs graph breaks: compile without fullgraph",
)
"""Decorator for what reads the prompt on the host."""


class RowHandover(threading.local):
    """Hands a layer's FFN rows from its attention to its MLP, which is called right after it."""

    def __init__(self) -> None:
        # In every thread's own dictionary: torch.compile of 2.11 takes a class attribute for a constant.
        self.rows: RowIndex | None = None


_STOCK = Step()


class MixerStandIn(ABC):
    """Stands in for the forward of the module that lets a layer's rows know of each other.

    Attributes:
        owner: The attachment it belongs to.
    """

    def __init__(
        self, owner: Any, family: Family, number: int, module: Any, ffn_rows: RowHandover, inner: Callable
    ) -> None:
        self.owner, self.family, self.number = owner, family, number
        self.module, self.ffn_rows, self.inner = module, ffn_rows, inner

    def __call__(self, *args, saccade_frame: Frame | None = None, **kwargs):
        if saccade_frame is not None:
            return self._routed(saccade_frame, *args, **kwargs)
        self.ffn_rows.rows = None
        return self.inner(*args, **kwargs)

    @eager
    def _routed(self, frame: Frame, *args, **kwargs):
        hidden = check_rows(args[0] if args else kwargs.pop("hidden_states"), frame.new)
        frame = frame.on(hidden.device)
        step = frame.steps[self.number] or _STOCK
        self.ffn_rows.rows = step.ffn
        return self.mix(frame, step, hidden, *args[1:], **kwargs)

    @abstractmethod
    def mix(self, frame: Frame, step: Step, hidden: torch.Tensor, *args, **kwargs):
        """What the module gives for the rows of a routed forward; arguments beside the first are its own."""


class AttentionStandIn(MixerStandIn):
    """Stands in for one attention module's forward."""

    def mix(self, frame: Frame, step: Step, hidden: torch.Tensor, *args, **kwargs):
        cache = kwargs.get("past_key_values")
        if step.attends_as_stock and (cache is None or not ragged_layer(cache, self.module.layer_idx)):
            return self.inner(hidden, *args, **kwargs)
        rotary = frame.tables(self.family, self.module, kwargs["position_embeddings"])
        sight = frame.sights[self.number]
        return routed_attention(self.family, self.module, frame, step, hidden, rotary, cache, sight), None


class RecurrentStandIn(MixerStandIn):
    """Stands in for the forward of a module that mixes rows through a state."""

    def mix(self, frame: Frame, step: Step, hidden: torch.Tensor, *args, **kwargs):
        def inner(rows: torch.Tensor, **given: Any) -> torch.Tensor:
            return self.inner(rows, *args, **given)

        return routed_recurrent(inner, frame, step, hidden, self.module.layer_idx, kwargs)


class MlpStandIn:
    """Stands in for one MLP module's forward."""

    def __init__(self, ffn_rows: RowHandover, flat: bool, inner: Callable) -> None:
        self.ffn_rows, self.flat, self.inner = ffn_rows, flat, inner

    def __call__(self, hidden: torch.Tensor, *args, **kwargs):
        rows = self.ffn_rows.rows
        if rows is None:
            return self.inner(hidden, *args, **kwargs)
        return self._routed(rows, hidden, *args, **kwargs)

    @eager
    def _routed(self, rows: RowIndex, hidden: torch.Tensor, *args, **kwargs):
        said: list[Any] = []

        def inner(taken: torch.Tensor) -> torch.Tensor:
            given = taken.contiguous() if self.flat else taken
            output = self.inner(given, *map(chosen, args), **{key: chosen(x) for key, x in kwargs.items()})
            said.append(output)
            return check_rows(rows_of(output, taken), taken.shape[1])

        def chosen(x: Any) -> Any:
            # What is told of every row goes where the rows go.
            told = isinstance(x, torch.Tensor) and x.shape == hidden.shape[:2]
            return rows.beside(x) if told else x

        spread = rows.apply(inner, hidden)
        # What is said beside the rows (which experts they passed) is of those that passed.
        return (spread, *said[0][1:]) if isinstance(said[0], tuple) else spread
