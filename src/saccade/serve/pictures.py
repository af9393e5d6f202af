"""Pictures of requests: data URLs, and addresses that the operator allows."""

from __future__ import annotations

import base64
import binascii
import re
import urllib.error
import urllib.request
from typing import Any

from PIL.Image import Image

from saccade.inputs.pictures import read_picture
from saccade.serve.errors import RequestRefused
from saccade.serve.settings import ServeSettings

DATA = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)
FETCHING = 20
"""Seconds that fetching a picture may take."""


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
    head = DATA.match(url)
    if head is not None:
        try:
            data = base64.b64decode(url[head.end() :], validate=True)
        except (binascii.Error, ValueError):
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
    most = settings.limits.body
    try:
        # No proxy of the environment, and no scheme but those two.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay)
        with opener.open(url, timeout=FETCHING) as response:
            data = response.read(most + 1)
    except (OSError, ValueError, urllib.error.URLError) as error:
        raise RequestRefused(f"{name}: cannot be fetched ({error})", param=name) from None
    if len(data) > most:
        raise RequestRefused(f"{name}: larger than {most:,} bytes", 413, param=name)
    return data
