"""Where conversations come from: files in LLaVA's format, and scenes of the embedded suite."""

from __future__ import annotations

import hashlib
import json
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from saccade.core.text import short
from saccade.inputs.data import read_line
from saccade.inputs.pictures import is_file, unfetched
from saccade.system.files import LONGEST_LINE, lines, read_json
from saccade.training.config import ConversationFile, GlanceScenes
from saccade.training.records import BadRecord, Conversation, Record, Turn, read_record

SHOWN = 3


class RecordPool(Protocol):
    """Records that can be drawn by number.

    Attributes:
        name: What reports call it.
        weight: How often a record is seen per epoch, on average.
        refused: Bad records that were left out when the source was opened.
    """

    name: str
    weight: float
    refused: list[str]

    def __len__(self) -> int: ...

    def load(self, index: int, epoch: int) -> Conversation:
        """One record with its images decoded."""

    def describe(self) -> dict[str, Any]:
        """What provenance says of it."""


class FilePool:
    """The usable records of one file. JSONL is read line by line when asked, JSON arrays are held as text.

    Attributes:
        name: As in `RecordPool`.
        weight: As in `RecordPool`.
        refused: As in `RecordPool`.
        pictured: Whether any record has an image.
    """

    pictured = False

    def __init__(self, settings: ConversationFile, skip: bool) -> None:
        self.path = Path(settings.file)
        self.folder = Path(settings.images) if settings.images is not None else self.path.parent
        self.name, self.weight = settings.name or self.path.name, settings.weight
        self.refused: list[str] = []
        if not self.path.is_file():
            raise ValueError(f"no such file: {self.path}")
        if settings.images is not None and not self.folder.is_dir():
            raise ValueError(f"no such image folder: {self.folder}")
        self._texts: list[bytes] | None = None
        self._places: list[tuple[int, int]] = []
        for place, at, text in self._items() if self._is_array() else lines(self.path):
            self._check(place, at, text)
        if self.refused and not skip:
            more = len(self.refused) - SHOWN
            tail = f"; and {more} more" if more > 0 else ""
            raise BadRecord("; ".join(self.refused[:SHOWN]) + tail + " (on_bad_record: skip leaves them out)")
        if not self._places:
            why = f": {self.refused[0]}" if self.refused else ""
            raise ValueError(f"{self.path} holds no usable record{why}")

    def _is_array(self) -> bool:
        with self.path.open("rb") as stream:
            head = stream.read(LONGEST_LINE).removeprefix(BOM_UTF8)
        return head.lstrip().startswith(b"[")  # LLaVA's own files are one JSON array

    def _items(self) -> Iterator[tuple[int, int, bytes | None]]:
        self._texts = []
        for index, item in enumerate(read_json(self.path)):
            # Text takes a fraction of the memory of the objects it stands for.
            text = json.dumps(item, ensure_ascii=False).encode("utf-8", "surrogatepass")
            self._texts.append(text)
            yield index, index, text if len(text) <= LONGEST_LINE else None

    def _check(self, place: int, at: int, text: bytes | None) -> None:
        try:
            record = self._read(place, text)
            for path in record.paths:
                if not is_file(path):
                    raise BadRecord(f"{record.where}: no image file {short(path)}{unfetched(path)}")
        except BadRecord as error:
            self.refused.append(str(error))
            return
        self.pictured |= bool(record.paths)
        self._places.append((place, at))

    def _read(self, place: int, text: bytes | None) -> Record:
        where = f"{self.path}, {'index' if self._texts is not None else 'line'} {place}"
        try:
            data = read_line(text, where)
        except ValueError as error:
            raise BadRecord(str(error)) from None
        return read_record(data, self.folder, where)

    def __len__(self) -> int:
        return len(self._places)

    def load(self, index: int, epoch: int) -> Conversation:
        """The record with its images decoded; the same in every epoch.

        Raises:
            BadRecord: If an image does not decode.
        """
        place, at = self._places[index]
        if self._texts is not None:
            text = self._texts[at]
        else:
            with self.path.open("rb") as stream:
                stream.seek(at)
                text = stream.readline().removeprefix(BOM_UTF8)
        return self._read(place, text).load()

    def describe(self) -> dict[str, Any]:
        """Name, size, weight, refused records and the file's hash."""
        with self.path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256")
        return {
            "name": self.name,
            "records": len(self),
            "refused": len(self.refused),
            "weight": self.weight,
            "sha256": digest.hexdigest(),
        }


class ScenePool:
    """Scenes of the training split; scene ``index`` of an epoch depends on nothing but the seed and the two.

    Attributes:
        name: As in `RecordPool`.
        weight: As in `RecordPool`.
        refused: As in `RecordPool`; nothing is ever refused.
        pictured: As in `FilePool`.
    """

    pictured = True

    def __init__(self, settings: GlanceScenes, seed: int, scale: int = 1) -> None:
        from saccade.glance.scenes import SHARES
        from saccade.glance.tasks import TASKS, check_tasks

        self.name, self.weight = settings.name, settings.weight
        self.refused: list[str] = []
        self.settings, self.seed, self.scale = settings, seed, settings.scale or scale
        check_tasks(sorted(settings.tasks))
        wanted = {kind for name in settings.tasks or TASKS for kind in TASKS[name].kinds}
        shares = {kind: share for kind, share in SHARES if kind in wanted}
        self._kinds = list(shares)
        self._shares = np.array(list(shares.values())) / sum(shares.values())

    def __len__(self) -> int:
        return self.settings.images

    def load(self, index: int, epoch: int) -> Conversation:
        """Questions about one scene, as one conversation; the image comes before the first."""
        from saccade.glance.draw import LOOKS
        from saccade.glance.scenes import make_scene, scene_seed
        from saccade.glance.tasks import training_questions

        rng = np.random.default_rng((self.seed, epoch, index, 11))
        asked: list[Any] = []
        # A scene may have no question of the wanted tasks; the next one drawn may.
        while not asked:
            kind = str(rng.choice(self._kinds, p=self._shares))
            seed = scene_seed("train", int(rng.integers(1 << 47)))
            scene = make_scene(kind, seed, LOOKS[self.scale])
            asked = training_questions(scene, rng)
            if self.settings.tasks:
                asked = [q for q in asked if q.task in self.settings.tasks]
        turns: list[Turn] = []
        for number, question in enumerate(asked[: self.settings.turns]):
            pieces = (question.question,) if number else (None, question.question)
            turns += [Turn("user", pieces), Turn("assistant", (question.answer,))]
        return Conversation(tuple(turns), (scene.image,), f"{self.name}, epoch {epoch}, scene {index}")

    def describe(self) -> dict[str, Any]:
        """Name, size, weight and seed."""
        return {
            "name": self.name,
            "records": len(self),
            "refused": 0,
            "weight": self.weight,
            "seed": self.seed,
            # As a description was before pictures came in two sizes.
            **({} if self.scale == 1 else {"scale": self.scale}),
        }


def open_source(
    settings: ConversationFile | GlanceScenes, seed: int, skip: bool, scale: int = 1
) -> FilePool | ScenePool:
    """Opens a source and checks it: every line, and that image files exist, but decodes nothing.

    Args:
        settings: The source.
        seed: Seed of what is drawn on the fly.
        skip: Leave bad records out instead of refusing the source.
        scale: How large the model's pictures of scenes are, where the settings do not say.

    Raises:
        BadRecord: If a record cannot be used and `skip` is false, naming the first few.
        ValueError: If there is nothing to read.
    """
    if isinstance(settings, GlanceScenes):
        return ScenePool(settings, seed, scale)
    return FilePool(settings, skip)


def check_pictured(pools: Sequence[FilePool | ScenePool], parts: Sequence[str]) -> None:
    """Refuses text alone for parts that pictures alone pass through: they would end as they began.

    Args:
        pools: The sources of a run.
        parts: What it trains.

    Raises:
        ValueError: If no record has an image, and the decoder does not train.
    """
    if "decoder" not in parts and not any(pool.pictured for pool in pools):
        raise ValueError(
            f"there is nothing to train on: no record has an image, and the {' and the '.join(parts)} cannot "
            "learn from text alone; name images in the records ('image'), or train the decoder too (stage: 2)"
        )
