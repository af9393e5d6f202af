"""``saccade study``: the papers' studies, run again on a model, with one store of answers for all of them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

import typer

from saccade.cli import accuracy, common
from saccade.cli.opening import opens
from saccade.core.text import quoted
from saccade.opening.settings import Opening
from saccade.research.names import check_study, listed, stem_of
from saccade.system.embedded import EMBEDDED, of_result, suite_of, title_of

SAMPLES = 1000
POOL = 100


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("study")(opens(study))


def study(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A study; 'list' says which there are.")],
    model: common.Model = "glance",
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task", metavar="NAME", help="A task of the suite or of --data; repeatable; all if omitted."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Your own JSONL: image(s), question, answer, optional task."),
    ] = None,
    samples: Annotated[
        int, typer.Option(min=1, max=common.MOST_SAMPLES, help="Held-out questions of each task, at most.")
    ] = SAMPLES,
    pool: Annotated[
        int,
        typer.Option(
            min=1, max=common.MOST_SAMPLES, help="Calibration samples of each task to draw from, at most."
        ),
    ] = POOL,
    run: Annotated[
        Path, typer.Option("--run", metavar="FOLDER", help="Store of answers, shared by all studies.")
    ] = Path("runs/studies"),
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Folder for study_NAME.json, its pictures and its page.")
    ] = Path("study-results"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Of a study that trains: a few steps, to see that it runs.")
    ] = False,
    row: Annotated[
        list[str] | None,
        typer.Option(
            "--row",
            metavar="NAME",
            help="Of a study that trains: this row of it, beside the dense one; repeatable; all if omitted.",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=common.MOST_BATCH, help="Questions per batch.")] = 32,
    processes: Annotated[
        int,
        typer.Option(
            "--processes",
            "--workers",
            min=1,
            max=common.MOST_PROCESSES,
            help="Processes that share the work, this one among them, each with the model.",
        ),
    ] = 1,
    ray: common.Ray = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, max=common.MOST_TOKENS, help="Longest answer.")] = 24,
    seed: common.Seed = 0,
    threads: common.Threads = None,
    opening: Opening = Opening(),
    json: common.Json = None,
) -> None:
    """Runs one of the papers' studies again: tables with intervals, figures, findings.

    Answers are kept as they come, by model (weights, chat template, processor, Skip-Vision configuration),
    plan, questions and answer length: an interrupted study goes on where it was when the command is repeated,
    and studies share what they have in common. A verdict that rests on several comparisons is held against
    Holm's correction for them.

    Example: saccade study budget --samples 100 --task count --task word --out budget
    """
    output = common.Output(json)
    if name == "list":
        show_list(output)
        output.finish({"studies": {one.name: one.question for one in listed().values()}})
        return
    check_study(name)
    trains = listed()[name].trains
    if (quick or row) and not trains:
        option = "--quick" if quick else "--row"
        training = [one.name for one in listed().values() if one.trains]
        raise ValueError(
            f"{option} is for a study that trains ({', '.join(training)}); of {name} take fewer --samples or "
            "--task"
        )
    common.check_names(model, (), [] if data else task or [], opening, [data])
    for folder in (out, run):
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file; give a folder")
        common.check_writable(folder / "study.json")
    result_file = out / f"{stem_of(name, of_result(title_of(model)))}.json"
    common.hold(result_file)
    if not trains:
        _check_other(result_file, title_of(model))
    if ray is not None and trains:
        raise ValueError(f"study {name} trains, which processes of this machine share: no --ray")
    common.reach(ray, processes)
    where = opening.torch_device()
    # A study that trains shares its own threads out.
    common.use_threads(threads or (None if trains else common.shared_threads(processes, ray)))
    from saccade import models
    from saccade.helpers import helping
    from saccade.research.studies import STUDIES, Store, StudyBench, StudyQuestions
    from saccade.research.studies.run import run as run_study
    from saccade.research.studies.run import write

    chosen = STUDIES[name]
    tasks = tuple(task or ())
    questions = (
        StudyQuestions.of_suite(tasks, samples, pool, seed, suite_of(model))
        if data is None
        else StudyQuestions.of_file(data, tasks, samples, pool, seed)
    )
    console = common.progress_console()

    def note(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    if trains:
        from saccade.research.studies.trained.anew import put_beside
        from saccade.research.studies.trained.ask import Way

        if data is not None or model not in EMBEDDED:
            raise ValueError(
                f"study {name} trains an embedded model on its own suite: MODEL is "
                f"{' or '.join(EMBEDDED)}, and there is no --data"
            )
        if opening.but(device=None, dtype=None) != Opening():
            raise ValueError(
                f"study {name} opens the models that it trains: of these options --device and --dtype"
            )
        way = Way(processes, batch, max_new_tokens, str(where), opening.told().get("dtype"))
        result = _trained(model, questions, run, way, quick, row or (), note)
        if row:
            result = put_beside(_written(result_file), result)
    else:
        loaded = models.open_as(model, opening)
        with (
            common.resumable(f"repeat the command to go on with the answers kept in {run}"),
            common.progress() as bar,
            helping(loaded, processes, opening, ray=ray, say=note) as helpers,
        ):
            line = bar.add_task("preparing", total=None)

            def step(done: int, total: int) -> None:
                bar.update(line, description="scoring layers", completed=done, total=total)

            def progress(done: int, total: int) -> None:
                bar.update(line, description=f"study {name}: answers", completed=done, total=total)

            bench = StudyBench(loaded, questions, Store(run), max_new_tokens, note, step, helpers)
            result = run_study(chosen, bench, batch, progress)
    paths = write(chosen, result, out)
    show(output, result, paths)
    output.finish(result)


def _trained(
    model: str, questions: Any, run: Path, way: Any, quick: bool, rows: Collection[str], note: Any
) -> dict[str, Any]:
    from saccade.research.studies import Store
    from saccade.research.studies.trained.rows import ABLATIONS
    from saccade.research.studies.trained.run import run as run_trained

    ablation = ABLATIONS[model].quick() if quick else ABLATIONS[model]
    if rows:
        ablation = ablation.only(rows)
    folder = run / f"trained{ablation.mark}{'-quick' if quick else ''}"
    with (
        common.resumable(f"repeat the command to go on with the models kept in {folder}"),
        common.progress() as bar,
    ):
        line = bar.add_task("answers", total=None)

        def step(answers: int) -> None:
            bar.update(line, advance=answers)

        return run_trained(folder, ablation, questions, Store(run), way, note=note, step=step)


def _written(path: Path) -> dict[str, Any] | None:
    """The result that lies there already, or None."""
    from saccade.system.files import read_json

    return read_json(path) if path.exists() else None


def _check_other(path: Path, title: str) -> None:
    """Refuses to write over the result of another model, which has a file of the same name.

    Raises:
        ValueError: Naming that model.
    """
    try:
        there = (_written(path) or {})["model"]["name"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return  # nothing, or nothing that could be missed
    if there != title and Path(there).resolve() != Path(title).resolve():
        raise ValueError(
            f"{path} holds this study of {quoted(there)}, not of {quoted(title)}: choose another --out"
        )


def show_list(output: common.Output) -> None:
    """Prints what studies there are."""
    from rich.table import Table

    view = Table("study", "what it asks")
    for one in listed().values():
        view.add_row(one.name, one.question)
    output.table(view)
    output.line("next: saccade study main --samples 100")


def show(output: common.Output, result: dict[str, Any], paths: dict[str, Path]) -> None:
    """Prints the lines, the findings, and what to do next."""
    from saccade.report.text import counted

    accuracy.beside_dense(output, result["title"], result["dense"]["mean"], [result["plans"]])
    for finding in result["findings"]:
        output.line(f"{finding['verdict']}: {finding['claim']} ({finding['source']}). {finding['found']}")
    asked = result["data"]
    new = f"{result['seconds']['cells_of_this_run']} of {result['seconds']['cells']} cells were new."
    output.line(
        f"{asked['questions']} held-out questions of {counted(len(asked['tasks']), 'task')}; in brackets "
        f"95 % intervals; against dense in points, paired by question; {new}"
    )
    pictures = [str(path) for key, path in paths.items() if key not in ("data", "page")]
    output.line(
        f"\nnumbers  {paths['data']}\npage     {paths['page']}\npictures {', '.join(pictures)}\n\n"
        "next: saccade study list, or saccade eval with one of the plans on questions of your own"
    )
