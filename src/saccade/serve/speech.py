"""Tokens of an answer as text, piece by piece, up to where it stops (pure)."""

from __future__ import annotations

from collections.abc import Callable, Sequence


class Speech:
    """What may be said of an answer so far.

    The pieces together are the text that the whole answer has: blanks around it are cut off, half of a
    character waits for the other half, and what may be the beginning of a stop waits for its end.

    Attributes:
        tokens: Tokens of the answer.
        stopped: Whether a stop was met.
    """

    def __init__(self, write: Callable[[Sequence[int]], str], stops: Sequence[str] = ()) -> None:
        """Begins an answer.

        Args:
            write: Turns tokens into text.
            stops: Texts before which the answer ends.
        """
        self._write, self._stops = write, tuple(stops)
        self.tokens: list[int] = []
        self.stopped = False
        self._said = ""

    def add(self, token: int) -> str:
        """Takes a token, and gives the text that can be said now."""
        self.tokens.append(token)
        text = self._write(self.tokens).lstrip()
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._further(text[: min(found)].rstrip())
        # The rest of a character may still come.
        ready = text.rstrip("�")
        held = max((_overlap(ready, stop) for stop in self._stops), default=0)
        return self._further(ready[: len(ready) - held].rstrip())

    def end(self) -> str:
        """The text that is left once no token comes."""
        if self.stopped:
            return ""
        return self._further(self._write(self.tokens).strip())

    def _further(self, text: str) -> str:
        # A tokenizer may write earlier tokens otherwise once later ones are there; then nothing is said yet.
        if not text.startswith(self._said):
            return ""
        piece, self._said = text[len(self._said) :], text
        return piece


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of a text that a stop begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
