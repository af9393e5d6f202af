"""What a reducer is: a method that decides which visual rows stay once it has seen something."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from saccade.core.layout import Views
from saccade.core.select import top
from saccade.core.stages import Choice, Evidence, Look, Stage
from saccade.methods.base import Method

Amount = int | float
"""A fraction up to 1, or a number of rows above it."""

Rounds = Literal["down", "nearest"]
"""How a fraction becomes a number of rows."""


def read_amount(amount: Any, where: str) -> Amount:
    """Checks a fraction (0 to 1) or a number of rows (2 and more).

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 <= amount < float("inf"):
        raise ValueError(f"{where} is a fraction from 0 to 1 or a number of rows, got {amount!r}")
    if amount <= 1:
        return float(amount)
    if amount != int(amount):
        raise ValueError(f"{where}: {amount} is neither a fraction nor a whole number of rows")
    return int(amount)


def rows_of(amount: Amount, rows: int, rounds: Rounds = "down") -> int:
    """Rows that an amount makes of so many.

    Args:
        amount: A number of rows, or a fraction.
        rows: What a fraction is of.
        rounds: How a fraction becomes a number, never of nothing; ``nearest`` takes the even one of two.
    """
    if isinstance(amount, int):
        return amount
    # Products such as 0.29 * 100 must not lose a row to rounding.
    count = round(rows * amount) if rounds == "nearest" else int(rows * amount + 1e-9)
    return max(count, 1 if amount > 0 and rows else 0)


@dataclass(frozen=True)
class Reducer(Method):
    """A method that drops or merges visual rows at one or more stages.

    Budgets are per image. ``keep`` always means what is kept: a fraction up to 1, or a number of rows.

    Attributes:
        of: What a fraction is taken of: the image's rows that the method finds alive, or those that the image
            had originally (at most the former are kept).
        position_policy: Whether the rows that stay keep their rotary positions or close up; by default as the
            method's authors did, where the model's positions can close up (with mRoPE they are kept).
    """

    saves = ("prefill", "kv", "decode")
    compacts: ClassVar[bool] = False
    """What the authors did with positions."""

    of: Literal["found", "original"] = "found"
    position_policy: Literal["keep", "compact"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.of not in ("found", "original"):
            raise ValueError(f"{self.name}: of is found or original, got {self.of!r}")
        if self.position_policy not in (None, "keep", "compact"):
            raise ValueError(f"{self.name}: position_policy is keep or compact, got {self.position_policy!r}")

    @property
    def compact(self) -> Literal["never", "if possible", "always"]:
        """What stages say about positions."""
        if self.position_policy is None:
            return "if possible" if self.compacts else "never"
        return "always" if self.position_policy == "compact" else "never"

    @abstractmethod
    def stages(self, num_layers: int) -> tuple[Stage, ...]:
        """Where it decides, in order.

        Raises:
            ValueError: If a layer is past the model's last.
        """

    @abstractmethod
    def kept(self, stage: Stage, found: int, start: int, original: int, views: Views = ()) -> int:
        """Rows an image keeps at a stage, see ``saccade.core.stages.Decider``."""

    @abstractmethod
    def choose(self, stage: Stage, evidence: Evidence) -> Choice:
        """Which rows stay, see ``saccade.core.stages.Decider``."""

    def asking(self, evidence: Evidence) -> torch.Tensor:
        """Rows that ask at stages with ``ask="chosen"``."""
        raise ValueError(f"{self.name} asks no rows of its own choice")

    def resolve(self, num_layers: int, order: Sequence[int] | None = None) -> Method:
        found = super().resolve(num_layers, order)
        self.stages(num_layers)
        return found

    @classmethod
    def usual_values(cls) -> dict[str, str]:
        return super().usual_values() | {"position_policy": "compact" if cls.compacts else "keep"}

    def check_layer(self, layer: int, num_layers: int, lowest: int = 1) -> int:
        """A stage's layer, if the model has it.

        Raises:
            ValueError: If not.
        """
        if not lowest <= layer < num_layers:
            raise ValueError(
                f"{self}: layer {layer} is not a layer it can cut before; the model allows "
                f"{lowest}-{num_layers - 1}"
            )
        return layer


@dataclass(frozen=True)
class KeepReducer(Reducer):
    """A reducer with one stage and one number, ``keep``.

    It decides before the decoder and keeps the rows with the highest ``scores``, unless it overrides
    ``stages`` or ``choose``.

    Attributes:
        keep: What stays of every image: a fraction up to 1, rounded down but not to nothing, or a number of
            rows.
    """

    dial = "keep"

    keep: Amount | None = None

    usual: ClassVar[Amount] = 0.5
    """What ``keep`` is if it is not given."""
    rounds: ClassVar[Rounds] = "down"
    """How a fraction becomes a number of rows, as the method's authors do it."""
    look: ClassVar[Look] = Look()
    """What the decision needs to see."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep is not None:
            object.__setattr__(self, "keep", read_amount(self.keep, f"{self.name}: keep"))

    @property
    def amount(self) -> Amount:
        """What stays of every image."""
        return self.usual if self.keep is None else self.keep

    def kept(self, stage: Stage, found: int, start: int, original: int, views: Views = ()) -> int:
        return min(found, rows_of(self.amount, original if self.of == "original" else found, self.rounds))

    @classmethod
    def usual_values(cls) -> dict[str, str]:
        return super().usual_values() | {"keep": f"{cls.usual}"}

    def stages(self, num_layers: int) -> tuple[Stage, ...]:
        return (Stage(0, self, look=self.look, compact=self.compact),)

    def scores(self, evidence: Evidence) -> torch.Tensor:
        """Scores (B, N) of the visual rows; ties go to the first in the order of the rows."""
        raise ValueError(f"{self.name} scores no rows")

    def choose(self, stage: Stage, evidence: Evidence) -> Choice:
        return Choice(top(self.scores(evidence), evidence.alive_BN, evidence.image_BN, evidence.keep))


@dataclass(frozen=True)
class DecoderReducer(KeepReducer):
    """A reducer that decides inside the decoder, before one of its layers.

    Attributes:
        layer: First layer that runs with the rest.
    """

    layer: int = 3

    earliest: ClassVar[int] = 1
    """First layer that it can cut before."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.layer) is not int or self.layer < self.earliest:
            raise ValueError(f"{self.name}: layer is a number from {self.earliest}, got {self.layer!r}")

    def stages(self, num_layers: int) -> tuple[Stage, ...]:
        self.check_layer(self.layer, num_layers, self.earliest)
        return (Stage(self.layer, self, look=self.look, compact=self.compact),)
