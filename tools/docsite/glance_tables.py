"""The docs' tables of accuracy on Glance, from the studies' result files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saccade.report.markdown import markdown
from saccade.report.text import amount, difference, interval, percent
from saccade.research.names import stem_of
from saccade.research.studies import outdated
from saccade.system.embedded import Embedded
from saccade.system.files import read_json

KINDS = {
    "plain": "baseline",
    "before": "before the decoder",
    "decoder": "in the decoder",
    "layers": "layers",
    "composed": "composed",
}
"""What methods of each kind reduce."""
BUDGET, FAMILY, TRAINED = "study_budget", "study_iso_flops", "skip-vision"
"""Result files."""


def load(path: Path) -> Any:
    """A result file; None if there is none."""
    return read_json(path) if path.is_file() else None


def missing(command: str) -> str:
    """What stands where a result file is missing."""
    return f"*No result file yet; `{command}` writes it.*"


def glance(results: Path) -> str:
    """Accuracy on Glance's suite, dense and under plans of as many layers and of as many FLOPs."""
    found = load(results / f"{BUDGET}.json")
    if found is None:
        return missing("saccade study budget --out benchmarks/results")
    head = ("plan", "layers", "accuracy", "against dense", "above blind", "FLOPs", "KV cache")
    dense = found["dense"]
    rows = [["dense", "0", interval(dense["mean"], "accuracy"), "", "100 %", "100 %", _kv(dense)]]
    rows += [_plan_row(entry) for entry in found["plans"] if entry["name"] in found["headline"]]
    note = (
        f"{dense['mean']['n']} held-out questions of {len(dense['tasks'])} tasks; 95 % intervals; blind: "
        f"{percent(dense['mean']['blind'])}; layers chosen on {found['calibration']['samples']} samples; "
        f"all budgets are in [the result file](benchmarks/results/{BUDGET}.json)."
    )
    return markdown(head, rows) + "\n\n" + note


def _kv(entry: Mapping[str, Any]) -> str:
    return amount(entry["cost"]["kv_bytes"])


def _plan_row(entry: Mapping[str, Any]) -> list[str]:
    mean = entry["mean"]
    return [
        entry["title"],
        str(entry["budget"]),
        interval(mean, "accuracy"),
        difference(mean),
        interval(mean, "retention_above_blind"),
        percent(entry["cost"]["flops_ratio"]),
        _kv(entry),
    ]


def glance_family(results: Path) -> str:
    """Every method at matched FLOPs on Glance, beside plain baselines."""
    found = load(results / f"{FAMILY}.json")
    if found is None:
        return missing("saccade study iso-flops --out benchmarks/results")
    dense = found["dense"]
    rows = [["dense", "", interval(dense["mean"], "accuracy"), "", "100 %", "100 %", "100 %"]]
    absent: dict[tuple[str, str], list[str]] = {}
    for row in found["plans"]:
        if row["positions"] != "authors":
            continue
        if not row.get("mean"):
            at = "" if row["asked"] is None else percent(row["asked"], 0)
            absent.setdefault((row["title"], _without_ratio(row["reason"], row["asked"])), []).append(at)
            continue
        mean, cost = row["mean"], row["cost"]
        rows.append(
            [
                f"{row['title']} `{row['spec']}`",
                KINDS[row["kind"]],
                interval(mean, "accuracy"),
                difference(mean),
                interval(mean, "retention_above_blind"),
                percent(cost["flops_ratio"]),
                percent(cost["kv_ratio"]),
            ]
        )
    head = ("plan", "reduces", "accuracy", "against dense", "above blind", "FLOPs", "KV cache")
    ratios = ", ".join(percent(ratio, 0) for ratio in found["ratios"])
    note = (
        f"{dense['mean']['n']} held-out questions of {len(dense['tasks'])} tasks; 95 % intervals; blind: "
        f"{percent(dense['mean']['blind'])}; methods are set to {ratios} of the dense FLOPs by the mildest "
        "setting that reaches it; FLOPs and KV are of the rows that really ran; layers chosen on "
        f"{found['calibration']['samples']} samples. Stages that papers give for 32 layers stand at the same "
        f"depth of {found['model']['layers']}, FastV's and DART's not before layer 2."
    )
    told = [f"- {title} at {', '.join(at)}: {reason}" for (title, reason), at in absent.items()]
    parts = [markdown(head, rows, right_from=2), note, outdated.told(found), *_absent(told)]
    return "\n\n".join(filter(None, parts))


def _absent(lines: list[str]) -> list[str]:
    return ["Not in the table:", "\n".join(lines)] if lines else []


def _without_ratio(reason: str, asked: float | None) -> str:
    """A reason that lines of one method share, whatever ratio they asked for."""
    if asked is None:
        return reason
    text = reason.replace(f"(flops={asked})", "").replace(f"(flops={asked},", "(")
    return text.replace(f" a FLOPs ratio of {asked:g} ", " it ")


def glance_positions(results: Path) -> str:
    """What closing up positions costs on Glance, method by method."""
    found = load(results / f"{FAMILY}.json")
    if found is None:
        return missing("saccade study iso-flops --out benchmarks/results")
    plans = {entry["name"]: entry for entry in found["plans"]}
    rows = []
    for row in found["positions"]:
        kept, closed = plans[row["first"]], plans[row["second"]]
        rows.append(
            [
                closed["name"],
                interval(closed["mean"], "accuracy"),
                interval(kept["mean"], "accuracy"),
                difference(row),
                percent(kept["cost"]["flops_ratio"]),
            ]
        )
    head = ("plan", "closed up, as the authors do", "kept", "kept minus closed up", "FLOPs")
    dense = found["dense"]["mean"]
    told = f"{dense['n']} questions; dense {interval(dense, 'accuracy')}, blind {percent(dense['blind'])}."
    return "\n\n".join(filter(None, [markdown(head, rows), told, outdated.told(found)]))


def trained(model: Embedded, results: Path) -> str:
    """What Skip-Vision's parts and their rivals keep and save, trained from one dense start."""
    stem = stem_of(TRAINED, model)
    found = load(results / f"{stem}.json")
    if found is None:
        return missing(f"saccade study {TRAINED} {model.name} --out benchmarks/results")
    rows = []
    for entry in found["plans"]:
        mean, cost, times = entry["mean"], entry["cost"], entry.get("times")
        rows.append(
            [
                entry["name"],
                str(len(entry["seeds"])),
                interval(mean, "accuracy"),
                difference(mean) if entry is not found["plans"][0] else "",
                percent(entry["visual_ratio_paper"]),
                percent(cost["flops_ratio"]),
                percent(cost["kv_ratio"]),
                percent(times["train_s"]["ratio"]) if times else "",
            ]
        )
    head = ("trained model", "seeds", "accuracy", "against dense", "visual FLOPs", "FLOPs", "KV cache",
            "training step")  # fmt: skip
    recipe, dense, data = found["recipe"], found["dense"], found["data"]
    told = (
        f"{data['questions']} held-out questions of {len(dense['tasks'])} tasks; 95 % intervals; blind: "
        f"{percent(dense['mean']['blind'])}; {recipe['steps']} steps of {recipe['batch']} pictures from one "
        "dense start, unless said. Visual FLOPs: by the paper's convention; all but accuracy as shares of "
        f"the dense row's. More in [the study's page](benchmarks/results/{stem}.md)."
    )
    return "\n\n".join(filter(None, [markdown(head, rows), told, outdated.told(found)]))
