"""Rows of an ablation that were trained and asked again after the others, beside its result (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def put_beside(whole: Mapping[str, Any] | None, part: Mapping[str, Any]) -> dict[str, Any]:
    """A result of some rows put beside that of all, which it does not replace.

    Each row keeps the dense row that was trained with it, which is not the first one's equal.

    Args:
        whole: The result that lies where the other would be written, or None.
        part: The result of some rows.

    Returns:
        The whole one with the others under ``anew``; the part itself where they do not belong together.
    """
    names = {entry["name"] for entry in part["plans"]}
    known = {entry["name"] for entry in whole["plans"]} if whole is not None else set()
    if whole is None or not names < known:
        return dict(part)
    # Earlier results tell less of the same recipe.
    if any(part["recipe"].get(key) != value for key, value in whole["recipe"].items()):
        return dict(part)
    dense, *rows = part["plans"]
    shared = {
        "dense": {"mean": dense["mean"], "weights": part["model"]["weights"]},
        "questions": part["data"]["questions"],
        "provenance": part["provenance"],
    }
    before = [entry for entry in whole.get("anew", ()) if entry["name"] not in names]
    return {**whole, "anew": [*before, *(entry | shared for entry in rows)]}
