"""What is known of a checkpoint on the hub: one JSON file each in ``checkpoints``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from support.folders import READS_IDEFICS

FOLDER = Path(__file__).parent / "checkpoints"
NAMED = ("image_token_id", "image_token_index", "image_patch_id")
"""Fields that name the placeholder of a visual row."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as it lies on the hub, without its weights.

    Attributes:
        name: Owner and name on the hub.
        family: Our adapter of it.
        sure: For each part, whether its values are confirmed by a stored copy or from memory.
        visual_tokens: Placeholders in the prompt by the picture's size (``width x height``), as the stock
            processor of the checkpoint makes them; None where it refuses the picture.
        chat: How its template writes a conversation, and the files that hold it.
        tokenizer: Its kind, special tokens by id, and ``tokenizer_config.json``.
        weights: Their dtype (of some, by how their names end, another: ``others``), shards, and how their
            names begin.
        small: What a small copy has instead, in ``config.json``.
        files: JSON files as they are on the hub, by their path.
        needs: Packages without which the stock class reads no picture of it.
        lacks: Cases, or groups of them, that its family refuses.
    """

    name: str
    family: str
    sure: Mapping[str, str]
    visual_tokens: Mapping[str, int | None]
    chat: Mapping[str, Any]
    tokenizer: Mapping[str, Any]
    weights: Mapping[str, Any]
    small: Mapping[str, Any]
    files: Mapping[str, Any]
    needs: Sequence[str] = ()
    lacks: Sequence[str] = ()

    @property
    def short(self) -> str:
        """The name without its owner."""
        return self.name.split("/")[1]

    @property
    def config(self) -> dict[str, Any]:
        """``config.json`` of the small copy."""
        inner = {key: value for key, value in self.small.items() if key}
        return merged(self.files["config.json"], self.small.get("", {}) | inner)

    def placeholder(self) -> str:
        """The token that stands for one visual row."""
        config = self.files["config.json"]
        wanted = next(config[key] for key in NAMED if key in config)
        return next(token for token, number in self.tokenizer["special"].items() if number == wanted)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings, the second over the first."""
    out = dict(base)
    for key, value in over.items():
        out[key] = merged(out.get(key, {}), value) if isinstance(value, Mapping) else value
    return out


def read(path: Path) -> Checkpoint:
    """Reads one; what it needs depends on the release of transformers too."""
    found = Checkpoint(**json.loads(path.read_text(encoding="utf-8")))
    if found.family in ("idefics3", "smolvlm") and not READS_IDEFICS:
        return replace(found, needs=(*found.needs, "torchvision"))
    return found


def every() -> dict[str, Checkpoint]:
    """All of them by their short name."""
    found = [read(path) for path in sorted(FOLDER.glob("*.json"))]
    return {one.short: one for one in found}
