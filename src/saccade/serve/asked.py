"""A request as the worker takes it, and what the worker tells of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from PIL.Image import Image

from saccade.serve.beginnings import Key
from saccade.serve.choosing import Drawing
from saccade.serve.errors import RequestRefused


@dataclass(frozen=True)
class Piece:
    """Text that was said; also empty, when the first token was chosen."""

    text: str


@dataclass(frozen=True)
class Ended:
    """The end of an answer.

    Attributes:
        reason: ``stop``, or ``length`` where it was cut off.
        prompt: Rows of the prompt.
        reused: Those of them that were not read again.
        tokens: Tokens of the answer.
    """

    reason: str
    prompt: int
    reused: int
    tokens: int


Told = Piece | Ended | RequestRefused


@dataclass(eq=False)
class ChatTask:
    """One request.

    Attributes:
        plan: Name of the plan; empty for the model without one.
        text: The prompt, as the chat template writes it.
        images: Its pictures.
        key: Under which its beginning is kept; None where it has no picture.
        rest: The prompt from its last picture's placeholder on.
        longest: Tokens of the longest answer.
        drawing: How tokens are drawn.
        stops: Texts before which the answer ends.
        tell: Is given what happens; called in the worker's thread.
        deadline: Until when it must be answered, by the monotonic clock.
        begun: When it arrived.
        gone: Whether nobody waits for it any more.
    """

    plan: str
    text: str
    images: tuple[Image, ...]
    key: Key | None
    rest: str
    longest: int
    drawing: Drawing
    stops: tuple[str, ...]
    tell: Callable[[Told], None]
    deadline: float
    begun: float = field(default_factory=time.monotonic)
    gone: bool = False
