"""Messages of a request as a prompt with its pictures, checked before the model sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL.Image import Image

from saccade.core.text import is_text
from saccade.inputs.pictures import digest
from saccade.inputs.prompts import check_questions, most_positions, placeholders
from saccade.inputs.samples import Sample
from saccade.models import Loaded, chat_prompt
from saccade.serve.asked import ChatTask, Told
from saccade.serve.beginnings import cut
from saccade.serve.choosing import Drawing
from saccade.serve.errors import RequestRefused
from saccade.serve.pictures import picture
from saccade.serve.schema import ChatMessage, ChatRequest, TextPart
from saccade.serve.settings import ServeSettings

CHARACTERS = 128
"""Characters of the longest token of usual vocabularies. No model can read a text with more of them for every
position, and to make tokens of one that fills a body takes gigabytes, and the time of all others."""
Message = dict[str, Any]
"""As chat templates take it: a role, and a list of texts and places of pictures."""


@dataclass(frozen=True)
class Catalogue:
    """What a request may name as its model.

    Attributes:
        model: The model's name, of the model without a plan.
        plans: Names of the plans.
    """

    model: str
    plans: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Every name."""
        return (self.model, *(f"{self.model}@{plan}" for plan in self.plans))

    def plan(self, name: str) -> str:
        """The plan that a name means; empty for none.

        Raises:
            RequestRefused: If there is no such model or plan.
        """
        if name not in self.names:
            raise RequestRefused(
                f"there is no model {name!r} here; there is {', '.join(self.names)}",
                404,
                "model_not_found",
                "model",
            )
        return name[len(self.model) :].removeprefix("@")


class Conversations:
    """Turns requests into what the worker takes."""

    def __init__(self, loaded: Loaded, catalogue: Catalogue, settings: ServeSettings) -> None:
        """Notes how the model's prompts write pictures."""
        self._loaded, self._catalogue, self._settings = loaded, catalogue, settings
        self._written = placeholders(loaded.processor, loaded.family, loaded.model.config)

    def asked(self, request: ChatRequest, tell: Callable[[Told], None], begun: float) -> ChatTask:
        """Reads a request: decodes its pictures, and writes its prompt.

        Args:
            request: The request.
            tell: Is given what happens to it.
            begun: When it arrived, by the monotonic clock.

        Raises:
            RequestRefused: If it asks for what is not served.
        """
        plan = self._catalogue.plan(request.model)
        limits = self._settings.limits
        longest = request.max_completion_tokens or request.max_tokens or limits.tokens
        if longest > limits.tokens:
            name = "max_completion_tokens" if request.max_completion_tokens else "max_tokens"
            raise RequestRefused(f"{name} is at most {limits.tokens} here", code="invalid_value", param=name)
        images: list[Image] = []
        messages = [self._message(n, message, images) for n, message in enumerate(request.messages)]
        text = self._prompt(messages)
        most = most_positions(self._loaded.model.config)
        if most is not None and len(text) > most * CHARACTERS:
            raise RequestRefused(
                f"the prompt has {len(text):,} characters, and this model was made for {most:,} positions; "
                "take a shorter one",
                code="invalid_prompt",
                param="messages",
            )
        parts = cut(text, self._written) if images else None
        key = None if parts is None else (plan, parts[0], tuple(map(digest, images)))
        return ChatTask(
            plan,
            text,
            tuple(images),
            key,
            "" if parts is None else parts[1],
            longest,
            drawing(request),
            tuple(stop for stop in request.stops if stop),
            tell,
            begun + limits.seconds,
            begun,
        )

    def _prompt(self, messages: Sequence[Message]) -> str:
        """The prompt of a conversation, with all of its text.

        Templates differ in what they take as the content of a message without pictures: some read its first
        part alone, and some want a string.

        Raises:
            RequestRefused: If the model's template takes it in no form, or leaves some of it out.
        """
        refused: RequestRefused | None = None
        for form in (_as_given, _in_one_part, _as_string):
            try:
                text = chat_prompt(self._loaded, [form(one) for one in messages])
            except ValueError as error:
                refused = refused or RequestRefused(str(error), param="messages")
                continue
            left_out = next((n for n, one in enumerate(messages) if not _holds(text, one)), None)
            if left_out is None:
                return text
            name = f"messages.{left_out}.content"
            refused = refused or RequestRefused(
                f"{name}: the model's chat template leaves its text out of the prompt", param=name
            )
        assert refused is not None
        raise refused

    def _message(self, number: int, message: ChatMessage, images: list[Image]) -> Message:
        where, content = f"messages.{number}.content", []
        given = message.content
        parts = [TextPart(type="text", text=given)] if isinstance(given, str) else given
        for place, part in enumerate(parts):
            name = where if isinstance(given, str) else f"{where}.{place}"
            if isinstance(part, TextPart):
                self._check(name, part.text)
                content.append({"type": "text", "text": part.text})
                continue
            limits = self._settings.limits
            if len(images) >= limits.pictures:
                raise RequestRefused(f"at most {limits.pictures} pictures a request", param=name)
            left = limits.pixels - sum(image.width * image.height for image in images)
            images.append(picture(part.image_url.url, name, self._settings, left))
            content.append({"type": "image"})
        texts = [part["text"] for part in content if part["type"] == "text"]
        if len(texts) > 1:
            # Templates write them one after another: halves of a placeholder would become one.
            self._check(where, "".join(texts))
        role = "system" if message.role == "developer" else message.role
        return {"role": role, "content": content}

    def _check(self, name: str, text: str) -> None:
        if not is_text(text):
            raise RequestRefused(f"{name}: half of a surrogate pair is no text", param=name)
        try:
            sample = Sample(name, "", "", (), text)
            check_questions([sample], self._loaded.processor, self._loaded.family, self._loaded.model.config)
        except ValueError as error:
            raise RequestRefused(str(error), param=name) from None


def _as_given(message: Message) -> Message:
    return message


def _in_one_part(message: Message) -> Message:
    content = message["content"]
    if message["role"] == "user" or len(content) < 2 or any(part["type"] != "text" for part in content):
        return message
    return message | {"content": [{"type": "text", "text": "\n".join(part["text"] for part in content)}]}


def _as_string(message: Message) -> Message:
    one = _in_one_part(message)
    if one["role"] == "user" or [part["type"] for part in one["content"]] != ["text"]:
        return one
    return one | {"content": one["content"][0]["text"]}


def _holds(prompt: str, message: Message) -> bool:
    """Whether a prompt has the text of a message, but for what a model thought before it answered."""
    texts = [part["text"] for part in message["content"] if part["type"] == "text"]
    if message["role"] == "assistant":
        texts = [text.rpartition("</think>")[2] for text in texts]
    return all(text.strip() in prompt for text in texts)


def drawing(request: ChatRequest) -> Drawing:
    """How a request wants tokens to be drawn: greedy unless it says something."""
    top_p = 1.0 if request.top_p is None else request.top_p
    temperature = request.temperature
    if temperature is None:
        temperature = 1.0 if top_p < 1 else 0.0
    return Drawing(temperature, top_p, request.seed)
