"""One conversation as a file gives it: checked, its images found but not decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from saccade.core.text import is_text
from saccade.inputs.data import unread_picture
from saccade.inputs.pictures import open_picture

MARK = "<image>"
READ = ("id", "image", "images", "video", "videos", "conversations")
"""Keys of a record that are looked at."""
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


class BadRecord(ValueError):
    """A record that cannot be used; the message names its place and the reason."""


@dataclass(frozen=True)
class Turn:
    """One message.

    Attributes:
        role: ``system``, ``user`` or ``assistant``.
        pieces: Text, with None where an image stands.
    """

    role: str
    pieces: tuple[str | None, ...]

    @property
    def images(self) -> int:
        """Number of images in it."""
        return sum(piece is None for piece in self.pieces)

    def message(self) -> dict[str, Any]:
        """The message as chat templates take it."""
        content = [
            {"type": "image"} if piece is None else {"type": "text", "text": piece} for piece in self.pieces
        ]
        return {"role": self.role, "content": content}


@dataclass(frozen=True)
class Conversation:
    """A record that is ready to be encoded.

    Attributes:
        turns: The messages; the last is the assistant's.
        images: Their images, decoded, in order.
        where: File and line or index, for errors.
    """

    turns: tuple[Turn, ...]
    images: tuple[Image.Image, ...]
    where: str


@dataclass(frozen=True)
class Record:
    """A checked record of a file.

    Attributes:
        turns: The messages.
        paths: Image files, in order.
        where: File and line or index.
    """

    turns: tuple[Turn, ...]
    paths: tuple[Path, ...]
    where: str

    def load(self) -> Conversation:
        """Decodes the images.

        Raises:
            BadRecord: If a file is not an image.
        """
        try:
            images = tuple(open_picture(path, self.where) for path in self.paths)
        except ValueError as error:
            raise BadRecord(str(error)) from None
        return Conversation(self.turns, images, self.where)


def read_record(data: Any, folder: Path, where: str) -> Record:
    """Checks one record of LLaVA's format, without looking for its images.

    Args:
        data: ``conversations`` (messages with ``from`` and ``value``), and ``image`` or ``images``, a name or
            a list.
        folder: What image names are relative to.
        where: File and line or index.

    Raises:
        BadRecord: If it is not such a record, its marks and images differ in number, or it names pictures
            that would not be seen.
    """
    if not isinstance(data, Mapping):
        raise BadRecord(f"{where}: a JSON object is needed, got {type(data).__name__}")
    names = _names(data, folder, where)
    turns = tuple(_turns(data.get("conversations"), where))
    marks = sum(turn.images for turn in turns)
    if marks != len(names):
        raise BadRecord(f"{where}: {marks} {MARK} marks but {len(names)} images")
    return Record(turns, tuple(folder / name for name in names), where)


def _names(data: Mapping[str, Any], folder: Path, where: str) -> list[str]:
    """Names of a record's images. Pictures that are named elsewhere would be missed without a word."""
    one, several = data.get("image"), data.get("images")
    if one is not None and several is not None:
        raise BadRecord(f"{where}: give 'image' or 'images', not both")
    key = "image" if several is None else "images"
    names = one if several is None else several
    names = [] if names is None else [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(n, str) and n and is_text(n) for n in names):
        raise BadRecord(f"{where}: {key!r} is a file name or a list of file names")
    film = next((key for key in ("video", "videos") if data.get(key)), None)
    if film is not None:
        raise BadRecord(f"{where}: {film!r} is not read; conversations are trained on with images alone")
    unread = None if names else unread_picture(data, folder, READ)
    if unread is not None:
        raise BadRecord(f"{where}: {unread[0]} names {unread[1]}, and is not read: images are called 'image'")
    return names


def _turns(messages: Any, where: str) -> list[Turn]:
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise BadRecord(f"{where}: 'conversations' is a list of messages")
    turns = [_turn(message, where) for message in messages]
    said = turns[1:] if turns[0].role == "system" else turns
    for number, turn in enumerate(said):
        wanted = "assistant" if number % 2 else "user"
        if turn.role != wanted:
            raise BadRecord(f"{where}: human and gpt take turns, human first; message {number + 1} is not so")
    if len(said) < 2 or len(said) % 2:
        raise BadRecord(f"{where}: a conversation ends with an answer of gpt")
    return turns


def _turn(message: Any, where: str) -> Turn:
    if not isinstance(message, Mapping) or not isinstance(message.get("value"), str):
        raise BadRecord(f"{where}: a message has 'from' and 'value'")
    role = ROLES.get(str(message.get("from")))
    if role is None:
        raise BadRecord(f"{where}: 'from' is human, gpt or system, got {message.get('from')!r}")
    text = message["value"]
    if not is_text(text):
        raise BadRecord(f"{where}: a message holds half of a surrogate pair, which is no text")
    if role != "user":
        if MARK in text:
            raise BadRecord(f"{where}: {MARK} stands in a message of {message['from']}")
        if role == "assistant" and not text.strip():
            raise BadRecord(f"{where}: an answer of gpt is empty")
        return Turn(role, (text,))
    pieces: list[str | None] = []
    for number, part in enumerate(text.split(MARK)):
        if number:
            pieces.append(None)
        # The line break that the format puts beside an image is the template's to write.
        part = part.strip("\n") if MARK in text else part
        if part.strip():
            pieces.append(part)
    return Turn(role, tuple(pieces))
