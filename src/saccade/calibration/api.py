"""Calibration as users call it: samples in, scores or a plan out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from saccade import models
from saccade.calibration.draw import Draw, data_hash
from saccade.calibration.measures import Direction, check_answer_tokens, check_direction
from saccade.calibration.own_answer import with_answer
from saccade.calibration.probes import Probe, Progress, find_probe, probe_for
from saccade.calibration.request import choose, reach, wanted_method
from saccade.calibration.run import compare, decides, trying
from saccade.calibration.scores import Scores
from saccade.engine import check_made_for
from saccade.identity import code_of, setup_digest
from saccade.inputs.data import Entry
from saccade.inputs.samples import Sample
from saccade.measure.provenance import record
from saccade.methods import Method
from saccade.opening.digest import weights_digest
from saccade.plans.plan import Plan
from saccade.system.journal import Journal, Section, opened

VERSION = 2
"""Raised when scores of layers come out otherwise; what was kept of the former is then not used again."""
ETA = 3e-3
"""VTW's threshold for LLaVA-1.5-7B, and its default; 5e-4 for 13B, 1e-4 for LLaVA-1.6 (official code)."""


def calibrate(
    model: nn.Module,
    processor: Any,
    samples: Iterable[Sample | Entry],
    method: str | Method = "vskip",
    *,
    budget: int | None = None,
    flops: float | None = None,
    score: str | None = None,
    num_samples: int | None = None,
    draw: Draw = "global",
    seed: int = 0,
    direction: Direction = "perturbed-full",
    answer_tokens: int = 1,
    eta: float = ETA,
    check: bool = True,
    force: bool = False,
    strict: bool = False,
    out: str | os.PathLike | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Chooses a method's layers by what their loss does to the answers of some samples.

    Args:
        model: A stock Hugging Face VLM.
        processor: Its processor.
        samples: Questions to calibrate on, of one task or a mixture; of entries of a JSONL file
            (``saccade.inputs.data.read_jsonl``) only those drawn are decoded.
        method: Name, spec string (``"vskip(budget=4)"``) or method whose layers are to be chosen. Reducers
            beside it (``"fastv(keep=0.5)+vskip(budget=4)"``) come into the plan as they are; layers are
            scored without them.
        budget: How many layers it may touch. VTW needs none: it takes the smallest K under ``eta``.
        flops: FLOPs ratio to reach instead, on the prompts of these samples, with the fewest layers.
        score: How layers are scored (``vig``, ``lc``, ``ffn``, ``cosine``, ``random``, ``withdrawal``); the
            method's own if omitted.
        num_samples: How many of the samples to draw; all of them, in their order, if omitted.
        draw: ``global``, or ``stratified`` by sub-task.
        seed: Of the draw, and of ``score="random"``.
        direction: Of the KL.
        answer_tokens: Over how many tokens of the model's own greedy answer, its end included, a score is
            summed; 1 looks at the first alone, as the papers do. More for tasks with answers of several
            tokens: a layer may matter for the second and not for the first.
        eta: Largest mean KL (nats) at which VTW withdraws.
        check: Also run brute force on the last sample, for the cost ratio and the largest difference.
        force: Take a ``method`` from a plan file that was made for another model.
        strict: Refuse one that was made for other weights, instead of warning of it.
        out: Plan file to write. Until then finished samples are kept beside it (``partial_path``), so that
            the same call goes on where it was interrupted.
        progress: Called with the number of samples done and of all.

    Returns:
        A resolved plan with the scores and their provenance.

    Raises:
        ValueError: If the samples, the budget, the model or the score do not fit, saying how.
    """
    asked_for = wanted_method(method, budget, flops)
    wanted = asked_for.method
    probe = probe_for(wanted, score)
    loaded = models.wrap(model, processor)
    check_made_for(loaded.model, Plan.of(method), force=force, strict=strict)
    depth = loaded.shape.layers
    if wanted.budget is not None and wanted.budget > depth:
        raise ValueError(f"a budget of {wanted.budget} layers, but the model has {depth}")
    for other in asked_for.others:
        other.resolve(depth)
    chosen = choose(samples, num_samples, draw, seed)
    target = wanted.flops
    if target is not None:
        wanted = reach(loaded, asked_for, chosen)
    with Journal(None if out is None else partial_path(out)) as journal:
        found = score_samples(
            loaded,
            chosen,
            probe,
            like=wanted,
            direction=direction,
            answer_tokens=answer_tokens,
            eta=eta,
            draw=draw if num_samples is not None else "all",
            seed=seed,
            check=check,
            checkpoint=journal,
            progress=progress,
        )
        done = wanted.resolve(depth, found.order)
        given = (("budget", wanted.budget), ("flops", target))
        asked = {key: value for key, value in given if value is not None}
        plan = Plan(asked_for.with_method(done).methods, found.model, {"asked": asked, **found.record()})
        if out is not None:
            plan.save(out)
            journal.finish()
    return plan


def partial_path(out: str | os.PathLike) -> Path:
    """Where a calibration keeps finished samples until its plan is written."""
    return Path(f"{os.fspath(out)}.partial.jsonl")


def scores(
    model: nn.Module,
    processor: Any,
    samples: Iterable[Sample | Entry],
    score: str = "vig",
    *,
    num_samples: int | None = None,
    draw: Draw = "global",
    seed: int = 0,
    direction: Direction = "perturbed-full",
    answer_tokens: int = 1,
    eta: float = ETA,
    check: bool = True,
    checkpoint: Journal | str | os.PathLike | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Scores every layer; ``Scores.order`` then serves any budget.

    Args:
        model: A stock Hugging Face VLM.
        processor: Its processor.
        samples: Questions to calibrate on.
        score: Name of the score.
        num_samples: As in ``calibrate``, like all that follow.
        draw: How samples are drawn.
        seed: Of the draw, and of ``score="random"``.
        direction: Of the KL.
        answer_tokens: Tokens of the answer that are looked at.
        eta: Threshold of ``withdrawal``.
        check: Whether brute force is run on the last sample, to compare.
        checkpoint: File that keeps finished samples; a second call goes on from it, the end removes it. The
            end of a journal is up to its owner.
        progress: Called with the number of samples done and of all.

    Raises:
        ValueError: As ``calibrate``.
    """
    with opened(checkpoint) as journal:
        found = score_samples(
            models.wrap(model, processor),
            choose(samples, num_samples, draw, seed),
            find_probe(score),
            direction=direction,
            answer_tokens=answer_tokens,
            eta=eta,
            draw=draw if num_samples is not None else "all",
            seed=seed,
            check=check,
            checkpoint=journal,
            progress=progress,
        )
        if journal is not checkpoint:
            journal.finish()
    return found


def score_samples(
    loaded: models.Loaded,
    samples: Sequence[Sample],
    probe: Probe,
    *,
    like: Method | None = None,
    direction: Direction = "perturbed-full",
    answer_tokens: int = 1,
    eta: float = ETA,
    draw: str = "all",
    seed: int = 0,
    check: bool = True,
    checkpoint: Journal | None = None,
    progress: Progress | None = None,
) -> Scores:
    """Scores every layer on samples that are drawn already; leaves the journal to the caller to finish."""
    check_direction(direction)
    check_answer_tokens(answer_tokens)
    if not eta >= 0:
        raise ValueError(f"eta is a KL in nats and not negative, got {eta}")
    ids = [sample.id for sample in samples]
    if len(set(ids)) != len(ids):
        raise ValueError("sample ids must be distinct")
    models.try_longest(loaded, samples)
    by_kl = probe.distance == "kl"
    settings: dict[str, Any] = {
        "score": str(probe.at(0, like)) if probe.method else probe.name,
        "distance": f"{probe.distance} {direction}" if by_kl else probe.distance,
        "model": loaded.family.identity(loaded.model),
        "weights": weights_digest(loaded.model),
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "samples": ids,
        "data": data_hash(samples),
        "answer_tokens": answer_tokens,
    }
    if setup := setup_digest(loaded):
        settings["setup"] = setup
    if code := scores_code(loaded, probe, like):
        settings["code"] = code
    values: list[tuple[float, ...]] = []
    cost: dict[str, Any] = {}
    if probe.method is not None:
        kept_so_far = (checkpoint or Journal(None)).section(settings)
        ask = partial(_asked, loaded, tokens=answer_tokens)
        values, last = _values(loaded, samples, ask, probe, direction, like, kept_so_far, progress)
        if check and not decides(loaded.model):
            inputs, tail = ask(last)
            cost = compare(loaded.model, inputs, probe, direction, loaded.shape, like, tail)
            cost |= {"sample": last.id}
    origin = record(model=loaded.model)
    kept = {key: origin[key] for key in ("date", "versions", "source", "device", "dtype", "opening")}
    return Scores(
        metric=probe.name,
        num_layers=loaded.shape.layers,
        values_SL=tuple(values),
        samples=tuple(ids),
        tasks=tuple(dict.fromkeys(sample.task for sample in samples)),
        direction=direction if by_kl else None,
        answer_tokens=answer_tokens,
        eta=eta,
        draw=draw,
        seed=seed,
        model=settings["model"],
        provenance={"data_hash": settings["data"], "weights_hash": settings["weights"], **kept},
        cost=cost,
    )


def scores_code(loaded: models.Loaded, probe: Probe, like: Method | None = None) -> str:
    """Versions of the code that scores hang on (``code_of``): calibration's own and that of what is tried."""
    tried = None if probe.method is None else Plan((probe.at(0, like),))
    return code_of(loaded, tried, calibration=VERSION)


def _asked(loaded: models.Loaded, sample: Sample, tokens: int) -> tuple[dict[str, Any], int]:
    return with_answer(loaded.model, models.inputs(loaded, [sample]), tokens)


def _values(
    loaded: models.Loaded,
    samples: Sequence[Sample],
    ask: Callable[[Sample], tuple[dict[str, Any], int]],
    probe: Probe,
    direction: Direction,
    like: Method | None,
    kept: Section,
    progress: Progress | None,
) -> tuple[list[tuple[float, ...]], Sample]:
    """Scores of every sample, and the last sample that has visual rows."""
    known = kept.by("sample")
    with trying(loaded.model) as try_layers:
        for number, sample in enumerate(samples):
            if progress is not None:
                progress(number, len(samples))
            if sample.id in known:
                continue
            try:
                inputs, tail = ask(sample)
                tried = try_layers(inputs, probe, direction, like, tail)
            except ValueError as error:
                raise ValueError(f"sample {sample.id}: {error}") from error
            known[sample.id] = {"sample": sample.id, **vars(tried)}
            kept.append(known[sample.id])
    if progress is not None:
        progress(len(samples), len(samples))
    entries = [known[sample.id] for sample in samples]
    visual = [sample for sample, entry in zip(samples, entries, strict=True) if entry["visual"]]
    if not visual:
        kept.forget()
        raise ValueError(f"none of the {len(samples)} samples has an image: there is nothing to calibrate on")
    return [tuple(entry["values"]) for entry in entries], visual[-1]
