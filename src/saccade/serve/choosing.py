"""Which token comes next: as the checkpoint's generation configuration has it, greedy or drawn.

Shape letters: N rows of one sequence, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

from saccade.models import Loaded, greedy

COLDEST = 1e-6
"""Temperatures below draw as this one does: the most likely token, but for ties."""


@dataclass(frozen=True)
class Drawing:
    """How tokens are drawn.

    Attributes:
        temperature: 0 for the most likely token, as every command of this package asks.
        top_p: Share of the likelihood that is drawn from.
        seed: Of the draw; one of its own for every request if None.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


class Chooser:
    """Chooses the tokens of one answer.

    What changes scores (penalties, banned tokens) sees this answer's own tokens without padding, so that an
    answer is the same beside others.

    Attributes:
        ends: Tokens that end the answer.
        plain: Whether the most likely token is the answer's, whatever came before it.
    """

    def __init__(self, loaded: Loaded, prompt: Sequence[int], longest: int, drawing: Drawing) -> None:
        """Asks the model's ``generate`` what it would do to scores.

        Args:
            loaded: The model.
            prompt: Tokens of the prompt.
            longest: Tokens of the longest answer.
            drawing: How to draw.
        """
        self._prompt, self._device = list(prompt), loaded.device
        found: dict[str, Any] = {}

        def note(
            model: Any, input_ids: torch.Tensor, logits_processor: Any, generation_config: Any, **named: Any
        ) -> torch.Tensor:
            ends = generation_config.eos_token_id
            found["ends"] = ends if isinstance(ends, list) else [] if ends is None else [ends]
            found["scores"] = logits_processor
            return input_ids

        # Any tokens will do: only how many there are is looked at before the first is chosen.
        blank = torch.full((1, len(self._prompt)), 0, device=self._device)
        loaded.model.generate(
            blank, attention_mask=torch.ones_like(blank), **greedy(longest), custom_generate=note
        )
        self.ends: frozenset[int] = frozenset(found["ends"])
        self._scores = found["scores"]
        self._drawing, self._random = drawing, torch.Generator(self._device)
        if drawing.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(drawing.seed)
        self.plain = not self._scores and not drawing.temperature

    def choose(self, said: Sequence[int], logits_V: torch.Tensor) -> int:
        """The next token.

        Args:
            said: Tokens of the answer so far.
            logits_V: What the model says, in float32.
        """
        ids_1N = torch.tensor([[*self._prompt, *said]], device=self._device)
        scores_1V = self._scores(ids_1N, logits_V[None].clone())
        if not self._drawing.temperature:
            return int(scores_1V.argmax())
        # Below 0, so that however small a temperature is none of them overflows.
        scores_1V = scores_1V - scores_1V.amax()
        scores_1V = TemperatureLogitsWarper(max(self._drawing.temperature, COLDEST))(ids_1N, scores_1V)
        if self._drawing.top_p < 1:
            scores_1V = TopPLogitsWarper(self._drawing.top_p)(ids_1N, scores_1V)
        return int(torch.multinomial(scores_1V.softmax(-1), 1, generator=self._random))
