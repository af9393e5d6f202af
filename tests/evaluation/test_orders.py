"""FLOPs ratios that an evaluation is asked for: over questions like all of a file, not like its first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from saccade.evaluation.orders import PRICED, resolve_all
from saccade.evaluation.runner import count_prompts, mean_cost
from saccade.plans.plan import Plan


def test_a_ratio_is_that_of_the_whole_file_where_text_stands_before_pictures(toy, questions):
    shown = [replace(questions[0], id=f"shown/{n}") for n in range(3 * PRICED)]
    bare = [replace(questions[0], id=f"bare/{n}", images=()) for n in range(PRICED)]
    plan = resolve_all(toy, {"plan": Plan.of("fastv(layer=1,flops=0.8)")}, {}, [*bare, *shown])["plan"]
    reached = mean_cost(toy, plan, count_prompts(toy, [*bare, *shown]))["flops_ratio"]
    assert reached == pytest.approx(0.8, abs=0.04)


def test_of_many_samples_the_same_few_are_drawn_over_all_of_them(toy, questions):
    samples = [replace(questions[0], images=questions[0].images if n >= 30 else ()) for n in range(60)]
    drawn = count_prompts(toy, samples, most=40)
    assert sum(drawn.values()) == 40 and drawn == count_prompts(toy, samples, most=40)
    assert 10 <= sum(count for (visual, _), count in drawn.items() if visual) <= 30
    assert count_prompts(toy, samples, most=60) == count_prompts(toy, samples)
