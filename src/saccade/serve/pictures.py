"""Pictures of requests: data URLs, and addresses that the operator allows."""

from __future__ import annotations

import base64
import http.client
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from PIL.Image import Image

from saccade.inputs.pictures import read_picture
from saccade.serve.errors import RequestRefused
from saccade.serve.settings import ServeSettings

FETCHING = 20
"""Seconds that fetching a picture may take."""
PIECE = 2**16
"""Bytes that are read of it before the clock is looked at."""


def picture(url: str, name: str, settings: ServeSettings, pixels: int) -> Image:
    """The picture of a data URL, or of an address that may be fetched.

    Args:
        url: What the request gives.
        name: What to call it in errors.
        settings: Which addresses may be fetched.
        pixels: Pixels that it may have.

    Raises:
        RequestRefused: If it is none that is taken.
    """
    url = url.strip()
    kind, *said = url.partition(",")[0].lower().split(";")
    if kind.startswith("data:image/") and said and said[-1].strip() == "base64":
        try:
            data = _decoded(url.partition(",")[2])
        except ValueError:
            raise RequestRefused(f"{name}: its data URL is not base64", param=name) from None
    elif url[:8].lower().startswith(("http://", "https://")):
        data = _fetched(url, name, settings)
    else:
        raise RequestRefused(
            f"{name}: a picture is a data URL (data:image/png;base64,...)",
            code="invalid_image_url",
            param=name,
        )
    try:
        return read_picture(data, name, pixels)
    except ValueError as error:
        raise RequestRefused(str(error), code="invalid_image", param=name) from None


def _decoded(text: str) -> bytes:
    """What a data URL holds, read as browsers do: lines may be broken, and the end not filled up.

    Raises:
        ValueError: If it is not base64, of either alphabet.
    """
    if "%" in text:
        text = urllib.parse.unquote(text)
    text = "".join(text.split()).rstrip("=").translate(str.maketrans("-_", "+/"))
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: an allowed address could lead to one that is not."""

    def redirect_request(self, *given: Any, **named: Any) -> None:
        return None


def _fetched(url: str, name: str, settings: ServeSettings) -> bytes:
    if settings.urls is None or not re.fullmatch(settings.urls, url):
        why = "addresses are not fetched" if settings.urls is None else "this address is not allowed"
        raise RequestRefused(
            f"{name}: {why} by this server; send the picture as a data URL",
            code="url_not_allowed",
            param=name,
        )
    most, data, limit = settings.limits.body, bytearray(), time.monotonic() + FETCHING
    try:
        # No proxy of the environment, and no scheme but those two.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay)
        with opener.open(url, timeout=FETCHING) as response:
            # A site that sends a byte now and then would never exceed the time of one read.
            while len(data) <= most and (piece := response.read1(PIECE)):
                data += piece
                if time.monotonic() > limit:
                    raise TimeoutError(f"it takes longer than {FETCHING} seconds")
    except (OSError, ValueError, urllib.error.URLError, http.client.HTTPException) as error:
        raise RequestRefused(f"{name}: cannot be fetched ({error})", param=name) from None
    if len(data) > most:
        raise RequestRefused(f"{name}: larger than {most:,} bytes", 413, param=name)
    return bytes(data)
