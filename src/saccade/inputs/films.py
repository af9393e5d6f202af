"""What a model is shown of videos: whether it takes them at all, and which frames its processor gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from saccade.families.frames import Clip, processed, shown_frames
from saccade.inputs.videos import MOST_SHOWN, Video
from saccade.opening.loaded import Loaded
from saccade.opening.processor import NoVideos


def check_films(loaded: Loaded, scale: float = 1.0) -> None:
    """Refuses videos where the model, its processor or the plan takes none.

    Args:
        loaded: The model and its processor.
        scale: What a plan leaves of each side of an image.

    Raises:
        ValueError: Saying which, and what to do.
    """
    family, part = loaded.family, getattr(loaded.processor, "video_processor", None)
    if not family.films:
        raise ValueError(f"{loaded.name} ({family.name}) takes no videos; give its frames as images")
    if part is None:
        raise ValueError(f"the processor of {loaded.name} has no part for videos; give its frames as images")
    if isinstance(part, NoVideos):
        part()
    if scale != 1:
        raise ValueError(
            "resize makes images smaller, and no videos: leave it out, or ask for fewer frames (frames)"
        )


def show(loaded: Loaded, video: Video) -> tuple[Clip, list[int]]:
    """What a model is shown of a video: numbers of its frames, also one several times.

    Raises:
        ValueError: If the model takes no videos, or its processor cannot choose, naming the video.
    """
    check_films(loaded)
    clip = Clip(video.total, video.rate, video.size, video.asked, video.chosen)
    try:
        numbers = shown_frames(loaded.processor.video_processor, clip, loaded.family.by_rate)
    except ValueError as error:
        raise ValueError(f"{video.name}: {error}") from None
    if len(numbers) > MOST_SHOWN:
        raise ValueError(
            f"{video.name}: the processor of {loaded.name} would show {len(numbers):,} frames, and "
            f"{MOST_SHOWN} are the most; say how many (frames, or --frames)"
        )
    return clip, numbers


def filmed(loaded: Loaded, videos: Sequence[Video], images: bool, scale: float = 1.0) -> dict[str, Any]:
    """Arguments of the processor for the videos of a batch.

    Args:
        loaded: The model and its processor.
        videos: The videos, which are decoded here.
        images: Whether the batch has images too.
        scale: What the plan leaves of each side of an image.

    Raises:
        ValueError: As ``check_films`` and ``show``, or if what the model takes together is not of a kind.
    """
    check_films(loaded, scale)
    family = loaded.family
    if images and not family.beside_images:
        raise ValueError(f"{family.name} takes no videos and images in one batch; ask about them apart")
    shown = [(video, *show(loaded, video)) for video in videos]
    counts = sorted({len(numbers) for _, _, numbers in shown})
    if len(counts) > 1 and family.frames_alike:
        raise ValueError(
            f"{family.name} takes as many frames of every video of a batch, not {counts[0]} and "
            f"{counts[-1]}; say how many (frames, or --frames), or ask about them one by one"
        )
    return processed([(clip, numbers, video.read(numbers)) for video, clip, numbers in shown])
