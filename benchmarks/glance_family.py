"""Accuracy on Glance's suite of every method at matched FLOPs, beside plain baselines: the family table.

    python benchmarks/glance_family.py [--samples 1000] [--device cuda]

Every registered method is set to about 70, 50 and 30 % of the dense model's FLOPs (the mildest setting that
reaches it, on the suite's own prompts); what cannot reach a ratio, or is not defined on the model, is in the
result with the reason. Costs are those of the rows that really ran. Interrupted, it goes on where it was when
started again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from saccade import models
from saccade.demo.family_study import SCORES, plans_of, results, rows_for
from saccade.evaluation.by_task import compare_by_task, forget
from saccade.evaluation.orders import calibrated
from saccade.files import write_json
from saccade.glance import suite
from saccade.measure import record

OUT = Path(__file__).parent / "results" / "glance_family.json"


def main() -> None:
    """Calibrates, evaluates and writes the result file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="glance", help="a model folder, or glance")
    parser.add_argument("--samples", type=int, default=1000, help="questions of each task")
    parser.add_argument("--task", action="append", help="a task; repeatable; all if omitted")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=50, help="questions per batch")
    parser.add_argument("--max-new-tokens", type=int, default=24)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()

    loaded = models.load(args.model, device=args.device)
    tasks = args.task or list(suite.TASKS)
    pool = [
        s
        for task in tasks
        for s in suite.samples(task, 4 if len(tasks) > 5 else 20, "calibration", args.seed)
    ]
    scores = calibrated(loaded, pool, list(SCORES), seed=args.seed)
    rows = rows_for(loaded, pool, {name: found.order for name, found in scores.items()})
    for row in rows:
        print(f"{row.name}: {row.plan.spec if row.plan else row.reason}", flush=True)

    cells = args.out.with_name(f"{args.out.name}.partial")
    found = compare_by_task(
        loaded,
        tasks,
        lambda task: suite.samples(task, args.samples, "test", args.seed),
        plans_of(rows),
        batch_size=args.batch,
        max_new_tokens=args.max_new_tokens,
        folder=cells,
    )
    result = results(loaded, rows, found) | {
        "samples_per_task": args.samples,
        "calibration": {"samples": len(scores["vig"].samples)} | {n: s.record() for n, s in scores.items()},
        "provenance": record(device=loaded.model.device, dtype=loaded.model.dtype, seed=args.seed),
    }
    write_json(args.out, result)
    forget(cells)
    mean = found.dense.mean
    print(f"wrote {args.out.name}: dense {mean.accuracy.value:.3f}, blind {mean.blind:.3f}, n {mean.n}")


if __name__ == "__main__":
    main()
