"""Snippets of README.md and of the docs run: each page's commands in a folder of its own, at tiny sizes.

Languages say what a block is: ``sh`` and ``python`` run here, ``text`` is only shown. There is no other.
"""

from __future__ import annotations

import json
import re
import shlex
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from saccade.core.layout import Layout
from saccade.core.stages import Evidence
from saccade.glance import suite
from saccade.methods import METHODS
from saccade.research import names
from support import pages
from support.programs import environment, start

LANGUAGES = {"sh", "python", "text", ""}
RUNNING = [page for page in pages.pages() if pages.steps(pages.read(page))]
LONG = {f"docs/{name}.md" for name in ("start-compare", "start-serve", "start-train", "train", "calibrate")}
NOT_A_SCRIPT = "CONTRIBUTING.md"
"""Its Python blocks are methods; tests below look at them."""

SMALL = (
    (r"^saccade (\w+) llava-hf/llava-1\.5-7b-hf\b", r"saccade \1 glance"),
    (r"^saccade bench llava-1\.5-7b\b", "saccade bench glance"),
    (r"(?<=glance)(.*) --layers \d+", r"\1"),
    (r"--samples \d+", "--samples 2"),
    (r"(?<=glance)(.*)budget(=| )19", r"\1budget\g<2>4"),
    (r"\(layers=20-31\)", "(layers=8-11)"),
    (r"^(saccade bench .*)$", r"\1 --repeats 1"),
)
"""How a command becomes small enough to run here: Glance in the place of a model from a hub, few samples."""

DRIVER = """
import json, subprocess, sys
from saccade.cli import main
servers = []
try:
    for kind, step in json.load(open(sys.argv[1])):
        print("$", step, flush=True)
        if kind == "sh" and step[0] == "serve":
            words = [sys.executable, "-m", "saccade", *step]
            servers.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
            if "serving" not in servers[-1].stdout.readline():
                sys.exit("failed: " + " ".join(step))
        elif kind == "python":
            exec(compile(step, "snippet", "exec"), {"__name__": "snippet"})
        elif main(step):
            sys.exit("failed: " + " ".join(step))
finally:
    for server in servers:
        server.kill()
"""
"""Runs a page's snippets in one process, for imports take longer than they; a server runs beside it."""
PORT = "8000"
"""Where a server listens; a free port takes its place."""


def small(command: str) -> str:
    """A command as it runs here."""
    for pattern, instead in SMALL:
        command = re.sub(pattern, instead, command)
    return command


def served(step: str | list[str], port: str) -> str | list[str]:
    """A snippet whose server listens at another port."""
    if isinstance(step, str):
        return step.replace(f":{PORT}/", f":{port}/")
    return [*step, "--port", port] if step[0] == "serve" else step


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with the files that the pages speak of: a photo, and questions about images."""
    Image.new("RGB", (96, 64), "orange").save(tmp_path / "photo.jpg")
    lines = []
    (tmp_path / "images").mkdir()
    (tmp_path / "configs").symlink_to(pages.ROOT / "configs")
    for number, sample in enumerate(suite.samples("count", n=4), start=1):
        sample.images[0].save(tmp_path / "images" / f"{number}.jpg")
        lines.append(
            json.dumps(
                {"image": f"images/{number}.jpg", "question": sample.question, "answer": sample.answer}
            )
        )
    for name in ("my.jsonl", "held-out.jsonl"):
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("page", pages.pages())
def test_blocks_say_what_they_are(page):
    assert pages.languages(pages.read(page)) <= LANGUAGES


@pytest.mark.e2e
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.long(instead="README.md")) if page in LONG else page
        for page in RUNNING
    ],
)
def test_snippets_run(page, folder, tmp_path_factory):
    steps: list[tuple[str, Any]] = []
    made: list[str] = []
    for kind, text in pages.steps(pages.read(page)):
        if kind == "python":
            steps += [(kind, text)] if page != NOT_A_SCRIPT else []
            continue
        words = shlex.split(small(text))
        assert words[0] in ("saccade", "make"), f"{page}: cannot run {text!r}; mark the block as text"
        if words[0] == "make":
            made += words[1:]
        else:
            steps.append((kind, words[1:]))
    if made:
        # What make would do is shown, not done: it builds an environment.
        subprocess.run(["make", "-n", *made], cwd=pages.ROOT, check=True, capture_output=True)
    if not steps:
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    steps = [(kind, served(step, port)) for kind, step in steps]
    driver, asked = tmp_path_factory.mktemp("driver") / "driver.py", folder / "steps.json"
    driver.write_text(DRIVER)
    asked.write_text(json.dumps(steps))
    done = start(driver, asked, cwd=folder, env=environment()).ended(280)
    assert done.code == 0, f"{done.out[-2000:]}\n{done.err[-2000:]}"
    for words in (step for kind, step in steps if kind == "sh"):
        for option in ("--json", "--out"):
            if option in words:
                assert (folder / words[words.index(option) + 1]).exists(), words


def shown(number: int) -> str:
    """One of the methods in CONTRIBUTING.md."""
    layered, reducer = pages.blocks(pages.read(NOT_A_SCRIPT), "python")
    return (layered, reducer)[number]


def run(text: str) -> dict[str, Any]:
    """What a file that registers a method defines, without registering it."""
    namespace: dict[str, Any] = {}
    exec(compile(text.replace("@register\n", ""), NOT_A_SCRIPT, "exec"), namespace)
    return namespace


def test_the_layer_method_that_is_shown():
    """The class in CONTRIBUTING.md is that of its file, and a method takes at most 30 lines."""
    file = (pages.ROOT / "src/saccade/methods/ffn_skip.py").read_text("utf-8")
    for line in shown(0).splitlines():
        bare = line.split("  #")[0].strip().removesuffix('"""')
        if bare and not bare.startswith("return"):
            assert bare in file, line
    assert len(file.splitlines()) <= 30 and len(shown(1).splitlines()) <= 30
    imports = file.split("@register")[0]
    layout = Layout.single(6, 3)
    mine = run(imports + shown(0))["FFNSkip"](layers=(1, 2)).route(layout, 4)
    theirs = METHODS["ffn_skip"](layers=(1, 2)).route(layout, 4)
    for a, b in zip(mine.layers, theirs.layers, strict=True):
        assert all(getattr(a, name).equal(getattr(b, name)) for name in ("alive_BN", "query_BN", "ffn_BN"))


def test_the_reducer_that_is_shown():
    method = run(shown(1))["LargestNorms"](keep=2, layer=2)
    layout = Layout.single(6, 3)
    hidden_BND = torch.zeros(1, layout.rows, 4)
    hidden_BND[0, :, 1] = torch.arange(layout.rows)
    hidden_BND[0, 3] = 100
    (stage,) = method.stages(4)
    found = tuple(tuple(sample) for sample in layout.counts)
    evidence = Evidence(layout, layout.visual_BN, layout.image_BN, found, ((2,),), hidden_BND)
    kept = set(method.choose(stage, evidence).keep_BN[0].nonzero()[:, 0].tolist())
    assert stage.before == 2 and kept == {3, int(layout.visual_BN[0].nonzero().max())}
    with pytest.raises(ValueError, match="layer is a number from 1"):
        type(method)(layer=0)


def test_the_study_that_is_shown_is_found_by_its_text(tmp_path, monkeypatch):
    (text,) = pages.blocks(pages.read("docs/add-a-study.md"), "python")
    (tmp_path / "ends.py").write_text(text, encoding="utf-8")
    monkeypatch.setattr(names, "_STUDIES", tmp_path)
    assert names.listed.__wrapped__() == {"ends": names.StudyName("ends", run(text)["STUDY"].question)}


def test_a_study_whose_question_is_no_plain_text_is_named(tmp_path, monkeypatch):
    (tmp_path / "ends.py").write_text('asked = "Why?"\nSTUDY = Study("ends", "Ends", asked, design)\n')
    monkeypatch.setattr(names, "_STUDIES", tmp_path)
    with pytest.raises(ValueError, match=r"ends\.py: STUDY is read as text"):
        names.listed.__wrapped__()


def test_every_way_to_make_a_command_small_is_needed():
    lines = [line for page in RUNNING for line in pages.commands(pages.read(page))]
    for number, (pattern, _) in enumerate(SMALL):
        before = lines
        for earlier, instead in SMALL[:number]:
            before = [re.sub(earlier, instead, line) for line in before]
        assert any(re.search(pattern, line) for line in before), pattern
