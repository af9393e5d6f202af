"""Two processes over gloo: DDP by torchrun, and FSDP2, give what one process gives."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
import yaml

from saccade.training import train
from support import pair
from support.programs import environment
from training.test_run import lines, weights
from training.tiny import RECORDS, data_set, said, settings


def two_processes(here, config) -> subprocess.CompletedProcess[str]:
    path = here / "two.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(config.as_data()))), "utf-8")
    words = ["--nproc_per_node", "2", "--master_port", "0", "--rdzv_backend", "c10d", "--rdzv_endpoint"]
    start = [sys.executable, "-m", "torch.distributed.run", *words, "127.0.0.1:0"]
    return subprocess.run(
        [*start, "-m", "saccade", "train", str(path), "--json", "-"],
        capture_output=True, text=True, timeout=240, env=environment(),
    )  # fmt: skip


def test_torchrun_equals_one_process(here):
    """Text-only records make batches without images on one process while the other has some."""
    texts = [{"conversations": said(f"what {n} ?", "it is " + "red " * n)} for n in range(8)]
    data_set(here / "data", [*RECORDS, *texts])
    shared = [
        "plan=vskip(layers=1-2)",
        "optimisation.steps=7",
        "save_every=3",
        "logging_every=1",
        "optimisation.lr=1e-3",
    ]
    train(settings(here, *shared, "optimisation.batch=4", f"out={here / 'one'}"))
    config = settings(here, *shared, "optimisation.batch=1", "optimisation.accumulation=2")
    done = two_processes(here, config)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)  # one process speaks
    assert report["processes"] == 2 and report["global_batch"] == 4
    assert done.stderr.count("step 7 of 7") == 1
    for line, same in zip(lines(here, "one"), lines(here), strict=True):
        assert line["loss"] == pytest.approx(same["loss"], rel=1e-4)
        assert line["grad_norm"] == pytest.approx(same["grad_norm"], rel=1e-3)
        assert line["label_tokens"] == same["label_tokens"]
    for name, tensor in weights(here, "one").items():
        torch.testing.assert_close(weights(here)[name], tensor, atol=2e-3, rtol=2e-3)
    held = {path.name for path in (here / "run" / "checkpoints" / "checkpoint-6").iterdir()}
    assert {"rng_state_0.pth", "rng_state_1.pth", "0-meter.json", "1-meter.json"} <= held


def test_batches_without_a_label_on_one_process_or_on_all(here):
    """Nothing waits for ever, and a global batch without a label moves nothing, as with one process."""
    bad = [{"image": "torn.png", "conversations": said("<image> ?", f"no {n}")} for n in range(7)]
    data_set(here / "data", [*RECORDS[:3], *bad])
    (here / "data" / "torn.png").write_bytes(b"no image")
    shared = [
        "on_bad_record=skip",
        "optimisation.steps=10",
        "optimisation.weight_decay=0.5",
        "optimisation.lr=1e-3",
        "save_every=99",
    ]
    alone = train(settings(here, *shared, "optimisation.batch=2", f"out={here / 'one'}"))
    done = two_processes(here, settings(here, *shared, "optimisation.batch=1"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["refused"] == alone.report["refused"]
    assert alone.report["refused"]["on_the_way"] == 7
    found = lines(here)
    assert None in [line["loss"] for line in found]
    for line, same in zip(lines(here, "one"), found, strict=True):
        assert line["label_tokens"] == same["label_tokens"]
        assert same["loss"] == (None if line["loss"] is None else pytest.approx(line["loss"], rel=1e-4))
    for name, tensor in weights(here, "one").items():
        torch.testing.assert_close(weights(here)[name], tensor, atol=2e-3, rtol=2e-3)


def test_fsdp2_equals_one_process(tmp_path):
    pair.run("training/parallel.py", tmp_path)
