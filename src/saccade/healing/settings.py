"""What a healing is asked for: one value, made once by the command line or Python, passed whole (pure)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar

from saccade.training.config import LoraSettings, Optimisation, TrainingConfig

USUAL_LR, USUAL_WIDTH = 2e-4, 4096
"""Learning rate of adapters on a decoder of this width; narrower ones take larger steps."""

OPTION = "--out"
"""The option that names the folder of a run."""

LONGEST = 4_000_000
"""Rows of the longest sequence: none is cut, for an answer that does not fit was said by the model itself."""


@dataclass(frozen=True)
class HealingSettings:
    """How long, on how much, and with what adapter a plan is healed.

    Attributes:
        steps: Steps to take.
        batch: Questions of one forward.
        accumulation: Forwards per step.
        lr: Highest learning rate; by the width of the decoder if omitted.
        rank: Rank of the adapter.
        num_samples: Questions that are trained on, at most.
        num_held_out: Questions that judge what it brought, at most.
        tokens: Longest answer that is learnt.
        learn: FLOPs over the dense model's at which layers to skip are learnt with the adapter, beside the
            plan; None where the plan says them.
        learn_steps: Steps of that, before the layers are settled and the adapter trains on.
        checkpointing: Whether activations are recomputed in the backward pass instead of kept.
        save_every: Steps between checkpoints.
        seed: Of the draw, the order and the adapter.
    """

    steps: int = 300
    batch: int = 16
    accumulation: int = 1
    lr: float | None = None
    rank: int = 16
    num_samples: int = 4800
    num_held_out: int = 260
    tokens: int = 24
    learn: float | None = None
    learn_steps: int = 200
    checkpointing: bool = True
    save_every: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is a number from 1, got {value!r}")
        if type(self.seed) is not int or self.seed < 0:
            raise ValueError(f"seed is a number from 0, got {self.seed!r}")
        share = self.learn
        if share is not None and (
            isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1
        ):
            raise ValueError(f"learn is a share between 0 and 1, got {share!r}")
        rate = self.lr
        if rate is not None and (
            isinstance(rate, bool)
            or not isinstance(rate, int | float)
            or not math.isfinite(rate)
            or rate <= 0
        ):
            raise ValueError(f"lr is a number above 0, got {rate!r}")
        self.run("", "", self.lr or USUAL_LR)  # what the trainer refuses is refused here

    def rate(self, width: int) -> float:
        """The learning rate for a decoder of this width: as given, or the usual one by the root of widths."""
        return self.lr if self.lr is not None else USUAL_LR * math.sqrt(USUAL_WIDTH / width)

    def run(self, spec: str, out: str, rate: float) -> HealingConfig:
        """The run as the trainer takes it.

        Args:
            spec: The plan.
            out: Folder of the run.
            rate: The learning rate.
        """
        return HealingConfig(
            data=(),
            optimisation=Optimisation(
                batch=self.batch,
                accumulation=self.accumulation,
                steps=self.steps,
                lr=rate,
                max_length=LONGEST,
                seed=self.seed,
                checkpointing=self.checkpointing,
            ),
            train_modules=("decoder",),
            plan=spec or None,
            lora=LoraSettings(self.rank, 2.0 * self.rank),
            save_every=self.save_every,
            out=out or "healed",
        )

    def learning(self, spec: str, out: str, rate: float) -> HealingConfig:
        """The run of the gates as the trainer takes it; arguments as of `run`."""
        config = self.run(spec, out, rate)
        return replace(
            config,
            optimisation=replace(config.optimisation, steps=self.learn_steps),
            learn=self.learn,
        )

    def told(self) -> dict[str, Any]:
        """What differs from the defaults, as plain values."""
        mine = asdict(self)
        return {f.name: mine[f.name] for f in fields(self) if mine[f.name] != f.default}


_COUNTS = (
    "steps",
    "batch",
    "accumulation",
    "rank",
    "num_samples",
    "num_held_out",
    "tokens",
    "save_every",
    "learn_steps",
)


@dataclass(frozen=True)
class HealingConfig(TrainingConfig):
    """A run of the trainer whose records are questions with the dense model's answers, not a file's."""

    needs_sources: ClassVar[bool] = False

    learn: float | None = None
    """FLOPs at which layers are learnt; None where they are settled."""
