"""Parts of long work, shared between this process and its helpers, whatever kind those are.

A helper that is lost loses nothing: what it was at is done by this process, and another takes its place as
long as anything is finished between one loss and the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from saccade.helpers.there import HelperModel, Once, Part
from saccade.models import Loaded
from saccade.opening import Opening
from saccade.opening.opened import opening_of
from saccade.system.processes import HelperLost, Say, check_helpers

AHEAD = 2
"""Parts that wait at every helper, so that none is idle while this process is at a part of its own."""

MOST_LOSSES = 3
"""How often each helper may be lost while no part is finished: then nobody takes its place any more."""

Tag = TypeVar("Tag")

LOST = object()
"""What a part comes to whose helper was lost."""


class Helper(Protocol):
    """One helper.

    Attributes:
        opened: Done once it has opened its model.
    """

    opened: Future[Any]

    def do(self, part: Part, told: tuple[Any, ...]) -> Future[Any]:
        """Hands it a part."""

    def outcome(self, future: Future[Any]) -> Any:
        """What a part that has ended came to, or raises what it failed by."""

    def end(self) -> None:
        """Ends it, whatever it is at."""


@dataclass
class _Place:
    """A helper's place, which another takes when it is lost.

    Attributes:
        number: Of the place, from 1: this process is number 0.
        helper: Who has it.
        waiting: What the helper was given, with tags.
        known: What it was sent once.
    """

    number: int
    helper: Helper
    waiting: dict[Future[Any], Any] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)


class Helpers(Generic[Tag]):
    """Helpers that take parts as long as they have room; what they found is handed back with its tag.

    They are begun when the first part is offered, and take some once they have opened their model. As a
    context: they end with it.
    """

    def __init__(self, begin: Callable[[int], Helper], count: int, say: Say = lambda line: None) -> None:
        """Gets ready.

        Args:
            begin: Begins the helper of a place, told its number.
            count: How many, beside this process.
            say: Told in a line when one is lost.
        """
        self._begin, self._count, self._say = begin, count, say
        self._places: list[_Place] | None = None
        self._losses = 0
        self._lost: list[Tag] = []

    def __enter__(self) -> Helpers[Tag]:
        return self

    def __exit__(self, *_: object) -> None:
        for place in self._places or ():
            place.helper.end()
        self._places = []

    @property
    def ready(self) -> int:
        """How many have opened their model."""
        return sum(place.helper.opened.done() for place in self._places or ())

    def take(self, tag: Tag, part: Part, *told: Any) -> bool:
        """Hands a part over, if a helper has room for it.

        Args:
            tag: What the result is handed back with.
            part: What to do.
            told: Its arguments behind the model.

        Raises:
            ValueError: If a helper cannot open the model.
        """
        if self._places is None:
            self._places = [_Place(n, self._begin(n)) for n in range(1, self._count + 1)]
        free = [place for place in self._open() if len(place.waiting) < AHEAD]
        for place in sorted(free, key=lambda place: len(place.waiting)):
            sent = tuple(
                one.named() if isinstance(one, Once) and one.key in place.known else one for one in told
            )
            try:
                place.waiting[place.helper.do(part, sent)] = tag
            except HelperLost as why:
                self._replace(place, str(why))
                continue
            place.known |= {one.key for one in told if isinstance(one, Once)}
            return True
        return False

    def done(self, wait_for_one: bool = False) -> Iterator[tuple[Tag, Any]]:
        """Parts that have ended, with their tags; ``LOST`` of those whose helper was lost.

        Args:
            wait_for_one: Whether to wait until there is one, if any was taken.

        Raises:
            Exception: What a part failed by.
        """
        futures = [future for place in self._places or () for future in place.waiting]
        if wait_for_one and futures and not self._lost:
            wait(futures, None, FIRST_COMPLETED)
        for place in list(self._places or ()):
            for future in [future for future in place.waiting if future.done()]:
                if future not in place.waiting:
                    break  # the helper is lost, and so is all that it was given
                try:
                    found = place.helper.outcome(future)
                except HelperLost as why:
                    self._replace(place, str(why))
                    break
                except BaseException:
                    del place.waiting[future]
                    raise
                self._losses = 0
                yield place.waiting.pop(future), found
        while self._lost:
            yield self._lost.pop(), LOST

    def _open(self) -> list[_Place]:
        """Places whose helper has opened its model; one that cannot leaves its place empty."""
        found = []
        for place in list(self._places or ()):
            if not place.helper.opened.done():
                continue
            try:
                place.helper.outcome(place.helper.opened)
            except HelperLost as why:
                self._replace(place, str(why))
            except ValueError:
                raise
            except Exception as error:  # no memory, most often, which is no fault of the work
                self._leave(place, f"cannot open the model ({_line(error)})")
            else:
                found.append(place)
        return found

    def _replace(self, place: _Place, why: str) -> None:
        self._losses += 1
        if self._losses > MOST_LOSSES * self._count:
            self._leave(place, f"was lost ({why}) once more")
            return
        self._say(f"a helper was lost ({why}); what it was at is done by others, and another takes its place")
        self._forget(place)
        place.helper, place.waiting, place.known = self._begin(place.number), {}, set()

    def _leave(self, place: _Place, why: str) -> None:
        assert self._places is not None
        self._say(f"a helper {why}; the work goes on without it")
        self._forget(place)
        self._places.remove(place)

    def _forget(self, place: _Place) -> None:
        self._lost += place.waiting.values()
        place.waiting = {}
        place.helper.end()


def spread(
    helpers: Helpers[Any] | None,
    part: Part,
    parts: Iterable[tuple[Tag, tuple[Any, ...], Callable[[], Any]]],
) -> Iterator[tuple[Tag, Any]]:
    """What parts come to, as it comes: done by helpers as far as they have room, else here.

    Args:
        helpers: The helpers, if there are any.
        part: What helpers do.
        parts: For each the tag it is told by, its arguments behind the model, and how it is done here.
    """
    waiting: dict[object, tuple[Tag, Callable[[], Any]]] = {}

    def come(helpers: Helpers[Any], wait_for_one: bool = False) -> Iterator[tuple[Tag, Any]]:
        for key, found in helpers.done(wait_for_one):
            if key in waiting:  # else of a round that was broken off
                tag, here = waiting.pop(key)
                yield tag, (here() if found is LOST else found)

    for tag, told, here in parts:
        key = object()
        if helpers is not None and helpers.take(key, part, *told):
            waiting[key] = tag, here
        else:
            yield tag, here()
        if helpers is not None:
            yield from come(helpers)
    while waiting and helpers is not None:
        yield from come(helpers, wait_for_one=True)


@contextmanager
def helping(
    loaded: Loaded,
    processes: int,
    opening: Opening | None = None,
    *,
    ray: str | None = None,
    say: Say = lambda line: None,
) -> Iterator[Helpers[Any] | None]:
    """Helpers for as many processes in all, this one among them; None where it is alone.

    Each computes with as many CPU threads as this process does now.

    Args:
        loaded: The model in this process.
        processes: How many in all.
        opening: How helpers open what ``loaded`` is called; as it was opened here if omitted.
        ray: Address of a Ray cluster that gives the helpers; None for processes of this machine.
        say: Told in a line when a helper is lost.

    Raises:
        ValueError: If the number cannot be, the cluster is not there, or nobody knows where the model lies.
    """
    check_helpers(processes, ray)
    if processes == 1:
        yield None
        return
    name, how = opening_of(loaded.model) if opening is None else (loaded.name, opening)
    with ExitStack() as stack:
        begin: Callable[[int], Helper]
        if ray is None:
            from saccade.helpers.local import LocalHelper

            begin = partial(LocalHelper, HelperModel.of(loaded, name, how))
        else:
            from saccade.helpers.cluster import RayHelper, placed, taken
            from saccade.system.cluster import connected, room_for

            cluster = stack.enter_context(connected(ray))
            told = HelperModel.of(loaded, *placed(name, how))
            room = room_for(cluster, taken(cluster, told))
            if room < processes - 1:
                say(f"the cluster has room for {room} of {processes - 1} helpers now; the others wait for it")

            def begin(number: int) -> Helper:
                return RayHelper(cluster, told)

        yield stack.enter_context(Helpers[Any](begin, processes - 1, say))


def _line(error: BaseException) -> str:
    first = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
