"""What runs in a helper: it opens the model, and does the parts that it is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

import torch

from saccade import models
from saccade._version import __version__
from saccade.identity import model_digest
from saccade.opening import Opening
from saccade.system import threads

Part = Callable[..., Any]
"""What a helper does: a function of a module, given the model and what it is told."""


@dataclass(frozen=True)
class HelperModel:
    """What a helper opens, and what it must come to: else its parts would not be those of this process.

    Attributes:
        name: What the user called the model.
        opening: How it is opened.
        cpu_threads: CPU threads of this process, for to compute with others may come to other numbers.
        digest: Of the model in this process (``model_digest``).
        dtype: Its number format.
        device: The kind of device it is on.
        accelerators: How many of them it is spread over.
        version: Saccade's.
    """

    name: str
    opening: Opening
    cpu_threads: int
    digest: str
    dtype: str
    device: str
    accelerators: int
    version: str = __version__

    @classmethod
    def of(cls, loaded: models.Loaded, name: str, opening: Opening) -> HelperModel:
        """What opens a model that is open here."""
        model = loaded.model
        devices = {one.device for one in model.parameters() if one.device.type not in ("cpu", "meta")}
        digest, dtype = model_digest(loaded), str(model.dtype)
        return cls(name, opening, torch.get_num_threads(), digest, dtype, model.device.type, len(devices))

    def check(self, loaded: models.Loaded, where: str) -> None:
        """Refuses a model that is not the one of the process that asks.

        Args:
            loaded: What was opened.
            where: The helper, in words.

        Raises:
            ValueError: If it is not.
        """
        mine = HelperModel.of(loaded, self.name, self.opening)
        if (mine.dtype, mine.device) != (self.dtype, self.device):
            raise ValueError(
                f"{where} opened {self.name} in {mine.dtype} on {mine.device}, and this process has it in "
                f"{self.dtype} on {self.device}: give --dtype and --device (dtype=, device=)"
            )
        if mine.digest != self.digest:
            raise ValueError(
                f"{where} opened another {self.name} than this process has, by its weights or its processor: "
                "give a folder that holds the same everywhere"
            )


@dataclass(frozen=True, eq=False)
class Once:
    """Something that parts are told again and again, and that each helper is sent the first time alone.

    Attributes:
        value: It; None where the helper has it.
        key: What it is kept under.
    """

    value: Any
    key: str = field(default_factory=lambda: uuid4().hex)

    def named(self) -> Once:
        """Its name alone."""
        return replace(self, value=None)


_loaded: models.Loaded | None = None
_kept: dict[str, Any] = {}


def open_model(told: HelperModel, opening: Opening, where: str) -> None:
    """Opens the model.

    Args:
        told: What, and what it must come to.
        opening: How it is opened by this helper.
        where: This helper, in words.

    Raises:
        ValueError: If it cannot be opened, or is another than it must be.
    """
    global _loaded
    if told.version != __version__:
        raise ValueError(
            f"{where} has saccade {__version__}, and this process {told.version}: install the same"
        )
    threads.use(told.cpu_threads)
    loaded = models.open_as(told.name, opening)
    told.check(loaded, where)
    _loaded = loaded


def run(part: Part, told: tuple[Any, ...]) -> Any:
    """Does a part.

    Args:
        part: What to do.
        told: Its arguments behind the model.
    """
    assert _loaded is not None
    return part(_loaded, *(_known(one) if isinstance(one, Once) else one for one in told))


def _known(one: Once) -> Any:
    if one.value is not None:
        _kept[one.key] = one.value
    return _kept[one.key]
