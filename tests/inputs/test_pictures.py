"""Picture files: the formats that are read, their limits, and what lies behind transparency."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from saccade.inputs import pictures
from saccade.inputs.pictures import FORMATS, MOST_PIXELS, open_picture, rgb


@pytest.fixture
def red():
    return Image.new("RGB", (6, 4), (250, 10, 20))


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_of_the_list_is_read_whatever_the_file_is_called(tmp_path, red, kind):
    red.save(tmp_path / "picture.txt", format=kind, **({"quality": 100} if kind in ("JPEG", "WEBP") else {}))
    found = np.asarray(open_picture(tmp_path / "picture.txt")).astype(int)
    assert np.abs(found - np.asarray(red)).max() < 12


@pytest.mark.parametrize("kind", ["EPS", "PPM", "ICO", "TGA", "PDF", "SGI", "PCX"])
def test_no_other_format_is_read_even_under_a_known_ending(tmp_path, red, kind):
    red.save(tmp_path / "picture.png", format=kind)
    with pytest.raises(ValueError, match=r"picture\.png: not an image that can be read \(PNG, JPEG"):
        open_picture(tmp_path / "picture.png")


def test_no_program_is_started_for_postscript(tmp_path, red, monkeypatch):
    import subprocess

    red.save(tmp_path / "page.eps")
    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.setattr(subprocess, "check_call", None)
    with pytest.raises(ValueError, match="not an image"):
        open_picture(tmp_path / "page.eps")


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(10_001, 10_000), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_by_its_header_without_a_raw_warning(tmp_path, size):
    (tmp_path / "bomb.png").write_bytes(png_header(*size))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=rf"mine, line 3: cannot read image .*{MOST_PIXELS:,}"):
            open_picture(tmp_path / "bomb.png", "mine, line 3")


def test_a_picture_within_the_limit_that_pillow_warns_of_is_read_silently(tmp_path, red, monkeypatch):
    red.save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 13)  # 24 pixels: between one and two times the limit
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_picture(tmp_path / "large.png").size == (6, 4)


@pytest.mark.parametrize(("size", "fine"), [((20, 4000), True), ((1, 5000), True), ((1, 5001), False)])
def test_a_strip_is_refused_where_processors_would_blow_it_up(tmp_path, size, fine):
    Image.new("RGB", size).save(tmp_path / "strip.png")
    if fine:
        assert open_picture(tmp_path / "strip.png").size == size
        return
    with pytest.raises(ValueError, match=r"1 x 5001 pixels: one side is more than 5,000 times the other"):
        open_picture(tmp_path / "strip.png")


def test_transparent_pictures_lie_on_white(tmp_path):
    clear = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    clear.putpixel((1, 0), (200, 0, 0, 255))
    clear.putpixel((2, 0), (200, 0, 0, 51))
    for name in ("clear.png", "clear.webp", "clear.tiff"):
        clear.save(tmp_path / name, **({"lossless": True, "exact": True} if name.endswith("webp") else {}))
        found = np.asarray(open_picture(tmp_path / name))[0].tolist()
        assert found == [[255, 255, 255], [200, 0, 0], [244, 204, 204]], name


@pytest.mark.parametrize("mode", ["LA", "P", "RGB", "L"])
def test_every_kind_of_transparency_is_seen(tmp_path, mode):
    if mode == "LA":
        Image.new("LA", (2, 1), (0, 0)).save(tmp_path / "clear.png")
    else:
        Image.new(mode, (2, 1), 0).save(
            tmp_path / "clear.png", transparency=(0, 0, 0) if mode == "RGB" else 0
        )
    assert np.asarray(open_picture(tmp_path / "clear.png")).min() == 255


def test_opaque_pictures_are_as_pillow_converts_them(red):
    for mode in ("RGB", "L", "P", "CMYK", "1", "RGBA"):
        picture = red.convert(mode)
        assert rgb(picture).tobytes() == picture.convert("RGB").tobytes()


def test_an_animation_is_its_first_frame(tmp_path, red):
    red.save(tmp_path / "moves.gif", save_all=True, append_images=[Image.new("RGB", (6, 4), "blue")])
    assert open_picture(tmp_path / "moves.gif").getpixel((0, 0))[0] > 200


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("none.png", r"no such image: none\.png"),
        ("https://example.org/a.png", "addresses are not fetched"),
        ("file:///a.png", "addresses are not fetched"),
        ("data:image/png;base64,iVBORw0KGgo", "save it as a file"),
        ("x" * 5000, "x{90}.*: File name too long$"),
        ("nul\0l.png", "cannot read image"),
    ],
)
def test_what_is_no_file_is_told_shortly(name, why):
    with pytest.raises(ValueError, match=why) as caught:
        open_picture(name)
    assert len(str(caught.value)) < 400 and "\0" not in str(caught.value)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(FORMATS),
    at=st.integers(0, 400),
    junk=st.binary(max_size=12),
    cut=st.integers(0, 400),
)
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path, kind, at, junk, cut):
    whole = io.BytesIO()
    Image.linear_gradient("L").resize((9, 7)).convert("RGB").save(whole, format=kind)
    data = bytearray(whole.getvalue())
    data[at : at + len(junk)] = junk
    (tmp_path / "damaged").write_bytes(data[: len(data) - cut % len(data)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = open_picture(tmp_path / "damaged", "here")
        except ValueError as error:
            assert str(error).startswith("here: cannot read image") and "\n" not in str(error)
        else:
            assert found.mode == "RGB" and found.width * found.height <= pictures.MOST_PIXELS


@pytest.mark.parametrize(
    ("greys", "kind"),
    [([0.0, 0.5, 1.0], "float32"), ([0, 70_000, 2**31 - 1], "int32"), ([-5, 0, 9], "int32")],
)
def test_greys_of_an_unknown_range_are_refused(tmp_path, greys, kind):
    Image.fromarray(np.array([greys], dtype=kind)).save(tmp_path / "depth.tiff")
    with pytest.raises(
        ValueError, match=r"depth\.tiff.*range that it does not say .*8 or 16 bits"
    ) as refusal:
        pictures.open_picture(tmp_path / "depth.tiff")
    assert "\n" not in str(refusal.value)
    Image.fromarray(np.array([[0, 257, 0xFFFF]], dtype="int32")).save(tmp_path / "grey.tiff")
    found = pictures.open_picture(tmp_path / "grey.tiff")
    assert [found.getpixel((x, 0))[0] for x in range(3)] == [0, 1, 255]
