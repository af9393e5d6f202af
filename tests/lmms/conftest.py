"""A stand-in for lmms-eval, small enough to read, and a model folder for it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saccade.inputs.samples import Sample
from support.toy import build_toy

PROGRAM = """
import argparse, json, os, pathlib, re, sys, time, traceback

parser = argparse.ArgumentParser()
parser.add_argument("verb")
for name in ("model", "model_args", "tasks", "device", "batch_size", "output_path", "verbosity"):
    parser.add_argument(f"--{name}", required=True)
for name in ("include_path", "limit", "gen_kwargs"):
    parser.add_argument(f"--{name}")
parser.add_argument("--log_samples", action="store_true")
asked = parser.parse_args()
pieces = re.findall(r"(\\w+)=(\\"[^\\"]*\\"|'[^']*'|[^,]*)", asked.model_args)
given = {key: value.strip("\\"'") for key, value in pieces}
here = pathlib.Path(__file__).parent
with (here / "calls.jsonl").open("a") as stream:
    stream.write(json.dumps(vars(asked) | {"given": given, "argv": sys.argv}) + "\\n")
tasks = asked.tasks.split(",")
print("Answering:  50%\\rAnswering: 100%", file=sys.stderr)
if "forever" in tasks:
    print(f"pid {os.getpid()}", flush=True)
    time.sleep(600)
if "crash" in tasks:
    raise RuntimeError("the disk is full")
if "partly" in tasks and "plan" in given and not (here / "mended").exists():
    raise RuntimeError("interrupted half way")
if "silent" in tasks:
    try:
        try:
            raise ConnectionError("no data for this task")
        except ConnectionError as cause:
            raise type("RetryError", (Exception,), {})("RetryError[<Future>]") from cause
    except Exception as error:
        traceback.print_exc()
        print(f"\\x1b[31mError during evaluation: {error}. Please set `--verbosity=DEBUG` to know\\x1b[0m")
        sys.exit(0)
out = pathlib.Path(asked.output_path) / "model"
out.mkdir(parents=True)
wrong = 3 if given.get("blind") == "true" else 1 if "plan" in given else 0
results, configs, counts = {}, {}, {}
for task in tasks:
    right = [float(i >= wrong) for i in range(4)]
    results[task] = {"alias": task, "score,none": sum(right) / 4, "score_stderr,none": 0.1, "f1,none": 7.5}
    configs[task] = {"task": task, "metric_list": [{"metric": "score"}, {"metric": "f1"}]}
    counts[task] = {"original": 9, "effective": 4}
    if task != "official":
        shared = {"target": "x", "filtered_resps": "y"}
        lines = [{"doc_id": 3 - i, "score": r} | shared for i, r in enumerate(right)]
        (out / f"now_samples_{task}.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in lines))
data = {"results": results, "configs": configs, "n-samples": counts}
(out / "now_results.json").write_text(json.dumps(data))
cost = {"gflops": 2.0 if "plan" in given else 4.0, "dense_gflops": 4.0, "kv_bytes": 10, "dense_kv_bytes": 20}
notes = pathlib.Path(given["record"])
notes.mkdir(parents=True)
(notes / "cost-0.json").write_text(json.dumps({"prompts": 4, "cost": cost}))
"""

MODEL = """
class lmms:
    is_simple = True

    def __init__(self):
        self._rank, self._world_size, self.task_dict = 0, 1, {}
"""

REGISTRY = """
from dataclasses import dataclass


@dataclass(frozen=True)
class ModelManifest:
    model_id: str
    chat_class_path: str
"""

LOGURU = """
class logger:
    said = []
    warning = said.append
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch) -> Path:
    """A package ``lmms_eval`` for this process and those it starts; its ``calls.jsonl`` tells of its runs."""
    place = tmp_path / "packages"
    files = {
        "lmms_eval/__init__.py": "",
        "lmms_eval/__main__.py": PROGRAM,
        "lmms_eval/api/__init__.py": "",
        "lmms_eval/api/model.py": MODEL,
        "lmms_eval/models/__init__.py": "",
        "lmms_eval/models/registry_v2.py": REGISTRY,
        "loguru.py": LOGURU,
    }
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(place), *sys.path]))
    yield place / "lmms_eval"
    for name in [n for n in sys.modules if n.split(".")[0] in ("lmms_eval", "loguru")]:
        del sys.modules[name]


@pytest.fixture(scope="session")
def toy():
    """A random Glance of four small layers; leave it as you found it."""
    return build_toy()


@pytest.fixture(scope="session")
def questions(toy):
    """Questions about noise that the toy answers in several ways."""
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)) for _ in range(6)]
    return [
        Sample(f"q/{i}", "t", "t", (p,), "what color is the circle ?" + " yes" * i)
        for i, p in enumerate(pictures)
    ]
