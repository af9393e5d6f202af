"""Beginnings of prompts that were read already, by what they hold: the least recently used go first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from saccade.serve.together import Beginning

Key = tuple[str, str, tuple[str, ...]]
"""The plan, the text up to the last picture, and the content of its pictures."""


def cut(text: str, placeholders: Sequence[str]) -> tuple[str, str] | None:
    """A prompt up to its last picture, and what follows from that picture's placeholder on; None without one.

    Args:
        text: The prompt, as the chat template writes it.
        placeholders: How a picture is written.
    """
    at, token = max(((text.rfind(token), token) for token in placeholders), default=(-1, ""))
    return None if at < 0 else (text[: at + len(token)], text[at:])


class Beginnings:
    """The cache.

    Attributes:
        most: Bytes that it may hold.
        size: Bytes that it holds.
    """

    def __init__(self, most: int) -> None:
        """Begins empty."""
        self.most, self.size = most, 0
        self._held: OrderedDict[Key, Beginning] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: Key) -> Beginning | None:
        """The beginning that was read under this key, which is now the last that goes."""
        found = self._held.get(key)
        if found is not None:
            self._held.move_to_end(key)
        return found

    def put(self, key: Key, beginning: Beginning) -> None:
        """Keeps a beginning, if it is not larger than all that may be held."""
        if key in self._held or beginning.size > self.most:
            return
        self._held[key] = beginning
        self.size += beginning.size
        while self.size > self.most:
            _, gone = self._held.popitem(last=False)
            self.size -= gone.size

    def clear(self) -> None:
        """Forgets all of them."""
        self._held.clear()
        self.size = 0
