"""A tuning from samples to a plan: losses of skips, the search, the guard, and what is told of it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from saccade import models
from saccade.calibration.drawing import data_hash
from saccade.evaluation.comparison import compare
from saccade.evaluation.results import Comparison
from saccade.evaluation.runner import count_prompts
from saccade.helpers import Helpers, helping
from saccade.inputs.data import Entry
from saccade.inputs.samples import Sample
from saccade.measure.provenance import record
from saccade.models import Loaded
from saccade.opening.digest import weights_digest
from saccade.plans.plan import Plan
from saccade.system.journal import Journal
from saccade.tuning.beside import alone, explained
from saccade.tuning.front import plan_of, write
from saccade.tuning.guard import bound, judged, lost, needed
from saccade.tuning.judge import VERSION, Judge
from saccade.tuning.prepare import Watch, prepared, shorter_of
from saccade.tuning.price import typical
from saccade.tuning.questions import Questions, apart, referenced, split
from saccade.tuning.result import (
    Candidate,
    Explained,
    Tuned,
    Unsure,
    pick,
    searched,
    thinned,
    unsure_at,
)
from saccade.tuning.search import Search, Tried
from saccade.tuning.settings import Settings
from saccade.tuning.timing import prefills

MOST_CANDIDATES = 6
"""Plans of the front that go to the held-out samples."""


def tune(
    model: nn.Module,
    processor: Any,
    samples: Iterable[Sample | Entry],
    *,
    held_out: Iterable[Sample | Entry] | None = None,
    out: str | os.PathLike | None = None,
    explain: bool = False,
    watch: Watch | None = None,
    processes: int = 1,
    ray: str | None = None,
    **wanted: Any,
) -> Tuned:
    """Finds the plan that fits a model, some samples and a budget, and judges it on samples it has not seen.

    ``saccade.tune(model, processor, samples, flops=0.5, out="plan.json").plan`` is what to serve.

    Args:
        model: A stock Hugging Face VLM.
        processor: Its processor.
        samples: Questions; without answers the dense model's own answers are the reference.
        held_out: Questions that judge the plans; a part of ``samples`` if omitted.
        out: Plan file to write; beside it the front, the result and the picture. Until then what was measured
            is kept there, so that the same call goes on where it was interrupted.
        explain: Whether to measure what undoing every choice would change.
        watch: What is told on the way.
        processes: Processes that share the work, this one among them; the others open the model as it was
            opened here, and compute with as many CPU threads as this one. They change no result.
        ray: Address of a Ray cluster that gives those other processes: ``auto``, ``HOST:PORT``, or ``local``.
        **wanted: Fields of `saccade.tuning.Settings`: ``flops``, ``time``, ``kv``, ``max_loss`` and so on.

    Raises:
        ValueError: If the settings, the samples or the model do not fit, saying how.
    """
    settings, watch = Settings(**wanted), watch or Watch()
    settings.check_processes(processes, ray)
    questions = split(samples, settings) if held_out is None else apart(samples, held_out, settings)
    loaded = models.wrap(model, processor)
    with (
        Journal(None if out is None else f"{os.fspath(out)}.partial.jsonl") as journal,
        helping(loaded, processes, ray=ray, say=watch.say) as helpers,
    ):
        found = run(loaded, questions, settings, journal, watch, explain=explain, helpers=helpers)
        if out is not None:
            found = write(found, Path(out))
        journal.finish()
    return found


def run(
    loaded: Loaded,
    questions: Questions,
    settings: Settings,
    journal: Journal,
    watch: Watch,
    *,
    explain: bool = False,
    helpers: Helpers[Any] | None = None,
) -> Tuned:
    """The same on questions that are drawn already; the journal is left to the caller to finish."""
    for note in filter(None, (*questions.notes, hopeless(questions, settings))):
        watch.say(note)
    search = prepared(loaded, questions, settings, journal, watch, helpers)
    watch.begin("search", settings.passes)
    best: Tried | None = None
    for budget, passes in settings.steps:
        watch.say(f"at {100 * budget:.0f} % of the {search.pricer.meter.name}")
        best = search.run(budget, passes)
    if settings.budget is None:
        best = None
    elif best is None:
        raise ValueError(
            f"no plan of what is allowed costs {100 * settings.budget:.0f} % of the "
            f"{search.pricer.meter.name}, or {settings.passes} passes did not reach to measure one; allow "
            "more, or give more passes"
        )
    shown = alone(search, settings, journal, watch)
    told = explained(search, best) if explain and best is not None else ()
    held, held_out = judged_on(loaded, questions, settings, journal, watch, search, best, helpers)
    if not held_out.dense.mean.accuracy.value:
        watch.say(
            "the dense model is right on no held-out sample, so no plan is seen to lose anything: look at "
            "how answers are scored ('score'), or leave them out to compare with the dense model's own"
        )
    chosen = pick(held, settings, best)
    if explain and best is None and chosen is not None:
        told = explained(search, chosen.tried)
    timing = None
    if settings.cost == "time" and settings.on is None and chosen is not None:
        timing = retimed(loaded, questions, chosen)
        watch.say(f"timed here: {timing['measured']:.3f} of dense, {timing['predicted']:.3f} predicted")
    unsure = None
    if settings.unsure is not None and chosen is not None:
        unsure = guarded(loaded, questions, settings, journal, search, chosen, held_out, len(held))
    return finished(loaded, questions, settings, search, held, chosen, held_out, shown, told, timing, unsure)


def hopeless(questions: Questions, settings: Settings) -> str:
    """What held-out samples cannot prove of any plan, said before a search is spent on it; empty if nothing.

    Raises:
        ValueError: If a loss is asked for of every task, and one has no held-out samples at all.
    """
    if settings.max_loss is None:
        return ""
    counts = Counter(sample.task for sample in questions.held_out)
    unjudged = sorted({sample.task for sample in questions.search} - counts.keys())
    if unjudged and settings.each_task:
        more = f" nor of {len(unjudged) - 1} others" if len(unjudged) > 1 else ""
        raise ValueError(
            f"no held-out sample is of task {unjudged[0]!r}{more}, so no loss of every task can be proven: "
            "give more samples of each and a larger --held-out, or judge the mean alone (--mean)"
        )
    alike = [[(1.0, 1.0)] * count for count in counts.values()]
    sets = [[pairs] for pairs in alike] if settings.each_task else [alike]
    margin = settings.max_loss / 100
    if all(bound(one) <= margin for one in sets):
        return ""
    least = max(needed(one, margin) or 0 for one in sets)
    each = f"of each of the {len(counts)} tasks " if len(counts) > 1 else ""
    return (
        f"{len(questions.held_out)} held-out samples prove of no plan that it loses at most "
        f"{settings.max_loss:g} points, even if it changes no answer: {least} {each}are the least that do"
    )


def retimed(loaded: Loaded, questions: Questions, chosen: Candidate) -> dict[str, float]:
    """The chosen plan timed beside the stock model, and what the table of measured steps predicted."""
    sample = next(sample for sample in questions.search if sample.visual)
    asked = [(models.inputs(loaded, [sample], plan), plan) for plan in (Plan(), chosen.plan)]
    dense, planned = prefills(loaded, asked)
    return {"predicted": chosen.tried.ratio, "measured": planned / dense, "dense_s": dense, "plan_s": planned}


def judged_on(
    loaded: Loaded,
    questions: Questions,
    settings: Settings,
    journal: Journal,
    watch: Watch,
    search: Search,
    best: Tried | None,
    helpers: Helpers[Any] | None = None,
) -> tuple[tuple[Candidate, ...], Comparison]:
    """The front on the samples that the search has not seen."""
    tried = thinned(search.front(), MOST_CANDIDATES, best)
    if not tried:
        raise ValueError(f"{settings.passes} passes did not reach to measure one plan; give more")
    held_out = referenced(loaded, questions, settings, journal, helpers)
    watch.begin("held-out samples", len(held_out) * (len(tried) + 1))
    found = compare(
        loaded.model,
        loaded.processor,
        held_out,
        {one.plan.spec: one.plan for one in tried},
        batch_size=settings.batch,
        max_new_tokens=settings.tokens,
        blind=False,
        ledger=journal,
        helpers=helpers,
    )
    watch.step(len(held_out) * (len(tried) + 1))
    prompts = replace(
        search.pricer,
        prompts=typical(count_prompts(loaded, questions.held_out)),
        shorter=shorter_of(loaded, questions.held_out),
        _memo={},
    )
    margin = None if settings.max_loss is None else settings.max_loss / 100
    held = []
    for one in tried:
        pairs = paired(found, one.plan.spec)
        verdict = judged(pairs, margin, len(tried), each=settings.each_task)
        held.append(Candidate(one, prompts.ratio(one.plan), verdict))
    return tuple(held), found


def paired(
    found: Comparison, spec: str, dense_ids: Container[str] = ()
) -> dict[str, list[tuple[float, float]]]:
    """Scores of a plan and of the dense model on the same questions, by task.

    Args:
        found: The scores.
        spec: The plan.
        dense_ids: Questions that the dense model answers in the plan's place.
    """
    groups: dict[str, list[tuple[float, float]]] = {}
    for mine, dense in zip(found.plans[spec].predictions, found.dense.predictions, strict=True):
        score = dense.score if mine.id in dense_ids else mine.score
        groups.setdefault(mine.task, []).append((score, dense.score))
    return groups


def whole_of(found: Comparison, plan: Plan) -> dict[str, float]:
    """The whole bill of a plan that was judged, over the dense model's; nothing where it is not known."""
    cost = found.plans[plan.spec].cost
    return {key: cost[key] for key in ("whole_ratio", "tower_share") if key in cost}


def guarded(
    loaded: Loaded,
    questions: Questions,
    settings: Settings,
    journal: Journal,
    search: Search,
    chosen: Candidate,
    found: Comparison,
    candidates: int,
) -> Unsure:
    """The guard at run time, its margin from the search's samples and its effect from the held-out ones."""
    assert settings.unsure is not None
    judge = Judge(
        loaded, questions.held_out, batch_size=settings.batch, tokens=settings.tokens, journal=journal
    )
    seen, held = search.judge.whole(chosen.plan), judge.measure(chosen.plan, 0)
    margin, falls = unsure_at(seen.margin, held.margin, settings.unsure)
    fallen = {sample.id for sample, falls_back in zip(judge.order(0), falls, strict=True) if falls_back}
    share = sum(falls) / len(falls)
    pairs = list(paired(found, chosen.plan.spec, fallen).values())
    return Unsure(margin, share, chosen.ratio + share, lost(pairs), bound(pairs, candidates))


def finished(
    loaded: Loaded,
    questions: Questions,
    settings: Settings,
    search: Search,
    held: tuple[Candidate, ...],
    chosen: Candidate | None,
    found: Comparison,
    shown: list[dict[str, Any]],
    told: tuple[Explained, ...],
    timing: dict[str, float] | None,
    unsure: Unsure | None,
) -> Tuned:
    """Everything put together: the plan with its provenance, and the data of the result file."""
    origin = record(device=loaded.device, dtype=loaded.model.dtype, seed=settings.seed)
    searching = {
        "cost": search.pricer.meter.name,
        "settings": settings.told(),
        "passes": search.passes,
        "plans": len(search.tried),
        "allowed": list(settings.allow),
        "samples": [sample.id for sample in questions.search],
        "data_hash": data_hash(questions.search),
        "held_out_samples": len(questions.held_out),
        "held_out_hash": data_hash(questions.held_out),
        "answers": "given" if questions.answered else "the dense model's own",
        "tasks": sorted({sample.task for sample in questions.search}),
        "version": VERSION,
    }
    facts = {
        "model": loaded.family.identity(loaded.model),
        "weights_hash": weights_digest(loaded.model),
        "origin": origin,
        "search": searching,
        "candidates": len(held),
    }
    whole = {} if chosen is None else whole_of(found, chosen.plan)
    plan = None if chosen is None else plan_of(chosen, settings, facts, unsure, whole)
    every = len(search.judge.parts)
    tried = [searched(one) for one in search.tried.values() if one.parts == every]
    partly = [searched(one) for one in search.tried.values() if one.parts < every]
    data = {
        "tune": {
            "asked": settings.told(),
            "chosen": None if chosen is None else chosen.to_dict(),
            "spec": None if chosen is None else chosen.plan.spec,
            "search": searching,
            "alone": {
                skip: [search.marginals[layer, skip] for layer in range(search.menu.layers)]
                for skip in search.menu.skips
            },
            "tried": tried,
            "tried_in_part": partly,
            "singles": shown,
            "front": [one.to_dict() | whole_of(found, one.plan) for one in held],
            "explained": [vars(one) for one in told],
            "unsure": None if unsure is None else vars(unsure),
            "timed": timing,
        },
        "model": {"name": loaded.name, "layers": loaded.shape.layers, "weights": facts["weights_hash"]},
        **found.to_dict(),
        "provenance": origin,
    }
    tuned = Tuned(plan, chosen, held, settings, found, {}, unsure, told)
    return replace(tuned, data=data | {"facts": facts, "refused": tuned.refused})
