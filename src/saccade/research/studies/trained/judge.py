"""What the answers of trained rows say, as plain data (pure)."""

from __future__ import annotations

import statistics
from collections.abc import Container, Mapping
from typing import Any

from saccade.core.shapes import ModelShape
from saccade.evaluation.results import Evaluation, Prediction, score
from saccade.plans.plan import Plan
from saccade.research.studies.trained.ablation import Ablation, AblationRow
from saccade.research.studies.trained.ask import Answers, Asked
from saccade.skip_vision.accounting import saving


def judge(
    ablation: Ablation, said: Mapping[str, Asked], shape: ModelShape, text: int
) -> list[dict[str, Any]]:
    """One entry per row: accuracy by task and seed, what it lost against the dense row, and what it saves.

    Questions are paired with the dense row of the same seed; where a row has several seeds, each has answered
    its share of them.

    Args:
        ablation: The ablation, with the rows that were asked.
        said: Their answers; the dense row among them.
        shape: Sizes of the decoder.
        text: Text rows of a typical prompt, for the prefill's FLOPs.

    Raises:
        ValueError: If a row has a seed that the dense row lacks.
    """
    return [_entry(ablation, row, said, shape, text) for row in ablation.rows]


def evaluation(name: str, own: Asked, dense: Asked, blind: bool = False) -> Evaluation:
    """Scores a row's answers beside the dense row's of the same seeds; or its blind ones."""
    seeds = sorted(own.by_seed)
    lacking = [seed for seed in seeds if seed not in dense.by_seed]
    if lacking:
        raise ValueError(f"{name} was trained with seed {lacking[0]}, the dense row was not")
    mine: list[Prediction] = []
    theirs: list[Prediction] = []
    unseen: list[Prediction] = []
    for seed in seeds:
        share = {p.id for said in own.by_seed[seed].values() for p in said}
        beside = dense.whole if seed == min(dense.by_seed) else dense.by_seed[seed]
        mine += _of(own.blind if blind else own.by_seed[seed], share)
        theirs += _of(beside, share)
        unseen += _of(dense.blind, share)
    return score(name, "", mine, theirs, unseen, {})


def _of(answers: Answers, share: Container[str]) -> list[Prediction]:
    return [p for said in answers.values() for p in said if p.id in share]


def mean_of_seeds(own: Asked) -> dict[int, float]:
    """Mean accuracy over tasks of every seed, each on its share of the questions."""
    return {
        seed: statistics.fmean(statistics.fmean(p.score for p in said) for said in answers.values())
        for seed, answers in sorted(own.by_seed.items())
    }


def _entry(
    ablation: Ablation, row: AblationRow, said: Mapping[str, Asked], shape: ModelShape, text: int
) -> dict[str, Any]:
    own, dense = said[row.name], said[ablation.dense]
    config, seeds = ablation.config(row), mean_of_seeds(own)
    over = None if row.plan is None else Plan.of(row.plan)
    bare, whole = (
        saving(config, shape, ablation.rows_of(row), ablation.tokens, rows, over) for rows in (0, text)
    )
    return {
        **evaluation(row.name, own, dense).to_dict(),
        "spec": row.plan or "",
        "row": row.number,
        "seeds": {str(seed): value for seed, value in seeds.items()},
        "sd_over_seeds": statistics.stdev(seeds.values()) if len(seeds) > 1 else None,
        "rows": {"attend": whole.attend, "pass_ffn": whole.pass_ffn, "cached": whole.cached},
        "visual_ratio_paper": bare.paper_ratio,
        "visual_ratio": bare.ours.ratio,
        "cost": {
            "flops_ratio": whole.ours.ratio,
            "kv_ratio": whole.ours.kv_ratio,
            "kv_bytes": whole.ours.kv_bytes,
            "visual_tokens": float(whole.attend),
            "text_tokens": float(text),
        },
    }
