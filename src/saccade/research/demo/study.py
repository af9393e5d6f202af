"""The demo's study: calibrate, evaluate, time; its findings as plain data and pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from saccade.core.layout import Layout
from saccade.evaluation import Comparison, compare
from saccade.evaluation.orders import CALIBRATION_SAMPLES, calibrated
from saccade.evaluation.runner import count_prompts
from saccade.inputs.samples import Sample
from saccade.measure import Target, bench, record
from saccade.models import Loaded
from saccade.plans.plan import Plan
from saccade.report import figures
from saccade.report.figures import SCORES
from saccade.research.demo.model import described, posed
from saccade.research.demo.plans import DemoPlan, Lineup, lineup
from saccade.research.demo.questions import pick, shown
from saccade.research.demo.tuned import at_half, told
from saccade.system.journal import Journal

TIMED_BATCH = 8
Note = Callable[[str], None]
Step = Callable[[int, int], None]


@dataclass(frozen=True)
class DemoFindings:
    """What the demo found.

    Attributes:
        data: Everything its report says, as plain data.
        pictures: PNG bytes by name.
        plan: The calibrated V-Skip plan, for users to keep.
    """

    data: dict[str, Any]
    pictures: dict[str, bytes]
    plan: Plan


def study(
    loaded: Loaded,
    calibration: Sequence[Sample],
    questions: Sequence[Sample],
    *,
    seed: int = 0,
    batch_size: int = 32,
    max_new_tokens: int = 24,
    repeats: int = 5,
    ledger: Journal | None = None,
    note: Note = lambda text: None,
    step: Step | None = None,
) -> DemoFindings:
    """Calibrates V-Skip and other layer methods, evaluates them at many budgets and times some.

    Args:
        loaded: The model.
        calibration: Where the calibration samples are drawn from.
        questions: Held-out questions, as many of each task.
        seed: Seed of the draw.
        batch_size: Questions per batch.
        max_new_tokens: Longest answer in tokens.
        repeats: Timed pairs per plan.
        ledger: Keeps finished samples and answers, so that an interrupted demo resumes.
        note: Called with a line of text when a part begins.
        step: Progress of the calibration.
    """
    start = time.perf_counter()
    seconds: dict[str, float] = {}

    def lap(name: str) -> None:
        seconds[name] = time.perf_counter() - start - sum(seconds.values())

    note(f"calibrating on {min(CALIBRATION_SAMPLES, len(calibration))} samples, by {len(SCORES)} scores")
    scores = calibrated(loaded, calibration, list(SCORES), seed=seed, ledger=ledger, progress=step)
    lap("calibration")

    orders = {name: found.order for name, found in scores.items()}
    visual, text = count_prompts(loaded, questions[:1]).most_common(1)[0][0]
    plans = lineup(loaded.shape, Layout.single(visual, text, views=loaded.shape.views(visual)), orders)
    half = at_half(loaded, questions, orders)
    count = len(plans.entries) + len(half) + 2
    note(f"asking {len(questions)} questions under {count} plans, dense and blind included")
    named = {e.name: e.plan for e in plans.entries} | half
    found = compare(
        loaded.model,
        loaded.processor,
        questions,
        named,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        ledger=ledger,
    )
    lap("evaluation")

    timed = [e for e in plans.entries if e.name in {*plans.layers, *plans.flops}]
    note(f"timing {len(timed)} plans against dense")
    times = {e.name: _time(loaded, e, visual, text, repeats) for e in timed}
    lap("timing")

    note("drawing")
    data = _data(loaded, scores, found, plans, times, questions)
    data["tuned"] = told(loaded, {name: found.plans[name].to_dict() for name in half})
    data["timing"] = {"batch": TIMED_BATCH, "rows": visual + text, "repeats": repeats}
    chosen = pick(found, questions, plans.layers)
    pictures, data["questions"] = shown(loaded, chosen, questions, found, plans)
    pictures |= draw(data)
    lap("pictures")
    data["seconds"] = seconds | {"total": sum(seconds.values())}
    data["provenance"] = record(model=loaded.model, seed=seed)
    main = next(e for e in plans.entries if e.name == plans.main)
    vig = scores["vig"]
    kept = Plan(main.plan.methods, vig.model, {"asked": {"budget": main.budget}, **vig.record()})
    return DemoFindings(data, pictures, kept)


def draw(data: dict[str, Any]) -> dict[str, bytes]:
    """The figures of a study, from its data alone."""
    layers, asked = data["model"]["layers"], data["data"]["questions"]
    by_name = {entry["name"]: entry for entry in data["plans"]}
    main = by_name[data["headline"]["main"]]
    timed = [by_name[n] for n in dict.fromkeys([*data["headline"]["layers"], *data["headline"]["flops"]])]
    return {
        "layers": figures.layer_scores(
            data["calibration"], data["data"]["calibration_samples"], main["layers"]
        ),
        "retention": figures.retention_by_budget(data["plans"], layers, asked),
        "flops": figures.accuracy_by_flops(
            data["dense"], data["dense"]["mean"]["blind"], data["plans"], asked
        ),
        "measured": figures.promised_and_measured(timed, layers),
    }


def _time(loaded: Loaded, entry: DemoPlan, visual: int, text: int, repeats: int) -> dict[str, float]:
    target = Target(loaded.name, loaded.model, loaded.family, loaded.shape, loaded.shape.layers, True, loaded)
    found = bench(
        target, entry.plan, batch=TIMED_BATCH, visual=visual, text=text, new_tokens=1, repeats=repeats
    )
    phase = found.prefill
    return {
        "ratio": phase.time_ratio,
        "low": phase.low,
        "high": phase.high,
        "dense_ms": 1e3 * phase.dense_s,
        "plan_ms": 1e3 * phase.plan_s,
    }


def _data(
    loaded: Loaded,
    scores: dict[str, Any],
    found: Comparison,
    plans: Lineup,
    times: dict[str, dict[str, float]],
    questions: Sequence[Sample],
) -> dict[str, Any]:
    entries = []
    for e in plans.entries:
        result = found.plans[e.name].to_dict()
        route = e.plan.route(Layout.single(2, 4), loaded.shape.layers)
        layers = [number for number, layer in enumerate(route.layers) if not layer.is_dense]
        result |= {"method": e.method, "title": e.title, "budget": e.budget, "layers": layers}
        entries.append(result | ({"timing": times[e.name]} if e.name in times else {}))
    return {
        "schema": 1,
        "model": described(loaded, found),
        "data": posed(found, len(questions), scores["vig"].n),
        "calibration": {
            name: {
                "mean": s.mean,
                "sd": s.sd,
                "samples": [list(row) for row in s.values_SL],
                "order": list(s.order),
            }
            for name, s in scores.items()
        },
        "dense": found.dense.to_dict(),
        "blind": None if found.blind is None else found.blind.to_dict(),
        "plans": entries,
        "headline": {"main": plans.main, "layers": list(plans.layers), "flops": list(plans.flops)},
    }
