"""Calibration as users call it: samples in, scores or a plan out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from saccade import models
from saccade.calibration.fitting import fitted_plan
from saccade.calibration.layer_scores import Scores
from saccade.calibration.measures import Direction
from saccade.calibration.noted import check_samples, hangs_on, origin
from saccade.calibration.options import CalibrationOptions
from saccade.calibration.own_answer import with_answer
from saccade.calibration.probes import Probe, Progress, find_probe
from saccade.calibration.reach import budget_for
from saccade.calibration.run import TriedLayers, compare, decides, trying
from saccade.engine import check_made_for
from saccade.helpers import Helpers, spread
from saccade.identity import code_of
from saccade.inputs.data import Entry
from saccade.inputs.samples import Sample
from saccade.methods import BudgetMethod, Method
from saccade.plans.budget import sparing
from saccade.plans.plan import Plan
from saccade.system.journal import Journal, Section, opened

VERSION = 3
"""Raised when scores of layers come out otherwise; what was kept of the former is then not used again."""


def calibrate(
    model: nn.Module,
    processor: Any,
    samples: Iterable[Sample | Entry],
    method: str | Method | CalibrationOptions = "vskip",
    *,
    force: bool = False,
    strict: bool = False,
    out: str | os.PathLike | None = None,
    progress: Progress | None = None,
    helpers: Helpers[str] | None = None,
    **settings: Any,
) -> Plan:
    """Chooses a method's layers by what their loss does to the answers of some samples.

    Of a method that is fitted (FitPrune) it finds how many rows leave in which layer, by what they attend to.

    ``calibrate(model, processor, samples, "vskip", budget=4, num_samples=20)``: what stands in
    `saccade.calibration.CalibrationOptions` is given by keyword, or whole in the method's place.

    Args:
        model: A stock Hugging Face VLM.
        processor: Its processor.
        samples: Questions to calibrate on, of one task or a mixture; of entries of a JSONL file
            (``saccade.inputs.data.read_jsonl``) only those drawn are decoded.
        method: The method whose layers are to be chosen, or all options of a calibration.
        force: Take a ``method`` from a plan file that was made for another model.
        strict: Refuse one that was made for other weights, instead of warning of it.
        out: Plan file to write. Until then finished samples are kept beside it (``partial_path``), so that
            the same call goes on where it was interrupted.
        progress: Called with the number of samples done and of all.
        helpers: Other processes that try layers too, of the same model (`saccade.helpers`).
        **settings: Fields of `CalibrationOptions`: ``budget``, ``flops``, ``score``, ``num_samples``,
            ``draw``, ``seed``, ``direction``, ``answer_tokens``, ``eta``, ``check``.

    Returns:
        A resolved plan with the scores and their provenance.

    Raises:
        ValueError: If the samples, the budget, the model or the score do not fit, saying how.
    """
    options = CalibrationOptions.of(method, settings)
    asked_for, fits = options.wanted, options.fits
    loaded = models.wrap(model, processor)
    check_made_for(loaded.model, asked_for.plan, force=force, strict=strict)
    if fits:
        with Journal(None if out is None else partial_path(out)) as journal:
            plan = fitted_plan(loaded, options.choose(samples), options, journal, progress, helpers)
            if out is not None:
                plan.save(out)
                journal.finish()
        return plan
    wanted, probe = asked_for.method, options.probe
    assert isinstance(wanted, BudgetMethod)
    depth = loaded.shape.layers
    if wanted.budget is not None and wanted.budget > depth:
        raise ValueError(f"a budget of {wanted.budget} layers, but the model has {depth}")
    for other in asked_for.others:
        other.resolve(depth)
    chosen = options.choose(samples)
    target = wanted.flops
    if target is not None:
        wanted = budget_for(loaded, asked_for, chosen)
    with Journal(None if out is None else partial_path(out)) as journal:
        found = score_samples(
            loaded,
            chosen,
            probe,
            options,
            like=wanted,
            checkpoint=journal,
            progress=progress,
            helpers=helpers,
        )
        key = wanted.score or ""
        done = wanted.resolve(depth, sparing({key: found.order}, loaded.shape)[key])
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
    checkpoint: Journal | str | os.PathLike | None = None,
    progress: Progress | None = None,
    helpers: Helpers[Any] | None = None,
    **settings: Any,
) -> Scores:
    """Scores every layer; ``Scores.order`` then serves any budget.

    Args:
        model: A stock Hugging Face VLM.
        processor: Its processor.
        samples: Questions to calibrate on.
        score: Name of the score.
        checkpoint: File that keeps finished samples; a second call goes on from it, the end removes it. The
            end of a journal is up to its owner.
        progress: Called with the number of samples done and of all.
        helpers: Other processes that try layers too, of the same model (`saccade.helpers`).
        **settings: Fields of `CalibrationOptions`, as of ``calibrate``; no method is wanted here.

    Raises:
        ValueError: As ``calibrate``.
    """
    options = CalibrationOptions(score=score, **settings)
    with opened(checkpoint) as journal:
        found = score_samples(
            models.wrap(model, processor),
            options.choose(samples),
            find_probe(score),
            options,
            checkpoint=journal,
            progress=progress,
            helpers=helpers,
        )
        if journal is not checkpoint:
            journal.finish()
    return found


def score_samples(
    loaded: models.Loaded,
    samples: Sequence[Sample],
    probe: Probe,
    options: CalibrationOptions,
    *,
    like: Method | None = None,
    checkpoint: Journal | None = None,
    progress: Progress | None = None,
    helpers: Helpers[str] | None = None,
) -> Scores:
    """Scores every layer on samples that are drawn already; leaves the journal to the caller to finish."""
    direction = options.direction
    check_samples(loaded, samples)
    by_kl = probe.distance == "kl"
    settings = {
        "score": str(probe.at(0, like)) if probe.method else probe.name,
        "distance": f"{probe.distance} {direction}" if by_kl else probe.distance,
        "answer_tokens": options.answer_tokens,
        **hangs_on(loaded, samples, scores_code(loaded, probe, like)),
    }
    values: list[tuple[float, ...]] = []
    cost: dict[str, Any] = {}
    if probe.method is not None:
        kept_so_far = (checkpoint or Journal(None)).section(settings)
        trial = Trial(probe.name, direction, like, options.answer_tokens)
        values, last = _values(loaded, samples, trial, kept_so_far, progress, helpers)
        if options.check and not decides(loaded.model):
            inputs, tail = trial.asked(loaded, last)
            cost = compare(loaded.model, inputs, probe, direction, loaded.shape, like, tail)
            cost |= {"sample": last.id}
    return Scores(
        metric=probe.name,
        num_layers=loaded.shape.layers,
        values_SL=tuple(values),
        samples=tuple(settings["samples"]),
        tasks=tuple(dict.fromkeys(sample.task for sample in samples)),
        direction=direction if by_kl else None,
        answer_tokens=options.answer_tokens,
        eta=options.eta,
        draw=options.drawn,
        seed=options.seed,
        model=settings["model"],
        provenance={"data_hash": settings["data"], "weights_hash": settings["weights"], **origin(loaded)},
        cost=cost,
    )


def scores_code(loaded: models.Loaded, probe: Probe, like: Method | None = None) -> str:
    """Versions of the code that scores hang on (``code_of``): calibration's own and that of what is tried."""
    tried = None if probe.method is None else Plan((probe.at(0, like),))
    return code_of(loaded, tried, calibration=VERSION)


@dataclass(frozen=True)
class Trial:
    """What is tried on every sample: told to other processes too.

    Attributes:
        score: Name of the score.
        direction: Of the KL.
        like: A method whose further options are kept.
        tokens: Tokens of an answer that are read beside the first.
    """

    score: str
    direction: Direction
    like: Method | None
    tokens: int

    def asked(self, loaded: models.Loaded, sample: Sample) -> tuple[dict[str, Any], int]:
        """Inputs of a sample, and how many rows at their end are read."""
        return with_answer(loaded.model, models.inputs(loaded, [sample]), self.tokens)

    def of(self, loaded: models.Loaded, sample: Sample) -> TriedLayers:
        """Scores of the layers on a sample.

        Raises:
            ValueError: Naming the sample, if it cannot be scored.
        """
        try:
            inputs, tail = self.asked(loaded, sample)
            with trying(loaded.model) as try_layers:
                return try_layers(inputs, find_probe(self.score), self.direction, self.like, tail)
        except ValueError as error:
            raise ValueError(f"sample {sample.id}: {error}") from error


def _values(
    loaded: models.Loaded,
    samples: Sequence[Sample],
    trial: Trial,
    kept: Section,
    progress: Progress | None,
    helpers: Helpers[str] | None,
) -> tuple[list[tuple[float, ...]], Sample]:
    """Scores of every sample, and the last sample that has visual rows."""
    known = kept.by("sample")

    def tell(done: int) -> None:
        if progress is not None:
            progress(done, len(samples))

    tell(0)
    left = [sample for sample in samples if sample.id not in known]
    parts = ((sample.id, (sample,), partial(trial.of, loaded, sample)) for sample in left)
    before = len(samples) - len(left)
    for done, (name, found) in enumerate(spread(helpers, trial.of, parts), start=1):
        known[name] = {"sample": name, **vars(found)}
        kept.append(known[name])
        tell(before + done)
    if not left:
        tell(len(samples))
    entries = [known[sample.id] for sample in samples]
    visual = [sample for sample, entry in zip(samples, entries, strict=True) if entry["visual"]]
    if not visual:
        kept.forget()
        raise ValueError(f"none of the {len(samples)} samples has an image: there is nothing to calibrate on")
    return [tuple(entry["values"]) for entry in entries], visual[-1]
