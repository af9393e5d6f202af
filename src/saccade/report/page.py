"""The self-contained HTML report of a study: images inlined, no script, nothing fetched (pure)."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from saccade.report import wording
from saccade.report.style import KIND_COLORS, color
from saccade.report.text import amount, duration, interval, percent, points

Entry = Mapping[str, Any]


def render(study: Entry, pictures: Mapping[str, bytes]) -> str:
    """The page of a study.

    Args:
        study: What ``saccade.demo.run`` found, as written to ``demo.json``.
        pictures: PNG bytes by name: ``layers``, ``retention``, ``flops``, ``measured``, ``question-N``.
    """
    title = f"Saccade on {study['model']['name']}"
    measured = wording.MEASURED.format(**study["timing"])
    body = "\n".join(
        (
            _hero(study),
            _section("The comparison", _comparison(study)),
            _section("Which layers look", _figure(pictures, "layers", wording.LAYERS)),
            _section("Skipping more and more", _figure(pictures, "retention", wording.RETENTION)),
            _section("Accuracy for FLOPs", _figure(pictures, "flops", wording.FLOPS)),
            _section("Did the time follow", _figure(pictures, "measured", measured)),
            _section("Task by task", _tasks(study)),
            _section("Questions, up close", _questions(study, pictures)),
            _section("How far to trust this", _limits(study)),
            _section("On your own model", _commands(study)),
            _provenance(study),
        )
    )
    return _document(title, body)


def _document(title: str, body: str) -> str:
    css = files("saccade.report").joinpath("page.css").read_text(encoding="utf-8")
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{css}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        f"</body>\n</html>\n"
    )


def render_family(study: Entry, picture: bytes) -> str:
    """The page of a comparison of all methods at matched FLOPs.

    Args:
        study: What ``saccade.demo.family_study`` found, as written to ``family.json``.
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
    head = "".join(f"<th>{name}</th>" for name in wording.FAMILY_COLUMNS)
    rows = "".join(_family_row(row) for row in study["rows"] if row.get("mean"))
    table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    missing = "".join(
        f"<li><b>{escape(row['name'])}</b>: {escape(row['reason'])}</li>"
        for row in study["rows"]
        if not row.get("mean")
    )
    limits = "".join(f"<li>{text.format(**data)}</li>" for text in wording.FAMILY_LIMITS)
    body = "\n".join(
        (
            f'<header><p class="eyebrow">saccade demo --methods all</p><h1>Every method, as many FLOPs</h1>'
            f'<p class="lead">{lead}</p></header>',
            _section("Accuracy for FLOPs", _figure({"family": picture}, "family", wording.FAMILY_FIGURE)),
            _section("The comparison", table),
            _section("What is not in the table", f"<ul>{missing or '<li>nothing</li>'}</ul>"),
            _section("How far to trust this", f"<ul>{limits}</ul>"),
            _provenance(study),
        )
    )
    return _document(f"All methods on {model['name']}", body)


def _family_row(row: Entry) -> str:
    mean, cost = row["mean"], row["cost"]
    low, high = points(mean["difference_low"]), points(mean["difference_high"])
    cells = (
        interval(mean, "accuracy"),
        f"{points(mean['difference'])} ({low} to {high})",
        interval(mean, "retention_above_blind"),
        percent(cost["flops_ratio"]),
        percent(cost["kv_ratio"]),
    )
    name = f'<i style="background:{KIND_COLORS[row["kind"]]}"></i>{escape(row["name"])}'
    shown = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr><th><span title="{escape(row["spec"])}">{name}</span></th>{shown}</tr>'


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
    shown = "".join(
        f'<div class="card"><span>{escape(name)}</span><b>{value}</b><small>{escape(note)}</small></div>'
        for name, value, note in cards
    )
    lead = wording.LEAD.format(
        parameters=model["parameters"] / 1e6,
        layers=model["layers"],
        visual_tokens=model["visual_tokens"],
        tasks=len(data["tasks"]),
        duration=duration(study["seconds"]["total"]),
        **{key: data[key] for key in ("calibration_samples", "questions", "per_task")},
    )
    return (
        f'<header><p class="eyebrow">saccade demo</p>'
        f"<h1>How much of its looking does {escape(model['name'])} need?</h1>"
        f'<p class="lead">{lead}</p><div class="cards">{shown}</div></header>'
    )


def _comparison(study: Entry) -> str:
    layers = study["model"]["layers"]
    parts = []
    for key, title, note in wording.TABLES:
        rows = "".join(_row(_find(study, name), layers) for name in study["headline"][key])
        table = f"{_table_head()}{_dense_row(study)}{rows}</tbody></table></div>"
        parts.append(f"<h3>{title}</h3><p>{note}</p>{table}")
    return "".join(parts)


def _table_head() -> str:
    head = "".join(f"<th>{name}</th>" for name in wording.COLUMNS)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>'


def _dense_row(study: Entry) -> str:
    mean, cost = study["dense"]["mean"], study["dense"]["cost"]
    cells = ("0", interval(mean, "accuracy"), "", "100 %", "100 %", "100 %", amount(cost["kv_bytes"]))
    return f"<tr><th>{_dot('dense')}dense</th>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _row(entry: Entry, layers: int) -> str:
    mean, cost, timing = entry["mean"], entry["cost"], entry.get("timing")
    low, high = points(mean["difference_low"]), points(mean["difference_high"])
    cells = (
        f'<span title="{escape(entry["spec"])}">{entry["budget"]} of {layers}</span>',
        interval(mean, "accuracy"),
        f"{points(mean['difference'])} ({low} to {high})",
        interval(mean, "retention_above_blind"),
        percent(cost["flops_ratio"]),
        percent(timing["ratio"]) if timing else "",
        amount(cost["kv_bytes"]),
    )
    name = f"{_dot(entry['method'])}{escape(entry['title'])}"
    return f"<tr><th>{name}</th>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _tasks(study: Entry) -> str:
    entries = [_find(study, name) for name in study["headline"]["layers"]]
    head = "".join(f"<th>{_dot(e['method'])}{escape(e['title'])}</th>" for e in entries)
    rows = []
    for task in study["data"]["tasks"]:
        dense = study["dense"]["tasks"][task]
        cells = "".join(_heat(entry["tasks"][task]) for entry in entries)
        rows.append(
            f"<tr><th>{escape(task)}</th><td>{percent(dense['blind'], 0)}</td>"
            f"<td>{interval(dense, 'accuracy', 0)}</td>{cells}</tr>"
        )
    note = wording.TASKS.format(
        budget=entries[0]["budget"], layers=study["model"]["layers"], per_task=study["data"]["per_task"]
    )
    head = f"<thead><tr><th>task</th><th>blind</th><th>dense</th>{head}</tr></thead>"
    return f'<p>{note}</p><div class="scroll"><table>{head}<tbody>{"".join(rows)}</tbody></table></div>'


def _heat(score: Entry) -> str:
    loss = max(0.0, -score["difference"])
    shade = f"background:rgba(179,38,30,{min(0.5, loss * 0.8):.2f})" if loss else ""
    change = f"<small>{100 * score['difference']:+.0f}</small>"
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
    return "".join(
        f"<p>{escape(what)}</p><pre><code>{escape(command)}</code></pre>"
        for what, command in study["commands"]
    )


def _provenance(study: Entry) -> str:
    rows = "".join(
        f"<tr><th>{escape(str(key))}</th><td>{escape(_plain(value))}</td></tr>"
        for key, value in study["provenance"].items()
    )
    return f'<details><summary>Provenance</summary><div class="scroll"><table>{rows}</table></div></details>'


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    return ", ".join(map(_plain, value)) if isinstance(value, list | tuple) else str(value)


def _section(title: str, inner: str) -> str:
    return f"<section><h2>{title}</h2>{inner}</section>"


def _figure(pictures: Mapping[str, bytes], name: str, caption: str) -> str:
    data = base64.b64encode(pictures[name]).decode()
    return (
        f'<figure><img alt="{escape(name)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


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
    return f'<i style="background:{color(method)}"></i>'
