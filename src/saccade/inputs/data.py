"""The user's own questions: a JSONL file beside its images and videos.

One object per line: ``question`` (text), ``image`` or ``images`` (a path or a list of paths, relative to the
file; leave it out for a text-only question), ``video`` or ``videos`` (likewise; each a file or a folder of
frames, with ``frames``, how many are shown, and ``fps`` of a folder), and, where known, ``answer`` (text, a
number, or a list of those that all count as right), ``task``, ``subtask``, ``id``, and ``score``, how answers
are scored: a name such as ``"anls"`` or a name with parameters, ``{"number": {"tolerance": 0.1}}``
(``saccade.scoring``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import Any

from saccade.core.text import is_text, short
from saccade.inputs.pictures import is_file, is_folder, is_pipe, open_picture, unfetched
from saccade.inputs.samples import Sample
from saccade.inputs.videos import ENDINGS, PICTURES, check_frames, open_video
from saccade.scoring import Rule, parse, read
from saccade.system.files import LONGEST_LINE, lines

READ = frozenset(
    (
        *("question", "answer", "task", "subtask", "id", "score"),
        *("image", "images", "video", "videos", "frames", "fps"),
    )
)
"""Keys of a line that are read."""
EXACT_WHOLE = 2.0**53
"""Below it a whole number in floating point is the one that was written."""
KINDS = {"image": PICTURES, "video": ENDINGS}
MEANT = ("image", "img", "pic", "photo", "video", "clip", "film", "file", "path")
"""What keys are called under which other tools name a picture."""


@dataclass(frozen=True)
class Entry:
    """One line of the file, checked, with its images found but not yet decoded.

    Attributes:
        id: Stable identifier; ``<file>/<line>`` where the line gives none.
        task: The line's task, or the name of the file.
        subtask: The line's sub-task, or the task.
        paths: Image files in prompt order.
        question: The user's question.
        answers: Reference answers; empty where none is known.
        score: How answers are scored.
        where: File and line, for errors.
        videos: Video files and folders of frames in prompt order.
        frames: Frames that are shown of each; None leaves it to the model's processor.
        rate: Frames in a second of a folder; None where the line does not say.
    """

    id: str
    task: str
    subtask: str
    paths: tuple[Path, ...]
    question: str
    answers: tuple[str, ...]
    score: str
    where: str
    videos: tuple[Path, ...] = ()
    frames: int | None = None
    rate: float | None = None

    @property
    def visual(self) -> bool:
        """Whether there is anything to see."""
        return bool(self.paths or self.videos)

    def load(self) -> Sample:
        """Decodes the images and opens the videos.

        Raises:
            ValueError: If a file is not an image or a video, naming the line.
        """
        images = tuple(open_picture(path, self.where) for path in self.paths)
        videos = tuple(open_video(path, self.where, self.frames, self.rate) for path in self.videos)
        answer, *others = self.answers or ("",)
        return Sample(
            id=self.id,
            task=self.task,
            subtask=self.subtask,
            images=images,
            question=self.question,
            answer=answer,
            others=tuple(others),
            score=self.score,
            videos=videos,
        )


def load_jsonl(path: str | os.PathLike, score: str = "exact", *, answered: bool = False) -> list[Sample]:
    """Reads a JSONL file with all its images.

    Args:
        path: The file.
        score: How answers are scored where a line does not say.
        answered: Whether every line needs an answer.

    Raises:
        ValueError: If the file is missing or empty, or a line cannot be used, with its number.
    """
    entries = read_jsonl(path, score)
    bare = next((entry for entry in entries if answered and not entry.answers), None)
    if bare is not None:
        raise ValueError(
            f"{bare.where}: no answer; evaluation needs one for every question, under the key 'answer'"
        )
    return [entry.load() for entry in entries]


def read_jsonl(path: str | os.PathLike, score: str = "exact") -> list[Entry]:
    """Reads and checks a JSONL file without decoding images, so that a few can be drawn from many.

    Args:
        path: The file.
        score: How answers are scored where a line does not say.

    Raises:
        ValueError: As ``load_jsonl``, except for files that exist and are not images.
    """
    path, usual = Path(path), parse(score)
    entries = list(_entries(path, usual))
    if not entries:
        raise ValueError(f"{path} is empty: one JSON object per line is needed, with 'question' and 'image'")
    first: dict[str, str] = {}
    for entry in entries:
        if entry.id in first:
            raise ValueError(f"{entry.where}: id {entry.id!r} was used before ({first[entry.id]})")
        first[entry.id] = entry.where
    return entries


def read_record(data: Mapping[str, Any], folder: str | os.PathLike, where: str) -> Entry:
    """Checks one question that came from elsewhere than a file.

    Args:
        data: What a line of a file would hold; it needs an ``id``.
        folder: What paths of pictures are relative to.
        where: Its place, for errors.

    Raises:
        ValueError: If it cannot be used.
    """
    if data.get("id") is None:
        raise ValueError(f"{where}: 'id' is missing; answers are told apart by it")
    return _entry(dict(data), Path(folder) / "record.jsonl", 0, where, parse("exact"))


def _entries(path: Path, usual: Rule) -> Iterator[Entry]:
    for number, _, line in lines(path, "a JSONL file"):
        where = f"{path}, line {number}"
        data = read_line(line, where)
        if not isinstance(data, dict):
            raise ValueError(f"{where}: a JSON object is needed, got {type(data).__name__}")
        yield _entry(data, path, number, where, usual)


def read_line(line: bytes | None, where: str) -> Any:
    """The JSON value of one line.

    Args:
        line: The line, in UTF-8; halves of surrogate pairs are let through. None if it is too long to read.
        where: File and line, for errors.

    Raises:
        ValueError: If it is too long, not JSON, or not UTF-8.
    """
    if line is None:
        raise ValueError(
            f"{where}: longer than {LONGEST_LINE:,} bytes; a line is one question or conversation, and "
            "images stand beside the file"
        )
    try:
        return json.loads(line.decode("utf-8", "surrogatepass"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error.msg} at column {error.colno})") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not JSON: no UTF-8 text ({error.reason} at byte {error.start})") from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, deep nesting
        raise ValueError(f"{where}: not JSON that can be read ({error})") from None


def _entry(data: dict[str, Any], path: Path, number: int, where: str, usual: Rule) -> Entry:
    question = data.get("question")
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"{where}: 'question' is missing or is not text")
    _text(data, "question", "", where)
    for kind in ("image", "video"):
        if f"<{kind}>" in question:
            raise ValueError(f"{where}: leave '<{kind}>' out of the question; {kind}s are placed before it")
    task = _text(data, "task", path.stem, where)
    rule = _rule(data, where, usual)
    videos = _paths(data, "video", path.parent, where)
    said = next((key for key in ("frames", "fps") if data.get(key) is not None), None)
    if said is not None and not videos:
        raise ValueError(f"{where}: {said!r} is of a video, and the line has none")
    check_frames(data.get("frames"), f"{where}: ")
    paths = _paths(data, "image", path.parent, where)
    if not paths and not videos:
        _check_blind(data, path.parent, where)
    return Entry(
        id=_text(data, "id", f"{path.stem}/{number}", where),
        task=task,
        subtask=_text(data, "subtask", task, where),
        paths=paths,
        question=question,
        answers=_answers(data, where, rule),
        score=str(rule),
        where=where,
        videos=videos,
        frames=data.get("frames"),
        rate=data.get("fps"),
    )


def _check_blind(data: Mapping[str, Any], folder: Path, where: str) -> None:
    """Refuses a line without a picture where a key that is not read names one: it would be asked blind."""
    found = unread_picture(data, folder)
    if found is not None:
        key, name, kind = found
        raise ValueError(f"{where}: {key} names {name}, and is not read: call it {kind!r}")


def unread_picture(
    data: Mapping[str, Any], folder: Path, read: Collection[str] = READ
) -> tuple[str, str, str] | None:
    """A key that names a picture and is not read.

    Args:
        data: The fields of a line.
        folder: What paths are relative to.
        read: Keys that are read.

    Returns:
        The key and the first name, as messages show them, and ``image`` or ``video``; None if there is none.
    """
    for key, value in data.items():
        names = value if isinstance(value, list) else [value]
        if key in read or not names or not all(isinstance(name, str) for name in names):
            continue
        kind = next((kind for kind, ends in KINDS.items() if names[0].lower().endswith(ends)), None)
        if kind is None:
            continue
        alike = get_close_matches(key.lower(), ("image", "images", "video", "videos"), cutoff=0.7)
        if alike or any(word in key.lower() for word in MEANT) or is_file(folder / names[0]):
            return short(repr(key), 60), short(repr(names[0]), 60), kind
    return None


def _rule(data: dict[str, Any], where: str, usual: Rule) -> Rule:
    try:
        return usual if data.get("score") is None else read(data["score"])
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{where}: {error}") from None


def _answers(data: dict[str, Any], where: str, rule: Rule) -> tuple[str, ...]:
    given = data.get("answer")
    listed = given if isinstance(given, list) else [given]
    if given == []:
        raise ValueError(f"{where}: 'answer' is an empty list; leave it out where none is known")
    answers = tuple(_text({"answer": each}, "answer", "", where) for each in listed)
    if answers == ("",):
        return ()
    for answer in answers:
        if not rule.suits(answer):
            raise ValueError(f"{where}: score {rule.name} needs {rule.takes} as the answer, got {answer!r}")
    return answers


def _text(data: dict[str, Any], key: str, default: str, where: str) -> str:
    value = data.get(key)
    # Tables write what is not known as empty text.
    if value is None or (isinstance(value, str) and not value.strip()):
        return default
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{where}: {key!r} is text or a number, got {type(value).__name__}")
    if isinstance(value, float):
        if not isfinite(value):
            raise ValueError(f"{where}: {key!r} is text or a number, got {value}")
        # To JSON 3.0 is the number 3, and whole columns of tables become it where one value is missing.
        value = int(value) if value.is_integer() and abs(value) < EXACT_WHOLE else value
    if not is_text(str(value)):
        raise ValueError(f"{where}: {key!r} holds half of a surrogate pair, which is no text")
    return str(value)


def _paths(data: dict[str, Any], kind: str, folder: Path, where: str) -> tuple[Path, ...]:
    """Files of a line of some kind, image or video, all of which are there."""
    one, several = data.get(kind), data.get(f"{kind}s")
    if one is not None and several is not None:
        raise ValueError(f"{where}: give '{kind}' or '{kind}s', not both")
    names = several if one is None else one
    names = [] if names is None else [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(n, str) and n and is_text(n) for n in names):
        raise ValueError(f"{where}: '{kind}' is a path or a list of paths")
    return tuple(_find(name, kind, folder, where) for name in names)


def _find(name: str, kind: str, folder: Path, where: str) -> Path:
    path, film = folder / name, kind == "video"
    if is_file(path) or (film and (is_pipe(path) or is_folder(path))):
        return path
    what = "video file or folder of frames" if film else "image file"
    hint = unfetched(name) or " (paths are relative to the JSONL file)"
    raise ValueError(f"{where}: no {what} {short(name)}{hint}")
