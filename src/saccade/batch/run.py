"""The driver of a batch job: it starts the processes, tells how far they are, and counts what they wrote."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from saccade.batch import cluster
from saccade.batch.job import BatchJob
from saccade.batch.shards import reopen, work
from saccade.system.processes import ProcessEnded, Say, together


def run(
    job: BatchJob, processes: int, say: Say, watch: Callable[[int], None], ray: str | None = None
) -> dict[str, Any]:
    """Answers all records of a job; of those that were answered before, none again.

    Those that could not be asked then, or whose pictures have changed since, are asked again, once.

    Several drivers, on several machines that share the folder, may run the same job at once.

    Args:
        job: The job.
        processes: Processes, each with a model of its own; 1 is this one.
        say: Tells of what is remarkable.
        watch: Is told how many shards there are now, about twice a second.
        ray: Address of a Ray cluster whose actors take the place of processes; None for this machine alone.

    Returns:
        Counts: ``records``, ``answered``, ``errors``, ``shards``.

    Raises:
        ValueError: If the job cannot be done, or all processes ended before it was.
    """
    job.claim()
    if again := reopen(job):
        say(f"{again:,} records could not be asked before, or their files have changed: they are asked again")
    if job.missing():
        if ray is not None:
            cluster.run_on(ray, job, processes, say, watch)
            cluster.settled(job)
        elif processes == 1:
            work(job, 0, say)
        else:
            _apart(job, min(processes, len(job.missing())), say, watch)
    watch(job.shards)
    return counted(job)


def _apart(job: BatchJob, processes: int, say: Say, watch: Callable[[int], None]) -> None:
    try:
        together(partial(work, job), processes, say, lambda: watch(job.shards - len(job.missing())))
    except ProcessEnded:
        # What one has left another takes; only if nobody was left is something missing.
        if job.missing():
            raise
        say("a process ended early; the others have done its part")


def counted(job: BatchJob) -> dict[str, Any]:
    """What the files of a finished job hold."""
    errors, found = 0, 0
    for shard in range(job.shards):
        told = job.told(shard)
        found += len(told)
        errors += sum("error" in one for one in told)
    return {"records": found, "answered": found - errors, "errors": errors, "shards": job.shards}
