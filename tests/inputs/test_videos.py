"""Videos as users give them: files and folders that are right, and those that are not."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from saccade.inputs import videos
from saccade.inputs.data import load_jsonl
from saccade.inputs.videos import open_video, video_of
from saccade.system.files import write_text


def _grey(number: int) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(np.full((48, 64, 3), 8 * number, np.uint8), format="rgb24")


def encode(path: Path, frames: int = 30, codec: str = "mpeg4") -> Path:
    """A video whose frames get brighter by eight from one to the next, ten in a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            for packet in stream.encode(_grey(number)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def stills(folder: Path, count: int = 12) -> Path:
    """A folder of frames, frame 9 before frame 10."""
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (20, 10), (number * 10,) * 3).save(folder / f"frame{number}.png")
    return folder


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    return encode(tmp_path_factory.mktemp("film") / "film.mp4")


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "mpeg4"), ("a.mkv", "mpeg4"), ("a.webm", "libvpx")])
def test_files_of_several_containers_give_the_frames_that_were_asked_for(name, codec, tmp_path):
    video = open_video(encode(tmp_path / name, codec=codec))
    # Matroska's files do not say how many frames they have.
    assert (video.total, video.rate, video.size, video.chosen) == (30, 10.0, (64, 48), False)
    seen = video.read([0, 5, 5, 29])
    assert seen.shape == (4, 48, 64, 3) and seen.dtype == np.uint8
    assert np.abs(seen.mean((1, 2, 3)) - np.array([0, 40, 40, 232])).max() < 4


def test_a_folder_is_read_in_the_order_of_its_numbers(tmp_path):
    video = open_video(stills(tmp_path / "clip"), rate=2)
    (tmp_path / "clip" / "notes.txt").write_text("not a frame")
    assert (video.total, video.rate, video.chosen) == (12, 2.0, True)
    assert video.read(range(12))[:, 0, 0, 0].tolist() == [10 * n for n in range(12)]
    assert open_video(tmp_path / "clip").rate == videos.USUAL_RATE


def test_a_name_with_a_raised_digit_is_a_name(tmp_path):
    clip = stills(tmp_path / "clip", 2)
    Image.new("RGB", (20, 10)).save(clip / "²1.png")
    assert open_video(clip).total == 3


def test_a_film_that_was_cut_without_encoding_it_again_has_the_frames_that_are_shown(film, tmp_path):
    with av.open(str(film)) as whole, av.open(str(tmp_path / "cut.mp4"), "w") as cut:
        stream = whole.streams.video[0]
        copied, half = cut.add_stream_from_template(stream), int(0.5 / stream.time_base)
        for packet in whole.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - half, packet.dts - half, copied
                cut.mux(packet)
    with av.open(str(tmp_path / "cut.mp4")) as cut:
        assert cut.streams.video[0].frames == 30
    video = open_video(tmp_path / "cut.mp4")
    assert video.total == 25
    assert np.abs(video.read([0, 24]).mean((1, 2, 3)) - np.array([40, 232])).max() < 4


def test_the_cover_of_a_song_is_no_video(tmp_path):
    with av.open(str(tmp_path / "song.mp4"), "w") as song:
        stream = song.add_stream("aac", rate=8000)
        stream.layout = "mono"
        cover = song.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic.value
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.rate = 8000
        for each in (stream.encode(sound), stream.encode(), cover.encode(_grey(3)), cover.encode()):
            song.mux(each)
    with pytest.raises(ValueError, match="no picture in it"):
        open_video(tmp_path / "song.mp4")


def test_frames_that_cannot_be_decoded_are_told_from_a_file_of_another_kind(film, tmp_path):
    broken = bytearray(film.read_bytes())
    for at in range(len(broken) // 3, len(broken) // 3 + 300):
        broken[at] = (7 * broken[at] + 13) % 256
    (tmp_path / "film.mp4").write_bytes(broken)
    video = open_video(tmp_path / "film.mp4")
    with pytest.raises(ValueError, match="torn: not all of its frames can be decoded"):
        video.read(range(30))


def test_pictures_in_memory_are_a_video_and_a_blind_one_is_plain():
    held = [Image.new("RGB", (4, 2), (n, 0, 0)) for n in range(3)]
    video = video_of(held, 5.0, frames=2)
    assert video.read([2, 2])[:, 0, 0, 0].tolist() == [2, 2] and video.pixels == 16
    grey = video.plain((7, 7, 7))
    assert set(grey.read([0, 1]).flatten()) == {7} and grey.digest != video.digest
    assert video_of(held, 5.0, frames=2).digest == video.digest != video_of(held, 5.0).digest


def torn(film: Path, path: Path) -> Path:
    path.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    return path


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda film, path: path, "no such video"),
        (torn, "no video that can be read"),
        (lambda film, path: write_text(path, "hello" * 99), "no video that can be read"),
        (lambda film, path: write_text(path, ""), "no video that can be read"),
        (lambda film, path: write_text(path, f"#EXTM3U\n#EXTINF:9,\n{film}\n"), "no video that can be read"),
        (
            lambda film, path: write_text(path, f"ffconcat version 1.0\nfile '{film}'\n"),
            "no video that can be",
        ),
        (lambda film, path: os.mkfifo(path) or path, "it is no file"),
        (lambda film, path: path.mkdir() or path, "holds no frames"),
        (lambda film, path: "https://there/film.mp4", "addresses are not fetched"),
        (lambda film, path: "no\0name", "no such video"),
    ],
)
def test_what_is_no_video_is_one_line(make, says, film, tmp_path):
    with pytest.raises(ValueError, match=says) as said:
        open_video(make(film, tmp_path / "film.mp4"), "lines.jsonl, line 3")
    assert str(said.value).startswith("lines.jsonl, line 3: ") and "\n" not in str(said.value)


def test_a_file_that_ends_early_is_torn(film):
    with pytest.raises(ValueError, match="ends after 30 frames, and frame 40 was wanted: it is torn"):
        open_video(film).read([3, 40])


def test_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.rate = 8000
        for packet in stream.encode(frame):
            container.mux(packet)
    with pytest.raises(ValueError, match="no picture in it"):
        open_video(tmp_path / "a.mkv")


def test_what_is_too_large_is_refused_before_it_is_decoded(film, tmp_path, monkeypatch):
    monkeypatch.setattr(videos, "MOST_DECODED", 64 * 48 * 4)
    video = open_video(film)
    assert len(video.read([0, 1, 2, 3])) == 4
    with pytest.raises(ValueError, match="5 frames of 64 x 48 pixels are more than"):
        video.read([0, 1, 2, 3, 4])
    monkeypatch.setattr(videos, "MOST_FRAMES", 11)
    with pytest.raises(ValueError, match="cut it"):
        open_video(film)
    with pytest.raises(ValueError, match="cut it"):
        open_video(stills(tmp_path / "clip"))


def test_frames_of_several_sizes_are_refused(tmp_path):
    clip = stills(tmp_path / "clip")
    Image.new("RGB", (21, 10)).save(clip / "frame5.png")
    with pytest.raises(ValueError, match="frame 5 has 21 x 10 pixels, the first has 20 x 10"):
        open_video(clip).read(range(12))


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"frames": 0}, "from 1 to 768"),
        ({"frames": True}, "from 1 to 768"),
        ({"frames": 769}, "from 1 to 768"),
        ({"rate": 0}, "above 0"),
        ({"rate": "x"}, "above 0"),
        ({"rate": float("nan")}, "above 0"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(how, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        open_video(stills(tmp_path / "clip"), **how)


def test_without_pyav_a_file_is_refused_and_a_folder_is_not(film, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="video files need PyAV: pip install av"):
        open_video(film)
    assert open_video(stills(tmp_path / "clip")).total == 12


def test_a_line_of_a_file_names_a_video_or_several(film, tmp_path):
    stills(tmp_path / "clip")
    (tmp_path / "film.mp4").write_bytes(film.read_bytes())
    lines = [
        {"question": "a", "video": "clip", "fps": 2, "frames": 4},
        {"question": "b", "videos": ["film.mp4", "film.mp4"]},
    ]
    write_text(tmp_path / "q.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    first, second = load_jsonl(tmp_path / "q.jsonl")
    assert [(v.total, v.rate, v.asked) for v in first.videos] == [(12, 2.0, 4)] and not first.images
    assert [v.total for v in second.videos] == [30, 30] and second.visual
    assert first.filmed != second.filmed


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"video": "none.mp4"}, "line 1: no video file or folder of frames none.mp4"),
        ({"video": "https://there/a.mp4"}, "addresses are not fetched"),
        ({"video": 3}, "'video' is a path or a list of paths"),
        ({"video": "clip", "videos": ["clip"]}, "give 'video' or 'videos'"),
        ({"video": "clip", "frames": "many"}, "line 1: frames is a whole number"),
        ({"video": "clip", "fps": -1}, "fps is a number above 0"),
        ({"frames": 4}, "'frames' is of a video, and the line has none"),
        ({"video": "clip", "question": "<video> what?"}, "leave '<video>' out"),
    ],
)
def test_lines_that_cannot_be_used_are_named(line, says, tmp_path):
    stills(tmp_path / "clip")
    write_text(tmp_path / "q.jsonl", json.dumps({"question": "a"} | line) + "\n")
    with pytest.raises(ValueError, match=says):
        load_jsonl(tmp_path / "q.jsonl")
