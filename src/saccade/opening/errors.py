"""Whatever a library raises while a model is opened becomes one line that says which part failed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST = 320
"""Characters of a library's message that are passed on."""


@contextmanager
def telling(what: str) -> Iterator[None]:
    """Turns an exception into a `ValueError` of one line.

    Args:
        what: What is being read, with the name of its file.

    Raises:
        ValueError: With what was being read and the reason; running out of memory passes as it is.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # configurations, tokenizers, templates and shards fail in their own ways
        if type(error).__name__ == "OutOfMemoryError":
            raise
        raise ValueError(f"cannot read {what}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """The message of an exception in one line, not longer than a reader can use."""
    if isinstance(error, KeyError) and error.args:
        return f"it has no {error.args[0]!r}"
    if isinstance(error, RecursionError):
        return "it is nested without end"
    text = " ".join(str(error).split()) or type(error).__name__
    if text.startswith("Weights only load failed"):
        # What torch goes on to advise would run what a stranger pickled.
        return "it holds something else than tensors, of which nothing was run"
    if len(text) <= LONGEST:
        return text
    end = text.rfind(". ", 0, LONGEST)
    return text[: end + 1] if end > LONGEST // 3 else f"{text[:LONGEST]}..."


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its kind where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def named(folder: Path, *files: str) -> str:
    """The first of some files that a folder has, for a message; the folder where it has none."""
    return str(next((folder / file for file in files if (folder / file).exists()), folder))
