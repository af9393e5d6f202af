"""Records: every kind is read, and a bad one is named by its file and place."""

from __future__ import annotations

import json

import pytest

from saccade.training.config import ConversationFile, GlanceScenes
from saccade.training.records import BadRecord, read_record
from saccade.training.sources import open_source
from training.tiny import RECORDS, data_set, said


def opened(path, skip=False, **more):
    return open_source(ConversationFile("conversations", str(path), **more), 0, skip)


@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
def test_records_of_every_kind(tmp_path, name):
    pool = opened(data_set(tmp_path, name=name))
    assert len(pool) == len(RECORDS)
    loaded = [pool.load(n, epoch=0) for n in range(len(pool))]
    assert [len(c.images) for c in loaded] == [1, 0, 2, 1, 0, 1]
    assert [image.size for image in loaded[2].images] == [(40, 30), (60, 20)]
    assert [turn.role for turn in loaded[3].turns] == ["user", "assistant"] * 2
    assert loaded[2].turns[0].pieces == (None, " and ", None, " ?")
    assert loaded[0].turns[0].pieces == (None, "what is the color ?")


def test_images_may_be_called_several(tmp_path):
    several = {"images": ["red.png", "green.png"], "source": "web.png", "video": None}
    record = several | {"conversations": said("<image> and <image> ?", "a")}
    assert read_record(record, tmp_path, "here").paths == (tmp_path / "red.png", tmp_path / "green.png")
    plain = {"source": "web.png", "image": None, "conversations": said("q", "a")}
    assert read_record(plain, tmp_path, "here").paths == ()


def test_jsonl_with_gaps_marks_and_wide_letters(tmp_path):
    path = data_set(tmp_path, name="data.jsonl")
    lines = [
        json.dumps({"conversations": said("größer?\u2028", f"nein {n} 象")}, ensure_ascii=False)
        for n in (1, 2)
    ]
    path.write_text("\ufeff\n" + lines[0] + "\n\n" + lines[1], "utf-8")
    pool = opened(path)
    assert [pool.load(n, 0).turns[1].pieces for n in range(2)] == [("nein 1 象",), ("nein 2 象",)]
    assert [pool.load(n, 0).where.split(", ")[-1] for n in range(2)] == ["line 2", "line 4"]


BAD = [
    ("text", "a JSON object is needed"),
    ({}, "'conversations' is a list"),
    ({"conversations": []}, "'conversations' is a list"),
    ({"conversations": said("q")}, "ends with an answer"),
    ({"conversations": said("q", "a", "q")}, "ends with an answer"),
    ({"conversations": said("q", "a")[::-1]}, "human first"),
    ({"conversations": [{"from": "robot", "value": "x"}]}, "'from' is human, gpt or system"),
    ({"conversations": [{"from": "human"}]}, "'from' and 'value'"),
    ({"conversations": said("q", "  ")}, "is empty"),
    ({"image": "red.png", "conversations": said("q", "a")}, "0 <image> marks but 1 images"),
    ({"conversations": said("<image> q", "a")}, "1 <image> marks but 0 images"),
    ({"image": ["red.png"], "conversations": said("<image><image> q", "a")}, "2 <image> marks but 1 images"),
    ({"image": "red.png", "conversations": said("q", "an <image>")}, "stands in a message of gpt"),
    ({"image": 3, "conversations": said("q", "a")}, "'image' is a file name"),
    ({"image": "none.png", "conversations": said("<image> q", "a")}, "no image file"),
    ({"image": "iVBORw0KGgo" * 900, "conversations": said("<image> q", "a")}, "no image file"),
    ({"image": "\0.png", "conversations": said("<image> q", "a")}, "no image file"),
    ({"image": "\ud800.png", "conversations": said("<image> q", "a")}, "'image' is a file name"),
    ({"images": ["red.png"], "conversations": said("q", "a")}, "0 <image> marks but 1 images"),
    ({"image": "red.png", "images": [], "conversations": said("q", "a")}, "'image' or 'images', not both"),
    ({"image_path": "red.png", "conversations": said("q", "a")}, "'image_path' names 'red.png'"),
    ({"clip": ["x.mp4"], "conversations": said("q", "a")}, "'clip' names 'x.mp4'"),
    ({"video": "x.mp4", "conversations": said("<video>\nq", "a")}, "'video' is not read"),
    ({"videos": ["x.mp4"], "image": "red.png", "conversations": said("<image> q", "a")}, "'videos' is not"),
    ({"conversations": said("q", "half \udfff")}, "half of a surrogate pair"),
    ({"conversations": said("half \ud83d", "a")}, "half of a surrogate pair"),
]


@pytest.mark.parametrize(("record", "why"), BAD)
@pytest.mark.parametrize(("name", "place"), [("data.json", "index 1"), ("data.jsonl", "line 2")])
def test_a_bad_record_is_named(tmp_path, record, why, name, place):
    path = data_set(tmp_path, [RECORDS[0], record, RECORDS[1]], name)
    with pytest.raises(BadRecord) as caught:
        opened(path)
    assert f"{path}, {place}: " in str(caught.value) and why in str(caught.value)
    pool = opened(path, skip=True)
    assert len(pool) == 2 and len(pool.refused) == 1 and why in pool.refused[0]
    assert pool.load(1, 0).where.endswith("index 2" if place == "index 1" else "line 3")


@pytest.mark.parametrize(
    "line", ['{"id": ' + "9" * 5000 + "}", '{"id": ' + "[" * 9000 + "]" * 9000 + "}", '{"id": "\xff"}'],
    ids=["digits", "nesting", "bytes"],
)  # fmt: skip
def test_a_line_that_python_does_not_read_is_named_and_can_be_left_out(tmp_path, line):
    path = data_set(tmp_path, name="data.jsonl")
    path.write_bytes(line.encode("latin-1") + b"\n" + path.read_bytes())
    with pytest.raises(BadRecord, match=r"data\.jsonl, line 1: not JSON"):
        opened(path)
    assert len(opened(path, skip=True)) == len(RECORDS)
    if "\xff" not in line:
        path = data_set(tmp_path)
        path.write_text(f"[{line}]", "utf-8")
        with pytest.raises(ValueError, match=r"data\.json is not JSON that can be read"):
            opened(path, skip=True)


@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
def test_a_record_too_long_to_read_is_named_and_can_be_left_out(tmp_path, name):
    long = {"conversations": said("q " * 600_000, "a")}
    path = data_set(tmp_path, [RECORDS[1], long, RECORDS[4]], name=name)
    with pytest.raises(BadRecord, match=r"(line 2|index 1): longer than 1,000,000 bytes"):
        opened(path)
    pool = opened(path, skip=True)
    assert [pool.load(n, epoch=0).turns for n in range(2)] == [
        opened(data_set(tmp_path / "short", [record], name=name)).load(0, 0).turns
        for record in (RECORDS[1], RECORDS[4])
    ]


def test_messages_about_long_names_stay_short(tmp_path):
    record = {"image": "iVBORw0KGgo" * 9000, "conversations": said("<image> q", "a")}
    pool = opened(data_set(tmp_path, [RECORDS[1], record]), skip=True)
    assert len(pool.refused) == 1 and len(pool.refused[0]) < 600


def test_a_broken_line_is_named_and_a_broken_array_is_refused(tmp_path):
    path = data_set(tmp_path, name="data.jsonl")
    text = path.read_text("utf-8").split("\n")
    path.write_text("\n".join([text[0], text[1][:-9], *text[2:]]), "utf-8")
    with pytest.raises(BadRecord, match=r"data\.jsonl, line 2: not JSON"):
        opened(path)
    assert len(opened(path, skip=True)) == len(RECORDS) - 1
    array = data_set(tmp_path)
    array.write_text(array.read_text("utf-8")[:-5], "utf-8")
    with pytest.raises(ValueError, match=r"data\.json is not JSON"):
        opened(array, skip=True)


def test_an_image_that_does_not_decode_is_named_when_it_is_loaded(tmp_path):
    path = data_set(tmp_path)
    (tmp_path / "red.png").write_bytes((tmp_path / "red.png").read_bytes()[:60])
    pool = opened(path)
    with pytest.raises(BadRecord, match=r"data\.json, index 0: cannot read image .*red\.png"):
        pool.load(0, 0)


def test_files_and_folders_that_are_not_there(tmp_path):
    path = data_set(tmp_path)
    with pytest.raises(ValueError, match="no such file"):
        opened(tmp_path / "none.json")
    with pytest.raises(ValueError, match="no such image folder"):
        opened(path, images=str(tmp_path / "none"))
    path.write_text("[]", "utf-8")
    with pytest.raises(ValueError, match=r"holds no usable record$"):
        opened(path, skip=True)
    path.write_text("[3]", "utf-8")
    with pytest.raises(ValueError, match=r"holds no usable record: .*index 0: a JSON object is needed"):
        opened(path, skip=True)


def test_a_system_message_may_come_first():
    turns = [{"from": "system", "value": "be brief"}, *said("q", "a")]
    record = read_record({"conversations": turns}, None, "here")
    assert [turn.role for turn in record.turns] == ["system", "user", "assistant"]


def scenes(seed=0, **more):
    return open_source(GlanceScenes("glance", images=9, **more), seed, False)


def test_scenes_depend_on_seed_epoch_and_number_alone():
    def texts(pool, index, epoch):
        found = pool.load(index, epoch)
        return found.turns, found.images[0].tobytes()

    first, again = scenes(), scenes()
    assert texts(first, 3, 1) == texts(again, 3, 1)
    others = [texts(first, 4, 1), texts(first, 3, 2), texts(scenes(seed=1), 3, 1)]
    assert all(other != texts(first, 3, 1) for other in others)


def test_scenes_are_conversations_about_one_image():
    pool = scenes(turns=3)
    for index in range(len(pool)):
        found = pool.load(index, 0)
        assert len(found.images) == 1 and 2 <= len(found.turns) <= 6
        assert [turn.images for turn in found.turns] == [1] + [0] * (len(found.turns) - 1)


def test_scenes_are_drawn_as_the_model_sees_them():
    small, large = scenes().load(3, 1), scenes(scale=2).load(3, 1)
    assert small.images[0].size == (80, 80) and large.images[0].size == (160, 160)
    assert small.turns == large.turns
    settings = GlanceScenes("glance", images=9)
    assert (
        open_source(settings, 0, False, scale=2).load(3, 1).images[0].tobytes() == large.images[0].tobytes()
    )
    assert "scale" not in scenes().describe() and scenes(scale=2).describe()["scale"] == 2


def test_scenes_ask_about_the_tasks_that_are_wanted():
    from saccade.glance.tasks import TASKS

    pool = scenes(tasks=("chart", "word"))
    kinds = {kind for name in ("chart", "word") for kind in TASKS[name].kinds}
    assert set(pool._kinds) == kinds
    with pytest.raises(ValueError, match="unknown task 'smell'"):
        scenes(tasks=("smell",))
