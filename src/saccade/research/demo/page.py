"""The self-contained HTML report of a study: images inlined, no script, nothing fetched (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from saccade.report import pieces, wording
from saccade.report.pieces import section
from saccade.report.style import KIND_COLORS, color, paint
from saccade.report.text import above_blind, amount, beside_blind, duration, interval, percent, points

Entry = Mapping[str, Any]


def render(study: Entry, pictures: Mapping[str, bytes]) -> str:
    """The page of a study.

    Args:
        study: What ``saccade.research.demo.run`` found, as written to ``demo.json``.
        pictures: PNG bytes by name: ``layers``, ``retention``, ``flops``, ``measured``, ``question-N``.
    """
    title = f"Saccade on {study['model']['name']}"
    measured = wording.MEASURED.format(**study["timing"])
    body = "\n".join(
        (
            _hero(study),
            section("The comparison", _comparison(study)),
            section("Which layers look", _figure(pictures, "layers", wording.LAYERS)),
            section("Skipping more and more", _figure(pictures, "retention", wording.RETENTION)),
            section("Accuracy for FLOPs", _figure(pictures, "flops", wording.FLOPS)),
            section("Did the time follow", _figure(pictures, "measured", measured)),
            section("Task by task", _tasks(study)),
            section("Questions, up close", _questions(study, pictures)),
            section("How far to trust this", _limits(study)),
            section("On your own model", _commands(study)),
            _provenance(study),
        )
    )
    return pieces.document(title, body)


def render_family(study: Entry, picture: bytes) -> str:
    """The page of a comparison of all methods at matched FLOPs.

    Args:
        study: What ``saccade.research.demo.family_study`` found, as written to ``family.json``.
        picture: PNG bytes of its plot.
    """
    model, data, dense = study["model"], study["data"], study["dense"]["mean"]
    lead = wording.FAMILY_LEAD.format(
        layers=model["layers"],
        visual_tokens=model["visual_tokens"],
        tasks=len(data["tasks"]),
        ratios=", ".join(f"{100 * ratio:.0f}" for ratio in study["ratios"]),
        duration=duration(study["seconds"]["total"]),
        dense=interval(dense, "accuracy"),
        blind=percent(dense["blind"]),
        **{key: data[key] for key in ("calibration_samples", "questions", "per_task")},
    )
    rows = [_family_row(row) for row in study["rows"] if row.get("mean")]
    table = pieces.table(wording.FAMILY_COLUMNS, rows)
    missing = "".join(
        f"<li><b>{escape(row['name'])}</b>: {escape(row['reason'])}</li>"
        for row in study["rows"]
        if not row.get("mean")
    )
    limits = "".join(f"<li>{text.format(**data)}</li>" for text in wording.FAMILY_LIMITS)
    body = "\n".join(
        (
            pieces.header("saccade demo --methods all", "Every method, as many FLOPs", lead),
            section("Accuracy for FLOPs", _figure({"family": picture}, "family", wording.FAMILY_FIGURE)),
            section("The comparison", table),
            section("What is not in the table", f"<ul>{missing or '<li>nothing</li>'}</ul>"),
            section("How far to trust this", f"<ul>{limits}</ul>"),
            _provenance(study),
        )
    )
    return pieces.document(f"All methods on {model['name']}", body)


def _family_row(row: Entry) -> list[str]:
    mean, cost = row["mean"], row["cost"]
    low, high = points(mean["difference_low"]), points(mean["difference_high"])
    name = f"{pieces.dot(paint(KIND_COLORS[row['kind']]))}{escape(row['name'])}"
    return [
        f'<span title="{escape(row["spec"])}">{name}</span>',
        interval(mean, "accuracy"),
        f"{points(mean['difference'])} ({low} to {high})",
        interval(mean, "retention_above_blind"),
        percent(cost["flops_ratio"]),
        percent(cost["kv_ratio"]),
    ]


def _hero(study: Entry) -> str:
    model, data, best = study["model"], study["data"], _find(study, study["headline"]["main"])
    dense = study["dense"]["mean"]
    cards = (
        ("dense accuracy", percent(dense["accuracy"]), f"95 %: {_limits_of(dense, '')}"),
        ("blind accuracy", percent(dense["blind"]), "grey image instead of the picture"),
        (f"{best['title']}, {best['budget']} of {model['layers']} layers",
         percent(best["mean"]["retention_above_blind"]),
         f"of what the picture adds is kept; 95 %: {_limits_of(best['mean'], 'retention_above_blind_')}"),
        ("its prefill", percent(best["cost"]["flops_ratio"], 0), _time_note(best)),
    )  # fmt: skip
    lead = wording.LEAD.format(
        parameters=model["parameters"] / 1e6,
        layers=model["layers"],
        visual_tokens=model["visual_tokens"],
        tasks=len(data["tasks"]),
        duration=duration(study["seconds"]["total"]),
        **{key: data[key] for key in ("calibration_samples", "questions", "per_task")},
    )
    title = f"How much of its looking does {model['name']} need?"
    return pieces.header("saccade demo", title, lead, pieces.cards(cards))


def _comparison(study: Entry) -> str:
    layers = study["model"]["layers"]
    parts = []
    for key, title, note in wording.TABLES:
        rows = [_row(_find(study, name), layers) for name in study["headline"][key]]
        table = pieces.table(wording.COLUMNS, [_dense_row(study), *rows])
        parts.append(f"<h3>{title}</h3><p>{note}</p>{table}")
    told = beside_blind(study["dense"]["mean"], study["dense"].get("tasks"))
    return "".join(parts) + (f"<p class='note'>{escape(told)}</p>" if told else "")


def _dense_row(study: Entry) -> list[str]:
    mean, kv = study["dense"]["mean"], amount(study["dense"]["cost"]["kv_bytes"])
    return [
        f"{_dot('dense')}dense",
        "0",
        interval(mean, "accuracy"),
        "",
        above_blind(mean, "100 %"),
        "100 %",
        "100 %",
        kv,
    ]


def _row(entry: Entry, layers: int) -> list[str]:
    mean, cost, timing = entry["mean"], entry["cost"], entry.get("timing")
    low, high = points(mean["difference_low"]), points(mean["difference_high"])
    return [
        f"{_dot(entry['method'])}{escape(entry['title'])}",
        f'<span title="{escape(entry["spec"])}">{entry["budget"]} of {layers}</span>',
        interval(mean, "accuracy"),
        f"{points(mean['difference'])} ({low} to {high})",
        interval(mean, "retention_above_blind"),
        percent(cost["flops_ratio"]),
        percent(timing["ratio"]) if timing else "",
        amount(cost["kv_bytes"]),
    ]


def _tasks(study: Entry) -> str:
    entries = [_find(study, name) for name in study["headline"]["layers"]]
    head = ["task", "blind", "dense", *(f"{_dot(e['method'])}{escape(e['title'])}" for e in entries)]
    rows = []
    for task in study["data"]["tasks"]:
        dense = study["dense"]["tasks"][task]
        cells = [_heat(entry["tasks"][task]) for entry in entries]
        rows.append([escape(task), percent(dense["blind"], 0), interval(dense, "accuracy", 0), *cells])
    note = wording.TASKS.format(
        budget=entries[0]["budget"], layers=study["model"]["layers"], per_task=study["data"]["per_task"]
    )
    return f"<p>{note}</p>{pieces.table(head, rows)}"


def _heat(score: Entry) -> str:
    loss = max(0.0, -score["difference"])
    shade = f"background:rgba(var(--loss),{min(0.5, loss * 0.8):.2f})" if loss else ""
    change = f"<small>{round(100 * score['difference']):+d}</small>"
    return f'<td style="{shade}">{percent(score["accuracy"], 0)} {change}</td>'


def _questions(study: Entry, pictures: Mapping[str, bytes]) -> str:
    shown = (
        _figure(pictures, f"question-{number}", escape(question["caption"]))
        for number, question in enumerate(study["questions"], start=1)
    )
    return f"<p>{wording.QUESTIONS}</p>" + "".join(shown)


def _limits(study: Entry) -> str:
    notes = (note.format(**study["data"]) for note in wording.LIMITS)
    return "<ul>" + "".join(f"<li>{note}</li>" for note in notes) + "</ul>"


def _commands(study: Entry) -> str:
    return "".join(f"<p>{escape(what)}</p>{pieces.command(command)}" for what, command in study["commands"])


def _provenance(study: Entry) -> str:
    return pieces.details("Provenance", pieces.facts(study["provenance"]))


def _figure(pictures: Mapping[str, bytes], name: str, caption: str) -> str:
    return pieces.png(pictures[name], name, caption)


def _find(study: Entry, name: str) -> Entry:
    found: Sequence[Entry] = [entry for entry in study["plans"] if entry["name"] == name]
    if not found:
        raise ValueError(f"the study has no plan named {name!r}")
    return found[0]


def _limits_of(entry: Entry, prefix: str) -> str:
    low, high = entry[f"{prefix}low"], entry[f"{prefix}high"]
    return "not defined" if low is None else f"{100 * low:.1f} to {100 * high:.1f}"


def _time_note(entry: Entry) -> str:
    timing = entry.get("timing")
    return "of the dense FLOPs" + (f"; {percent(timing['ratio'], 0)} of the time, measured" if timing else "")


def _dot(method: str) -> str:
    return pieces.dot(paint(color(method)))
