"""Can an embedded model and its suite show a difference? Checked before any method is judged on them.

    python benchmarks/difference_gate.py [--samples 200] [--device cuda]

Exits 1 if a line fails. Interrupted, it goes on where it was when started again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from saccade import models
from saccade.evaluation.by_task import compare_by_task
from saccade.evaluation.orders import calibrated
from saccade.glance import suite
from saccade.measure import record
from saccade.opening.digest import weights_digest
from saccade.research import gate
from saccade.system.embedded import suite_of
from saccade.system.files import write_json
from saccade.system.journal import Journal

OUT = Path(__file__).parent / "results" / "difference_gate.json"


def main() -> int:
    """Runs the gate and writes the result file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="glance", help="a model folder, or an embedded model")
    parser.add_argument("--samples", type=int, default=200, help="questions of each task")
    parser.add_argument("--probes", type=int, default=20, help="calibration samples of each task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=50, help="questions per batch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    scale = suite_of(args.model).scale

    loaded = models.load(args.model, device=args.device)
    depth, tasks = loaded.shape.layers, list(suite.TASKS)
    pools = {task: suite.samples(task, args.probes, "calibration", args.seed, scale) for task in tasks}
    by_task = {task: calibrated(loaded, pool, ["vig"], seed=args.seed)["vig"] for task, pool in pools.items()}
    every = [row for scores in by_task.values() for row in scores.values_SL]
    vig_L = [sum(column) / len(every) for column in zip(*every, strict=True)]
    mixture = [sample for pool in pools.values() for sample in pool]
    orders = {
        n: s.order for n, s in calibrated(loaded, mixture, ["vig", "ffn", "lc"], seed=args.seed).items()
    }

    crude, skipping = gate.crude_plans(depth), gate.skipping_plans(depth, orders)
    journal = Journal(args.out.with_name(f"{args.out.name}.partial.jsonl"))
    found = compare_by_task(
        loaded,
        tasks,
        lambda task: suite.samples(task, args.samples, "test", args.seed, scale),
        crude | skipping,
        batch_size=args.batch,
        ledger=journal,
    )
    lines = [
        *gate.judge_losses(found, list(crude), list(skipping)),
        gate.judge_layers(vig_L),
        gate.judge_orders({task: scores.values_SL for task, scores in by_task.items()}),
    ]
    passed = all(line.passed for line in lines)
    write_json(
        args.out,
        {
            "passed": passed,
            "lines": [line.to_dict() for line in lines],
            "vig": vig_L,
            "vig_by_task": {task: scores.mean for task, scores in by_task.items()},
            "orders": {name: list(order) for name, order in orders.items()},
            "samples_per_task": args.samples,
            "probes_per_task": args.probes,
            "model": {"name": args.model, "weights": weights_digest(loaded.model), "layers": depth},
            **found.to_dict(),
            "provenance": record(device=loaded.model.device, dtype=loaded.model.dtype, seed=args.seed),
        },
    )
    if left := journal.finish():
        print(left)
    for line in lines:
        print(f"{'pass' if line.passed else 'FAIL'}  {line.what}: {line.found} (wanted: {line.wanted})")
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
