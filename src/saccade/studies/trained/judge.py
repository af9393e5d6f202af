"""What the answers of trained rows say, as plain data (pure)."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from saccade.evaluation.statistics import Interval, mean_of, mean_score, paired_difference, retention
from saccade.shapes import ModelShape
from saccade.skip_vision.accounting import saving
from saccade.studies.trained.ask import Answers, Asked
from saccade.studies.trained.rows import DENSE, SCALES, Row

TOKENS = sum(tokens for _, tokens in SCALES)


def judge(
    rows: Sequence[Row], said: Mapping[str, Asked], shape: ModelShape, text: int
) -> list[dict[str, Any]]:
    """One entry per row: accuracy by task and seed, what it lost against the dense row, and what it saves.

    Questions are paired with the dense row of the same seed; where a row has several seeds, all count.

    Args:
        rows: Rows that were asked.
        said: Their answers; the dense row among them.
        shape: Sizes of the decoder.
        text: Text rows of a typical prompt, for the prefill's FLOPs.
    """
    dense = said[DENSE]
    return [{**_score(said[row.name], dense), **_about(row, shape, text)} for row in rows]


def _score(own: Asked, dense: Asked) -> dict[str, Any]:
    seeds, tasks = sorted(own.by_seed), list(dense.blind)
    per_seed = {seed: _mean(own.by_seed[seed]) for seed in seeds}
    # A seed the dense row lacks has no partner.
    pairs = {
        task: [
            (mine.score, theirs.score, blind.score)
            for seed in seeds
            if seed in dense.by_seed
            for mine, theirs, blind in zip(
                own.by_seed[seed][task], dense.by_seed[seed][task], dense.blind[task], strict=True
            )
        ]
        for task in tasks
    }
    by_task = {}
    for task in tasks:
        scores = [p.score for seed in seeds for p in own.by_seed[seed][task]]
        by_task[task] = {
            **_interval("", mean_score(scores)),
            "n": len(scores),
            "blind": statistics.fmean(p.score for p in own.blind[task]),
            **_interval("difference", paired_difference([[(a, b) for a, b, _ in pairs[task]]])),
        }
    whole = mean_of([Interval(t["accuracy"], t["low"], t["high"]) for t in by_task.values()])
    groups = list(pairs.values())
    return {
        "seeds": {str(seed): per_seed[seed] for seed in seeds},
        "sd_over_seeds": statistics.stdev(per_seed.values()) if len(seeds) > 1 else None,
        "mean": {
            **_interval("", whole),
            "n": sum(t["n"] for t in by_task.values()),
            "blind": statistics.fmean(t["blind"] or 0.0 for t in by_task.values()),
            **_interval("difference", paired_difference([[(a, b) for a, b, _ in g] for g in groups])),
            **_interval("retention", retention(groups, above_blind=False)),
            **_interval("retention_above_blind", retention(groups, above_blind=True)),
        },
        "tasks": by_task,
    }


def _mean(answers: Answers) -> float:
    return statistics.fmean(statistics.fmean(p.score for p in said) for said in answers.values())


def _interval(name: str, found: Interval) -> dict[str, float | None]:
    first, prefix = (name, f"{name}_") if name else ("accuracy", "")
    return {first: found.value, f"{prefix}low": found.low, f"{prefix}high": found.high}


def _about(row: Row, shape: ModelShape, text: int) -> dict[str, Any]:
    """What a row is, and what its prompts cost beside the dense row's."""
    config = row.config()
    bare, whole = (saving(config, shape, TOKENS, TOKENS, rows) for rows in (0, text))
    return {
        "name": row.name,
        "row": row.number,
        "plan": row.plan,
        "attend": whole.attend,
        "pass_ffn": whole.pass_ffn,
        "cached": whole.cached,
        "visual_ratio_paper": bare.paper_ratio,
        "visual_ratio": bare.ours.ratio,
        "prefill_ratio": whole.ours.ratio,
        "kv_ratio": whole.ours.kv_ratio,
    }
