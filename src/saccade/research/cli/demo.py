"""``saccade demo``: the embedded model calibrated, skipped, measured and explained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saccade.cli import accuracy, common
from saccade.system.embedded import EMBEDDED

if TYPE_CHECKING:
    from saccade.research.demo import DemoFindings

ANSWERS = "answers.partial.jsonl"
ASKED = {"gaze": 6, "glance": 25}
"""Questions of each task that fit into minutes."""
TOLD = ", ".join(f"{ASKED[name]} for {name}" for name in EMBEDDED)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("demo")(demo)


def demo(
    embedded: Annotated[
        str, typer.Argument(metavar="MODEL", help=f"An embedded model: {' or '.join(EMBEDDED)}.")
    ] = "gaze",
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for figures, report, plan and data.")
    ] = Path("saccade-demo"),
    samples: Annotated[
        int | None,
        typer.Option(min=1, max=2000, help=f"Held-out questions of each task; by default {TOLD}."),
    ] = None,
    methods: Annotated[
        str,
        typer.Option(help="kin: V-Skip and its kin, at many budgets; all: every method at matched FLOPs."),
    ] = "kin",
    seed: common.Seed = 0,
    threads: common.Threads = None,
    json: common.Json = None,
) -> None:
    """Calibrate, skip, evaluate and time an embedded model; about two minutes on two cores.

    Writes DIR/report.html (open it in a browser), figures, the calibrated plan and all numbers. With
    --methods all every method runs at 70, 50 and 30 % of the FLOPs beside plain baselines, and nothing is
    timed; about four minutes on two cores. Without --threads, one thread and as many as there are cores are
    tried on the first questions, and the faster is taken.

    Example: saccade demo --methods all --samples 10 --out family
    """
    output = common.Output(json)
    if embedded not in EMBEDDED:
        raise ValueError(
            f"the demo is of an embedded model, {' or '.join(EMBEDDED)}, got {embedded!r}; for one of "
            "your own: saccade tune, saccade eval"
        )
    if methods not in ("kin", "all"):
        raise ValueError(f"--methods is kin or all, got {methods!r}")
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; give a folder")
    common.check_writable(out / "report.html")
    common.hold(out, folder=True)
    if seed >= 1 << 16:
        raise ValueError(f"--seed is at most {(1 << 16) - 1} for the embedded suite, got {seed}")
    console = common.progress_console()

    def note(text: str) -> None:
        console.print(f"· {text}", highlight=False)

    note("loading the embedded model and drawing scenes")
    from saccade import models
    from saccade.glance import suite
    from saccade.research.demo import family_study, study, write, write_family

    scale = EMBEDDED[embedded].scale
    loaded = models.load(embedded, device="cpu")
    calibration = suite.samples(n=4, split="calibration", seed=seed, scale=scale)
    questions = suite.samples(n=samples or ASKED[embedded], split="test", seed=seed, scale=scale)
    journal = common.keep(out / ANSWERS)
    hint = f"repeat the command to go on with the answers kept in {out}"
    from saccade.research.demo.threads import fastest_threads

    with common.resumable(hint), fastest_threads(loaded, questions[:8], threads), common.progress() as bar:
        task = bar.add_task("calibrating", total=None)

        def step(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, visible=done < total)

        run = family_study if methods == "all" else study
        found: Any = run(loaded, calibration, questions, seed=seed, ledger=journal, note=note, step=step)
    if methods == "all":
        paths = write_family(found, out)
        output.note(journal.finish())
        show_family(output, found, paths)
        output.finish(found)
        return
    paths = write(found, out)
    output.note(journal.finish())
    show(output, found, paths)
    output.finish(found.data)


def show(output: common.Output, found: DemoFindings, paths: dict[str, Path]) -> None:
    """Prints the study: a table at equal layers, one at equal FLOPs, V-Skip's budgets, and what next."""
    from saccade.report.text import beside_blind, duration
    from saccade.research.demo.write import commands

    data = found.data
    entries = {entry["name"]: entry for entry in data["plans"]}
    main, depth = entries[data["headline"]["main"]], data["model"]["layers"]
    titles = {
        "layers": f"as many layers: {main['budget']} of {depth}",
        "flops": f"as many FLOPs: nearest to V-Skip's {100 * main['cost']['flops_ratio']:.0f} %",
    }
    for key, title in titles.items():
        output.table(_table(title, data, [entries[name] for name in data["headline"][key]]))
    output.table(_table("V-Skip, more and more", data, [e for e in data["plans"] if e["method"] == "vskip"]))
    if data["tuned"]:
        share = f"{100 * data['tuned']['share']:.0f} %"
        output.table(_table(f"{share} of the FLOPs: tuned, and single methods", data, data["tuned"]["plans"]))
        output.line(f"{data['tuned']['plans'][0]['title']}: {data['tuned']['plans'][0]['spec']}\n")
    if told := beside_blind(data["dense"]["mean"], data["dense"].get("tasks")):
        output.line(told)
    asked = data["data"]
    tasks, took = len(asked["tasks"]), duration(data["seconds"]["total"])
    output.line(
        f"{asked['questions']} held-out questions, {asked['per_task']} of each of {tasks} tasks; "
        f"layers chosen on {asked['calibration_samples']} samples; took {took}.\n"
        "In brackets 95 % intervals (of times: quartiles); differences inside them are noise.\n"
        "above blind = (accuracy - blind) / (dense - blind)."
    )
    output.line(f"\nreport  {paths['report']}\nplan    {paths['plan']}\nnumbers {paths['data']}\n\nnext:")
    for what, command in commands(paths["report"].parent, data["model"]["called"]):
        output.line(f"  # {what}")
        output.line("\n".join(f"  {line}" for line in command.split("\n")))


def show_family(output: common.Output, data: dict[str, Any], paths: dict[str, Path]) -> None:
    """Prints every method at matched FLOPs, and what could not run."""
    from saccade.evaluation.matched import KINDS
    from saccade.report.text import duration

    rows = data["rows"]
    sections = [[row for row in rows if row["kind"] == kind] for kind in KINDS]
    accuracy.beside_dense(output, "every method, as many FLOPs", data["dense"]["mean"], sections)
    asked = data["data"]
    output.line(
        f"{asked['questions']} held-out questions, {asked['per_task']} of each of {len(asked['tasks'])} "
        f"tasks; took {duration(data['seconds']['total'])}. In brackets 95 % intervals; differences inside "
        "them are noise.\n"
        f"\nreport  {paths['report']}\nplot    {paths['picture']}\nnumbers {paths['data']}\n\nnext:\n"
        "  # One of them in another evaluation:\n"
        f"  saccade eval {data['model']['called']} --plan 'pyramiddrop(flops=0.5)' "
        "--plan 'random(flops=0.5)' --task count"
    )


def _table(title: str, data: dict[str, Any], entries: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    from saccade.report.text import above_blind, amount, interval, kept, no_better, percent

    view = Table(title=title, title_justify="left", title_style="bold")
    view.add_column("plan")
    for name in ("accuracy", "above blind", "FLOPs", "prefill time", "KV per prompt"):
        view.add_column(name, justify="right")
    dense = data["dense"]
    blind = percent(dense["mean"]["blind"])
    size = amount(dense["cost"]["kv_bytes"])
    view.add_row(
        "dense", interval(dense["mean"], "accuracy"), above_blind(dense["mean"]), "100.0 %", "100.0 %", size
    )
    for entry in entries:
        timing = entry.get("timing")
        view.add_row(
            entry["name"],
            interval(entry["mean"], "accuracy"),
            kept(entry["mean"], "retention_above_blind", dense["mean"]),
            percent(entry["cost"]["flops_ratio"]),
            f"{percent(timing['ratio'])} ({100 * timing['low']:.0f} to {100 * timing['high']:.0f})"
            if timing
            else "",
            amount(entry["cost"]["kv_bytes"]),
        )
    view.add_row("blind", blind, "" if no_better(dense["mean"]) else "0.0 %", "", "", "")
    return view
