"""Questions about bar charts and diagrams."""

from __future__ import annotations

import numpy as np

from saccade.glance.questions.base import Question, coin, pick
from saccade.glance.scenes.chart import ChartFacts
from saccade.glance.scenes.diagram import DiagramFacts
from saccade.glance.vocabulary import LETTERS, UNANSWERABLE


def chart(facts: ChartFacts, rng: np.random.Generator) -> list[Question]:
    """Value, colour and extremes of bars."""
    bars = [facts.bars[i] for i in rng.permutation(len(facts.bars))]
    out = [
        Question("chart", "value", f"what value is bar {bar.letter} ?", str(bar.value)) for bar in bars[:2]
    ]
    out.append(Question("chart", "color", f"what color is bar {bars[-1].letter} ?", bars[-1].color))
    bar = pick(rng, bars)
    out.append(Question("chart", "letter", f"which bar is {bar.color} ?", bar.letter))
    values = [bar.value for bar in bars]
    for word, extreme in (("tallest", max(values)), ("shortest", min(values))):
        if values.count(extreme) == 1:
            letter = bars[values.index(extreme)].letter
            out.append(Question("chart", word, f"which bar is {word} ?", letter))
    return out


def taller(facts: ChartFacts, rng: np.random.Generator) -> list[Question]:
    """Which of two bars is taller; part of the comparison task."""
    pairs = [(a, b) for a in facts.bars for b in facts.bars if a.value > b.value]
    out = []
    for index in rng.permutation(len(pairs))[:2]:
        high, low = pairs[index]
        first, second = (high, low) if coin(rng) else (low, high)
        question = f"which is taller , {first.letter} or {second.letter} ?"
        out.append(Question("compare", "taller", question, high.letter))
    return out


def diagram(facts: DiagramFacts, rng: np.random.Generator) -> list[Question]:
    """Follow one arrow or two, or go back along one."""
    leads = dict(facts.arrows)
    ends = [end for _, end in facts.arrows]
    starts = [s for s, _ in facts.arrows]
    out = []
    for start in [starts[i] for i in rng.permutation(len(starts))[:2]]:
        out.append(Question("diagram", "follow", f"follow the arrow from {start}", leads[start]))
    double = [s for s in starts if leads[s] in leads]
    for start in [double[i] for i in rng.permutation(len(double))[:2]]:
        out.append(Question("diagram", "twice", f"follow two arrows from {start}", leads[leads[start]]))
    single = [(s, e) for s, e in facts.arrows if ends.count(e) == 1]
    for index in rng.permutation(len(single))[:2]:
        start, end = single[index]
        out.append(Question("diagram", "back", f"what points to {end} ?", start))
    return out


def unanswerable_chart(facts: ChartFacts, rng: np.random.Generator) -> list[Question]:
    """The value of a bar, half of the time of one that is not drawn."""
    letters = [bar.letter for bar in facts.bars]
    if coin(rng):
        bar = pick(rng, facts.bars)
        return [Question("unanswerable", "answerable", f"what color is bar {bar.letter} ?", bar.color)]
    absent = pick(rng, [letter for letter in LETTERS if letter not in letters])
    return [Question("unanswerable", "absent", f"what color is bar {absent} ?", UNANSWERABLE)]
