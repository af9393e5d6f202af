"""Picture files: which are read, how large they may be, and what of them a model is shown.

Every picture that a user names goes through `open_picture`: files of a JSONL, of a conversation, of the
command line. Formats are a list, so that no file reaches a loader that runs other programs by its ending.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from saccade.core.text import short

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""What is read, by content and not by the file's name; of several frames the first."""

MOST_PIXELS = 100_000_000
"""Pixels of the largest picture that is decoded (10,000 x 10,000): 300 MB as RGB."""

MOST_STRETCH = 5000
"""Longest side over shortest: processors scale the short side up first, and memory grows with this ratio."""

BEHIND = "white"
"""What transparent pictures are laid on."""


def open_picture(path: str | os.PathLike, where: str = "") -> Image.Image:
    """A picture file as RGB, as `rgb` makes it.

    Args:
        path: The file.
        where: What names it, for errors, such as a file and line.

    Raises:
        ValueError: If there is no such file, it is none of `FORMATS`, is torn, or is too large.
    """
    before = f"{where}: " if where else ""
    if is_pipe(path):
        raise ValueError(f"{before}cannot read image {short(path)}: it is no file")
    try:
        with _quiet(), Image.open(path, formats=FORMATS) as image:
            check_size(*image.size)
            return rgb(image)
    except FileNotFoundError:
        raise ValueError(f"{before}no such image: {short(path)}{unfetched(path)}") from None
    except Exception as error:  # decoders raise whatever their authors chose
        raise ValueError(f"{before}cannot read image {short(path)}: {_reason(error, path)}") from None


def read_picture(data: bytes, name: str, most_pixels: int = MOST_PIXELS) -> Image.Image:
    """A picture that came as bytes, as RGB (`rgb`).

    Args:
        data: The content of a picture file.
        name: What to call it in errors.
        most_pixels: Pixels of the largest that is decoded, `MOST_PIXELS` at most.

    Raises:
        ValueError: If it is none of `FORMATS`, is torn, or is too large.
    """
    try:
        with _quiet(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            check_size(*image.size, min(most_pixels, MOST_PIXELS))
            return rgb(image)
    except Exception as error:  # decoders raise whatever their authors chose
        raise ValueError(f"cannot read {name}: {_reason(error, name)}") from None


def rgb(image: Image.Image) -> Image.Image:
    """An opened image as RGB: turned the way its camera was held, 16 bits of grey as 8, on white where it is
    transparent.

    Args:
        image: The image, decoded or not.

    Returns:
        The image, with the name of its file as Pillow gives it (``filename``), for messages.
    """
    with _quiet():
        image.load()
        turned = image
        with suppress(Exception):  # what a camera noted may be torn, and the picture whole
            turned = ImageOps.exif_transpose(image)
        if turned.mode in ("F", "I") or turned.mode.startswith("I;16"):
            # Pillow would cut such values off at 255. It reads 16-bit files of some formats into mode I.
            grey_HW = np.asarray(turned)
            if turned.mode == "F" or grey_HW.min() < 0 or grey_HW.max() > 0xFFFF:
                raise ValueError(
                    f"its greys are numbers of a range that it does not say (mode {turned.mode}): save it "
                    "with 8 or 16 bits a channel"
                )
            turned = Image.fromarray((grey_HW / 257).round().astype(np.uint8))
        if turned.has_transparency_data:
            # Behind alpha lie whatever colours the drawing program left there, often black.
            above = turned.convert("RGBA")
            turned = Image.alpha_composite(Image.new("RGBA", above.size, BEHIND), above)
        made = turned.convert("RGB")
    vars(made)["filename"] = getattr(image, "filename", "")
    return made


def unfetched(name: str | os.PathLike) -> str:
    """What to add to a message about a file that is not there, where its name is an address."""
    text = str(name).lower()
    if text.startswith("data:"):
        return " (pictures inside the text are not read; save it as a file)"
    # A path has lost one of the slashes.
    if text.startswith(("http:/", "https:/", "ftp:/", "s3:/", "gs:/", "hf:/", "file:/")):
        return " (addresses are not fetched; download it and give the file)"
    return ""


def is_pipe(path: str | os.PathLike) -> bool:
    """Whether reading it may never end: a pipe, a socket or a device."""
    mode = _mode(path)
    return bool(mode) and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def is_file(path: Path) -> bool:
    """Whether there is such a file; no for what cannot be the name of one."""
    return stat.S_ISREG(_mode(path))


def is_folder(path: Path) -> bool:
    """Whether there is such a folder; no for what cannot be the name of one."""
    return stat.S_ISDIR(_mode(path))


def _mode(path: str | os.PathLike) -> int:
    """What the system says of a path; 0 where there is nothing, or nothing can be."""
    try:
        return os.stat(path).st_mode
    except (OSError, ValueError):
        return 0


def check_size(width: int, height: int, most: int = MOST_PIXELS) -> None:
    """Looks at what the header says, before anything is decoded.

    Args:
        width: Pixels across.
        height: Pixels down.
        most: Pixels of the largest that is decoded.

    Raises:
        ValueError: If the picture is too large or too narrow.
    """
    if width * height > most:
        raise ValueError(
            f"{width} x {height} pixels are more than the {most:,} that are read; make it smaller"
        )
    if max(width, height) > MOST_STRETCH * min(width, height):
        raise ValueError(
            f"{width} x {height} pixels: one side is more than {MOST_STRETCH:,} times the other; cut it"
        )


def _reason(error: Exception, path: str | os.PathLike) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"not an image that can be read ({', '.join(FORMATS)})"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than the {MOST_PIXELS:,} pixels that are read; make it smaller"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # the message itself names the path, which may be anything
    return str(error).replace(str(path), short(path)) or type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Pillow's own warnings: what matters is an error here, or does not change the picture."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def digest(picture: Image.Image) -> str:
    """What a picture shows, as a name."""
    size = f"{picture.mode} {picture.width} {picture.height} ".encode()
    return hashlib.sha256(size + picture.tobytes()).hexdigest()
