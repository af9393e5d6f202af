"""``saccade explain``: what a plan kept, merged and dropped at every stage, over the image itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saccade.cli import common
from saccade.cli.apart import check_apart
from saccade.cli.opening import opened, opens
from saccade.opening.settings import Opening

if TYPE_CHECKING:
    from saccade.report.explain import Explanation


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("explain")(opens(explain))


def explain(
    image: Annotated[
        Path, typer.Argument(metavar="IMAGE", help="An image file, a video file or a folder of frames.")
    ],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What to ask about it.")],
    plan: Annotated[
        str, typer.Option(metavar="PLAN", help="A plan file or a spec such as 'fastv(layer=3,keep=0.5)'.")
    ],
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="A model folder, a hub id, or an embedded model.")
    ] = "glance",
    more: Annotated[
        list[Path] | None,
        typer.Option("--image", metavar="PATH", help="A further image; repeat for several, in order."),
    ] = None,
    video: common.Videos = None,
    frames: common.Frames = None,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="A folder, or a name that ends in .png or .html; repeatable.  [default: saccade-explain]",
        ),
    ] = None,
    max_new_tokens: Annotated[int, common.count("Longest answer.", common.MOST_TOKENS)] = 64,
    force: common.Force = False,
    strict: common.Strict = False,
    threads: common.Threads = None,
    opening: Opening = Opening(),
    json: common.Json = None,
) -> None:
    """Show what a plan keeps, merges and drops of an image or a video at every stage, and what it answers.

    Example: saccade explain scene.png "how many red objects ?" --plan "fastv(layer=3,keep=0.5)"
    """
    out = common.Output(json)
    if not question.strip():
        raise ValueError("the question is empty")
    from saccade.inputs.pictures import open_picture
    from saccade.inputs.videos import is_video

    paths, films = [*(more or [])], [*(video or [])]
    (films if is_video(image) else paths).insert(0, image)
    images = [open_picture(path) for path in paths]
    videos = common.open_videos(films, frames)
    common.check_names(model, [plan], opening=opening)
    from saccade.measure import record
    from saccade.plans.plan import Plan
    from saccade.report import explain as report

    files = [file for path in output or [Path("saccade-explain")] for file in report.targets(path)]
    # A folder's files have their names only now.
    check_apart({"output": files, "image": paths, "video": films, "plan": plan})
    for file in files:
        common.check_writable(file)
        common.hold(file)
    wanted = Plan.of(plan)
    where = opening.torch_device()
    common.use_threads(threads)
    loaded = opened(model, opening)
    with common.progress() as bar:
        task = bar.add_task("answering and drawing", total=1 + len(files))
        shown = report.explain(
            loaded,
            images,
            question,
            wanted,
            max_new_tokens=max_new_tokens,
            force=force,
            strict=strict,
            videos=videos,
        )
        bar.advance(task)
        for file in files:
            shown.write(file)
            bar.advance(task)
    _show(out, shown)
    common.say_uncalibrated(out, wanted)
    out.line("".join(f"\nwrote {file}" for file in files).strip())
    given = {"files": [str(path) for path in [*paths, *films]], "pictures": [str(file) for file in files]}
    out.finish(shown.to_dict() | given | {"provenance": record(model=loaded.model, device=where)})


def _show(out: common.Output, shown: Explanation) -> None:
    from rich.table import Table

    from saccade.report.explain import words

    view = Table("stage", "by", *(["image"] if len(shown.views) > 1 else []))
    columns = ("found", "left", "patches_kept", "patches_merged", "patches_dropped")
    for name in ("rows found", "rows left", "patches kept", "merged", "dropped"):
        view.add_column(name, justify="right")
    for moment in shown.moments:
        for number, left in enumerate(moment.images, start=1):
            which: list[Any] = [str(number)] if len(shown.views) > 1 else []
            numbers = [str(left.counts[column]) for column in columns]
            view.add_row(moment.where, moment.method, *which, *numbers)
    out.table(view)
    out.line(f"stock: {words.said(shown.answers['dense'])}")
    out.line(f"plan:  {words.said(shown.answers['planned'])}{words.verdict(shown)}")
    out.line(f"{words.summary(shown)}; {words.skipping(shown)}")
