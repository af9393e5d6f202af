"""Layers learnt with the adapter against layers that a search chose, healed as long, at equal FLOPs.

    python benchmarks/learned_gates.py --work FOLDER                 # Glance, 60 % of the FLOPs, three seeds
    python benchmarks/learned_gates.py --work FOLDER --seeds 1 --share 0.7

For every seed: gates learn which layers skip attention and FFN, and the adapter trains on
(``saccade heal MODEL dense --learn SHARE``); beside it ``saccade tune`` chooses among the same skips by the
answers that they change, and its plan is healed for as many steps in all. Both are judged on the same
held-out questions. An interrupted run goes on from FOLDER; the result file is written after every seed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from saccade import models
from saccade.evaluation.statistics import paired_difference
from saccade.glance import suite
from saccade.glance.tasks import TASK_NAMES
from saccade.healing import HealingSettings
from saccade.healing.result import Healed
from saccade.healing.run import HealingWatch, run
from saccade.inputs.samples import Sample
from saccade.measure import record
from saccade.models import Loaded
from saccade.plans.plan import Plan
from saccade.system.embedded import suite_of
from saccade.system.files import write_json
from saccade.tuning import tune
from saccade.tuning.questions import made

RESULTS = Path(__file__).parent / "results"
SKIPS = ("attention", "ffn", "freeze")
LEARNT, CHOSEN = "learnt", "chosen"
COMMAND = "python benchmarks/learned_gates.py --model {model} --share {share:g} --seeds {seeds}"


def main() -> None:
    """Runs both ways for every seed."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", default="glance")
    parser.add_argument("--share", type=float, default=0.6, help="FLOPs over the dense model's")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--learn-steps", type=int, default=200)
    parser.add_argument("--steps", type=int, default=300, help="steps after the layers are settled")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--samples", type=int, default=2000, help="questions to train on")
    parser.add_argument("--held-out", type=int, default=1300)
    parser.add_argument("--search-samples", type=int, default=104, help="questions that the search sees")
    parser.add_argument("--passes", type=int, default=12_000, help="prompts that the search may run")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--out", type=Path, default=RESULTS / "learned_gates.json")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    loaded, rows = models.load(asked.model), []
    drawn = {"scale": suite_of(asked.model).scale}
    for seed in range(asked.seeds):
        seen, held = (
            [
                sample
                for task in TASK_NAMES
                for sample in suite.samples(task, count // len(TASK_NAMES), split, 1000 + seed, **drawn)
            ]
            for split, count in (("calibration", asked.samples), ("test", asked.held_out))
        )
        rows += seed_rows(loaded, seen, held, seed, asked)
        write_json(
            asked.out,
            {
                "kind": "learned gates",
                "share": asked.share,
                "steps": asked.learn_steps + asked.steps,
                "questions": len(seen),
                "held_out": len(held),
                "rows": rows,
                "provenance": record(model=loaded.model, seed=seed)
                | {"command": COMMAND.format(**vars(asked))},
            },
        )


def seed_rows(
    loaded: Loaded, seen: list[Sample], held: list[Sample], seed: int, asked: argparse.Namespace
) -> list[dict[str, Any]]:
    """Both ways on one draw of questions."""
    folder = asked.work / f"{asked.model}-{asked.share:g}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    usual = {"batch": asked.batch, "seed": seed, "num_samples": len(seen), "num_held_out": len(held)}
    watch = HealingWatch(say=lambda text: print(f"seed {seed}: {text}", flush=True))

    def healed(plan: Plan, name: str, **more: Any) -> Healed:
        settings = HealingSettings(**usual, **more)
        return run(loaded, plan, made(seen, held, settings), settings, folder / name, watch=watch)

    learnt = healed(Plan(), LEARNT, learn=asked.share, learn_steps=asked.learn_steps, steps=asked.steps)
    few = max(1, len(seen) // asked.search_samples)
    found = tune(
        loaded.model,
        loaded.processor,
        seen[::few],
        held_out=held[:26],
        out=folder / "tuned.json",
        flops=asked.share,
        allow=SKIPS,
        passes=asked.passes,
        num_samples=asked.search_samples,
        seed=seed,
    )
    # A plan file that was tuned is healed by its spec: what the search was sure of is not asked here.
    assert found.plan is not None
    chosen = healed(Plan.of(found.plan.spec), CHOSEN, steps=asked.learn_steps + asked.steps)
    rows = []
    for name, one in ((LEARNT, learnt), (CHOSEN, chosen)):
        ratio = one.after.cost["flops_ratio"]
        right = one.after.mean.accuracy.value
        print(f"seed {seed}: {name} {one.plan.spec} at {ratio:.3f}: {right:.4f}", flush=True)
        rows.append(
            {
                "seed": seed,
                "way": name,
                "spec": one.plan.spec,
                "flops_ratio": ratio,
                "dense": one.found.dense.mean.to_dict(),
                "before": one.before.mean.to_dict(),
                "after": one.after.mean.to_dict(),
            }
        )
    rows[0]["against_chosen"] = paired(learnt, chosen)
    return rows


def paired(learnt: Healed, chosen: Healed) -> dict[str, Any]:
    """Accuracy of the learnt layers minus that of the chosen ones, paired by question."""
    groups: dict[str, list[tuple[float, float]]] = {}
    for mine, other in zip(learnt.after.predictions, chosen.after.predictions, strict=True):
        groups.setdefault(mine.task, []).append((mine.score, other.score))
    return vars(paired_difference(list(groups.values())))


if __name__ == "__main__":
    main()
