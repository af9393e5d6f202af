"""Two processes over gloo: DDP by torchrun, and FSDP2, give what one process gives."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys

import pytest
import torch

import saccade
from saccade.skip_vision import SkipVisionConfig, wrap
from saccade.training import train
from saccade.training.mixture import RecordMixture, Stream
from saccade.training.sources import open_source
from support import pair
from support.programs import ROOT, Result, environment, start
from training.sgd import STEADY, plainly
from training.test_run import lines, weights
from training.tiny import RECORDS, data_set, said, settings

pytestmark = pytest.mark.e2e


def two_processes(here, config, script: str | None = None) -> Result:
    """The command on two processes as torchrun starts them, or a script of the tests; what the first said."""
    path = written(here, config)
    job = ("-m", "saccade", "train", path, "--json", "-")
    if script is not None:
        job = (ROOT / "tests" / script, path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    ranks = [
        start(*job, env=environment(ROOT / "tests") | meet | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    first, second = [rank.ended() for rank in ranks]
    assert second.code == first.code, first.err + second.err
    return first


def written(here, config):
    """The configuration as a file."""
    path = here / "two.yaml"
    path.write_text(json.dumps(config.as_data()), "utf-8")
    return path


def by_torchrun(here, config) -> subprocess.CompletedProcess[str]:
    """The command on two processes, started by torchrun."""
    words = ["--nproc_per_node", "2", "--master_port", "0", "--rdzv_backend", "c10d", "--rdzv_endpoint"]
    start = [sys.executable, "-m", "torch.distributed.run", *words, "127.0.0.1:0"]
    job = ["-m", "saccade", "train", str(written(here, config)), "--json", "-"]
    return subprocess.run(
        [*start, *job], capture_output=True, text=True, timeout=240, env=environment(ROOT / "tests")
    )


@pytest.mark.long(instead="test_a_wrapped_model_takes_the_steps_of_one_process")
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
    done = by_torchrun(here, config)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)  # one process speaks
    assert report["processes"] == 2 and report["global_batch"] == 4
    assert done.stderr.count("step 7 of 7") == 1
    for line, same in zip(lines(here, "one"), lines(here), strict=True):
        assert line["loss"] == pytest.approx(same["loss"], rel=1e-5)
        assert line["grad_norm"] == pytest.approx(same["grad_norm"], rel=1e-5)
        assert line["label_tokens"] == same["label_tokens"]
    for name, tensor in weights(here, "one").items():
        torch.testing.assert_close(weights(here)[name], tensor, atol=5e-6, rtol=0)
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
    assert done.code == 0, done.err
    assert done.json["refused"] == alone.report["refused"]
    assert alone.report["refused"]["on_the_way"] == 7
    found = lines(here)
    assert None in [line["loss"] for line in found]
    for line, same in zip(lines(here, "one"), found, strict=True):
        assert line["label_tokens"] == same["label_tokens"]
        assert same["loss"] == (None if line["loss"] is None else pytest.approx(line["loss"], rel=1e-5))
    for name, tensor in weights(here, "one").items():
        torch.testing.assert_close(weights(here)[name], tensor, atol=5e-6, rtol=0)


WRAPPED = {
    "llava, summaries": "{layout: llava, retained: 5, merged: 6, local: true}",
    "victor, registers": "{layout: llava, retained: 5, merged: null, skip_ffn: false, former: false, "
    "latter: false, registers: 3, register_layer: 2}",
    "cos, summaries": "{row: 10, layout: cos, levels: [-2], scales: [[4, 2], [2, 16]], merged: 6}",
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_wrapped_model_takes_the_steps_of_one_process(here, name):
    """Weights move by the gradients of one process, those of scorer, registers and resampler among them."""
    texts = [{"conversations": said(f"what {n} ?", "it is " + "red " * n)} for n in range(6)]
    data_set(here / "data", [*RECORDS, *texts])
    shared = [f"model.skip_vision={WRAPPED[name]}", *STEADY, "optimisation.steps=6", "optimisation.lr=0.1"]
    config = settings(here, *shared, "optimisation.batch=1", "save_every=99")
    mixture = RecordMixture([open_source(source, 0, False) for source in config.data], 0)
    seen = [bool(mixture[key].images) for key in Stream(mixture, 12)]
    # Records go to processes by turns: in some step one has an image and the other none.
    assert any(first != second for first, second in zip(seen[::2], seen[1::2], strict=True))
    before = saccade.load(config.model.name)
    torch.manual_seed(0)  # as a run does, before what is new is drawn
    wrap(before, SkipVisionConfig.from_dict(config.model.skip_vision))
    start = {n: p.detach().clone() for n, p in before.model.named_parameters()}
    with plainly():
        train(settings(here, *shared, "optimisation.batch=2", "save_every=99", f"out={here / 'one'}"))
    done = two_processes(here, config, "training/sgd.py")
    assert done.code == 0, done.err
    one, two = (
        dict(saccade.load(str(here / run / "model")).model.named_parameters()) for run in ("one", "run")
    )
    assert one.keys() == two.keys() == start.keys()
    still = []
    for n, first in start.items():
        moved, same = (found[n].detach() - first for found in (one, two))
        size, digit = float(moved.abs().max()), float(first.abs().max()) * 2**-22
        if size < 1e-6:
            still.append(n)
        torch.testing.assert_close(same, moved, atol=3e-5 * size + digit + 1e-9, rtol=0, msg=n)
    # A bias in the scorer cancels in its softmax.
    assert not [n for n in still if "vision_tower" not in n and not re.search(r"scorer\.\w+\.bias", n)]


def test_fsdp2_equals_one_process(tmp_path):
    pair.run("training/parallel.py", tmp_path)
