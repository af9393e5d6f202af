"""A process that answers shards: it takes one that nobody has, until there is none left."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from saccade import models
from saccade.asking import LogitsNotFinite
from saccade.batch.files_asked import Stamp, stamp_of, still
from saccade.batch.job import WAIT, BatchJob
from saccade.engine import check_made_for
from saccade.evaluation.runner import generate
from saccade.identity import code_of, model_digest
from saccade.inputs.data import Entry
from saccade.inputs.samples import Sample
from saccade.opening.settings import Opening
from saccade.plans.plan import Plan
from saccade.system import threads
from saccade.system.files import read_json, write_json, write_text
from saccade.system.journal import Journal
from saccade.system.locks import locked
from saccade.system.processes import Say

Record = dict[str, str]


def work(job: BatchJob, number: int, say: Say) -> None:
    """Answers shards until all are answered, by this process or another.

    Args:
        job: The job.
        number: Which process this is.
        say: Tells of what is remarkable.

    Raises:
        ValueError: If the model or the plan cannot be used, or the folder is another job's.
    """
    threads.use(job.threads)
    loaded, plan = opened(job.model, job.opening.of_process(number), job.plan, job.force, job.strict)
    known = {"weights": model_digest(loaded), "code": code_of(loaded, plan), "dtype": str(loaded.model.dtype)}
    job.claim(**known)
    while left := job.missing():
        # Each begins at another place, so that they seldom want the same.
        turn = (number * len(left)) // max(1, number + 1)
        took = [shard for shard in (*left[turn:], *left[:turn]) if _take(job, shard, loaded, plan, known)]
        if not took:
            time.sleep(WAIT)


def opened(
    model: str, opening: Opening, plan: str | None, force: bool = False, strict: bool = False
) -> tuple[models.Loaded, Plan | None]:
    """A model, and a plan that was made for it.

    Raises:
        ValueError: If the model or the plan cannot be used.
    """
    loaded = models.open_as(model, opening)
    if plan is None:
        return loaded, None
    found = Plan.of(plan)
    check_made_for(loaded.model, found, force=force, strict=strict)
    return loaded, found.for_any()


def _take(
    job: BatchJob, shard: int, loaded: models.Loaded, plan: Plan | None, known: Mapping[str, Any]
) -> bool:
    """Answers a shard, unless somebody else does or has."""
    with locked(job.lock(shard)) as mine:
        if not mine or job.answers(shard).exists():
            return False
        # Again, with a lock in hand that another driver sees: before it had one the folder could be taken.
        job.claim(**known)
        answer_shard(job, shard, partial(answer_records, loaded, plan, job.tokens))
        return True


def answer_shard(job: BatchJob, shard: int, answered: partial[list[Record]]) -> None:
    """Writes the file of a shard, whole or not at all; what is finished of it is kept meanwhile.

    A record that could not be asked before, or whose pictures have changed since, is asked again.

    Args:
        job: The job.
        shard: Which.
        answered: Answers some records.
    """
    records = job.records(shard)
    with Journal(job.partial(shard)) as journal:
        kept = journal.section({"job": job.settings(), "shard": shard})
        done, stamps = _standing(records, kept.entries)
        left = [record for record in records if record.id not in done]
        for start in range(0, len(left), job.batch):
            asked = left[start : start + job.batch]
            files = {record.id: stamp_of(record) for record in asked}
            found = answered(asked)
            kept.append({"answers": found, "files": files})
            done |= {entry["id"]: entry for entry in found}
            stamps |= files
        write_json(job.stamps(shard), stamps)
        lines = (json.dumps(done[record.id], ensure_ascii=False) for record in records)
        write_text(job.answers(shard), "".join(f"{line}\n" for line in lines))
        journal.finish()


def _standing(
    records: Sequence[Entry], kept: Sequence[dict[str, Any]]
) -> tuple[dict[str, Record], dict[str, Stamp]]:
    """Of what was kept of a shard, the answers that still hold, and the stamps of their files, by record."""
    answers = {entry["id"]: entry for batch in kept for entry in batch["answers"]}
    stamps = {name: stamp for batch in kept for name, stamp in batch.get("files", {}).items()}
    good = [
        record.id
        for record in records
        if "answer" in answers.get(record.id, {})
        # What an older release kept has no stamp.
        and (record.id not in stamps or still(record, stamps[record.id]))
    ]
    return {name: answers[name] for name in good}, {name: stamps[name] for name in good if name in stamps}


def reopen(job: BatchJob) -> int:
    """Takes back the files of shards with records to be asked again; their other answers are kept.

    Returns:
        How many records are asked again.
    """
    again = 0
    for shard in range(job.shards):
        place, stamped = job.answers(shard), job.stamps(shard)
        if not place.exists():
            continue
        with locked(job.lock(shard)) as mine:
            if not mine:
                continue
            told = {
                "answers": job.told(shard),
                "files": read_json(stamped) if stamped.exists() else {},
            }
            records = job.records(shard)
            good, stamps = _standing(records, [told])
            if len(good) == len(records):
                continue
            with Journal(job.partial(shard)) as journal:
                kept = journal.section({"job": job.settings(), "shard": shard})
                kept.append({"answers": list(good.values()), "files": stamps})
            place.unlink()
            again += len(records) - len(good)
    return again


def answer_records(
    loaded: models.Loaded, plan: Plan | None, tokens: int, records: Sequence[Entry]
) -> list[Record]:
    """Answers of records together; of those that cannot be asked, why."""
    # By their place: rows of a pipeline may share an id.
    told: dict[int, Record] = {}
    samples: dict[int, Sample] = {}
    for place, record in enumerate(records):
        try:
            sample = record.load()
            # Alone, so that what cannot be asked is known by its name.
            models.inputs(loaded, [sample], plan)
            samples[place] = sample
        except ValueError as error:
            told[place] = {"id": record.id, "task": record.task, "error": str(error)}
    if samples:
        said = _said(loaded, plan, tokens, [*samples.values()])
        for (place, sample), found in zip(samples.items(), said, strict=True):
            told[place] = {"id": sample.id, "task": sample.task} | found
    return [told[place] for place in range(len(records))]


def _said(
    loaded: models.Loaded, plan: Plan | None, tokens: int, samples: Sequence[Sample]
) -> list[dict[str, str]]:
    """What the model says of each; one that it says nothing of, whenever it is asked, holds up no other."""
    try:
        texts, _ = generate(loaded, models.inputs(loaded, samples, plan), plan, tokens)
    except LogitsNotFinite as error:
        if len(samples) == 1:
            return [{"error": str(error)}]
        return [found for sample in samples for found in _said(loaded, plan, tokens, [sample])]
    return [{"answer": text} for text in texts]
