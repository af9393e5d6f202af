"""What a reducer is: a method that decides which visual rows stay once it has seen something."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch

from saccade.core.layout import Layout, Views
from saccade.core.route import LayerRoute
from saccade.core.stages import Choice, Evidence, Stage
from saccade.methods.base import Method

NOTCHES = 1000
"""Steps in which a kept fraction is turned down."""

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
    presets: ClassVar[dict[str, Any]] = {}

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

    @property
    def is_resolved(self) -> bool:
        return self.flops is None

    def resolve(self, num_layers: int, order: Sequence[int] | None = None) -> Reducer:
        if self.flops is not None:
            raise ValueError(f"{self}: flops must be resolved to a setting against a prompt first")
        self.stages(num_layers)
        return self

    def layer_route(self, layout: Layout, full_BN: torch.Tensor, number: int) -> LayerRoute | None:
        return None

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

    Attributes:
        keep: What stays of every image: a fraction up to 1, rounded down but not to nothing, or a number of
            rows.
    """

    keep: Amount | None = None

    usual: ClassVar[Amount] = 0.5
    """What ``keep`` is if it is not given."""
    rounds: ClassVar[Rounds] = "down"
    """How a fraction becomes a number of rows, as the method's authors do it."""

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

    def notches(self, num_layers: int, order: Sequence[int] | None = None) -> int:
        return NOTCHES

    def turned(self, notch: int) -> KeepReducer:
        return replace(self, keep=(NOTCHES - notch) / NOTCHES, flops=None)
