"""Runs any route on a stock model; knows no method by name."""

from __future__ import annotations

from saccade.engine.attach import FRAME, Attachment, apply, attached
from saccade.engine.cache import KeyRows, RaggedLayer, kv_bytes, kv_lengths
from saccade.engine.frame import Frame
from saccade.engine.made_for import check_made_for

VERSION = 1
"""Raised when a plan's answers come out otherwise by a change of the engine, or of the pure rooms that it runs on;
answers that were kept are then not used again."""

__all__ = [
    "FRAME",
    "VERSION",
    "Attachment",
    "Frame",
    "KeyRows",
    "RaggedLayer",
    "apply",
    "attached",
    "check_made_for",
    "kv_bytes",
    "kv_lengths",
]
