"""The fields of a chat request, as OpenAI has them: those that are read, and what is said of the others."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, field_validator

from saccade.serve.errors import RequestRefused

IGNORED = frozenset(
    (
        *("user", "metadata", "store", "service_tier", "parallel_tool_calls", "prompt_cache_key"),
        *("safety_identifier", "prompt_cache_retention", "reasoning_effort", "verbosity"),
    )
)
"""Fields of OpenAI that change no answer here."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
}
"""Fields of OpenAI that are not served, with the values that ask for nothing; null is one of each."""


NEUTRAL_SAID: dict[str, tuple[Any, ...]] = {
    "refusal": (),
    "annotations": ([],),
    "audio": (),
    "tool_calls": ([],),
    "function_call": (),
}
"""The same of a message: clients send an answer back as they got it, with all its fields."""


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class TextPart(_Fields):
    """A piece of text in a message."""

    type: Literal["text"]
    text: str


class PictureAddress(_Fields):
    """Where a picture is: a data URL, or an address."""

    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class PicturePart(_Fields):
    """A picture in a message."""

    type: Literal["image_url"]
    image_url: PictureAddress


Part = Annotated[TextPart | PicturePart, Field(discriminator="type")]
TEXT, PARTS = "its text", "its parts"


def _kind(content: Any) -> str | None:
    return TEXT if isinstance(content, str) else PARTS if isinstance(content, list) else None


# By its kind, so that what is wrong in one of the parts is told, and not that they are no text.
Content = Annotated[
    Annotated[str, Tag(TEXT)] | Annotated[list[Part], Tag(PARTS)],
    Discriminator(_kind),
]


class ChatMessage(_Fields):
    """A message of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    name: str | None = None


class StreamOptions(_Fields):
    """What a stream says beside the text."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatRequest(_Fields):
    """A request of ``/v1/chat/completions``."""

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | list[str] | None = None

    @field_validator("stop")
    @classmethod
    def _few_stops(cls, stop: str | list[str] | None) -> str | list[str] | None:
        if isinstance(stop, list) and len(stop) > 4:
            raise ValueError(f"at most 4 texts, not {len(stop)}")
        return stop

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts before which the answer ends."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class CompareRequest(_Fields):
    """A request of the page: a picture and a question, dense and under a plan."""

    image: str
    question: Annotated[str, Field(min_length=1)]
    plan: str
    max_tokens: Annotated[int, Field(ge=1)] = 64


def parse(body: bytes, kind: type[BaseModel]) -> Any:
    """A request of some kind.

    Args:
        body: JSON.
        kind: Its fields.

    Raises:
        RequestRefused: If it is not JSON, or a field is wrong, unknown, or not served.
    """
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestRefused(f"the body is not JSON that can be read: {error}") from None
    if not isinstance(data, dict):
        raise RequestRefused("the body is not a JSON object")
    if kind is ChatRequest:
        data = _served(data)
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise _wrong(error) from None


def _served(data: dict[str, Any]) -> dict[str, Any]:
    """The fields that are read; the others must ask for nothing."""
    data = _asking(data, NEUTRAL)
    messages = data.get("messages")
    if isinstance(messages, list):
        data["messages"] = [
            _asking(one, NEUTRAL_SAID, f"messages.{number}.") if isinstance(one, dict) else one
            for number, one in enumerate(messages)
        ]
    return {name: value for name, value in data.items() if name not in IGNORED}


def _asking(data: dict[str, Any], neutral: dict[str, tuple[Any, ...]], where: str = "") -> dict[str, Any]:
    """What asks for something, without what is not served and asks for nothing."""
    for name, harmless in neutral.items():
        value = data.get(name)
        if value is not None and not any(type(value) is type(one) and value == one for one in harmless):
            # 0 and 0.0 ask for the same.
            if isinstance(value, float) and value in harmless:
                continue
            name = f"{where}{name}"
            raise RequestRefused(f"{name} is not served here", code="unsupported_parameter", param=name)
    return {name: value for name, value in data.items() if name not in neutral}


def _wrong(error: ValidationError) -> RequestRefused:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = _place(first["loc"])
    if first["type"] == "extra_forbidden":
        return RequestRefused(
            f"Unrecognized request argument supplied: {where}", code="unknown_parameter", param=where
        )
    told = "a JSON object is needed" if first["type"] == "model_type" else first["msg"]
    if first["type"] == "union_tag_not_found" and first["loc"][-1] == "content":
        told = "text is needed, or a list of parts"
    return RequestRefused(f"{where or 'the body'}: {told}", code="invalid_value", param=where or None)


def _place(found: tuple[int | str, ...]) -> str:
    """Where a field stands in the request, without the names of the kinds that were tried for it."""
    # The kind of a part stands behind its number.
    kinds = {number + 2 for number, part in enumerate(found) if part == PARTS}
    tried = (TEXT, PARTS, "str", "list[str]")
    return ".".join(str(part) for n, part in enumerate(found) if n not in kinds and part not in tried)
