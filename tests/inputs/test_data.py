"""The user's JSONL: what is read, and errors that name the line."""

from __future__ import annotations

import json
import re
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from saccade.inputs.data import load_jsonl, read_jsonl
from saccade.inputs.pictures import open_picture


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pictures").mkdir()
    for name, size in (("a.png", (8, 6)), ("b.jpg", (4, 4))):
        Image.new("RGBA" if name == "a.png" else "RGB", size, "red").save(tmp_path / "pictures" / name)
    (tmp_path / "pictures" / "text.png").write_text("not an image")
    return tmp_path


def dumped(line) -> str:
    text = json.dumps(line, ensure_ascii=False)
    # Halves of surrogate pairs stand in files as escapes.
    return json.dumps(line) if any("\ud800" <= letter <= "\udfff" for letter in text) else text


def write(folder, *lines) -> str:
    path = folder / "mine.jsonl"
    path.write_text(
        "\n".join(line if isinstance(line, str) else dumped(line) for line in lines), encoding="utf-8"
    )
    return str(path)


def test_every_form_of_a_line(folder):
    path = write(
        folder,
        {"image": "pictures/a.png", "question": "what colour?", "answer": "red"},
        "",
        {
            "images": ["pictures/a.png", "pictures/b.jpg"],
            "question": "same?",
            "id": 7,
            "task": "pairs",
            "subtask": "two",
        },
        {"question": "two and two?", "answer": 4, "note": "other fields are left alone"},
        {"image": ["pictures/b.jpg"], "question": "line\u2028break?", "answer": None},
    )
    one, two, three, four = load_jsonl(path)
    assert (one.id, one.task, one.subtask, one.answer) == ("mine/1", "mine", "mine", "red")
    assert [(i.mode, i.size) for i in one.images] == [("RGB", (8, 6))]
    assert (two.id, two.task, two.subtask, two.answer, len(two.images)) == ("7", "pairs", "two", "", 2)
    assert (three.id, three.images, three.answer) == ("mine/4", (), "4")
    assert (four.question, four.answer, len(four.images)) == ("line\u2028break?", "", 1)


@pytest.mark.parametrize("written", ["3", "3.0", "3e0", '"3"'])
def test_a_whole_number_is_one_text_however_json_writes_it(folder, written):
    line = f'{{"question": "how many?", "answer": [{written}], "id": {written}, "task": {written}}}'
    (entry,) = read_jsonl(write(folder, line))
    assert (entry.answers, entry.id, entry.task, entry.subtask) == (("3",), "3", "3", "3")


def test_numbers_that_are_not_whole_and_texts_stay_as_they_are_written(folder):
    path = write(
        folder, *(f'{{"question": "how many?", "answer": {one}}}' for one in ("2.5", '"3.0"', "1e300"))
    )
    assert [entry.answers for entry in read_jsonl(path)] == [("2.5",), ("3.0",), ("1e+300",)]


@pytest.mark.parametrize("blank", ["", "  "])
def test_an_empty_field_is_one_that_is_not_given(folder, blank):
    line = {"question": "how many?", "answer": blank, "id": blank, "task": blank, "subtask": blank}
    for entry in read_jsonl(write(folder, line, line)):
        assert (entry.answers, entry.task, entry.subtask) == ((), "mine", "mine")
        assert entry.id == f"mine/{entry.where[-1]}"


def test_a_byte_order_mark_and_windows_line_ends_are_read(folder):
    path = folder / "windows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"question": "one?"}\r\n{"question": "two?"}\r\n')
    assert [sample.question for sample in load_jsonl(path)] == ["one?", "two?"]


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ('{"question": "x"', r"line 2: not JSON"),
        ("[1, 2]", r"line 2: a JSON object is needed, got list"),
        ({"image": "pictures/a.png"}, r"line 2: 'question' is missing"),
        ({"question": "  "}, r"line 2: 'question' is missing"),
        ({"question": 3}, r"line 2: 'question' is missing or is not text"),
        ({"question": "<image> what?", "image": "pictures/a.png"}, r"line 2: leave '<image>' out"),
        ({"question": "x", "image": "pictures/none.png"}, r"line 2: no image file .*none\.png"),
        ({"question": "x", "image": "pictures"}, r"line 2: no image file"),
        ({"question": "x", "image": 5}, r"line 2: 'image' is a path or a list"),
        ({"question": "x", "images": ["pictures/a.png", ""]}, r"line 2: 'image' is a path or a list"),
        ({"question": "x", "image": "a", "images": ["b"]}, r"line 2: give 'image' or 'images'"),
        ({"question": "x", "answer": [["a"]]}, r"line 2: 'answer' is text or a number, got list"),
        ({"question": "x", "answer": {"a": 1}}, r"line 2: 'answer' is text or a number, got dict"),
        ({"question": "x", "answer": []}, r"line 2: 'answer' is an empty list"),
        ({"question": "x", "answer": ["a", ""]}, r"line 2: score exact needs text as the answer, got ''"),
        ({"question": "x", "score": "nosuch"}, r"line 2: no score 'nosuch'; known: exact, .*number"),
        ({"question": "x", "score": 0.5}, r"line 2: a score is a name"),
        (
            {"question": "x", "score": {"number": {"slack": 1}}},
            r"line 2: score number has no parameter 'slack'",
        ),
        ({"question": "x", "score": "option", "answer": ["B", "dog"]}, r"line 2: .*letter.*got 'dog'"),
        ({"question": "x", "score": "yes_no", "answer": "maybe"}, r"line 2: .*yes or no.*got 'maybe'"),
        ({"question": "x", "score": "number", "answer": "many"}, r"line 2: .*a number.*got 'many'"),
        ({"question": "x", "id": True}, r"line 2: 'id' is text or a number, got bool"),
        ({"question": "half \ud83d"}, r"line 2: 'question' holds half of a surrogate pair"),
        ({"question": "x", "answer": ["a", "\udfff"]}, r"line 2: 'answer' holds half of a surrogate pair"),
        ({"question": "x", "image": "iVBORw0KGgo" * 900}, r"line 2: no image file"),
        ({"question": "x", "image": "\0"}, r"line 2: no image file"),
        ({"question": "x", "image": "\ud800.png"}, r"line 2: 'image' is a path"),
        ('{"question": "x", "id": ' + "9" * 5000 + "}", r"line 2: not JSON that can be read"),
        ('{"question": ' + "[" * 9000 + "]" * 9000 + "}", r"line 2: not JSON that can be read"),
        (
            {"question": "x", "answer": 1, "score": {"number": {"tolerance": 10**400}}},
            r"line 2: ",
        ),
        ({"question": "x", "answer": float("nan")}, r"line 2: 'answer' is text or a number, got nan"),
        ({"question": "x", "imgae": "a.png"}, r"'imgae' names 'a.png', and is not read: call it 'image'"),
        ({"question": "x", "image_path": "a.JPG"}, r"line 2: 'image_path' names .*call it 'image'"),
        ({"question": "x", "media": ["pictures/a.png"]}, r"line 2: 'media' names .*call it 'image'"),
        ({"question": "x", "movie_file": "a.mp4"}, r"line 2: 'movie_file' names .*call it 'video'"),
        ({"question": "x", "id": "first"}, r"line 2: id 'first' was used before \(.*line 1\)"),
        ({"question": "x", "image": "https://example.org/a.png"}, r"line 2: .*addresses are not fetched"),
        ({"question": "x", "image": "data:image/png;base64,iVBO"}, r"line 2: .*save it as a file"),
        ({"question": "x " * 500_001}, r"line 2: longer than 1,000,000 bytes"),
    ],
)
def test_errors_name_the_line(folder, line, match):
    path = write(folder, {"question": "fine?", "id": "first"}, line)
    with pytest.raises(ValueError, match=match):
        read_jsonl(path)


def test_other_keys_of_a_line_are_let_be(folder):
    """Where a picture is named as it should be, and where nothing beside names one that there is."""
    lines = [
        {"question": "x", "image": "pictures/a.png", "image_path": "elsewhere/a.png"},
        {"question": "x", "source": "gone.png", "image_id": "17", "notes": [], "size": [3, 4]},
    ]
    assert [len(entry.paths) for entry in read_jsonl(write(folder, *lines))] == [1, 0]


def test_a_line_of_a_hundred_megabytes_is_refused_at_once(folder):
    (folder / "huge.jsonl").write_bytes(b'{"question": "x"}\n{"question": "' + b"a" * 100_000_000 + b'"}\n')
    began = time.perf_counter()
    with pytest.raises(ValueError, match=r"huge\.jsonl, line 2: longer than 1,000,000 bytes"):
        read_jsonl(folder / "huge.jsonl")
    assert time.perf_counter() - began < 5


def test_bytes_that_are_no_text_are_named_by_line(folder):
    (folder / "latin.jsonl").write_bytes(b'{"question": "x"}\n{"question": "caf\xe9"}\n')
    with pytest.raises(ValueError, match=r"line 2: not JSON: no UTF-8 text"):
        read_jsonl(folder / "latin.jsonl")


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.just("pictures/a.png"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from(["question", "image", "images", "answer", "task", "subtask", "id", "score", "other"])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(line=st.dictionaries(KEYS, VALUES) | VALUES | st.binary(max_size=60))
def test_any_line_is_read_or_refused_by_its_number(folder, line):
    data = line if isinstance(line, bytes) else json.dumps(line).encode()
    (folder / "any.jsonl").write_bytes(b'{"question": "fine?", "id": "first"}\n' + data)
    try:
        entries = read_jsonl(folder / "any.jsonl")
    except ValueError as error:
        assert re.match(r".*any\.jsonl, line \d+: ", str(error)) and len(str(error)) < 1000
    else:
        assert all(
            isinstance(e.question, str) and all(isinstance(a, str) for a in e.answers) for e in entries
        )


def test_a_file_that_is_no_image_is_named_when_it_is_decoded(folder):
    path = write(folder, {"question": "fine?"}, {"question": "x", "image": "pictures/text.png"})
    assert len(read_jsonl(path)) == 2
    with pytest.raises(ValueError, match=r"line 2: cannot read image .*text\.png"):
        load_jsonl(path)


def test_a_torn_image_is_refused(folder):
    whole = (folder / "pictures" / "b.jpg").read_bytes()
    (folder / "pictures" / "torn.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="line 1: cannot read image"):
        load_jsonl(write(folder, {"question": "x", "image": "pictures/torn.jpg"}))


@pytest.mark.parametrize("how", range(1, 9))
def test_a_picture_is_turned_the_way_its_camera_was_held(folder, how):
    """Stored in each of the eight ways, it comes out the same."""
    upright = Image.new("RGB", (6, 4), "blue")
    upright.paste((255, 0, 0), (0, 0, 2, 1))
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # what undoes the way that the tag asks for
    stored = upright if how == 1 else upright.transpose(Image.Transpose(back[how]))
    exif = Image.Exif()
    exif[0x0112] = how
    stored.save(folder / "photo.png", exif=exif)
    assert open_picture(folder / "photo.png", "here").tobytes() == upright.tobytes()


def test_a_torn_note_of_the_camera_spoils_no_picture(folder):
    picture = Image.new("RGB", (6, 4), "blue")
    picture.save(folder / "noted.jpg", exif=b"Exif\0\0what is this")
    picture.save(folder / "plain.jpg")
    assert (
        open_picture(folder / "noted.jpg", "").tobytes() == open_picture(folder / "plain.jpg", "").tobytes()
    )


@pytest.mark.parametrize("name", ["deep.png", "deep.tiff"])
def test_sixteen_bits_of_grey_become_eight(folder, name):
    steep = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(steep).save(folder / name)
    found = open_picture(folder / name, "here")
    assert found.mode == "RGB"
    want = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    assert np.array_equal(np.asarray(found), want)


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file_is_refused(folder, content):
    (folder / "empty.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=r"empty\.jsonl is empty"):
        load_jsonl(folder / "empty.jsonl")


def test_files_that_are_none_are_refused(folder):
    (folder / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    for name, match in (
        ("none.jsonl", "no such file"),
        ("pictures", "a folder"),
        ("binary.jsonl", "line 1: not JSON: no UTF-8"),
    ):
        with pytest.raises(ValueError, match=match):
            load_jsonl(folder / name)


def test_answers_and_scores_are_chosen_by_file_or_by_line(folder):
    path = write(
        folder,
        {"question": "a?", "answer": ["red", 3]},
        {"question": "b?", "answer": 12, "score": {"number": {"tolerance": 0.1}}},
        {"question": "c?", "answer": "B", "score": "option"},
        {"question": "d?", "score": "yes_no"},
        {"question": "e?", "answer": "red", "score": None},
    )
    found = load_jsonl(path, "anls(threshold=0.3)")
    assert [sample.score for sample in found] == [
        "anls(threshold=0.3)", "number(tolerance=0.1)", "option", "yes_no", "anls(threshold=0.3)"
    ]  # fmt: skip
    assert [sample.references for sample in found] == [("red", "3"), ("12",), ("B",), ("",), ("red",)]
    assert load_jsonl(path)[0].score == "exact"


def test_a_score_of_the_whole_file_is_checked_against_every_line(folder):
    path = write(folder, {"question": "a?", "answer": "B"}, {"question": "b?", "answer": "a dog"})
    with pytest.raises(ValueError, match=r"line 2: score option needs the letter of an option"):
        load_jsonl(path, "option")
    with pytest.raises(ValueError, match="no score 'nosuch'"):
        load_jsonl(path, "nosuch")
