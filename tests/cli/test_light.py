"""What lists, prices or refuses imports no model class, and a family is imported when its model is met."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from saccade.families import FAMILIES
from saccade.families.registry import adapters
from saccade.research.names import listed
from saccade.research.studies import STUDIES

WITHOUT_TORCH = (
    (0, ["--help"]),
    (0, ["study", "list"]),
    (2, ["nosuch"]),
    (2, ["study", "nosuch"]),
    (2, ["study", "main", "--quick"]),
    (2, ["study", "main", "--task", "nosuch"]),
    (2, ["study", "main", "nosuch"]),
    (2, ["generate", "nosuch", "--question", "how many?"]),
    (2, ["generate", "glance", "--question", "how many?", "--plan", "nosuch()"]),
    (2, ["generate", "glance", "--question", "how many?", "--dtype", "nosuch"]),
    (2, ["generate", "glance", "--question", "how many?", "--attn", "nosuch"]),
    (2, ["generate", "glance", "--question", "how many?", "--device", "nosuch"]),
    (2, ["generate", "glance", "--question", "how many?", "--device-map", "nosuch"]),
    (2, ["serve", "glance", "--device", "nosuch"]),
    (2, ["study", "main", "glance", "--device", "nosuch"]),
    (2, ["train", "glance", "--device", "nosuch"]),
    (2, ["train", "gaze", "--device", "nosuch"]),
    (2, ["generate", "glance", "--question", "how many?", "--image", "nosuch.png"]),
    (2, ["explain", "nosuch.png", "how many?", "--plan", "nosuch()"]),
    (2, ["eval", "glance", "--task", "nosuch"]),
    (2, ["eval", "glance", "--plan", "nosuch.json"]),
    (2, ["eval", "glance", "--suite", "nosuch"]),
    (2, ["eval", "glance", "--suite", "lmms:glance_nosuch"]),
    (2, ["calibrate", "glance", "--method", "nosuch"]),
    (2, ["calibrate", "glance", "--nosuch"]),
    (2, ["eval", "nosuch"]),
    (2, ["eval", "glance", "--data", "nosuch.jsonl"]),
    (2, ["eval", "glance", "--order", "nosuch.json"]),
    (2, ["eval", "glance", "--adapter", "nosuch"]),
    (2, ["eval", "glance", "--accepted", "nosuch.json"]),
    (2, ["eval", "nosuch", "--plan", "vskip(layers=3)"]),
    (2, ["calibrate", "nosuch", "--budget", "2"]),
    (2, ["calibrate", "glance", "--budget", "2", "--data", "nosuch.jsonl"]),
    (2, ["tune", "nosuch", "--flops", "0.5"]),
    (2, ["tune", "glance", "--flops", "0.5", "--data", "nosuch.jsonl"]),
    (2, ["heal", "nosuch", "vskip(layers=3)", "--out", "healed"]),
    (2, ["heal", "glance", "vskip(layers=3)", "--out", "healed", "--data", "nosuch.jsonl"]),
    (2, ["batch", "glance", "--data", "nosuch.jsonl", "--out", "answers"]),
    (2, ["explain", "nosuch.png", "how many?", "--plan", "vskip(layers=3)"]),
    (2, ["generate", "glance", "--question", "?", "--image", "nosuch.png", "--plan", "vskip(layers=3)"]),
    (2, ["analyze", "glance", "--data", "nosuch.jsonl", "--plan", "vskip(layers=3)"]),
    (2, ["study", "main", "glance", "--data", "nosuch.jsonl"]),
    (2, ["check", "nosuch"]),
    (2, ["analyze", "nosuch"]),
    (2, ["bench", "nosuch"]),
    (2, ["cost", "nosuch"]),
    (2, ["cost", "llava-1.5-7b", "--on", "nosuch"]),
    (2, ["bench", "glance", "--on", "nosuch"]),
    (2, ["report", "nosuch.json"]),
    (2, ["train", "nosuch.yaml"]),
)
"""Exit code, and a command that answers before torch is imported."""
WITHOUT_TRANSFORMERS = (
    (0, ["methods"]),
    (0, ["plan", "show", "vskip(layers=3)"]),
    (0, ["plan", "diff", "vskip(layers=3)", "vskip(layers=2)"]),
    (0, ["plan", "validate", "fastv(layer=3,keep=0.5)+vskip(layers=20-31)"]),
    (0, ["cost", "llava-1.5-7b", "--plan", "fastv(layer=3,keep=0.5)"]),
    (0, ["cost", "qwen2.5-vl-7b", "--plan", "vskip(budget=4)"]),
    (2, ["plan", "validate", "vskip(layers=3)", "--model", "nosuch"]),
    (2, ["plan", "show", "vskip(layer=3)"]),
    (2, ["cost", "llava-1.5-7b", "--plan", "fastv(layer=99)"]),
    (2, ["generate", "glance", "--question", "how many?", "--plan", "vskip(layer=3)"]),
    (2, ["eval", "glance", "--plan", "vskip(budget=x)"]),
    (2, ["calibrate", "glance", "--budget", "2", "--score", "nosuch"]),
    (2, ["calibrate", "glance", "--budget", "2", "--draw", "nosuch"]),
    (2, ["calibrate", "glance", "--budget", "2", "--direction", "nosuch"]),
    (2, ["calibrate", "glance", "--budget", "2", "--score", "withdrawal"]),
    (2, ["calibrate", "glance", "--method", "fastv(keep=0.5)"]),
    (2, ["tune", "glance", "--flops", "0.5", "--allow", "nosuch"]),
)
"""The same for what takes torch, and nothing of transformers."""

RUN = """
import contextlib, io, json, sys
from saccade.cli import main
told = []
for code, words in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        found = main(words)
    if found != code:
        told.append([words, found, said.getvalue()])
    heavy = [name for name in json.loads(sys.argv[2]) if name in sys.modules]
    if heavy:
        told.append([words, heavy])
        break
print(json.dumps(told))
"""

MEET = """
import json, sys
from saccade import apply
from saccade.families import FAMILIES, find
known = list(FAMILIES)
def met():
    return sorted(n for n in sys.modules if n.removeprefix("saccade.families.") in known)
def classes():
    names = (n.split(".") for n in sys.modules if n.startswith("transformers.models."))
    return sorted({parts[2] for parts in names} & set(known))
before = met(), classes()
from transformers import Qwen2VLConfig
find(Qwen2VLConfig())
print(json.dumps([before, met(), classes()]))
"""


def fresh(script: str, *words: str, folder) -> object:
    ran = subprocess.run(
        [sys.executable, "-c", script, *words], cwd=folder, capture_output=True, text=True, timeout=280
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("commands", "heavy"),
    [
        (WITHOUT_TORCH, ("torch", "transformers", "matplotlib")),
        (WITHOUT_TRANSFORMERS, ("transformers", "matplotlib", "scipy")),
    ],
    ids=["torch", "transformers"],
)
def test_lists_prices_and_refusals_import_little(commands, heavy, tmp_path):
    assert fresh(RUN, json.dumps(commands), json.dumps(heavy), folder=tmp_path) == []


@pytest.mark.e2e
def test_a_family_is_imported_when_a_model_of_it_is_met(tmp_path):
    before, met, classes = fresh(MEET, folder=tmp_path)
    assert before == [[], []]
    assert met == ["saccade.families.qwen2_vl"] and classes == ["qwen2_vl"]


def test_what_is_listed_of_families_is_what_they_are():
    found = {kind: (family.name, type(family).__module__) for kind, family in FAMILIES.items()}
    assert found == {kind: (a.name, f"saccade.families.{a.module}") for kind, a in adapters().items()}


def test_what_is_listed_of_studies_is_what_they_are():
    found = {name: (one.name, one.question, one.trains) for name, one in STUDIES.items()}
    assert found == {name: (one.name, one.question, one.trains) for name, one in listed().items()}
