"""Videos: files that PyAV decodes and folders of frames, opened by their headers and decoded when asked.

Every video that a user names goes through `open_video`. Containers are a list, so that no file reaches a
reader that opens other files or addresses by what stands in it (playlists).

Shape letters: F frames, H height, W width.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import string
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from saccade.core.text import short
from saccade.inputs.pictures import (
    MOST_PIXELS,
    check_size,
    is_file,
    is_folder,
    is_pipe,
    open_picture,
    rgb,
    unfetched,
)

CONTAINERS = ("mov", "mp4", "matroska", "webm", "avi", "mpegts", "mpeg", "flv", "ogg", "asf", "gif")
"""Containers that are read, by content and not by the file's name, as FFmpeg names them."""

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""Endings of the files of a folder that are its frames."""

ENDINGS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".ogv", ".wmv")
"""Endings by which a file is taken for a video where it could be a picture."""

MOST_FRAMES = 2_000_000
"""Frames of the longest video that is read: eighteen hours at 30 in a second."""

MOST_SHOWN = 768
"""Frames of a video that a model is shown at most."""

MOST_DECODED = 1_000_000_000
"""Pixels of the frames that are decoded at once: 3 GB as RGB."""

USUAL_RATE = 24.0
"""Frames in a second of a folder that does not say, as stock processors assume."""


class FrameSource(Protocol):
    """Where the frames of a video come from."""

    def read(self, numbers: Sequence[int]) -> Iterator[Image.Image]:
        """Frames of these numbers, which rise, as RGB."""
        ...

    def digest(self) -> str:
        """SHA-256 of what is read."""
        ...


@dataclass(frozen=True, eq=False)
class Video:
    """A video that is not decoded yet.

    Attributes:
        name: What to call it in errors.
        total: Its frames.
        rate: Frames in a second.
        size: Width and height of a frame in pixels.
        source: Where frames come from.
        asked: Frames that a model is to be shown; None leaves it to its processor.
        chosen: Whether its frames were chosen already (a folder, a list): processors show all of them.
    """

    name: str
    total: int
    rate: float
    size: tuple[int, int]
    source: FrameSource = field(repr=False)
    asked: int | None = None
    chosen: bool = False

    @property
    def pixels(self) -> int:
        """Pixels of the frames that are shown at most."""
        return self.size[0] * self.size[1] * min(self.total, self.asked or MOST_SHOWN)

    @property
    def kind(self) -> tuple[Any, ...]:
        """What processors choose frames by: videos of one kind have as many shown."""
        return self.total, self.rate, self.asked, self.chosen

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what is read, with how it is shown."""
        told = f"{self.total} {self.rate} {self.size} {self.asked} {self.chosen} {self.source.digest()}"
        return hashlib.sha256(told.encode()).hexdigest()

    def read(self, numbers: Sequence[int]) -> np.ndarray:
        """Frames of these numbers, also one several times.

        Args:
            numbers: From 0, none below the one before it.

        Returns:
            RGB values (F, H, W, 3), 0 to 255.

        Raises:
            ValueError: If they are too large together, the file is torn, or frames have several sizes.
        """
        width, height = self.size
        if len(numbers) * width * height > MOST_DECODED:
            raise ValueError(
                f"{self.name}: {len(numbers)} frames of {width} x {height} pixels are more than the "
                f"{MOST_DECODED:,} that are decoded at once; ask for fewer frames, or make the video smaller"
            )
        wanted = sorted(set(numbers))
        frames_FHW3 = np.empty((len(wanted), height, width, 3), dtype=np.uint8)
        for place, frame in enumerate(self.source.read(wanted)):
            if frame.size != self.size:
                raise ValueError(
                    f"{self.name}: frame {wanted[place]} has {frame.width} x {frame.height} pixels, the "
                    f"first has {width} x {height}; make all frames of a video one size"
                )
            frames_FHW3[place] = np.asarray(frame)
        return frames_FHW3[np.searchsorted(wanted, numbers)]

    def plain(self, colour: tuple[int, int, int]) -> Video:
        """The same with frames of one colour."""
        return replace(self, source=_Plain(self.size, colour))


def open_video(
    path: str | os.PathLike, where: str = "", frames: int | None = None, rate: float | None = None
) -> Video:
    """A video file, or a folder whose picture files are frames in the order of their names.

    Args:
        path: The file or folder.
        where: What names it, for errors, such as a file and line.
        frames: Frames that a model is to be shown; None leaves it to its processor.
        rate: Frames in a second of a folder; a file says it itself.

    Raises:
        ValueError: If there is none, it cannot be read, has no frames, or is too large.
    """
    before = f"{where}: " if where else ""
    name, path = f"{before}video {short(path)}", Path(path)
    check_frames(frames, before)
    if is_pipe(path):
        raise ValueError(f"{name} cannot be read: it is no file")
    if is_folder(path):
        return _folder(path, name, frames, rate)
    if not is_file(path):
        raise ValueError(f"{before}no such video: {short(path)}{unfetched(path)}")
    if rate is not None:
        raise ValueError(f"{name}: fps is of a folder of frames; a video file says its own")
    return _file(path, name, frames)


def is_video(path: Path) -> bool:
    """Whether a path is meant as a video: a folder, or a file that ends as videos do."""
    return is_folder(path) or path.suffix.lower() in ENDINGS


def video_of(images: Sequence[Image.Image], rate: float = USUAL_RATE, frames: int | None = None) -> Video:
    """A video of pictures in memory.

    Args:
        images: Its frames, of one size.
        rate: Frames in a second.
        frames: Frames that a model is to be shown; None leaves it to its processor.

    Raises:
        ValueError: If there are none, or a number is out of range.
    """
    check_frames(frames)
    if not images:
        raise ValueError("a video has at least one frame")
    held = tuple(rgb(image) for image in images)
    return Video("the video", len(held), _rate(rate, ""), held[0].size, _Held(held), frames, chosen=True)


def check_frames(frames: int | None, before: str = "") -> None:
    """Refuses numbers of frames that no model is shown.

    Raises:
        ValueError: If it is no whole number from 1 to `MOST_SHOWN`.
    """
    if frames is None:
        return
    if isinstance(frames, bool) or not isinstance(frames, int) or not 1 <= frames <= MOST_SHOWN:
        raise ValueError(f"{before}frames is a whole number from 1 to {MOST_SHOWN}, got {frames!r}")


def _rate(rate: float | None, before: str) -> float:
    if rate is None:
        return USUAL_RATE
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not isfinite(rate) or rate <= 0:
        raise ValueError(f"{before}fps is a number above 0, got {rate!r}")
    return float(rate)


def _folder(path: Path, name: str, frames: int | None, rate: float | None) -> Video:
    try:
        paths = [
            one for one in path.absolute().iterdir() if one.suffix.lower() in PICTURES and one.name[0] != "."
        ]
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror}") from None
    if not paths:
        raise ValueError(f"{name}: the folder holds no frames (files that end in {', '.join(PICTURES)})")
    if len(paths) > MOST_FRAMES:
        raise ValueError(f"{name} has {len(paths):,} frames, and {MOST_FRAMES:,} are read; cut it")
    paths.sort(key=_place)
    held = _Pictures(tuple(paths), name)
    first = next(held.read([0]))
    return Video(name, len(paths), _rate(rate, f"{name}: "), first.size, held, frames, chosen=True)


def _place(path: Path) -> list[tuple[int, str]]:
    """Runs of digits of a name as numbers, and what stands between them: frame 10 comes after frame 9."""
    parts = [part for part in re.split(r"([0-9]+)", path.name) if part]
    # Digits of other kinds (a raised 2) are no numbers to Python.
    return [(int(part), "") if part[0] in string.digits else (-1, part) for part in parts]


def _file(path: Path, name: str, frames: int | None) -> Video:
    source = _Stream(path.absolute(), name)
    with source.opened() as (container, stream):
        width, height = stream.codec_context.width, stream.codec_context.height
        if not width or not height:
            raise ValueError("it has no picture in it")
        check_size(width, height)
        total, rate = stream.frames, float(stream.average_rate or 0)
        lasts = float((stream.duration or 0) * (stream.time_base or 0)) * rate
        if not total or (lasts and abs(lasts - total) >= 1):
            # Some containers do not say it, and a film that was cut without encoding it again still counts
            # frames that nobody is shown: packets are counted, nothing is decoded.
            total = 0
            for packet in container.demux(stream):
                total += packet.size > 0 and not packet.is_discard
                if total > MOST_FRAMES:
                    break
    if not total:
        raise ValueError(f"{name} cannot be read: it has no frames")
    if total > MOST_FRAMES:
        raise ValueError(f"{name} has more than the {MOST_FRAMES:,} frames that are read; cut it")
    # A camera held upright writes its frames lying down, and says so with the first.
    first = next(source.read([0]))
    return Video(name, total, rate if rate > 0 else USUAL_RATE, first.size, source, frames)


@dataclass(frozen=True)
class _Stream:
    """The first video stream of a file."""

    path: Path
    name: str

    @contextmanager
    def opened(self) -> Iterator[tuple[Any, Any]]:
        if importlib.util.find_spec("av") is None:
            raise ValueError(f"{self.name} cannot be read: video files need PyAV: pip install av")
        import av
        from av.stream import Disposition

        opened = False
        try:
            with (
                self.path.open("rb") as file,
                av.open(
                    file, options={"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "pipe"}
                ) as container,
            ):
                # The picture on the cover of a song is no film.
                films = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
                if not films:
                    raise ValueError("it has no picture in it")
                films[0].thread_type, opened = "AUTO", True
                yield container, films[0]
        except Exception as error:  # decoders raise whatever their authors chose
            raise ValueError(f"{self.name} cannot be read: {_reason(error, self.path, opened)}") from None

    def read(self, numbers: Sequence[int]) -> Iterator[Image.Image]:
        left = list(numbers)
        with self.opened() as (container, stream):
            count = 0
            for frame in container.decode(stream):
                if left and count == left[0]:
                    if frame.width * frame.height > MOST_PIXELS:
                        raise ValueError(
                            f"frame {count} is more than the {MOST_PIXELS:,} pixels that are read"
                        )
                    shown = frame.to_image()
                    # Turned as its camera was held, in quarters; what a player does.
                    yield shown.rotate(frame.rotation, expand=True) if frame.rotation else shown
                    left.pop(0)
                if not left:
                    return
                count += 1
            raise ValueError(f"it ends after {count:,} frames, and frame {left[0]:,} was wanted: it is torn")

    def digest(self) -> str:
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class _Pictures:
    """Picture files of a folder."""

    paths: tuple[Path, ...]
    name: str

    def read(self, numbers: Sequence[int]) -> Iterator[Image.Image]:
        for number in numbers:
            yield open_picture(self.paths[number], self.name)

    def digest(self) -> str:
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()


@dataclass(frozen=True)
class _Held:
    """Pictures in memory."""

    images: tuple[Image.Image, ...]

    def read(self, numbers: Sequence[int]) -> Iterator[Image.Image]:
        return (self.images[number] for number in numbers)

    def digest(self) -> str:
        digest = hashlib.sha256()
        for image in self.images:
            digest.update(image.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class _Plain:
    """Frames of one colour."""

    size: tuple[int, int]
    colour: tuple[int, int, int]

    def read(self, numbers: Sequence[int]) -> Iterator[Image.Image]:
        return (Image.new("RGB", self.size, self.colour) for _ in numbers)

    def digest(self) -> str:
        return f"plain {self.colour}"


def _reason(error: Exception, path: Path, opened: bool) -> str:
    text = str(getattr(error, "strerror", None) or error or type(error).__name__).splitlines()[0]
    if "Invalid data found" in text or "Invalid argument" in text:
        if opened:
            return "it is torn: not all of its frames can be decoded"
        return f"no video that can be read ({', '.join(CONTAINERS)})"
    return text.replace(str(path), short(path))
