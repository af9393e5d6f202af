"""Makes a folder as a checkpoint's lies on the hub, with few layers and little width."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rehearsal import tables
from rehearsal.checkpoint import Checkpoint
from saccade.system.files import write_folder, write_json, write_text

INDEX = "model.safetensors.index.json"
SPREAD = 0.05
"""Standard deviation of the random matrices."""


def build(checkpoint: Checkpoint, folder: Path, cache: Path | None = None) -> Path:
    """Makes the folder: configuration, processors, template, tokenizer, and random weights in shards.

    Args:
        checkpoint: What the hub has.
        folder: Where to; whole or not at all.
        cache: Where the real tokenizers' tables are; small ones of ours if None.

    Returns:
        The folder.
    """
    with write_folder(folder) as fresh:
        _write_weights(checkpoint, fresh)
        tables.write(checkpoint, fresh, cache)
        for path, data in checkpoint.files.items():
            (fresh / path).parent.mkdir(exist_ok=True)
            write_json(fresh / path, checkpoint.config if path == "config.json" else data)
        text = template(checkpoint)
        for name in checkpoint.chat["files"]:
            if name.endswith(".json"):
                write_json(fresh / name, {"chat_template": text})
            else:
                write_text(fresh / name, text)
    return folder


def _write_weights(checkpoint: Checkpoint, folder: Path) -> None:
    """Random weights under the hub's names, in shards with an index."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    write_json(folder / "config.json", checkpoint.config)
    config = AutoConfig.from_pretrained(folder)
    # The hub's InternVL does not say so, but has a head of its own; Gemma's have none.
    config.tie_word_embeddings = not any("lm_head" in name for name in checkpoint.weights["names"])
    dtype = getattr(torch, checkpoint.weights["dtype"])
    model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(SPREAD * torch.randn(parameter.shape, generator=source))
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    written = folder / "weights"
    # The stock writer turns names into those of the hub; its configuration files are those of today.
    model.save_pretrained(written, max_shard_size=1 + size * 6 // 10)
    _rename(written, folder, checkpoint.weights.get("renamed", {}))
    shutil.rmtree(written)


def _rename(written: Path, folder: Path, renamed: Mapping[str, str]) -> None:
    """Moves shards and their index, with the beginnings of names that the stock writer no longer knows."""
    from safetensors.torch import load_file, save_file

    def old(name: str) -> str:
        return next((new + name[len(now) :] for now, new in renamed.items() if name.startswith(now)), name)

    for path in written.glob("*.safetensors"):
        tensors = {old(name): tensor for name, tensor in load_file(path).items()}
        save_file(tensors, folder / path.name, metadata={"format": "pt"})
    index = json.loads((written / INDEX).read_text(encoding="utf-8"))
    index["weight_map"] = {old(name): file for name, file in index["weight_map"].items()}
    write_json(folder / INDEX, index)


def template(checkpoint: Checkpoint) -> str:
    """The chat template (Jinja), from how the checkpoint writes a conversation."""
    chat = checkpoint.chat
    image, text = _said(chat["image"]), f"{_said(chat['text'])} + part['text']"

    def parts(condition: str, what: str) -> str:
        each = "{% for part in message['content'] %}{% if " + condition + " %}{{ "
        return each + what + " }}{% endif %}{% endfor %}"

    if chat["order"] == "images first":
        film = parts("part['type'] == 'video'", _said(chat["video"])) if "video" in chat else ""
        body = parts("part['type'] == 'image'", image) + film + parts("part['type'] == 'text'", text)
    else:
        film = f"{_said(chat['video'])} if part['type'] == 'video' else " if "video" in chat else ""
        body = parts("true", f"{image} if part['type'] == 'image' else {film}{text}")
    plain = "{% if message['content'] is string %}{{ message['content'] }}{% else %}" + body + "{% endif %}"
    role = "{% if message['role'] == "
    opened = role + "'user' %}{{ " + _said(chat["user"][0]) + " }}"
    opened += "{% elif message['role'] == 'assistant' %}{{ " + _said(chat["assistant"][0]) + " }}"
    opened += "{% else %}{{ '<|im_start|>' + message['role'] + '\\n' }}{% endif %}"
    closed = role + "'assistant' %}{{ " + _said(chat["assistant"][1]) + " }}"
    closed += "{% else %}{{ " + _said(chat["user"][1]) + " }}{% endif %}"
    system = ""
    if chat["system"] is not None:
        first = "{% if loop.first and message['role'] != 'system' %}{{ "
        system = first + _said(chat["system"]) + " }}{% endif %}"
    whole = "{% for message in messages %}" + system + opened + plain + closed + "{% endfor %}"
    return whole + "{% if add_generation_prompt %}{{ " + _said(chat["generation"]) + " }}{% endif %}"


def _said(text: str) -> str:
    """A string as Jinja writes it."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"


def written_prompt(checkpoint: Checkpoint, images: int, question: str) -> str:
    """The prompt of one question as the model card has it, without any template."""
    chat: Any = checkpoint.chat
    parts = [chat["system"] or "", chat["user"][0], chat["image"] * images, chat["text"], question]
    return "".join([*parts, chat["user"][1], chat["generation"]])
