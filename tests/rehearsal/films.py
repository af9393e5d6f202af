"""Whether a video is to a model what transformers itself makes of it: the frames chosen, ids, pixels, times.

``python -m rehearsal.films CHECKPOINT MODEL SCENE``. The stock processor is given all frames and samples
them itself, by its settings and by a number; ours is given the same frames as a file would have them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rehearsal import prompts, scene

RATE = 3.0


def main(words: Sequence[str]) -> int:
    """Compares.

    Returns:
        0; an AssertionError says what differs.
    """
    import saccade
    from saccade import models
    from saccade.inputs.samples import Sample
    from saccade.inputs.videos import open_video

    folder, where = Path(words[1]), scene.Scene(Path(words[2]))
    loaded = saccade.load(str(folder), device="cpu")
    stock = prompts.stock_processor(folder)
    assert stock is not None, "the stock processor does not open"
    # As a file: its frames are not chosen yet.
    video = replace(open_video(where.clip, rate=RATE), chosen=False)
    for asked in (None, 2, 4):
        one = Sample("", "", "", (), scene.QUESTION, videos=(replace(video, asked=asked),))
        ours = dict(models.inputs(loaded, [one]))
        text = models.prompt(loaded, one)
        theirs = stock_inputs(stock, text, video.read(range(video.total)), asked)
        prompts.same(ours, theirs, loaded.model.dtype, f"{asked} frames")
        with torch.no_grad(), saccade.apply(loaded.model, prompts.PLAN):
            loaded.model(**ours, logits_to_keep=1)
    print("{}")
    return 0


def stock_inputs(processor: Any, text: str, frames: np.ndarray, asked: int | None) -> dict[str, Any]:
    """What the stock processor makes of a question about a video, sampling it where it would."""
    from saccade.families.frames import Clip, shown_frames

    part = processor.video_processor
    clip = Clip(len(frames), RATE, (frames.shape[2], frames.shape[1]))
    clip_of_these = asdict(clip.metadata())
    how: dict[str, Any] = {"do_sample_frames": bool(part.do_sample_frames or part.fps or asked)}
    by_rate = type(part).__name__.startswith(("SmolVLM", "Glm"))
    if asked is not None and type(part).__name__.startswith("Glm46V"):
        # Its own sampling heeds no number: it is given the frames that ours has chosen, and samples nothing.
        numbers = shown_frames(part, replace(clip, asked=asked), by_rate)
        assert len(numbers) == asked, f"{len(numbers)} frames for {asked}"
        clip_of_these = asdict(clip.metadata(numbers))
        frames, how = frames[numbers], {"do_sample_frames": False}
    elif asked is not None:
        # A rate of the settings would exclude the number.
        rate = (asked + 1e-6) / len(frames) * RATE if by_rate else None
        how |= {"num_frames": asked, "fps": rate}
    special = not text.startswith(processor.tokenizer.bos_token or "\0")
    made = processor(
        text=[text],
        videos=[torch.from_numpy(frames).permute(0, 3, 1, 2)],
        video_metadata=[clip_of_these],
        add_special_tokens=special,
        return_tensors="pt",
        **how,
    )
    return {key: value for key, value in made.items() if key != "labels"}


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
