"""Keeps the progress bars of transformers away where ours, or none, are shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_bars() -> Iterator[None]:
    """Keeps transformers' own progress bars off standard error while it lasts."""
    from transformers import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
