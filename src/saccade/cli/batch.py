"""``saccade batch``: answers to many questions, in shards, by several processes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from saccade.cli import common
from saccade.cli.opening import opens
from saccade.opening.settings import Opening


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("batch")(opens(batch))


def batch(
    data: Annotated[
        Path, typer.Option(metavar="FILE", help="Your questions as JSONL beside their pictures.")
    ],
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where the answers go, a file for every shard.")
    ],
    model: common.Model = "glance",
    plan: common.Plan = None,
    processes: Annotated[
        int, common.count("Processes, each with a model of its own.", common.MOST_PROCESSES)
    ] = 1,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Ray cluster whose workers (--processes) answer: auto, HOST:PORT, or local for one here.",
        ),
    ] = None,
    shard: Annotated[int, common.count("Records of a file of answers.", common.MOST_SAMPLES)] = 256,
    size: Annotated[
        int, typer.Option("--batch", min=1, max=common.MOST_BATCH, help="Records asked together.")
    ] = 8,
    max_new_tokens: Annotated[int, common.count("Longest answer.", common.MOST_TOKENS)] = 64,
    force: common.Force = False,
    strict: common.Strict = False,
    threads: common.Threads = None,
    opening: Opening = Opening(),
    json: common.Json = None,
) -> int:
    """Answer every question of a file; repeat the command to go on with what is missing.

    Example: saccade batch glance --data big.jsonl --plan plan.json --out answers --processes 2

    Example: saccade batch glance --data big.jsonl --out answers --processes 8 --ray auto
    """
    report = common.Output(json)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give a folder for the answers")
    common.check_names(model, [plan] if plan else [], opening=opening, files=[data])
    from saccade.batch import run
    from saccade.batch.job import BatchJob

    if threads is None and ray is None:
        threads = common.shared_threads(processes)
    job = BatchJob(model, opening, data, plan, out, max_new_tokens, shard, size, force, strict, threads)
    start, before = time.perf_counter(), job.shards - len(job.missing())
    with common.progress() as bar, common.resumable("repeat the command to go on"):
        task = bar.add_task("answering shards", total=job.shards, completed=before)
        found = run.run(job, processes, report.note, lambda done: bar.update(task, completed=done), ray)
    report.line(
        f"{found['answered']:,} of {found['records']:,} records answered in {found['shards']} files of {out}"
        + (f"; {found['errors']:,} could not be asked, each file says why" if found["errors"] else "")
    )
    report.finish(
        found | {"earlier": before, "seconds": time.perf_counter() - start, "settings": job.settings()}
    )
    return 1 if found["errors"] else 0
