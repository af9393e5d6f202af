"""What a study tells and draws of its own result file, for whoever makes a page of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saccade.research.studies import STUDIES


def tell(name: str, data: Any) -> tuple[str, Mapping[str, bytes]] | None:
    """Markdown and pictures (PNG, by name) of a result; None of a study that this version does not know."""
    if name not in STUDIES:
        return None
    return STUDIES[name].tell(data), STUDIES[name].draw(data)
