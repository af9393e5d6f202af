"""Runs any route on a stock model; knows no method by name."""

from __future__ import annotations

from saccade.engine.attach import FRAME, Attachment, apply, attached
from saccade.engine.cache import KeyRows, RaggedLayer, kv_bytes, kv_lengths
from saccade.engine.frame import Frame
from saccade.engine.made_for import check_made_for

__all__ = [
    "FRAME",
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
