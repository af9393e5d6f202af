"""Samples that the search sees, and samples that it never sees."""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from saccade.calibration.drawing import draw
from saccade.evaluation.options import EvaluationOptions
from saccade.evaluation.runner import DENSE, AnswerRun, answer
from saccade.helpers import Helpers
from saccade.inputs.data import Entry
from saccade.inputs.pictures import digest
from saccade.inputs.samples import Sample
from saccade.models import Loaded
from saccade.system.journal import Journal
from saccade.tuning.settings import FEWEST

_Asked = tuple[str, tuple[Hashable, ...], tuple[Hashable, ...]]
"""A question, its pictures and videos, and how these are sampled."""


class Drawn(Protocol):
    """How samples are drawn and asked: what settings of a search and of a healing say alike."""

    @property
    def num_samples(self) -> int:
        """Samples of the first set, at most."""

    @property
    def num_held_out(self) -> int:
        """Samples of the second set, at most."""

    @property
    def batch(self) -> int:
        """Prompts that run together."""

    @property
    def tokens(self) -> int:
        """Longest answer."""

    @property
    def seed(self) -> int:
        """Of the draw."""


@dataclass(frozen=True)
class Questions:
    """Two sets of samples that share none.

    Attributes:
        search: What the search sees, tasks and sub-tasks spread evenly over its parts.
        held_out: What judges its plans.
        answered: Whether all have answers of their own; else the dense model's are the reference.
        bare: How many have none.
        copies: How many of the pool were left out, for they ask what others ask.
        mixed: Whether both ask about the same pictures, for there are too few to part them.
    """

    search: tuple[Sample, ...]
    held_out: tuple[Sample, ...]
    answered: bool
    bare: int = 0
    copies: int = 0
    mixed: bool = False

    @property
    def notes(self) -> list[str]:
        """What a user would not expect of them, in lines of text."""
        found = []
        if self.copies:
            found.append(f"{self.copies} samples ask what others ask of the same pictures, and are left out")
        if self.mixed:
            found.append(
                "too few pictures to hold some out: plans are judged on pictures that the search has seen, "
                "and may lose more on others"
            )
        total = len(self.search) + len(self.held_out)
        if 0 < self.bare < total:
            found.append(f"{self.bare} of {total} samples have no answer: the dense model's own judge all")
        return found


def split(pool: Iterable[Sample | Entry], settings: Drawn) -> Questions:
    """Draws both sets from one pool, evenly over sub-tasks: half of it judges where it is too small for both.

    A question that is in the pool twice is drawn once, for a copy would judge what its like has chosen, and
    all questions about a picture stand on one side, where there are pictures enough.

    Raises:
        ValueError: If the pool is too small, ids repeat, or an image cannot be read.
    """
    given = list(pool)
    if len({item.id for item in given}) < len(given):
        raise ValueError("sample ids must be distinct")
    first: dict[_Asked, Sample | Entry] = {}
    for item in given:
        first.setdefault(_asked(item), item)
    copies, given = len(given) - len(first), [*first.values()]
    if len(given) < 2 * FEWEST:
        others = f", {copies} copies of others left out," if copies else ""
        raise ValueError(
            f"{len(given)} samples{others} are too few: {FEWEST} at least are learnt from, and as "
            "many judge it"
        )
    held = min(settings.num_held_out, len(given) - min(settings.num_samples, len(given) // 2))
    seen = min(settings.num_samples, len(given) - held)
    groups = _by_picture(given, [shown for _, shown, _ in first])
    sides = None if len(groups) == len(given) else _sides(groups, seen, settings.seed)
    if sides is None:
        drawn = draw(given, seen + held, "stratified", settings.seed)
        found = replace(made(drawn[:seen], drawn[seen:], settings), mixed=len(groups) < len(given))
    else:
        search_side, held_side = sides
        drawn = draw(search_side, seen, "stratified", settings.seed)
        judges = draw(held_side, min(held, len(held_side)), "stratified", settings.seed)
        found = made(drawn, judges, settings)
    # Copies of one picture under two names are seen only here, where the pictures are.
    judged = {_asked(sample) for sample in found.held_out}
    search = tuple(sample for sample in found.search if _asked(sample) not in judged)
    if not search:
        raise ValueError("the samples are too few: all that are not held out are copies of those that are")
    return replace(found, search=search, copies=copies + len(found.search) - len(search))


def apart(search: Iterable[Sample | Entry], held_out: Iterable[Sample | Entry], settings: Drawn) -> Questions:
    """Both sets from two pools, of each as many as the settings say at most.

    Raises:
        ValueError: If one is empty or too small, they share a question or an id, or an image cannot be read.
    """
    pools = list(search), list(held_out)
    if len(pools[0]) < FEWEST or not pools[1]:
        raise ValueError(
            f"{len(pools[0])} samples and {len(pools[1])} held out are too few: {FEWEST} at least are learnt "
            "from, and one judges it"
        )
    ids = [item.id for pool in pools for item in pool]
    if len(set(ids)) < len(ids):
        raise ValueError("sample ids must be distinct, those held out among them")
    mosts = settings.num_samples, settings.num_held_out
    drawn = [
        draw(pool, most, "stratified", settings.seed) if most < len(pool) else pool
        for pool, most in zip(pools, mosts, strict=True)
    ]
    found = made(drawn[0], drawn[1], settings)
    both = {_asked(sample) for sample in found.search} & {_asked(sample) for sample in found.held_out}
    if both:
        raise ValueError(f"{len(both)} of the samples held out are among those that are learnt from")
    return found


def _by_picture(
    pool: Sequence[Sample | Entry], pictures: Sequence[tuple[Hashable, ...]]
) -> list[list[Sample | Entry]]:
    """The pool, of which each shows some pictures, in groups that share none with each other."""
    leads = list(range(len(pool)))

    def leader(place: int) -> int:
        while leads[place] != place:
            place = leads[place]
        return place

    first: dict[Hashable, int] = {}
    for place, shown in enumerate(pictures):
        for one in shown:
            leads[leader(place)] = leader(first.setdefault(one, place))
    groups: dict[int, list[Sample | Entry]] = {}
    for place, item in enumerate(pool):
        groups.setdefault(leader(place), []).append(item)
    return list(groups.values())


def _sides(
    groups: Sequence[list[Sample | Entry]], seen: int, seed: int
) -> tuple[list[Sample | Entry], list[Sample | Entry]] | None:
    """At least so many samples, and the others, with no picture on both sides; None if too few are left."""
    order = list(groups)
    random.Random(seed).shuffle(order)
    search: list[Sample | Entry] = []
    held: list[Sample | Entry] = []
    for group in order:
        (search if len(search) < seen else held).extend(group)
    return (search, held) if len(held) >= FEWEST else None


def _asked(item: Sample | Entry) -> _Asked:
    """What is asked about what: two that are equal in it are one question under two names."""
    if isinstance(item, Entry):
        return item.question, (*item.paths, *item.videos), (item.frames, item.rate)
    shown = (*map(digest, item.images), *(video.digest for video in item.videos))
    return item.question, shown, ()


def made(search: Sequence[Sample | Entry], held_out: Sequence[Sample | Entry], settings: Drawn) -> Questions:
    """Both sets from samples that are apart already."""
    order = random.Random(settings.seed)
    seen = list(search)
    order.shuffle(seen)
    loaded = [
        tuple(item.load() if isinstance(item, Entry) else item for item in part) for part in (seen, held_out)
    ]
    bare = sum(not sample.answer.strip() for part in loaded for sample in part)
    return Questions(loaded[0], loaded[1], not bare, bare)


def referenced(
    loaded: Loaded,
    questions: Questions,
    settings: Drawn,
    journal: Journal,
    helpers: Helpers[Any] | None = None,
) -> tuple[Sample, ...]:
    """Held-out samples with what they are scored against: their answers, or the dense model's own."""
    if questions.answered:
        return questions.held_out
    found = answer(
        loaded,
        questions.held_out,
        [AnswerRun(DENSE)],
        EvaluationOptions(settings.batch, settings.tokens),
        ledger=journal,
        label="dense answers",
        helpers=helpers,
    )
    said = [one.text for one in found.predictions[DENSE]]
    # An empty answer is one too, and samples are scored against words.
    return tuple(
        replace(sample, answer=text or "(nothing)", others=("",) if not text else (), score="exact")
        for sample, text in zip(questions.held_out, said, strict=True)
    )
