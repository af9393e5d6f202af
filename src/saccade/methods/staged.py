"""What reducers inside the decoder share: published layers, scaled to the model's depth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from saccade.core.stages import Look, Stage
from saccade.core.text import short
from saccade.methods.reducer import Reducer

PUBLISHED_DEPTH = 32
"""Layers of the model (LLaVA-1.5-7B) that the published layers are of."""


@dataclass(frozen=True)
class StagedReducer(Reducer):
    """A reducer with several stages.

    Attributes:
        layers: First layer after each stage; by default those of the paper, scaled to the model's depth.
    """

    published: ClassVar[tuple[int, ...]]
    """First layer after each stage, of a model with 32 layers."""
    look: ClassVar[Look]
    """What every stage needs to see."""
    depth: ClassVar[int] = PUBLISHED_DEPTH
    """Layers of the model; ``stages`` notes the real number on the decider that it hands out."""

    layers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layers is None:
            return
        given = tuple(self.layers)
        if not given or any(type(n) is not int or n < 1 for n in given) or len(set(given)) != len(given):
            raise ValueError(
                f"{self.name}: layers are one or more distinct numbers from 1, got {short(given)}"
            )
        object.__setattr__(self, "layers", tuple(sorted(given)))

    def befores(self, num_layers: int) -> tuple[int, ...]:
        """First layer after each stage.

        Raises:
            ValueError: If the model has no such layer, or too few for the stages of the paper.
        """
        if self.layers is not None:
            return tuple(self.check_layer(layer, num_layers) for layer in self.layers)
        found: list[int] = []
        for layer in self.published:
            # Rounded, at least one layer apart and after the first.
            found.append(max(int(layer * num_layers / PUBLISHED_DEPTH + 0.5), found[-1] + 1 if found else 1))
        if found[-1] >= num_layers:
            raise ValueError(
                f"{self.name}: {num_layers} layers are too few for {len(found)} stages; give layers=..."
            )
        return tuple(found)

    @classmethod
    def usual_values(cls) -> dict[str, str]:
        return super().usual_values() | {"layers": f"{'/'.join(map(str, cls.published))} of 32, scaled"}

    def stages(self, num_layers: int) -> tuple[Stage, ...]:
        by = replace(self)
        object.__setattr__(by, "depth", num_layers)
        return tuple(
            Stage(before, by, number, self.look, self.compact)
            for number, before in enumerate(self.befores(num_layers))
        )
