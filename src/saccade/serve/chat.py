"""Answers as OpenAI's clients read them: whole, or as a stream of events."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from saccade.serve.asked import Ended, Piece, Told
from saccade.serve.errors import RequestRefused

DONE = "data: [DONE]\n\n"


class Channel:
    """What the worker tells of a request, as the event loop hears it."""

    def __init__(self) -> None:
        """Listens in the event loop that runs now."""
        self._loop = asyncio.get_running_loop()
        self._told: asyncio.Queue[Told] = asyncio.Queue()

    def tell(self, told: Told) -> None:
        """Called by the worker, in its thread."""
        with suppress(RuntimeError):  # the loop is closed, and nobody listens
            self._loop.call_soon_threadsafe(self._told.put_nowait, told)

    async def next(self) -> Piece | Ended:
        """What is told next.

        Raises:
            RequestRefused: If it is that the request failed.
        """
        told = await self._told.get()
        if isinstance(told, RequestRefused):
            raise told
        return told


class Completion:
    """One answer, in OpenAI's words."""

    def __init__(self, model: str, counted: bool = False) -> None:
        """Names it.

        Args:
            model: What the request calls the model.
            counted: Whether the end of a stream says how many tokens it was.
        """
        self.counted = counted
        self._head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, text: str, ended: Ended) -> dict[str, Any]:
        """A whole answer."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": ended.reason}
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": usage(ended),
        }

    def chunk(self, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        """A piece of a stream."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        unknown = {"usage": None} if self.counted else {}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice], **unknown}

    def count(self, ended: Ended) -> dict[str, Any]:
        """The end of a stream that says how many tokens it was."""
        return {
            **self._head,
            "object": "chat.completion.chunk",
            "choices": [],
            "usage": usage(ended),
        }


def usage(ended: Ended) -> dict[str, Any]:
    """How many tokens a request was; a visual row is one."""
    return {
        "prompt_tokens": ended.prompt,
        "completion_tokens": ended.tokens,
        "total_tokens": ended.prompt + ended.tokens,
        "prompt_tokens_details": {"cached_tokens": ended.reused},
    }


async def collect(channel: Channel, gone: Callable[[], Any]) -> tuple[str, Ended]:
    """The whole answer.

    Args:
        channel: Where it is told.
        gone: Waits until nobody listens any more.

    Raises:
        RequestRefused: If the request failed.
        ConnectionError: If nobody listens any more.
    """
    left = asyncio.ensure_future(gone())
    text = ""
    try:
        while True:
            told = asyncio.ensure_future(channel.next())
            await asyncio.wait({told, left}, return_when=asyncio.FIRST_COMPLETED)
            if not told.done():
                told.cancel()
                raise ConnectionError("the client has left")
            found = told.result()
            if isinstance(found, Ended):
                return text, found
            text += found.text
    finally:
        left.cancel()


async def stream(channel: Channel, completion: Completion, first: Piece) -> AsyncIterator[str]:
    """The answer as server-sent events.

    Args:
        channel: Where it is told.
        completion: Its words.
        first: What was told already.
    """
    try:
        yield event(completion.chunk({"role": "assistant", "content": first.text}))
        while True:
            told = await channel.next()
            if isinstance(told, Ended):
                yield event(completion.chunk({}, told.reason))
                if completion.counted:
                    yield event(completion.count(told))
                break
            yield event(completion.chunk({"content": told.text}))
    except RequestRefused as error:
        yield event(error.body())
    yield DONE


class EventStream(StreamingResponse):
    """A response of server-sent events that says when it is over, also where it never began."""

    def __init__(self, events: AsyncIterator[str], done: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._done = done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._done()


def event(data: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"
