"""A video as one picture: the frames that a model was shown, in lines from left to right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from saccade.inputs.films import show
from saccade.inputs.videos import Video
from saccade.opening.loaded import Loaded
from saccade.report.explain.stages import Box

LINE = 4
"""Frames of a line."""
LONGEST = 336
"""Pixels of the longer side of a frame as it is drawn."""


def frames_of(loaded: Loaded, video: Video, planes: int) -> list[Image.Image]:
    """The frames that a model was shown, one of each plane, as it saw them.

    Args:
        loaded: The model and its processor.
        video: The video.
        planes: Planes of its rows: where frames are taken in pairs, half as many as frames.
    """
    _, numbers = show(loaded, video)
    every = max(-(-len(numbers) // max(planes, 1)), 1)
    frames = [Image.fromarray(frame) for frame in video.read(numbers[::every])]
    return [_seen(loaded.processor.video_processor, frame) for frame in frames]


def strip(frames: Sequence[Image.Image]) -> tuple[Image.Image, list[Box]]:
    """Frames as one picture, and where each of them lies in it."""
    columns = min(len(frames), LINE)
    lines = -(-len(frames) // columns)
    width, height = frames[0].size
    drawn = Image.new("RGB", (columns * width, lines * height), "white")
    boxes: list[Box] = []
    for number, frame in enumerate(frames):
        line, column = divmod(number, columns)
        drawn.paste(frame, (column * width, line * height))
        ends = ((column + 1) / columns, (line + 1) / lines)
        boxes.append((column / columns, line / lines, *ends))
    return drawn, boxes


def _seen(part: Any, frame: Image.Image) -> Image.Image:
    """A frame without what its processor cuts off, no larger than it is drawn."""
    if part.do_center_crop and part.crop_size:
        side = min(frame.size)
        left, top = (frame.width - side) // 2, (frame.height - side) // 2
        frame = frame.crop((left, top, left + side, top + side))
    fit = min(LONGEST / max(frame.size), 1.0)
    return frame.resize((max(round(frame.width * fit), 1), max(round(frame.height * fit), 1)))
