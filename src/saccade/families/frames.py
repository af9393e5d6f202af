"""Videos as stock processors take them: which frames a model is shown, and what a processor is given.

Shape letters: F frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from transformers.video_utils import VideoMetadata


@dataclass(frozen=True)
class Clip:
    """What is known of a video before it is decoded.

    Attributes:
        total: Its frames.
        rate: Frames in a second.
        size: Width and height of a frame.
        asked: Frames that a model is to be shown; None leaves it to its processor.
        chosen: Whether its frames were chosen already: all are shown then unless fewer are asked for.
    """

    total: int
    rate: float
    size: tuple[int, int]
    asked: int | None = None
    chosen: bool = False

    def metadata(self, numbers: Sequence[int] | None = None) -> VideoMetadata:
        """As transformers has it; the frames that are shown in it, where they are known."""
        return VideoMetadata(
            total_num_frames=self.total,
            fps=self.rate,
            width=self.size[0],
            height=self.size[1],
            duration=self.total / self.rate,
            frames_indices=None if numbers is None else list(numbers),
        )


def shown_frames(part: Any, clip: Clip, by_rate: bool = False) -> list[int]:
    """Numbers of the frames that a processor shows of a video.

    Its own sampling chooses, by its own settings, or for as many frames as are asked for; where it samples
    by nothing (``do_sample_frames`` is off, and no number of frames and no rate is set) all are shown.

    Args:
        part: The processor's part for videos.
        clip: The video.
        by_rate: Whether its sampling goes by a rate, and takes a number of frames for the most or not at all.

    Raises:
        ValueError: If the processor cannot sample the video.
    """
    settings = {name: getattr(part, name, None) for name in part.valid_kwargs.__annotations__}
    samples = settings["do_sample_frames"] or settings["num_frames"] or settings["fps"]
    asked = None if clip.asked is None else min(clip.asked, clip.total)
    if (asked is None and (clip.chosen or not samples)) or (clip.chosen and asked == clip.total):
        return list(range(clip.total))
    if asked is not None:
        # Their products are cut off to whole numbers.
        settings["fps"] = (asked + 1e-6) / clip.total * clip.rate if by_rate else None
        settings["num_frames"] = asked
        most = settings.get("max_fps")
        if most is not None:
            # A number that is asked for goes before the most in a second (Molmo 2).
            settings["max_fps"] = max(most, clip.rate)
    elif by_rate:
        settings["fps"] = settings["fps"] or clip.rate
    elif settings["num_frames"]:
        settings["fps"] = None  # one excludes the other
    for name in ("do_sample_frames", "video_metadata", "return_tensors", "device"):
        settings.pop(name)
    try:
        found = [int(number) for number in part.sample_frames(metadata=clip.metadata(), **settings)]
    except Exception as error:  # samplers raise whatever their authors chose
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"the processor cannot choose {asked or 'its'} frames of a video of {clip.total} ({reason})"
        ) from None
    found = [min(max(number, 0), clip.total - 1) for number in found]
    if asked is not None and len(set(found)) > asked:
        # Rounded up to what its tower takes at once, where not even as many are needed.
        return [number * clip.total // asked for number in range(asked)]
    return found


def processed(shown: Sequence[tuple[Clip, Sequence[int], np.ndarray]]) -> dict[str, Any]:
    """Arguments of a processor for videos whose frames were chosen.

    Args:
        shown: Every video, the numbers of its frames, and those as RGB (F, H, W, 3).
    """
    return {
        "videos": [torch.from_numpy(frames).permute(0, 3, 1, 2) for _, _, frames in shown],
        "video_metadata": [asdict(clip.metadata(numbers)) for clip, numbers, _ in shown],
        "do_sample_frames": False,
    }
