"""Questions about scenes of coloured shapes. Each writer draws the answer first, so answers are balanced."""

from __future__ import annotations

import numpy as np

from saccade.glance.questions.base import Question, coin, once, pick
from saccade.glance.scenes.objects import ObjectFacts, Thing
from saccade.glance.vocabulary import COLOR_NAMES, DIRECTIONS, PLURAL_OF, SHAPES, UNANSWERABLE


def exist(facts: ObjectFacts, rng: np.random.Generator) -> list[Question]:
    """Is it there? Absent objects are near misses: their colour, or their shape, or both are present."""
    present = sorted({t.name for t in facts.things})
    out = []
    if coin(rng):
        name, answer = pick(rng, present), "yes"
    else:
        colors, shapes = {t.color for t in facts.things}, {t.shape for t in facts.things}
        near = [f"{c} {s}" for c in COLOR_NAMES for s in SHAPES if c in colors and s in shapes]
        absent = [n for n in near if n not in present]
        if not absent:
            absent = [f"{c} {s}" for c in COLOR_NAMES for s in SHAPES if (c in colors) != (s in shapes)]
        name, answer = pick(rng, absent), "no"
    out.append(Question("exist", "object", f"is there {article(name)} {name} ?", answer))
    seen = {t.shape for t in facts.things}
    unseen = [s for s in SHAPES if s not in seen]
    if unseen and coin(rng):
        out.append(Question("exist", "shape", f"is there a {pick(rng, unseen)} ?", "no"))
    elif unseen:
        out.append(Question("exist", "shape", f"is there a {pick(rng, sorted(seen))} ?", "yes"))
    return out


def attribute(facts: ObjectFacts, rng: np.random.Generator) -> list[Question]:
    """Colour of the only such shape, shape of the only such colour, size of the only such object."""
    out = []
    for shape in _sample(rng, once(t.shape for t in facts.things), 2):
        thing = next(t for t in facts.things if t.shape == shape)
        out.append(Question("attribute", "color", f"what color is the {shape} ?", thing.color))
    for color in _sample(rng, once(t.color for t in facts.things), 2):
        thing = next(t for t in facts.things if t.color == color)
        out.append(Question("attribute", "shape", f"what shape is the {color} object ?", thing.shape))
    for thing in _sample(rng, unique(facts), 1):
        out.append(Question("attribute", "size", f"what size is the {thing.name} ?", thing.size))
    return out


def count(facts: ObjectFacts, rng: np.random.Generator) -> list[Question]:
    """How many of a colour or a shape; the number is drawn first, so small numbers do not prevail."""
    groups: dict[int, list[tuple[str, str]]] = {}
    for color in COLOR_NAMES:
        n = sum(t.color == color for t in facts.things)
        groups.setdefault(n, []).append(("color", f"how many {color} objects ?"))
    for shape in SHAPES:
        n = sum(t.shape == shape for t in facts.things)
        groups.setdefault(n, []).append(("shape", f"how many {PLURAL_OF[shape]} ?"))
    # Zero is possible in every scene and five in few: being asked about is made rarer accordingly.
    odds = {0: 0.25, 1: 0.4, 2: 0.7, 3: 1.0, 4: 1.0, 5: 1.0}
    out = []
    for number in sorted(set(groups) & set(odds)):
        if rng.random() < odds[number]:
            subtask, question = pick(rng, groups[number])
            out.append(Question("count", subtask, question, str(number)))
    if rng.random() < 0.25 and len(facts.things) > 2:
        out.append(Question("count", "all", "how many objects ?", str(len(facts.things))))
    return out


def relation(facts: ObjectFacts, rng: np.random.Generator) -> list[Question]:
    """Where one object is, seen from another; and what comes next in a direction."""
    things = unique(facts)
    out = []
    pairs = [(a, b, side(a, b)) for a in things for b in things if a is not b and side(a, b)]
    for a, b, where in _sample(rng, pairs, 2):
        if coin(rng):
            out.append(Question("relation", "where", f"where is the {a.name} from the {b.name} ?", where))
            continue
        truth = coin(rng)
        told = where if truth else pick(rng, [d for d in DIRECTIONS if d != where])
        preposition = f"{told} of" if told in ("left", "right") else told
        question = f"is the {a.name} {preposition} the {b.name} ?"
        out.append(Question("relation", "is", question, "yes" if truth else "no"))
    steps = [(t, d, n) for t in things for d in DIRECTIONS if (n := next_to(facts, t, d)) is not None]
    for thing, direction, other in _sample(rng, steps, 1):
        preposition = f"{direction} of" if direction in ("left", "right") else direction
        out.append(Question("relation", "next", f"what is next {preposition} the {thing.name} ?", other.name))
    return out


def compare(facts: ObjectFacts, rng: np.random.Generator) -> list[Question]:
    """Which of two colours, or of two shapes, has more objects."""
    out = []
    for subtask, names in (("color", COLOR_NAMES), ("shape", SHAPES)):
        of = {n: sum(getattr(t, subtask) == n for t in facts.things) for n in names}
        pairs = [(a, b) for a in names for b in names if of[a] > of[b] > 0]
        if not pairs:
            continue
        more, fewer = pick(rng, pairs)
        first, second = (more, fewer) if coin(rng) else (fewer, more)
        if subtask == "color":
            out.append(Question("compare", "more", f"are there more {first} or {second} objects ?", more))
        else:
            question = f"are there more {PLURAL_OF[first]} or {PLURAL_OF[second]} ?"
            out.append(Question("compare", "more", question, PLURAL_OF[more]))
    return out


def place(facts: ObjectFacts, rng: np.random.Generator) -> list[Question]:
    """Between objects and the rows and columns of the five-by-five grid they stand on."""
    out = []
    for thing in _sample(rng, list(facts.things), 2):
        where = f"row {thing.row + 1} column {thing.column + 1}"
        out.append(Question("place", "what", f"what is in {where} ?", thing.name))
    for thing in _sample(rng, unique(facts), 1):
        out.append(Question("place", "row", f"which row is the {thing.name} in ?", str(thing.row + 1)))
        question = f"which column is the {thing.name} in ?"
        out.append(Question("place", "column", question, str(thing.column + 1)))
    return out


def listing(facts: ObjectFacts, rng: np.random.Generator) -> list[Question]:
    """All objects in reading order; at most five, so that the answer stays within a dozen tokens."""
    if not 3 <= len(facts.things) <= 5:
        return []
    answer = " ".join(t.name for t in facts.things)
    return [Question("list", f"{len(facts.things)} objects", "list all objects", answer)]


def unanswerable(facts: ObjectFacts, rng: np.random.Generator) -> list[Question]:
    """Attribute questions, half of them about something that is not in the image."""
    if coin(rng):
        asked = [q for q in attribute(facts, rng) if q.subtask != "size"]
        return [Question("unanswerable", "answerable", q.question, q.answer) for q in asked[:1]]
    shapes = [s for s in SHAPES if all(t.shape != s for t in facts.things)]
    colors = [c for c in COLOR_NAMES if all(t.color != c for t in facts.things)]
    if shapes and coin(rng):
        return [Question("unanswerable", "absent", f"what color is the {pick(rng, shapes)} ?", UNANSWERABLE)]
    if colors:
        return [
            Question(
                "unanswerable", "absent", f"what shape is the {pick(rng, colors)} object ?", UNANSWERABLE
            )
        ]
    return []


def article(name: str) -> str:
    """The indefinite article of a name."""
    return "an" if name[0] in "aeiou" else "a"


def unique(facts: ObjectFacts) -> list[Thing]:
    """Objects that their colour and shape together single out."""
    names = once(t.name for t in facts.things)
    return [t for t in facts.things if t.name in names]


def side(a: Thing, b: Thing) -> str | None:
    """Direction of `a` seen from `b`; None where it is oblique and a fair answer does not exist."""
    down, right = a.row - b.row, a.column - b.column
    if abs(right) >= 2 * abs(down) and right:
        return "right" if right > 0 else "left"
    if abs(down) >= 2 * abs(right) and down:
        return "below" if down > 0 else "above"
    return None


def next_to(facts: ObjectFacts, thing: Thing, direction: str) -> Thing | None:
    """The nearest object in the same row (left, right) or column (above, below)."""
    if direction in ("left", "right"):
        line = [(t.column - thing.column, t) for t in facts.things if t.row == thing.row]
    else:
        line = [(t.row - thing.row, t) for t in facts.things if t.column == thing.column]
    sign = 1 if direction in ("right", "below") else -1
    ahead = [(step * sign, t) for step, t in line if step * sign > 0]
    return min(ahead, key=lambda pair: pair[0])[1] if ahead else None


def _sample(rng: np.random.Generator, items: list, most: int) -> list:
    """Up to `most` different items in random order."""
    return [items[i] for i in rng.permutation(len(items))[:most]]
