"""The files of a tuning: the plan, the front, the result, and the picture."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from saccade.plans.plan import Plan
from saccade.system.files import write_bytes, write_json
from saccade.tuning.result import Candidate, Tuned, Unsure
from saccade.tuning.settings import COSTS, Settings


def plan_of(
    one: Candidate,
    settings: Settings,
    facts: Mapping[str, Any],
    unsure: Unsure | None = None,
    whole: Mapping[str, float] | None = None,
) -> Plan:
    """A plan with its provenance: what was asked and searched, what that predicts, what held-out samples say.

    Args:
        one: The plan as it was judged.
        settings: What was asked.
        facts: What all plans of a tuning share: the model, the weights, the search, where it ran.
        unsure: The guard at run time, where it has one.
        whole: Its whole bill, where that is known.
    """
    search, origin = facts["search"], facts["origin"]
    asked = {name: getattr(settings, name) for name in ("flops", "time", "kv", "max_loss", "on")}
    verdict = one.verdict
    tuned = {
        "search": dict(search),
        "predicted": {
            "cost": search["cost"],
            "ratio": one.tried.ratio,
            "kl": one.tried.loss.mean,
            "agreement": one.tried.loss.agreement,
            "samples": len(one.tried.loss.kl),
        },
        "held_out": {
            "ratio": one.ratio,
            "samples": search["held_out_samples"],
            "loss": verdict.loss,
            "bound": verdict.bound,
            "candidates": facts["candidates"],
            "tasks": {task: list(pair) for task, pair in verdict.tasks.items()},
            **({} if verdict.within is None else {"within": verdict.within}),
            **(whole or {}),
        },
        **({} if unsure is None else {"unsure": asdict(unsure)}),
    }
    kept = ("date", "versions", "source", "device", "dtype")
    return Plan(
        one.plan.methods,
        dict(facts["model"]),
        {
            "asked": {name: value for name, value in asked.items() if value is not None},
            "answer_tokens": settings.tokens,
            "samples": search["samples"],
            "tasks": search["tasks"],
            "draw": "stratified",
            "seed": settings.seed,
            "data_hash": search["data_hash"],
            "weights_hash": facts["weights_hash"],
            **{key: origin[key] for key in kept if origin.get(key) is not None},
            "tuned": tuned,
        },
    )


def names(out: Path) -> dict[str, Path]:
    """Where the files of a tuning go, beside its plan."""
    stem = out.with_suffix("")
    return {
        "plan": out,
        "result": stem.with_name(stem.name + ".tune.json"),
        "picture": stem.with_name(stem.name + ".tune.png"),
        "front": stem.with_name(stem.name + ".front"),
    }


_NAME = re.compile(rf"({'|'.join(COSTS)})-[0-9.]+\.json")


def file_names(found: Tuned) -> list[str]:
    """Names of the plan files of a front, by cost in percent, in as many digits as tell them apart."""
    ratios = [100 * one.tried.ratio for one in found.candidates]
    for digits in range(1, 15):
        names = [f"{found.settings.cost}-{ratio:0{digits + 3}.{digits}f}.json" for ratio in ratios]
        if len(set(names)) == len(names):
            break
    return names


def write(found: Tuned, out: Path) -> Tuned:
    """Writes the plan (where there is one), the front, the result and the picture.

    Returns:
        The same with the files that were written.
    """
    from saccade.report.tuned import picture

    places = names(out)
    data = {key: value for key, value in found.data.items() if key != "facts"}
    front: dict[str, Path] = {}
    files = file_names(found)
    if places["front"].is_dir():
        # What a former tuning left there is no part of this front; what is no plan of one is not ours.
        for old in places["front"].glob("*.json"):
            if _NAME.fullmatch(old.name) and old.name not in files:
                old.unlink()
    for one, name in zip(found.candidates, files, strict=True):
        line = next(line for line in data["tune"]["front"] if line["spec"] == one.plan.spec)
        whole = {key: line[key] for key in ("whole_ratio", "tower_share") if key in line}
        plan = plan_of(one, found.settings, found.data["facts"], whole=whole)
        front[one.plan.spec] = plan.save(places["front"] / name)
    if found.plan is not None:
        found.plan.save(out)
    for line in data["tune"]["front"]:
        line["file"] = str(Path(places["front"].name) / front[line["spec"]].name)
    write_json(places["result"], data)
    write_bytes(places["picture"], picture(data))
    written = {"result": places["result"], "picture": places["picture"], "front": places["front"]}
    return found.written(written if found.plan is None else {"plan": out, **written})
