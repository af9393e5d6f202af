"""What a training run is: frozen settings, read strictly from a YAML file."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Literal

from saccade.core.text import short
from saccade.training.strict import load_yaml, override, read

PARTS = ("tower", "projector", "decoder")
"""Parts of a model that train or do not, from pixels to words."""

STAGES: dict[int, tuple[str, ...]] = {1: ("projector",), 2: ("projector", "decoder")}
"""Parts that train in the two usual stages: alignment, then instruction tuning."""


MOST: dict[str, float] = {
    **{"rank": 16_384, "alpha": 1e6, "weight": 1e6, "images": 10_000_000, "turns": 1000},
    **{"batch": 65_536, "accumulation": 65_536, "steps": 1_000_000_000, "epochs": 1_000_000, "lr": 100.0},
    **{"warmup": 1_000_000_000, "weight_decay": 1000.0, "max_grad_norm": 1e9, "max_length": 4_000_000},
    **{"seed": 2**32 - 1, "workers": 1024, "threads": 1024, "save_every": 1_000_000_000},
    **{"keep": 1_000_000, "logging_every": 1_000_000_000},
}
"""The largest value of every number: more is a mistyped one, and would end in a crash of a library."""


def parts_named(chosen: Sequence[str]) -> tuple[str, ...]:
    """Parts in the order of `PARTS`: those that are named, or all of them for ``all``."""
    return tuple(part for part in PARTS if part in chosen or "all" in chosen)


@dataclass(frozen=True)
class ModelSettings:
    """What is trained.

    Attributes:
        name: ``glance``, a model folder or a hub id.
        dtype: Number format of the weights; with ``precision: bf16`` keep float32, the master copy.
        revision: Branch, tag or commit of a hub id.
        attn: Attention implementation.
        skip_vision: Settings of Skip-Vision, as `saccade.skip_vision` reads them; None leaves it as is.
    """

    name: str = "glance"
    dtype: Literal["float32", "bfloat16"] = "float32"
    revision: str | None = None
    attn: str = "sdpa"
    skip_vision: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters on the decoder's linear layers; merged before the model is saved.

    Attributes:
        rank: Rank of the adapters.
        alpha: Their scale is ``alpha / rank``.
        dropout: Dropout before them.
        targets: Last names of the linear layers that get one (``q_proj``, ...); all in the decoder's layers
            if empty.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _bounded(self)
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise ValueError("rank is at least 1, alpha above 0 and dropout in [0, 1)")


@dataclass(frozen=True)
class ConversationFile:
    """A JSON array or JSONL file of conversations in LLaVA's format.

    Attributes:
        file: The file.
        images: Folder that image names are relative to; that of the file if omitted.
        weight: How often a record is seen per epoch, on average.
        name: What reports call it; the file's name if empty.
    """

    kind: Literal["conversations"]
    file: str
    images: str | None = None
    weight: float = 1.0
    name: str = ""

    def __post_init__(self) -> None:
        _bounded(self)
        _above_zero("weight", self.weight)


@dataclass(frozen=True)
class GlanceScenes:
    """Questions of the embedded suite about scenes drawn on the fly; new ones every epoch.

    Attributes:
        images: Scenes per epoch.
        turns: Questions about each, at most; they form one conversation.
        tasks: Tasks to ask about; all if empty.
        scale: How large pictures are: 1 as Glance sees them, 2 as Gaze does; as the model sees them if None.
        weight: Multiplies ``images``.
        name: What reports call it.
    """

    kind: Literal["glance"]
    images: int
    turns: int = 6
    tasks: tuple[str, ...] = ()
    scale: Literal[1, 2] | None = None
    weight: float = 1.0
    name: str = "glance"

    def __post_init__(self) -> None:
        _bounded(self)
        if self.images < 1 or self.turns < 1:
            raise ValueError(f"images and turns are at least 1, got {self.images} and {self.turns}")
        _above_zero("weight", self.weight)


Source = ConversationFile | GlanceScenes


@dataclass(frozen=True)
class Optimisation:
    """How it is trained. A global batch is ``batch`` times ``accumulation`` times the number of processes.

    Attributes:
        batch: Samples of one forward of one process.
        accumulation: Forwards per step.
        steps: Steps to take; or
        epochs: times the mixture is seen. Give one of the two.
        lr: Highest learning rate (AdamW).
        part_lr: Learning rate of a part, where it is another.
        schedule: How the learning rate falls after its warm-up.
        warmup: Share of the steps (below 1) or number of steps over which it rises, from 0 in the first one.
        weight_decay: Weight decay of matrices.
        betas: AdamW's.
        max_grad_norm: Gradients are scaled down to this norm; 0 leaves them.
        max_length: Longest sequence in rows, visual ones included; longer ones lose whole turns.
        seed: Seed of everything that is drawn.
        precision: fp32, or bf16 (autocast, float32 weights).
        checkpointing: Recompute activations in the backward pass instead of keeping them.
    """

    batch: int
    accumulation: int = 1
    steps: int | None = None
    epochs: float | None = None
    lr: float = 2e-5
    part_lr: Mapping[str, float] = field(default_factory=dict)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: int | float = 0.03
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    max_grad_norm: float = 1.0
    max_length: int = 2048
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    checkpointing: bool = False

    def __post_init__(self) -> None:
        _bounded(self)
        for name in ("batch", "accumulation", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, got {getattr(self, name)}")
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("steps: give steps or epochs, one of the two")
        if (self.steps is not None and self.steps < 1) or (self.epochs is not None and self.epochs <= 0):
            raise ValueError("steps are at least 1, epochs above 0")
        for part in self.part_lr:
            if part not in PARTS:
                raise ValueError(f"part_lr.{part}: parts are {', '.join(PARTS)}")
        for name, rate in {"lr": self.lr, **{f"part_lr.{k}": v for k, v in self.part_lr.items()}}.items():
            _above_zero(name, rate)
            _at_most(name, rate, MOST["lr"])
        if self.warmup < 0 or (isinstance(self.warmup, float) and self.warmup >= 1):
            raise ValueError(f"warmup is a share below 1 or a whole number of steps, got {self.warmup}")
        if self.weight_decay < 0 or self.max_grad_norm < 0 or not 0 <= self.seed < 1 << 32:
            raise ValueError("weight_decay and max_grad_norm are not negative, seed is in [0, 2^32)")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are in [0, 1), got {self.betas}")


@dataclass(frozen=True)
class TrainingConfig:
    """A run. The fields are the sections of the YAML file.

    Attributes:
        data: Sources of the mixture.
        optimisation: How it is trained.
        model: What is trained.
        stage: 1 trains the projector, 2 the projector and the decoder.
        train_modules: Parts that train, instead of a stage: tower, projector, decoder, or all.
        plan: A plan (spec string) that is on the model while it trains, or None.
        lora: Train the decoder through adapters.
        on_bad_record: ``stop`` at a record that cannot be used, or ``skip`` and count it.
        workers: Background processes per process that load data; results do not depend on it.
        threads: CPU threads per process; torch's choice if omitted. Tiny models lose time to more than one.
        save_every: Steps between checkpoints.
        keep: Checkpoints kept.
        logging_every: Steps per line of metrics.
        out: Folder of the run.
    """

    data: tuple[Source, ...]
    optimisation: Optimisation
    model: ModelSettings = ModelSettings()
    stage: Literal[1, 2] | None = None
    train_modules: tuple[Literal["tower", "projector", "decoder", "all"], ...] = ()
    plan: str | None = None
    lora: LoraSettings | None = None
    on_bad_record: Literal["stop", "skip"] = "stop"
    workers: int = 0
    threads: int | None = None
    save_every: int = 500
    keep: int = 2
    logging_every: int = 10
    out: str = "runs/training"

    needs_sources: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _bounded(self)
        if self.needs_sources and not self.data:
            raise ValueError("data: at least one source is needed")
        if (self.stage is None) == (not self.train_modules):
            raise ValueError("train_modules: give stage (1 or 2) or train_modules, one of the two")
        for part in self.optimisation.part_lr:
            if part not in self.parts:
                raise ValueError(
                    f"optimisation.part_lr.{part}: the {part} does not train; "
                    f"what trains: {', '.join(self.parts)}"
                )
        if not self.out.strip():
            raise ValueError("out: the run needs the name of a folder, got nothing")
        if self.lora is not None and "decoder" not in self.parts:
            raise ValueError("lora: adapters are on the decoder, which is not among the trained parts")
        for name in ("save_every", "keep", "logging_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, got {getattr(self, name)}")
        if self.workers < 0 or (self.threads is not None and self.threads < 1):
            raise ValueError(f"workers: {self.workers} is negative, or threads: {self.threads} is below 1")

    @property
    def parts(self) -> tuple[str, ...]:
        """Parts that train, in the order of `PARTS`."""
        chosen = self.train_modules or STAGES[self.stage or 2]
        return parts_named(chosen)

    def as_data(self) -> dict[str, Any]:
        """Plain data that `from_data` reads back."""
        return asdict(self)

    @classmethod
    def from_data(cls, data: Any) -> TrainingConfig:
        """Reads plain data.

        Raises:
            ValueError: Naming the key that is wrong.
        """
        return read(cls, data)


def read_config(path: str | os.PathLike, settings: Sequence[str] = ()) -> TrainingConfig:
    """Reads a YAML file.

    Args:
        path: The file. Paths in it are relative to the current folder.
        settings: ``key.path=value`` strings that replace what the file says.

    Raises:
        ValueError: If the file cannot be read, or names an unknown key, a wrong type or a wrong value.
    """
    data = override(load_yaml(path), settings)
    try:
        return TrainingConfig.from_data(data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _bounded(settings: Any) -> None:
    """Refuses numbers that are none, or larger than any that makes sense, in every field."""
    for each in fields(settings):
        value = getattr(settings, each.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{each.name} is a finite number, got {value}")
        if each.name in MOST and isinstance(value, int | float):
            _at_most(each.name, value, MOST[each.name])


def _at_most(name: str, value: float, most: float) -> None:
    if value > most:
        raise ValueError(f"{name} is at most {most:.15g}, got {short(value, 40)}")


def _above_zero(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} is a number above 0, got {value}")
