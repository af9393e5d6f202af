"""Who may ask, and how much: checked before a body is read."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import Request

from saccade.serve.errors import RequestRefused
from saccade.serve.settings import ServeSettings

LOOPBACK = frozenset(("localhost", "127.0.0.1", "[::1]"))


class Guards:
    """Looks at requests.

    Attributes:
        inside: Requests that are being served.
    """

    def __init__(self, settings: ServeSettings) -> None:
        """Guards a server of these settings."""
        self._settings, self.inside = settings, 0

    def check(self, request: Request) -> None:
        """Refuses who may not ask.

        Raises:
            RequestRefused: If the key is wrong, or a page of another host asks in a browser.
        """
        self.check_host(request)
        key = self._settings.key
        if key is not None:
            kind, _, shown = request.headers.get("authorization", "").partition(" ")
            same = hmac.compare_digest(shown.strip().encode(), key.encode())
            if kind.lower() != "bearer" or not same:
                raise RequestRefused(
                    "the API key is missing or wrong: send Authorization: Bearer KEY", 401, "invalid_api_key"
                )

    def check_host(self, request: Request) -> None:
        """Refuses names of other hosts where only this machine is served: a page could make one lead here.

        Raises:
            RequestRefused: If it is one.
        """
        if not self._settings.alone:
            return
        name = request.headers.get("host", "").lower()
        bare = name if name.endswith("]") else name.rpartition(":")[0] or name
        if bare not in LOOPBACK and bare != self._settings.host.lower():
            raise RequestRefused("this server is for its own machine: ask it as localhost", 403)

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for a request from the reading of its body on.

        Raises:
            RequestRefused: If there is none.
        """
        self.take()
        try:
            yield
        finally:
            self.free()

    def take(self) -> None:
        """Takes a place, which `free` gives back.

        Raises:
            RequestRefused: If there is none.
        """
        limits = self._settings.limits
        if self.inside >= limits.queue + limits.batch:
            raise RequestRefused(
                f"{limits.queue} requests wait already; come back later", 429, "queue_full", retry=1
            )
        self.inside += 1

    def free(self) -> None:
        """Gives a place back."""
        self.inside -= 1

    async def body(self, request: Request) -> bytes:
        """The body of a request.

        Raises:
            RequestRefused: If it is too long, or not said to be JSON, or does not arrive in time.
        """
        # A form of another page's in a browser can say nothing else than that it is one.
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise RequestRefused("send JSON, with Content-Type: application/json", 415)
        seconds = self._settings.limits.seconds
        try:
            # A client that sends nothing would hold its place for ever.
            async with asyncio.timeout(seconds):
                return await self._whole(request)
        except TimeoutError:
            raise RequestRefused(
                f"the body did not arrive within {seconds:g} seconds", 408, "timeout"
            ) from None

    async def _whole(self, request: Request) -> bytes:
        most, found = self._settings.limits.body, bytearray()
        told = request.headers.get("content-length", "0")
        too_long = RequestRefused(f"the body is longer than {most:,} bytes", 413, "body_too_large")
        if told.isdigit() and int(told) > most:
            raise too_long
        async for chunk in request.stream():
            found += chunk
            if len(found) > most:
                raise too_long
        return bytes(found)
