"""What is measured beside the search: single methods at the same costs, and what undoing a choice changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from saccade.calibration.fitting import Fitter
from saccade.calibration.measures import ascending
from saccade.methods import Method
from saccade.methods.fitprune import FitPrune
from saccade.plans.plan import Plan
from saccade.system.journal import Journal
from saccade.tuning.prepare import PART, Watch, foretold
from saccade.tuning.result import Explained
from saccade.tuning.search import Search, Tried
from saccade.tuning.settings import Settings
from saccade.tuning.singles import ORDERED_BY, Fit, singles
from saccade.tuning.space import DENSE, State


def fitting(search: Search, journal: Journal, watch: Watch) -> dict[str, Fit]:
    """How methods that are fitted find their settings here: on the first part of the samples."""
    few = search.judge.parts[0][:PART]
    try:
        fitter = Fitter(search.judge.loaded, few, journal)
    except ValueError:
        return {}  # nothing here has what it looks at: what the authors found elsewhere stands in
    watch.say(f"beside it: every method alone, FitPrune's rows fitted to {len(few)} samples")

    def fit(cheap: Callable[[Method], bool]) -> Method | None:
        found = fitter.fitted(cheap)
        return None if found is None else found[0]

    return {FitPrune.name: fit}


def alone(search: Search, settings: Settings, journal: Journal, watch: Watch) -> list[dict[str, Any]]:
    """Every single method at the costs that were searched, measured on the first part of the samples."""
    fits = fitting(search, journal, watch)
    orders = {
        ORDERED_BY[skip]: ascending([search.marginals[layer, skip] for layer in range(search.menu.layers)])
        for skip in search.menu.skips
    }
    first = next(sample for sample in search.judge.samples if sample.visual)
    found = []
    costs = [settings.budget] if settings.budget is not None else [budget for budget, _ in settings.steps]
    for budget in costs:
        plans = singles(search.pricer, budget, orders, fits)
        search.judge.ahead((plan, 0) for plan in plans.values())
        for title, plan in plans.items():
            try:
                loss = search.judge.measure(plan, 0)
            except ValueError:
                continue  # it does not run on this model, which is no fault of the tuning
            # The rows of smaller pictures are counted, so those are priced as they are.
            if not plan.shortening and not foretold(search.judge.loaded, plan, first):
                continue  # what it is said to cost is not what it costs here
            told = {"title": title, "spec": plan.spec, "ratio": search.pricer.ratio(plan)}
            found.append(told | {"kl": loss.mean, "agreement": loss.agreement, "samples": len(loss.kl)})
    return found


def explained(search: Search, best: Tried) -> tuple[Explained, ...]:
    """What undoing every choice would change, one by one, measured on all samples of the search."""
    state = best.state
    undone: list[tuple[str, str, str, Plan]] = []

    def told(what: str, chosen: str, other: str, to: State) -> None:
        undone.append((what, chosen, other, to.plan))

    end = search.menu.layers if state.last is None else state.last
    for layer in range(end):
        skip = state.skips[layer]
        others = (
            [DENSE]
            if skip
            else [s for s in search.menu.skips if s == "freeze"] or list(search.menu.skips[:1])
        )
        for other in others:
            skips = (*state.skips[:layer], other, *state.skips[layer + 1 :])
            told(f"layer {layer}", skip or "dense", other or "dense", replace(state, skips=skips))
    if state.reducer is not None:
        told("before the decoder", str(state.reducer), "nothing", replace(state, reducer=None))
    for place, drop in enumerate(state.drops):
        rest = (*state.drops[:place], *state.drops[place + 1 :])
        told(f"before layer {drop.layer}", str(drop), "nothing", replace(state, drops=rest))  # type: ignore[attr-defined]
    if state.last is not None:
        told(f"from layer {state.last} on", "no visual rows", "all that are left", replace(state, last=None))
    if state.scale != 1:
        told("resolution", f"{state.scale:g} of each side", "full", replace(state, scale=1.0))
    search.judge.ahead((plan, part) for *_, plan in undone for part in range(len(search.judge.parts)))
    return tuple(
        Explained(what, chosen, other, search.pricer.ratio(plan), search.judge.whole(plan).mean)
        for what, chosen, other, plan in undone
    )
