"""Workers of a batch job on a Ray cluster: actors that take shards as processes on one machine do.

What a worker has finished lies in the job's folder, so nothing is lost or answered twice whoever dies: the
driver starts another actor for one that died, and a job whose driver died goes on when it is repeated.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from saccade._version import __version__
from saccade.batch.job import MANIFEST, WAIT, BatchJob
from saccade.batch.shards import work
from saccade.helpers.cluster import placed as placed_model
from saccade.helpers.cluster import whole_path
from saccade.plans.names import looks_like_file
from saccade.system.cluster import connected, needs, this_node
from saccade.system.processes import Say

MOST_DEATHS = 3
"""How often each worker may die while no shard is finished: then what kills them is the job itself."""


class BatchWorker:
    """What an actor does: it opens the model where it stands, and answers shards until none is left."""

    def work(self, job: BatchJob, number: int, version: str) -> list[str]:
        """Answers shards.

        Args:
            job: The job.
            number: Which worker this is.
            version: The driver's Saccade.

        Returns:
            What is remarkable, in lines.

        Raises:
            ValueError: If the node has another Saccade or does not see the job's folder, or the job cannot be
                done.
        """
        where = this_node()
        if version != __version__:
            raise ValueError(f"{where} has saccade {__version__}, and the driver {version}: install the same")
        if not (job.out / MANIFEST).exists():
            raise ValueError(f"{where} does not see {job.out}: give a folder that all nodes share")
        said: list[str] = []
        work(job, number, said.append)
        return said


def run_on(address: str, job: BatchJob, workers: int, say: Say, watch: Callable[[int], None]) -> None:
    """Answers the missing shards of a job on a cluster.

    Args:
        address: Of the cluster, as ``ray.init`` takes it (``auto``, ``HOST:PORT``, ``ray://HOST:PORT``); or
            ``local``, for one that is started here.
        job: The job, claimed; its folder, data and model must be seen alike from every node.
        workers: Most actors, each with a model of its own.
        say: Tells of what is remarkable.
        watch: Is told how many shards there are now, about twice a second.

    Raises:
        ValueError: If Ray is missing or not there, the job cannot be done, or workers keep dying.
    """
    job = placed(job)
    with connected(address) as ray:
        # An accelerator each, where the cluster has some.
        each = needs(ray, job.threads or 1, 0 if job.opening.device == "cpu" else 1)
        actor = ray.remote(BatchWorker).options(**each)
        deaths, before = 0, len(job.missing())
        running = dict(_begin(actor, job, number) for number in range(min(workers, before)))
        while running:
            ended, _ = ray.wait(list(running), timeout=WAIT)
            now = len(job.missing())
            watch(job.shards - now)
            deaths, before = (0 if now < before else deaths), now
            for ref in ended:
                number, _ = running.pop(ref)
                why = _outcome(ray, ref, say)
                if not why or not now:
                    continue
                deaths += 1
                if deaths > MOST_DEATHS * workers:
                    raise ValueError(f"workers die before a shard is finished ({why}); look at Ray's logs")
                say(f"a worker died ({why}); another takes its part")
                running |= dict([_begin(actor, job, number)])


def placed(job: BatchJob) -> BatchJob:
    """A job with whole paths, for workers that have other working folders."""
    model, opening = placed_model(job.model, job.opening)
    plan = job.plan
    if plan is not None and looks_like_file(plan):
        plan = whole_path(plan)
    return replace(
        job,
        model=model,
        opening=opening,
        data=job.data.resolve(),
        plan=plan,
        out=job.out.resolve(),
        # The folder's notes have the names that were given.
        named=job.names(),
    )


def _begin(actor: Any, job: BatchJob, number: int) -> tuple[Any, tuple[int, Any]]:
    """What an actor will give; beside it its number and the actor, which ends when nobody holds it."""
    handle = actor.remote()
    # Anew, so that the records that were read here do not travel.
    return handle.work.remote(replace(job), number, __version__), (number, handle)


def _outcome(ray: Any, ref: Any, say: Say) -> str:
    """How a worker's part ended: empty where it is done, or what the worker died of."""
    try:
        for line in ray.get(ref):
            say(line)
    except ray.exceptions.RayTaskError as error:
        raise ValueError(str(error.cause)) from None
    except ray.exceptions.RayError as error:  # the actor, its process or its node
        return type(error).__name__
    return ""


def settled(job: BatchJob, seconds: float = 30) -> None:
    """Waits until every file of a finished job is seen here, which on shared disks takes its time.

    Raises:
        ValueError: If one is not.
    """
    limit = time.monotonic() + seconds
    while job.missing():
        if time.monotonic() > limit:
            raise ValueError(f"workers are done, and {job.answers(job.missing()[0])} is not seen here")
        time.sleep(WAIT)
