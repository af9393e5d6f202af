"""What a server allows, in one object."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True)
class ServeLimits:
    """The bounds of a server; past any of them a request is refused in one line.

    Attributes:
        batch: Answers that are written side by side.
        queue: Requests that wait for a place; one more is told to come back.
        body: Bytes of a request.
        pixels: Pixels of the pictures of a request together; few bytes can hold many.
        pictures: Pictures of a request.
        tokens: Tokens of an answer, also where a request does not say.
        seconds: Time of a request from its arrival to the end of its answer.
        beginnings: Bytes of keys and values that are kept of pictures that were asked about.
    """

    batch: int = 8
    queue: int = 64
    body: int = 32 * MIB
    pixels: int = 25_000_000
    pictures: int = 16
    tokens: int = 1024
    seconds: float = 300.0
    beginnings: int = 512 * MIB


@dataclass(frozen=True)
class ServeSettings:
    """Where a server listens, to whom, and what it allows.

    Attributes:
        host: Address to listen at.
        port: Port; any that is free if 0.
        key: What clients must show, or None for nothing.
        urls: A regular expression that addresses of pictures must match wholly to be fetched; None for none.
        limits: The bounds.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    key: str | None = None
    urls: str | None = None
    limits: ServeLimits = ServeLimits()

    def __post_init__(self) -> None:
        """Refuses a pattern that is none, and a key that no header can hold."""
        if self.key is not None and not re.fullmatch(r"[\x21-\x7e]+", self.key):
            raise ValueError("an API key is of visible ASCII characters without blanks")
        try:
            re.compile(self.urls or "")
        except re.error as error:
            raise ValueError(f"--allow-url is no regular expression: {error}") from None

    @property
    def alone(self) -> bool:
        """Whether only programs of this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
