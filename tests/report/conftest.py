"""A small made-up study, complete enough for every figure and the page."""

from __future__ import annotations

import pytest
from PIL import Image

from saccade.core.layout import Layout
from saccade.core.shapes import ModelShape
from saccade.evaluation.matched import lineup as lineup_of_all
from saccade.evaluation.results import Prediction, score
from saccade.plans.plan import Plan
from saccade.report import figures, route_map
from saccade.research.demo.plans import lineup
from saccade.system.files import write_json

SHAPE = ModelShape("toy", 4, 64, 2, 2, 32, 128, 100, 16)
ORDERS = {"vig": (3, 0, 2, 1), "ffn": (3, 2, 1, 0), "lc": (3, 1, 0, 2), "withdrawal": (3,)}
TASKS = ("count", "word")
TOY = {
    "name": "Toy <b>",
    "layers": 4,
    "parameters": 1_500_000,
    "visual_tokens": 16,
    "seen": "It looks.",
    "called": "toy",
}
"""What the demo's pages say of a model."""


def predictions(share: int) -> list[Prediction]:
    """Ten answers of each task, the first ``share`` of them right."""
    return [
        Prediction(f"{t}/{i}", t, "a", "a" if i < share else "b", i < share) for t in TASKS for i in range(10)
    ]


def evaluation(name: str, spec: str, share: int, cost: dict[str, float]) -> dict:
    return score(name, spec, predictions(share), predictions(9), predictions(3), cost).to_dict()


@pytest.fixture(scope="session")
def study() -> dict:
    """The data of a study of a four-layer model."""
    plans = lineup(SHAPE, Layout.single(16, 8), ORDERS)
    entries = []
    for e in plans.entries:
        ratio = 1 - e.budget / 10
        cost = {"flops_ratio": ratio, "kv_bytes": 2048 * 4}
        found = evaluation(e.name, e.plan.spec, 9 - 2 * e.budget, cost)
        found |= {"method": e.method, "title": e.title, "budget": e.budget, "layers": [3]}
        if e.name in {*plans.layers, *plans.flops}:
            found["timing"] = {"ratio": ratio + 0.05, "low": ratio, "high": ratio + 0.1}
        entries.append(found)
    scores = {
        n: {"mean": [0.1, 0.4, 0.2, 0.0], "samples": [[0.1, 0.5, 0.2, 0.0], [0.1, 0.3, 0.2, 0.0]]}
        for n in ORDERS
    }
    return {
        "model": TOY,
        "data": {"tasks": list(TASKS), "questions": 20, "per_task": 10, "calibration_samples": 2},
        "calibration": scores,
        "dense": evaluation("dense", "dense", 9, {"flops_ratio": 1.0, "kv_bytes": 8192}),
        "blind": evaluation("blind", "dense", 3, {"flops_ratio": 1.0, "kv_bytes": 8192}),
        "plans": entries,
        "headline": {"main": plans.main, "layers": list(plans.layers), "flops": list(plans.flops)},
        "questions": [{"caption": "a question with <angle> brackets"}],
        "tuned": {
            "share": 0.5,
            "samples": 520,
            "passes": 4321,
            "plans": [
                evaluation(
                    "tuned", "shortv(layers=3)+dart(keep=0.77)", 8, {"flops_ratio": 0.493, "kv_bytes": 4096}
                )
                | {"title": "found & kept"},
            ],
        },
        "timing": {"batch": 8, "rows": 24, "repeats": 5},
        "seconds": {"total": 93.4},
        "commands": [["what next & more:", "saccade cost llava-1.5-7b --plan 'vskip(budget=19)'"]],
        "provenance": {"command": "saccade demo", "versions": {"torch": "2.13"}, "seed": 0},
    }


@pytest.fixture(scope="session")
def family() -> dict:
    """The data of a comparison of all methods on a four-layer model."""
    rows = []
    for number, row in enumerate(lineup_of_all(SHAPE, [Layout.single(16, 8)], ORDERS)):
        found = {}
        if row.plan is not None:
            cost = {"flops_ratio": (row.asked or 0.2) - 0.01, "kv_ratio": 0.75}
            found = evaluation(row.name, row.plan.spec, number % 9, cost)
        rows.append(found | row.to_dict())
    return {
        "model": TOY,
        "data": {"tasks": list(TASKS), "questions": 20, "per_task": 10, "calibration_samples": 2},
        "ratios": [0.7, 0.5, 0.3],
        "dense": evaluation("dense", "dense", 9, {"flops_ratio": 1.0, "kv_ratio": 1.0}),
        "rows": rows,
        "calibration": {"samples": 20},
        "seconds": {"total": 93.4},
        "provenance": {"command": "saccade demo", "seed": 0},
    }


@pytest.fixture(scope="session")
def columns() -> list[dict]:
    """One question under dense and two plans."""
    layout = Layout.single(16, 8, 3)
    specs = (("dense", "dense"), ("vskip", "vskip(layers=1,3)"), ("vtw", "vtw(layer=2)"))
    return [
        {
            "method": method,
            "title": method,
            "said": "three",
            "correct": method != "vtw",
            "map": route_map.route_map(Plan.of(spec).route(layout, 4)),
        }
        for method, spec in specs
    ]


@pytest.fixture(scope="session")
def pictures(study, columns) -> dict[str, bytes]:
    """Every figure of the page."""
    timed = [e for e in study["plans"] if "timing" in e]
    return {
        "layers": figures.layer_scores(study["calibration"], 2, [3, 0]),
        "retention": figures.retention_by_budget(study["plans"], 4, 20),
        "flops": figures.accuracy_by_flops(study["dense"], 0.3, study["plans"], 20),
        "measured": figures.promised_and_measured(timed, 4),
        "question-1": route_map.question(Image.new("RGB", (32, 32), "red"), "how many ?", "three", columns),
    }


@pytest.fixture(scope="session")
def result_files(tmp_path_factory, study, family) -> dict[str, str]:
    """One small result file of every kind, by kind, as the commands write them."""
    folder = tmp_path_factory.mktemp("results")
    made = {
        "command": "saccade eval toy --samples 10",
        "versions": {"saccade": "0"},
        "device": "cpu",
        "seed": 3,
    }
    model = {"name": "toy", "weights": "feedc0de", "layers": 4}
    cost = {
        "flops_ratio": 0.7,
        "kv_ratio": 0.5,
        "kv_bytes": 1024.0,
        "visual_tokens": 16.0,
        "text_tokens": 8.0,
    }
    full = cost | {"flops_ratio": 1.0, "kv_ratio": 1.0, "kv_bytes": 2048.0}
    plans = [
        evaluation("V-Skip", "vskip(layers=2-3)", 8, cost | {"kv_ratio": 1.0}),
        evaluation("FastV", "fastv(layer=2,keep=0.5)", 6, cost | {"flops_ratio": 0.5}),
        evaluation("<b>odd</b>", "not_a_method(layers=1)", 2, cost | {"flops_ratio": 0.2}),
    ]
    common = {"dense": evaluation("dense", "dense", 9, full), "model": model, "provenance": made}
    phase = {"dense_s": 0.5, "plan_s": 0.4, "time_ratio": 0.8, "low": 0.7, "high": 0.9, "flops_ratio": 0.6}
    run = {
        **{
            "name": "toy",
            "plan": "vskip(budget=2)",
            "weights": "random",
            "layers": 2,
            "depth": 4,
            "batch": 1,
        },
        **{"visual": 16, "text": 8, "new_tokens": 2, "kv_ratio": 1.0, "vision_made_up": False},
        "prefill": phase | {"efficiency": 0.75, "captured": 0.5},
        "decode": phase | {"efficiency": 1.0, "captured": None, "low": 0.9},
        "dense": {"peak_memory_bytes": 100},
        "planned": {"peak_memory_bytes": 80},
        "provenance": made,
    }
    price = {"plan": "vskip(layers=2-3)", "resolved": "vskip(layers=2-3)", "tflops": 0.5, "ratio": 0.9}
    price |= {"executed_ratio": 0.9, "kv_bytes": 10, "kv_ratio": 1.0, "equivalent_tokens": 16.0}
    scores = {"mean": [0.4, 0.1, 0.2, 0.0], "samples": [[0.4, 0.1, 0.2, 0.0], [0.4, 0.1, 0.2, 0.0]]}
    calibration = {
        **{"metric": "vig", "scores": scores, "order": [3, 1, 2, 0], "samples": ["a", "b"], "seed": 0},
        **{"tasks": ["count"], "draw": "global", "weights_hash": "feedc0de", "device": "cpu"},
    }
    plan = Plan.of("vskip(layers=1,3)").to_dict()
    plan |= {"model": {"model_type": "llava", "text": {"layers": 4}}, "calibration": calibration}
    line = {"what": "a line", "wanted": "much", "found": "little", "passed": False}
    files = {
        "eval": common | {"plans": plans, "orders": {"vig": [3, 1, 2, 0]}},
        "family": {**family, "provenance": made, "ratios": [0.7]},
        "gate": common | {"plans": plans[:1], "lines": [line], "passed": False},
        "bench": run | {"plans": [run]},
        "cost": {"shape": {"name": "toy", "layers": 4}, "visual": 16, "text": 8.5, **price, "plans": [price]},
        "plan": plan,
        "study": _study(common, folder),
    }
    for name, data in files.items():
        write_json(folder / f"{name}.json", data)
    return {name: str(folder / f"{name}.json") for name in files}


def _study(common: dict, folder) -> dict:
    """A result of the study of budgets, every line made up."""
    cost = {"flops_ratio": 0.8, "kv_ratio": 1.0, "kv_bytes": 2048.0}
    names = {"vskip": "V-Skip", "ffn_skip": "FFN-Skip", "shortv": "ShortV", "vtw": "VTW"}
    plans = []
    for method, title in names.items():
        for budget in range(5):
            entry = evaluation(f"{method} {budget}", "dense", 9 - budget, cost)
            plans.append(entry | {"method": method, "title": title, "budget": budget, "reason": ""})
    finding = {
        "claim": "Late layers are free",
        "source": "a paper",
        "verdict": "supported",
        "found": "They are.",
    }
    return common | {
        "schema": 1,
        "study": "budget",
        "title": "How many layers",
        "question": "How many?",
        "data": {"questions": 20, "tasks": list(TASKS), "seed": 0},
        "plans": plans,
        "pairs": [],
        "findings": [finding],
    }
