"""A helper that is an actor on a Ray cluster."""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

from saccade.helpers.there import HelperModel, Part, open_model, run
from saccade.inputs.pictures import is_file, is_folder
from saccade.opening import Opening
from saccade.system.cluster import needs, this_node
from saccade.system.embedded import EMBEDDED
from saccade.system.processes import HelperLost


class HelperActor:
    """What the actor does."""

    def open(self, told: HelperModel) -> None:
        """Opens the model where it stands, on the accelerators that Ray shows it."""
        opening = told.opening
        if str(opening.device).startswith("cuda:"):
            opening = opening.but(device="cuda")
        open_model(told, opening, this_node())

    def run(self, part: Part, told: tuple[Any, ...]) -> Any:
        """Does a part."""
        return run(part, told)


class RayHelper:
    """An actor with a model of its own.

    Attributes:
        opened: Done once it has opened its model.
    """

    def __init__(self, ray: Any, told: HelperModel) -> None:
        """Asks the cluster for it.

        Args:
            ray: The connected module.
            told: What it opens, with paths that all nodes see alike (``placed``).
        """
        self._ray = ray
        self._actor = ray.remote(HelperActor).options(**taken(ray, told)).remote()
        self.opened: Future[Any] = self._actor.open.remote(told).future()

    def do(self, part: Part, told: tuple[Any, ...]) -> Future[Any]:
        """Hands it a part.

        Raises:
            HelperLost: If the cluster is gone.
        """
        try:
            return self._actor.run.remote(part, told).future()
        except (self._ray.exceptions.RayError, ConnectionError) as error:
            raise HelperLost(type(error).__name__) from None

    def outcome(self, future: Future[Any]) -> Any:
        """What a part that has ended came to, or raises what it failed by.

        Raises:
            HelperLost: If the actor, its process or its node is gone.
        """
        try:
            return future.result()
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except (self._ray.exceptions.RayError, ConnectionError) as error:
            raise HelperLost(type(error).__name__) from None

    def end(self) -> None:
        """Ends it."""
        with suppress(self._ray.exceptions.RayError, ConnectionError):  # a cluster that is gone has ended it
            self._ray.kill(self._actor)


def taken(ray: Any, told: HelperModel) -> dict[str, Any]:
    """What a helper takes of a node: its threads, and the accelerators that the model here is spread over."""
    return needs(ray, told.cpu_threads, told.accelerators)


def placed(model: str, opening: Opening) -> tuple[str, Opening]:
    """A model's name and its opening with whole paths, for helpers that have other working folders."""
    where = opening.but(adapter=whole_path(opening.adapter), accepted=whole_path(opening.accepted))
    return (model if model in EMBEDDED else whole_path(model) or model), where


def whole_path(name: str | None) -> str | None:
    """A name with its whole path, if there is a file or folder of this name."""
    if name is None or not (is_file(Path(name)) or is_folder(Path(name))):
        return name
    return str(Path(name).resolve())
