"""Accuracy on Glance's suite under V-Skip at every budget and its kin at several: the table of the README.

    python benchmarks/glance_table.py [--samples 1000] [--device cuda]

Interrupted, it goes on where it was when started again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from saccade import models
from saccade.demo.plans import lineup
from saccade.evaluation.by_task import compare_by_task, forget
from saccade.evaluation.orders import calibrated
from saccade.evaluation.runner import count_prompts, weights_digest
from saccade.files import write_json
from saccade.glance import suite
from saccade.layout import Layout
from saccade.measure import record
from saccade.report.figures import SCORES

OUT = Path(__file__).parent / "results" / "glance_table.json"


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
    orders = {name: found.order for name, found in scores.items()}
    (visual, text), _ = count_prompts(loaded, pool[:1]).most_common(1)[0]
    plans = lineup(loaded.shape, Layout.single(visual, text), orders)

    cells = args.out.with_name(f"{args.out.name}.partial")
    found = compare_by_task(
        loaded,
        tasks,
        lambda task: suite.samples(task, args.samples, "test", args.seed),
        {e.name: e.plan for e in plans.entries},
        batch_size=args.batch,
        max_new_tokens=args.max_new_tokens,
        folder=cells,
    )
    result = found.to_dict()
    entries = {e.name: e for e in plans.entries}
    for entry in result["plans"]:
        e = entries[entry["name"]]
        entry |= {"method": e.method, "title": e.title, "budget": e.budget}
    result |= {
        "model": {"name": args.model, "weights": weights_digest(loaded.model), "layers": loaded.shape.layers},
        "samples_per_task": args.samples,
        "calibration": {"samples": len(scores["vig"].samples)} | {n: s.record() for n, s in scores.items()},
        "headline": list(dict.fromkeys([*plans.layers, *plans.flops])),
        "provenance": record(device=loaded.model.device, dtype=loaded.model.dtype, seed=args.seed),
    }
    write_json(args.out, result)
    forget(cells)
    mean = found.dense.mean
    print(f"wrote {args.out}: dense {mean.accuracy.value:.3f}, blind {mean.blind:.3f}, n {mean.n}")


if __name__ == "__main__":
    main()
