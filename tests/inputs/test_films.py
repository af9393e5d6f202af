"""What models are shown of videos, through a real processor; what takes none says so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import saccade
from inputs.test_videos import encode
from saccade import models
from saccade.inputs.films import show
from saccade.inputs.samples import Sample, in_batches
from saccade.inputs.videos import open_video, video_of
from saccade.opening.processor import NoVideos
from saccade.report.explain import explain
from support.models import IMAGE, VIDEO
from support.processors import Frames, internvl, onevision


def frames(count: int, seed: int = 0) -> list[Image.Image]:
    draw = np.random.default_rng(seed)
    return [Image.fromarray(draw.integers(0, 255, (30, 40, 3), dtype=np.uint8)) for _ in range(count)]


def asked(*videos, images: int = 0, words: str = "w1 w2") -> Sample:
    return Sample("q", "t", "", tuple(frames(images, 9)), words, videos=videos)


@pytest.fixture(scope="module")
def loaded():
    return onevision(Frames())


@torch.no_grad()
def test_a_batch_of_videos_pictures_and_text_equals_its_singles(loaded):
    clip = video_of(frames(3), 2.0)
    samples = [asked(clip), asked(images=1), asked(clip, images=1, words="w3"), asked(words="w5 w6 w7")]
    with saccade.apply(loaded.model, "divprune(keep=0.5)+vskip(layers=1)"):
        together = loaded.model(**models.inputs(loaded, samples)).logits[:, -1]
        for row, sample in zip(together, samples, strict=True):
            alone = models.inputs(loaded, [sample])
            assert torch.allclose(loaded.model(**alone).logits[0, -1], row, atol=1e-4)
    ids = models.inputs(loaded, [samples[2]])["input_ids"][0]
    # The image stands before the video.
    assert int((ids == VIDEO).sum()) == 3 * 4 + 1
    assert int((ids == IMAGE).nonzero().max()) < int((ids == VIDEO).nonzero().min())


def test_the_processor_gets_the_frames_it_would_choose_and_their_times():
    part = Frames(num_frames=4)
    loaded = onevision(part)
    models.inputs(loaded, [asked(video_of(frames(8), 4.0))])
    assert part.given[-1]["frames_indices"] == list(range(8)), "frames in a list were chosen already"
    assert part.given[-1]["fps"] == 4.0 and part.given[-1]["duration"] == 2.0
    assert show(loaded, video_of(frames(8), 4.0, frames=2))[1] == [0, 4]


def test_a_file_is_sampled_by_what_the_processor_says(tmp_path):
    film = encode(tmp_path / "a.mp4")
    assert show(onevision(Frames()), open_video(film))[1] == list(range(30))
    assert show(onevision(Frames(num_frames=5)), open_video(film))[1] == [0, 6, 12, 18, 24]
    assert len(show(onevision(Frames(fps=2)), open_video(film))[1]) == 6
    assert show(onevision(Frames(num_frames=5)), open_video(film, frames=3))[1] == [0, 10, 20]


def test_what_takes_no_videos_says_so(loaded):
    clip = video_of(frames(2))
    with pytest.raises(ValueError, match=r"LLaVA-1.5.* takes no videos; give its frames as images"):
        models.encode(saccade.load("glance"), ["w"], [], videos=[clip])
    with pytest.raises(ValueError, match="has no part for videos"):
        models.inputs(internvl(), [asked(clip)])
    bare = onevision()
    bare.processor.video_processor = NoVideos({})
    with pytest.raises(ValueError, match="videos need torchvision: pip install"):
        models.inputs(bare, [asked(clip)])
    with pytest.raises(ValueError, match="resize makes images smaller, and no videos"):
        models.inputs(loaded, [asked(clip)], "resize(scale=0.5)")


def test_videos_that_do_not_go_together_are_refused_and_asked_apart(loaded):
    short, long = video_of(frames(2)), video_of(frames(3))
    with pytest.raises(ValueError, match="as many frames of every video of a batch, not 2 and 3"):
        models.inputs(loaded, [asked(short), asked(long)])
    samples = [asked(short), asked(short), asked(long), asked(), asked(short, images=1)]
    assert in_batches(samples, range(5), 8) == [[0, 1], [2], [3], [4]]
    assert in_batches(samples, [0, 1], 1) == [[0], [1]]


def test_families_that_take_no_images_beside_videos_say_so(loaded, monkeypatch):
    monkeypatch.setattr(type(loaded.family), "beside_images", False)
    with pytest.raises(ValueError, match="takes no videos and images in one batch; ask about them apart"):
        models.inputs(loaded, [asked(video_of(frames(2))), asked(images=1)])


class _Pairs(Frames):
    """A part for videos that takes two frames at once, and not fewer."""

    def __call__(self, videos, **how):
        if any(len(video) < 2 for video in videos):
            raise ValueError(f"t:{len(videos[-1])} must be larger than temporal_factor:2")
        return super().__call__(videos, **how)


def test_a_video_that_the_processor_does_not_take_is_named():
    loaded = onevision(_Pairs())
    models.inputs(loaded, [asked(video_of(frames(2)))])
    with pytest.raises(ValueError, match=r"^the video: .* takes no video of 1 frame of 40 x 30 pixels \(t:1"):
        models.inputs(loaded, [asked(video_of(frames(1)))])


def test_a_video_with_too_many_frames_is_refused(loaded):
    with pytest.raises(ValueError, match="would show 800 frames, and 768 are the most; say how many"):
        show(loaded, video_of(frames(1) * 800))


def test_a_blind_sample_has_grey_videos():
    blind = models.blind(asked(video_of(frames(2))))
    assert set(blind.videos[0].read([0, 1]).flatten()) == {128}


def test_an_explanation_draws_a_video_as_a_strip_of_its_frames(loaded, tmp_path):
    clip = video_of(frames(5))
    shown = explain(loaded, [], "w1", "fastervlm(keep=2,share=frame)", max_new_tokens=2, videos=[clip])
    (view,) = shown.views
    # Two lines: four frames, then one.
    assert view.picture.size == (4 * 40, 2 * 30) and set(view.planes.values()) == {0}
    boxes = [box for box in view.boxes.values() if box is not None]
    assert len(boxes) == 20 and boxes[-1] == pytest.approx((0.125, 0.75, 0.25, 1.0))
    seen = np.asarray(view.picture)
    assert np.array_equal(seen[:30, 40:80], np.asarray(frames(5)[1])) and np.all(seen[30:, 40:] == 255)
    kept = [view.boxes[row] for row in shown.moments[-1].images[0].kept]
    assert sorted(int(box[0] * 4) + 4 * int(box[1] * 2) for box in kept) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    both = explain(loaded, frames(1), "w1", "divprune(keep=0.5)", max_new_tokens=2, videos=[clip])
    assert all(v.boxes for v in both.views) and len(both.views) == 2 and len(both.save(tmp_path)) == 2
    with pytest.raises(ValueError, match="nothing to explain"):
        explain(loaded, [], "w1", "divprune(keep=0.5)")
