"""Analyses a model on samples, one at a time, and sums up what was found; an interrupted run goes on.

Shape letters: L layers.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch

from saccade import models
from saccade.calibration.drawing import data_hash
from saccade.engine import check_made_for
from saccade.identity import code_of, setup_digest
from saccade.inputs.samples import Sample
from saccade.methods.ffn_skip import FFNSkip
from saccade.models import Loaded
from saccade.opening.digest import weights_digest
from saccade.plans.plan import Plan, PlanLike
from saccade.research.analysis import figures
from saccade.research.analysis.capture import Trajectory, Unskipped, bare, record
from saccade.research.analysis.checks import BOUNDS, Check, verdicts
from saccade.research.analysis.compare import measure, next_token, skips_ffn
from saccade.research.analysis.constants import Constants, constants
from saccade.research.analysis.merging import Similarity, kl_checks, similarity
from saccade.research.analysis.probes import GROUPS, PROBES, probe_layers
from saccade.research.analysis.saturation import MASSES, VisualMap, vig, visual_maps
from saccade.system.journal import Journal, opened

PARTS = ("ffn", "attention", "bounds")
"""What can be analysed."""

VERSION = 4
"""Raised when what is measured of a sample comes out otherwise; what was kept is then not used again."""
UNTOUCHED = Plan((FFNSkip(layers=()),))
"""Skips nothing; a forward under it is the stock model's, and is looked at like any other."""

NO_SKIP = (
    "bounds compare skipping and merging with neither, and nothing here skips the FFN of a row that is alive "
    "or merges rows: give a plan such as 'ffn_skip(layers=0-3)', or leave bounds out of --what"
)

Entry = dict[str, Any]
Step = Callable[[int, int], None]


@dataclass(frozen=True)
class Analysis:
    """What an analysis found.

    Attributes:
        data: Everything as plain data.
        pictures: PNG bytes by name.
        maps: Attention among the visual rows of the first sample, by layer; empty if attention was left out.
    """

    data: dict[str, Any]
    pictures: dict[str, bytes]
    maps: tuple[VisualMap | None, ...] = ()


def read_parts(text: str | None) -> tuple[str, ...] | None:
    """What to analyse, from a list with commas; None where the user leaves it open.

    Raises:
        ValueError: If a part is not known.
    """
    if text is None:
        return None
    parts = tuple(dict.fromkeys(piece.strip() for piece in text.split(",") if piece.strip()))
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise ValueError(f"--what is a list of {', '.join(PARTS)}; got {text!r}")
    return parts


def analyze(
    loaded: Loaded,
    samples: Sequence[Sample],
    plan: PlanLike | None = None,
    *,
    parts: Sequence[str] | None = None,
    force: bool = False,
    strict: bool = False,
    checkpoint: Journal | str | os.PathLike | None = None,
    step: Step | None = None,
) -> Analysis:
    """Analyses what FFN and attention do to visual rows, and how well the theory bounds skipping them.

    Args:
        loaded: The model.
        samples: Questions with images; those without are left out and counted.
        plan: What to run them under; the stock model if omitted. Rows that it skips become a group.
        parts: Which of ``PARTS``; if omitted all, the bounds only where the plan skips an FFN.
        force: Use a plan that was made for another model.
        strict: Refuse a plan that was made for other weights, instead of warning of it.
        checkpoint: Journal, or its file, that keeps finished samples, so that the same call goes on; the
            caller finishes or deletes it.
        step: Called with the number of samples done and of all.

    Raises:
        ValueError: If no sample has an image, ids repeat, or the plan does not fit what is asked.
    """
    if len({sample.id for sample in samples}) != len(samples):
        raise ValueError("sample ids must be distinct")
    seen = [sample for sample in samples if sample.visual]
    if not seen:
        raise ValueError(
            f"none of the {len(samples)} samples has an image or a video: there is nothing to analyse"
        )
    given = None if plan is None else Plan.of(plan)
    if given is not None:
        check_made_for(loaded.model, given, force=force, strict=strict)
        given = given.for_any() if force else given
    stock = given is None or not given.methods
    wanted = (UNTOUCHED if given is None or stock else given).resolve(loaded.shape.layers)
    asked = tuple(PARTS if parts is None else parts)
    settings: dict[str, Any] = {
        "plan": wanted.spec,
        "parts": asked,
        "model": loaded.family.identity(loaded.model),
        "weights": weights_digest(loaded.model),
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "data": data_hash(seen),
    }
    if setup := setup_digest(loaded):
        settings["setup"] = setup
    if code := code_of(loaded, wanted, analysis=VERSION):
        settings["code"] = code
    runner = _Runner(loaded, wanted, asked, parts is not None)
    with opened(checkpoint) as journal:
        kept = journal.section(settings)
        known = kept.by("sample")
        for number, sample in enumerate(seen):
            if step is not None:
                step(number, len(seen))
            if sample.id in known:
                continue
            try:
                found = runner.one(sample)
            except ValueError as error:
                raise ValueError(f"sample {sample.id}: {error}") from error
            known[sample.id] = {"sample": sample.id, **found}
            kept.append(known[sample.id])
    if step is not None:
        step(len(seen), len(seen))
    entries = [known[sample.id] for sample in seen]
    data: dict[str, Any] = {
        "plan": None if stock else wanted.spec,
        "model": {"name": loaded.name, **settings["model"]},
        "samples": [entry["sample"] for entry in entries],
        "tasks": list(dict.fromkeys(sample.task for sample in seen)),
        "without_image": len(samples) - len(seen),
        "visual_rows": [entry["visual"] for entry in entries],
        "text_rows": [entry["text"] for entry in entries],
        "data_hash": settings["data"],
        "weights_hash": settings["weights"],
        **_summed(entries),
    }
    if "drift" in data.get("bounds", {}):
        data["bounds"]["constants"] = asdict(runner.constants)
    pictures = {name: draw(data) for name, draw in figures.FIGURES.items() if name in data}
    maps: tuple[VisualMap | None, ...] = ()
    if "attention" in asked:
        run, maps = runner.maps(seen[0])
        pictures["attention_maps"] = figures.attention_maps(
            maps, run.trace.grid, run.layout.image_BN, seen[0].id
        )
    return Analysis(data, pictures, maps)


class _Runner:
    """Analyses single samples of one model under one plan."""

    def __init__(self, loaded: Loaded, plan: Plan, parts: Sequence[str], insists: bool) -> None:
        self.loaded, self.plan, self.parts, self.insists = loaded, plan, parts, insists

    @cached_property
    def constants(self) -> Constants:
        """The model's, worked out once."""
        return constants(self.loaded.family, self.loaded.model)

    def one(self, sample: Sample) -> Entry:
        """Everything about one sample, as plain data."""
        loaded, model = self.loaded, self.loaded.model
        family, modules = loaded.family, loaded.family.parts(loaded.model)
        inputs = models.inputs(loaded, [sample], self.plan)
        run = record(model, inputs, self.plan)
        skips = skips_ffn(run)
        if "bounds" in self.parts and self.insists and not (skips or run.merges):
            raise ValueError(NO_SKIP)
        layout = run.layout
        found: Entry = {"visual": int(layout.visual_BN.sum()), "text": int(layout.text_BN.sum())}
        drift = 0.0
        with bare(model):
            if "ffn" in self.parts:
                found["ffn"] = probe_layers(family, modules.layers, run)
            if "attention" in self.parts:
                found["attention"] = visual_maps(family, modules.layers, run)[0]
        if "attention" in self.parts:
            found["attention"]["vig"] = vig(model, inputs)
        if "bounds" in self.parts and skips:
            plan = Unskipped(self.plan.methods, self.plan.model)
            whole = record(model, inputs, plan)
            with bare(model):
                measured = measure(family, modules, self.constants, whole, run)
            found["bounds"] = measured.to_dict()
            found["checks"] = [asdict(check) for check in measured.checks()]
            drift = measured.printed["paper"]
        if "bounds" in self.parts and run.merges:
            merged = self._merged(inputs, run, drift)
            found["merging"] = [asdict(one) for one in merged[0]]
            found["checks"] = [*found.get("checks", ()), *(asdict(check) for check in merged[1])]
        return found

    def _merged(
        self, inputs: Mapping[str, Any], run: Trajectory, drift: float
    ) -> tuple[list[Similarity], list[Check]]:
        """The similarity errors of a prompt's merges, and every bound of them."""
        found = [one for one in map(similarity, run.merges) if one is not None]
        checks = [check for one in found for check in one.checks()]
        if not found or not run.trace.cuts:
            return found, checks
        with bare(self.loaded.model):
            whole = record(self.loaded.model, inputs, Plan(self.plan.shortening or UNTOUCHED.methods))
        # Rows that merge in the projector's place leave no prompt to hold the answer against.
        if whole.merges:
            return found, checks
        change_V, variance, divergence = next_token(whole, run)
        return found, checks + kl_checks(found, drift, variance, float(change_V.norm()), divergence)

    def maps(self, sample: Sample) -> tuple[Trajectory, tuple[VisualMap | None, ...]]:
        """Attention maps of one sample."""
        run = record(self.loaded.model, models.inputs(self.loaded, [sample], self.plan), self.plan)
        layers = self.loaded.family.parts(self.loaded.model).layers
        with bare(self.loaded.model), torch.no_grad():
            return run, tuple(visual_maps(self.loaded.family, layers, run)[1])


def _summed(entries: Sequence[Entry]) -> dict[str, Any]:
    """Means over samples, each of equal weight, and verdicts on the bounds."""
    data: dict[str, Any] = {}
    if "ffn" in entries[0]:
        data["ffn"] = {
            "probes": dict(PROBES),
            "groups": {group: _group([e["ffn"][group] for e in entries]) for group in GROUPS},
            "left_out": [e["ffn"]["left_out"] for e in entries],
        }
    if "attention" in entries[0]:
        series = {name: over([e["attention"][name] for e in entries]) for name in entries[0]["attention"]}
        data["attention"] = {"masses": dict(MASSES), **series}
    checks = [Check(**check) for e in entries for check in e.get("checks", ())]
    if checks:
        data["bounds"] = {
            "verdicts": [one.to_dict() for one in verdicts(checks)],
            "kinds": {name: asdict(kind) for name, kind in BOUNDS.items()},
        }
    bounded = [e for e in entries if "bounds" in e]
    if bounded:
        drifts = ("entering", "leaving", "row_leaving")
        data["bounds"] |= {
            "drift": {name: over([e["bounds"]["layers"][name] for e in bounded]) for name in drifts},
            "residual": over([e["bounds"]["residual"] for e in bounded]),
            "by_sample": {e["sample"]: e["bounds"] for e in bounded},
        }
    if merging := {e["sample"]: e["merging"] for e in entries if "merging" in e}:
        data["bounds"] = data.get("bounds", {}) | {"merging": merging}
    return data


def _group(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    probes = {
        name: over([one[name]["mean"] for one in found])
        | {"median": over([one[name]["median"] for one in found])["mean"]}
        for name in PROBES
    }
    return {"rows": over([one["rows"] for one in found])["mean"], **probes}


def over(values_SL: Iterable[Sequence[float | None]]) -> dict[str, list[float | None]]:
    """Mean and standard deviation over samples, layer by layer, of what is known."""
    columns = [[v for v in column if v is not None] for column in zip(*values_SL, strict=True)]
    return {
        "mean": [statistics.fmean(column) if column else None for column in columns],
        "sd": [_spread(column) for column in columns],
    }


def _spread(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 and max(values) < float("inf") else None
