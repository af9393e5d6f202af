"""``saccade clips`` writes what other commands read; those that take videos say what is wrong with one."""

from __future__ import annotations

import pytest

from saccade.inputs.data import load_jsonl


def test_what_is_written_is_read_by_other_commands(command, tmp_path):
    done = command("clips", tmp_path / "made", "--samples", 2, "--task", "order", "--seed", 4, "--json", "-")
    assert done.code == 0 and done.json["tasks"] == ["order"] and done.json["samples"] == 2
    read = load_jsonl(done.json["file"], answered=True)
    assert [sample.subtask for sample in read] == ["first", "last"] and all(s.videos for s in read)
    again = command("clips", tmp_path / "made")
    assert again.code == 2 and "holds files already" in again.err
    unknown = command("clips", tmp_path / "more", "--task", "seen")
    assert unknown.code == 2 and "no such task: seen" in unknown.err and not (tmp_path / "more").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--video", "none.mp4"), "no such video: none.mp4"),
        (("--frames", 4), "--frames is of videos: give --video PATH"),
        (("--video", "made/moved-0", "--frames", 2), "takes no videos; give its frames as images"),
    ],
)
def test_a_video_that_cannot_be_asked_about_is_one_line(command, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    command("clips", "made", "--samples", 1, "--task", "moved")
    done = command("generate", "glance", "--question", "how many?", *words)
    assert done.code == 2 and says in done.err and len(done.err.strip().splitlines()) == 1
    if "--video" in words:
        shown = command("explain", words[1], "how many?", "--plan", "vtw(layer=1)", "--output", "x.png")
        assert shown.code == 2 and "x.png" not in shown.out
