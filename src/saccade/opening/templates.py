"""Chat templates are programs of others: what they do is bounded in time, and what they raise is one line."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from saccade.opening.errors import named, reason

LONGEST_S = 3.0
"""CPU seconds that a template may take for one short conversation; real ones take a thousandth."""
MOST_BYTES = 1 << 30
"""Memory that it may take beside what the process has."""
WRITTEN = "<template>"
"""What Python calls the file of a compiled template."""


class Endless(Exception):
    """A template that does not come to an end."""


def check_template(folder: Path, processor: Any) -> None:
    """Writes a conversation by the chat template; what it refuses is told when there is such a conversation.

    Raises:
        ValueError: If the template cannot be compiled, or does not come to an end.
    """
    if not getattr(processor, "chat_template", None):
        return
    text = {"type": "text", "text": "hello"}
    for content in ([text], [{"type": "image"}, text]):
        try:
            with bounded(LONGEST_S), _held(MOST_BYTES):
                processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
        except Exception as error:
            if (
                not isinstance(error, (Endless, MemoryError))
                and type(error).__name__ != "TemplateSyntaxError"
            ):
                continue
            file = named(folder, "chat_template.json", "chat_template.jinja", "tokenizer_config.json")
            raise ValueError(f"the chat template in {file} is broken: {reason(error)}") from error


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Ends a template's own code after some CPU time: a busy machine is not the template's fault.

    Raises:
        Endless: Within the block, once its time is up.
    """
    limit = time.thread_time() + seconds

    def watch(frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename != WRITTEN:
            return None
        if time.thread_time() > limit:
            raise Endless(f"it had not come to an end after {seconds:g} s")
        return watch

    before = sys.gettrace()
    sys.settrace(watch)
    try:
        yield
    finally:
        sys.settrace(before)


@contextmanager
def _held(more: int) -> Iterator[None]:
    """Bounds the memory of this process where the system can: one multiplication may ask for all there is.

    Raises:
        Endless: Within the block, if it wants more.
    """
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    most = pages * resource.getpagesize() + more
    if before[0] == resource.RLIM_INFINITY or before[0] > most:
        resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    try:
        yield
    except MemoryError:
        raise Endless(f"it wants more than {more >> 20:,} MiB of memory") from None
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
