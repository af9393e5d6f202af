"""What a tuning found, as values and as the plain data that files and pages are made of (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from saccade.evaluation.results import Comparison
from saccade.plans.plan import Plan
from saccade.tuning.guard import Verdict
from saccade.tuning.search import Tried
from saccade.tuning.settings import Settings


@dataclass(frozen=True)
class Candidate:
    """A plan that went to the held-out samples.

    Attributes:
        tried: What the search measured of it.
        ratio: Its cost on the held-out prompts, over the dense model's.
        verdict: What the held-out samples say.
    """

    tried: Tried
    ratio: float
    verdict: Verdict

    @property
    def plan(self) -> Plan:
        """The plan."""
        return self.tried.plan

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON."""
        return searched(self.tried) | {"held_out_ratio": self.ratio, "held_out": asdict(self.verdict)}


@dataclass(frozen=True)
class Unsure:
    """A guard at run time: prompts on which the plan is unsure are answered by the dense model.

    Attributes:
        margin: Smallest lead of the first token's probability with which the plan's answer stands.
        share: Share of the held-out prompts that fall below.
        ratio: Cost with it: that of the plan, and of a dense answer for that share.
        loss: Mean score lost on the held-out samples with it.
        bound: Largest loss that they leave possible.
    """

    margin: float
    share: float
    ratio: float
    loss: float
    bound: float


@dataclass(frozen=True)
class Explained:
    """One choice of a plan, and what undoing it would change.

    Attributes:
        what: The layer, or the part of the plan.
        chosen: What was chosen there.
        other: What it is compared with.
        ratio: Cost of the plan with the other in its place.
        loss: KL of the plan with the other in its place, in nats.
    """

    what: str
    chosen: str
    other: str
    ratio: float
    loss: float


@dataclass(frozen=True)
class Tuned:
    """The outcome of a tuning.

    Attributes:
        plan: The plan to serve, with its provenance; None where none was proven within the loss asked.
        chosen: The candidate that it is; None likewise.
        candidates: Plans of the front that went to the held-out samples, from cheap to dear.
        settings: What was asked.
        found: Scores of the candidates on the held-out samples.
        data: Everything that the result file holds.
        unsure: The guard at run time, where one was asked for.
        explained: What was chosen where, where that was asked for.
        files: What was written, by name.
    """

    plan: Plan | None
    chosen: Candidate | None
    candidates: tuple[Candidate, ...]
    settings: Settings
    found: Comparison
    data: Mapping[str, Any]
    unsure: Unsure | None = None
    explained: tuple[Explained, ...] = ()
    files: Mapping[str, Path] = field(default_factory=dict)

    @property
    def refused(self) -> str:
        """Why there is no plan; empty where there is one."""
        dense = self.found.dense.mean.accuracy.value
        return "" if self.plan is not None else refusal(self.candidates, self.settings, dense)

    def written(self, files: Mapping[str, Path]) -> Tuned:
        """The same with the files that it was written to."""
        return replace(self, files=dict(files))


def searched(tried: Tried) -> dict[str, Any]:
    """What the search measured of a plan."""
    return {
        "spec": tried.plan.spec,
        "ratio": tried.ratio,
        "kl": tried.loss.mean,
        "agreement": tried.loss.agreement,
        "samples": len(tried.loss.kl),
    }


def thinned(front: Sequence[Tried], most: int, keep: Tried | None) -> list[Tried]:
    """A few plans of a front, evenly over their costs, one of them for certain; from cheap to dear.

    Every candidate that is judged on the held-out samples makes all bounds wider, so not all of a front are.
    """
    ordered = sorted(front, key=lambda one: one.ratio)
    if keep is not None and keep not in ordered:
        ordered = sorted([*ordered, keep], key=lambda one: one.ratio)
    if len(ordered) <= most:
        return ordered
    low, high = ordered[0].ratio, ordered[-1].ratio
    places = [low + (high - low) * step / (most - 1) for step in range(most)]
    chosen = {min(range(len(ordered)), key=lambda i: abs(ordered[i].ratio - place)) for place in places}
    if keep is not None:
        mine = ordered.index(keep)
        if mine not in chosen:
            chosen.remove(min(chosen, key=lambda i: abs(i - mine)))
            chosen.add(mine)
    return [ordered[i] for i in sorted(chosen)]


def pick(candidates: Sequence[Candidate], settings: Settings, best: Tried | None) -> Candidate | None:
    """The plan to serve.

    With a budget alone the best of it, whatever it loses. With a loss the cheapest that is proven within it
    (and within the budget, where there is one); None where there is none.
    """
    if settings.max_loss is None:
        return next((one for one in candidates if best is not None and one.tried is best), None)
    allowed = [
        one
        for one in candidates
        if one.verdict.within and (settings.budget is None or one.tried.ratio <= settings.budget)
    ]
    return min(allowed, key=lambda one: one.tried.ratio, default=None)


def refusal(candidates: Sequence[Candidate], settings: Settings, dense: float | None = None) -> str:
    """Why no candidate was proven within the loss asked, and what would help.

    Args:
        candidates: Those that were judged.
        settings: What was asked.
        dense: Accuracy of the dense model on the held-out samples.
    """
    assert settings.max_loss is not None
    if dense is not None and 100 * dense <= settings.max_loss < 100:
        return (
            f"the dense model is right on {100 * dense:.1f} % of the held-out samples, so a plan that is "
            f"never right loses at most {settings.max_loss:g} points too: look at how answers are "
            "scored ('score'), or leave the answers out to compare with the dense model's own"
        )
    asked = f"no plan is proven to lose at most {settings.max_loss:g} points"
    fits = [one for one in candidates if settings.budget is None or one.tried.ratio <= settings.budget]
    if not fits:
        return (
            f"no plan was found within the budget of {settings.budget:g}; give more --passes, or allow more"
        )
    nearest = min(fits, key=lambda one: one.verdict.bound)
    told = (
        f"{asked}: the nearest, {nearest.plan.spec}, lost {100 * nearest.verdict.loss:.2f} points on "
        f"the held-out samples, which leave up to {100 * nearest.verdict.bound:.2f} possible"
    )
    needs = [one.verdict.needed for one in fits if one.verdict.needed is not None]
    tasks = len(nearest.verdict.tasks)
    each = f"of each of the {tasks} tasks " if tasks > 1 else ""
    if needs:
        return (
            f"{told}; about {min(needs)} held-out samples {each}would be needed, give more data and a larger "
            "--held-out, or allow more points" + (", or judge the mean alone (--mean)" if tasks > 1 else "")
        )
    return f"{told}; its loss is not below that, allow more points or a dearer plan"


def unsure_at(
    margins: Sequence[float],
    held_margins: Sequence[float],
    share: float,
) -> tuple[float, list[bool]]:
    """The margin below which about a share of the prompts falls, and which held-out prompts do.

    Args:
        margins: Of the plan on the samples of the search.
        held_margins: Of the plan on the held-out samples.
        share: Of the prompts that may go to the dense model.
    """
    ordered = sorted(margins)
    margin = ordered[min(len(ordered) - 1, int(share * len(ordered)))]
    return margin, [value < margin for value in held_margins]
