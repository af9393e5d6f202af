"""Why a request is refused, as OpenAI's clients expect to be told."""

from __future__ import annotations

from typing import Any

from saccade.core.text import short

LONGEST = 500
"""Characters of the longest message."""
CLIENT_LEFT = 499
"""Status of a request whose client has left; nobody is sent it."""


class RequestRefused(ValueError):
    """A request that is not answered.

    Attributes:
        status: HTTP status.
        code: What OpenAI calls it, or None.
        param: The field that is wrong, or None.
        retry: Seconds after which to try again, or None.
    """

    def __init__(
        self,
        message: str,
        status: int = 400,
        code: str | None = None,
        param: str | None = None,
        retry: int | None = None,
    ) -> None:
        super().__init__(short(message, LONGEST))
        self.status, self.code, self.retry = status, code, retry
        # The names of fields are the client's words.
        self.param = None if param is None else short(param)

    @property
    def kind(self) -> str:
        """The kind of error, by its status."""
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        return kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")

    def body(self) -> dict[str, Any]:
        """What is sent."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}
