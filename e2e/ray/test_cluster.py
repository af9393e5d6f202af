"""``saccade batch --ray`` and a Ray Data pipeline on a cluster of several raylets, whose parts are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest
import ray

import saccade
from saccade.glance import suite
from support.clusters import actors, began, wait_for

RECORDS, SHARD = 24, 4
PLAN = "vskip(layers=8-11)"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Questions of the suite, one of which names a picture that is none."""
    folder = tmp_path_factory.mktemp("records")
    rows = []
    for number, sample in enumerate(suite.samples("count", n=RECORDS)):
        sample.images[0].save(folder / f"{number}.png")
        rows.append({"id": f"q{number}", "image": f"{number}.png", "question": sample.question})
    (folder / "7.png").write_bytes(b"no picture")
    path = folder / "big.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def want(data, tmp_path_factory):
    """What one process answers."""
    out = tmp_path_factory.mktemp("alone")
    assert command(data, out).wait() == 1
    return answers(out)


def command(data: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    words = ["batch", "glance", "--data", data, "--plan", PLAN, "--out", out, "--shard", SHARD, "--batch", 2]
    return began(*words, "--threads", 1, "--device", "cpu", *more)


def answers(out: Path) -> list[dict[str, str]]:
    return [json.loads(line) for part in sorted(out.glob("part-*.jsonl")) for line in part.open()]


def parts(out: Path) -> int:
    return len(list(out.glob("part-*.jsonl")))


def test_the_cluster_answers_as_one_process_does(cluster, data, want, tmp_path):
    run = command(data, tmp_path / "out", "--processes", "3", "--ray", cluster.address)
    assert run.wait() == 1, run.stderr.read()
    assert answers(tmp_path / "out") == want
    assert [one["id"] for one in want] == [f"q{n}" for n in range(RECORDS)]
    assert "7.png" in want[7]["error"] and all(one.get("answer") for n, one in enumerate(want) if n != 7)


def test_killed_workers_lose_nothing(cluster, data, want, tmp_path):
    run, killed = command(data, tmp_path / "out", "--processes", "2", "--ray", cluster.address), []

    def kill():
        for count in (1, 2):
            wait_for(lambda count=count: parts(tmp_path / "out") >= count or run.poll() is not None)
            for process in actors("BatchWorker"):
                os.kill(process, signal.SIGKILL)
                killed.append(process)

    killer = threading.Thread(target=kill)
    killer.start()
    said = run.communicate()[1]
    killer.join()
    assert run.returncode == 1 and killed and "another takes its part" in said, said
    assert answers(tmp_path / "out") == want


def test_a_lost_machine_loses_nothing(cluster, data, want, tmp_path):
    run = command(data, tmp_path / "out", "--processes", "3", "--ray", cluster.address)
    wait_for(lambda: parts(tmp_path / "out") >= 1)
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    said = run.communicate()[1]
    assert run.returncode == 1, said
    assert answers(tmp_path / "out") == want


def test_a_killed_driver_loses_nothing(cluster, data, want, tmp_path):
    out = tmp_path / "out"
    run = command(data, out, "--processes", "2", "--ray", cluster.address)
    wait_for(lambda: parts(out) >= 1)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*.jsonl")}
    again = command(data, out, "--processes", "2", "--ray", cluster.address)
    assert again.wait() == 1, again.stderr.read()
    assert answers(out) == want
    assert kept and all((out / name).stat().st_mtime_ns == when for name, when in kept.items())


def test_what_the_job_itself_fails_by_is_one_line(cluster, data, tmp_path):
    run = command(data, tmp_path / "out", "--ray", cluster.address, "--plan", "vskip(layers=99)")
    said = run.communicate()[1]
    assert run.returncode == 2 and "99" in said and "Traceback" not in said, said


def test_a_cluster_that_is_not_there_is_one_line(data, tmp_path):
    run = command(data, tmp_path / "out", "--ray", "127.0.0.1:1")
    said = run.communicate()[1]
    assert run.returncode == 2 and "no Ray cluster at '127.0.0.1:1'" in said and "Traceback" not in said, said


def test_a_folder_that_a_node_does_not_see_is_refused(tmp_path, data):
    from saccade.batch.cluster import BatchWorker
    from saccade.batch.job import BatchJob
    from saccade.opening.settings import Opening

    ray.init(address="local", num_cpus=1, logging_level="error")
    try:
        job = BatchJob("glance", Opening(), data, PLAN, tmp_path / "elsewhere")
        asked = ray.remote(BatchWorker).remote().work.remote(job, 0, saccade.__version__)
        with pytest.raises(ValueError, match="a folder that all nodes share"):
            ray.get(asked)
        other = ray.remote(BatchWorker).remote().work.remote(job, 0, "0.0.1")
        with pytest.raises(ValueError, match="install the same"):
            ray.get(other)
    finally:
        ray.shutdown()


def test_a_pipeline_of_ray_data_answers_the_same(data, want):
    from saccade.batch.pipeline import AnswerRows

    ray.init(address="local", num_cpus=2, logging_level="error")
    try:
        rows = ray.data.read_json(str(data)).map_batches(
            AnswerRows,
            fn_constructor_args=("glance", PLAN, str(data.parent)),
            fn_constructor_kwargs={"device": "cpu"},
            batch_size=4,
            concurrency=1,
        )
        found = {row["id"]: row for row in rows.take_all()}
    finally:
        ray.shutdown()
    assert found.keys() == {one["id"] for one in want}
    for one in want:
        assert found[one["id"]]["answer"] == one.get("answer")
        assert (found[one["id"]]["error"] is None) == ("error" not in one)
