"""Standard output and error that can be written to, whatever the shell and the locale made of them."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from saccade.core.text import replace_unknown

HANDLER = "saccade.replace"


@contextmanager
def usable() -> Iterator[None]:
    """Closed streams go nowhere instead; characters that a stream cannot write get a plain stand-in."""
    codecs.register_error(HANDLER, replace_unknown)
    before = (sys.stdout, sys.stderr)
    if None in before:
        _fill_descriptors()
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        sys.stdout, sys.stderr = (stream or nowhere for stream in before)
        kept = [(s, s.errors) for s in (sys.stdout, sys.stderr) if hasattr(s, "reconfigure")]
        try:
            for stream, _ in kept:
                stream.reconfigure(errors=HANDLER)
            yield
        finally:
            for stream, errors in kept:
                with suppress(OSError, ValueError):
                    stream.reconfigure(errors=errors)
            sys.stdout, sys.stderr = before


def closed(stream: TextIO) -> bool:
    """Whether what is written there goes nowhere because the shell closed it."""
    return getattr(stream, "name", None) == os.devnull


def discard(stream: TextIO) -> None:
    """Lets a stream that nobody reads end without another error."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def discard_unwritable(stream: TextIO) -> None:
    """The same for a stream that still holds what it could not write."""
    try:
        stream.flush()
    except OSError:
        discard(stream)


def _fill_descriptors() -> None:
    """Keeps files that are opened later from being standard output or error to libraries that write there."""
    while True:
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor > 2:
            os.close(descriptor)
            return
