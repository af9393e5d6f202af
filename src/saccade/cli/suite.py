"""``saccade eval --suite lmms:...``: lmms-eval judges, ``saccade eval`` asks it and shows what came of it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp

from saccade.cli import common
from saccade.cli.accuracy import show
from saccade.opening.settings import Opening


def judge(
    out: common.Output,
    name: str,
    model: str,
    plans: Sequence[str],
    *,
    samples: int | None,
    blind: bool,
    batch: int,
    max_new_tokens: int | None,
    processes: int,
    keep: Path | None,
    predictions: Path | None,
    seed: int,
    force: bool,
    strict: bool,
    opening: Opening,
) -> None:
    """Judges a model and plans; with ``--keep`` or ``--json FILE`` what is finished is not judged again.

    Raises:
        ValueError: If the suite or a plan cannot be used, lmms-eval is not there, or it fails.
    """
    from saccade.lmms.tasks import Suite

    suite = Suite.read(name, samples, seed)
    common.check_names(model, opening=opening)
    from saccade.evaluation.asked import name_plans
    from saccade.lmms.process import Job, check_installed
    from saccade.lmms.suite import answers, evaluate_suite, forget, tally
    from saccade.measure import record
    from saccade.system.files import write_json

    wanted = name_plans(plans)
    if opening.generic:
        raise ValueError(
            "lmms-eval runs models in a process of its own, where no adapter is made by inspection: leave "
            "--generic out, or take Glance's tasks (--task) or your own (--data)"
        )
    where = opening.torch_device()
    check_installed()
    resumes = keep is not None or out.target not in (None, "-")
    folder = keep or (Path(f"{out.target}.partial") if resumes else Path(mkdtemp(prefix="saccade-lmms-")))
    common.hold(folder, folder=True)
    job = Job(
        suite.tasks,
        {"pretrained": model} | opening.told(),
        folder,
        device=str(where),
        batch_size=batch,
        # Glance's own tasks are written with as many questions as are wanted.
        limit=samples if suite.has_official else None,
        processes=processes,
        max_new_tokens=max_new_tokens,
    )
    console = common.progress_console()
    hint = f"repeat the command to go on from {folder}" if resumes else "give --json to resume"
    try:
        with common.resumable(hint):
            columns = evaluate_suite(
                suite,
                job,
                wanted,
                blind=blind,
                force=force,
                strict=strict,
                note=lambda text: console.print(f"lmms-eval: {text}", highlight=False),
            )
    except BaseException:
        if not resumes:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    found = tally(columns, wanted)
    metrics = dict.fromkeys(entry["metric"] for entry in found["dense"]["tasks"].values())
    show(out, found, f"lmms-eval ({', '.join(metrics)})")
    settings = {"model": model, "suite": name, "samples": samples, "batch": batch, "processes": processes}
    provenance = record(device=where, dtype=opening.dtype, seed=seed, opening=opening.recorded())
    out.finish(found | settings | {"max_new_tokens": max_new_tokens, "provenance": provenance})
    if predictions is not None:
        write_json(predictions, answers(columns, wanted))
    if keep is None:
        forget(folder, columns)
    else:
        out.line(f"lmms-eval's own results, samples and logs are in {keep}")
