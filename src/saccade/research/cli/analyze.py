"""``saccade analyze``: what FFN and attention do to visual rows, and how well theory bounds skipping them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saccade.cli import common
from saccade.cli.calibrate import read_pool
from saccade.cli.opening import opens, words
from saccade.opening.settings import Opening
from saccade.system.embedded import suite_of

if TYPE_CHECKING:
    from saccade.research.analysis import Analysis

SAMPLES = 8


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("analyze")(opens(analyze))


def analyze(
    model: common.Model = "glance",
    plan: common.Plan = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=common.MOST_SAMPLES,
            help=f"How many samples to draw; {SAMPLES}, or all of a shorter --data, if omitted.",
        ),
    ] = None,
    task: common.Tasks = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Your own JSONL: image(s), question, optional task."),
    ] = None,
    what: Annotated[
        str | None,
        typer.Option(
            metavar="PARTS",
            help="Of ffn, attention, bounds; all if omitted, the bounds only where the plan skips an FFN.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where plots and data go.")] = Path(
        "saccade-analysis"
    ),
    seed: common.Seed = 0,
    force: common.Force = False,
    strict: common.Strict = False,
    threads: common.Threads = None,
    opening: Opening = Opening(),
    json: common.Json = None,
) -> None:
    """Measure what FFN and attention do to visual rows in every layer, as plots and data.

    With a plan that skips FFNs, its rows are told apart into retained and skipped, and the bounds of the
    theory stand beside the measured drift. An interrupted run goes on where it was when the command is
    repeated.

    Example: saccade analyze glance --plan 'ffn_skip(layers=0-11)' --samples 8 --out analysis
    """
    view = common.Output(json)
    common.check_names(model, [plan] if plan else [], [] if data else task or [], opening, [data])
    from saccade.calibration.options import CalibrationOptions
    from saccade.measure import record
    from saccade.plans.plan import Plan
    from saccade.research.analysis import study, write

    parts = study.read_parts(what)
    wanted = None if plan is None else Plan.of(plan)
    if out.exists() and not out.is_dir():
        raise ValueError(f"cannot write into {out}: it is a file; --out is a folder")
    common.check_writable(out / write.DATA)
    common.hold(out, folder=True)
    where = opening.torch_device()
    pool = read_pool(task or [], data, False, samples or SAMPLES, seed, suite_of(model))
    chosen = CalibrationOptions(num_samples=samples or min(SAMPLES, len(pool)), seed=seed).choose(pool)
    from saccade import models

    common.use_threads(threads)
    loaded = models.open_as(model, opening)
    journal = common.keep(common.partial_of(out / write.DATA))
    with (
        common.resumable("repeat the command to go on from the last finished sample"),
        common.progress() as bar,
    ):
        line = bar.add_task("analysing", total=len(chosen))
        found = study.analyze(
            loaded,
            chosen,
            wanted,
            parts=parts,
            force=force,
            strict=strict,
            checkpoint=journal,
            step=lambda done, total: bar.update(line, completed=done, total=total),
        )
    result = common.plain(found.data | {"provenance": record(model=loaded.model, device=where, seed=seed)})
    paths = write.write(found, result, out)
    view.note(journal.finish())
    show(view, found)
    view.line("".join(f"\nwrote {path}" for path in paths.values()).strip())
    view.line(f"next: {_next(model, data, found, loaded.shape.layers, words(opening))}")
    view.finish(result | {"files": {name: str(path) for name, path in paths.items()}})


def _next(model: str, data: Path | None, found: Analysis, layers: int, same: list[str]) -> str:
    plan = found.data["plan"]
    asked = common.given(("--data", data))
    if plan is not None:
        return common.command("eval", model, *common.given(("--plan", plan)), *asked, *same)
    skips = any(found.data.get("ffn", {}).get("groups", {}).get("skipped", {}).get("rows", []))
    if skips:
        return common.command("eval", model, *asked, *same)
    return common.command("analyze", model, "--plan", f"ffn_skip(layers=0-{layers - 1})", *asked, *same)


def show(view: common.Output, found: Analysis) -> None:
    """Prints what was found: layer by layer, then bound by bound."""
    data = found.data
    left = f", {data['without_image']} without an image left out" if data["without_image"] else ""
    view.line(f"{len(data['samples'])} samples of {', '.join(data['tasks'])}{left}; means over samples")
    if "ffn" in data or "attention" in data:
        view.table(_by_layer(data))
    if "bounds" in data:
        _show_bounds(view, data["bounds"])


def _by_layer(data: dict[str, Any]) -> Any:
    from rich.table import Table

    columns: dict[str, list[str]] = {}
    for name, group in data.get("ffn", {}).get("groups", {}).items():
        if any(group["rows"]):
            pairs = zip(group["p3"]["mean"], group["p3"]["median"], strict=True)
            columns[f"FFN / input (P3), {name}: mean, median"] = [
                "-" if mean is None else f"{mean:.3g}, {median:.3g}" for mean, median in pairs
            ]
    attention = data.get("attention", {})
    for name, title in (
        ("visual_to_visual", "attention: visual to visual"),
        ("change", "its change"),
        ("last_to_visual", "last row to visual"),
        ("vig", "VIG (nats)"),
    ):
        if name in attention:
            values = attention[name]["mean"]
            columns[title] = ["-" if value is None else f"{value:.3g}" for value in values]
    table = Table("layer")
    for title in columns:
        table.add_column(title, justify="right")
    for number, cells in enumerate(zip(*columns.values(), strict=True)):
        table.add_row(str(number), *cells)
    return table


def _show_bounds(view: common.Output, bounds: dict[str, Any]) -> None:
    from rich.table import Table

    from saccade.research.analysis.checks import in_words

    table = Table("bound", "form", "eq.", "compared with")
    for title in ("bound (median)", "measured (median)", "fails", "bound / measured", "tightest"):
        table.add_column(title, justify="right")
    for one in bounds["verdicts"]:
        ratios = one["looseness"] or (None, None, None)
        numbers = (one["value"], one["measured"], ratios[0], ratios[1])
        value, measured, middle, low = (in_words(number) for number in numbers)
        fails = f"{one['failures']} of {one['comparisons']}"
        table.add_row(
            one["says"], one["form"], one["source"], one["against"], value, measured, fails, middle, low
        )
    view.table(table)
    failing = [one for one in bounds["verdicts"] if one["failures"]]
    printed = sum(one["form"] == "printed" for one in failing)
    view.line(
        f"{printed} printed and {len(failing) - printed} corrected bounds fail; a printed one that "
        "holds here may fail on another model, for none of them is a theorem"
    )
