"""How many rows were computed and skipped in every layer, from the process that runs the model to the one
asked.

The process that runs the model counts into a small file that both have open; the one that answers
``/metrics`` reads it. Counting asks no device: how many rows of a step are visual is known on the host.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from saccade.vllm.work import LayerWork

PARTS = ("kv", "attention", "ffn")
"""What rows have done to them in a layer: keys and values, attending, the FFN."""
OUTCOMES = ("computed", "skipped")


def place(instance: str) -> Path:
    """The file of one engine."""
    return Path(tempfile.gettempdir()) / f"saccade-rows-{instance}"


class RowCounter:
    """Rows computed and skipped, per layer and part, and visual rows that never entered the decoder.

    Attributes:
        path: The file they are in.
        rows: Counts (layers, parts, outcomes).
        entered: Visual rows that entered the decoder, and those that were dropped before it.
    """

    def __init__(self, path: Path, layers: int, *, create: bool) -> None:
        """Opens the file, or makes it.

        Raises:
            OSError: If it is to be opened and is not there.
        """
        self.path = path
        size = layers * len(PARTS) * len(OUTCOMES) + len(OUTCOMES)
        if create:
            path.write_bytes(bytes(8 * size))
        # Plain views of the mapped file, made once: every step counts, and a memmap is slow to slice.
        held = np.asarray(np.memmap(path, dtype=np.int64, mode="r+", shape=(size,)))
        self.rows = held[: -len(OUTCOMES)].reshape(layers, len(PARTS), len(OUTCOMES))
        self.entered = held[-len(OUTCOMES) :]
        self._computed = self.rows[:, :, 0]

    def step(self, layers: tuple[LayerWork, ...], text: int, visual: int) -> None:
        """Counts a step of so many text and visual rows."""
        self._computed += text
        if visual:
            does = np.array([(layer.alive, layer.asks, layer.feeds) for layer in layers])
            self._computed += visual * does
            self.rows[:, :, 1] += visual * ~does

    def pictures(self, found: int, kept: int) -> None:
        """Counts visual rows of pictures, and those of them that were kept."""
        self.entered[0] += kept
        self.entered[1] += found - kept

    def told(self) -> Iterator[tuple[dict[str, str], int]]:
        """Every count with its labels."""
        for layer, part, outcome in np.ndindex(self.rows.shape):
            labels = {"layer": str(layer), "part": PARTS[part], "outcome": OUTCOMES[outcome]}
            yield labels, int(self.rows[layer, part, outcome])
