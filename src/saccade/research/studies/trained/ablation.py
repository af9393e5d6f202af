"""An ablation of trained models: its rows, how much is trained, and what a row's training run is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from saccade.skip_vision import SkipVisionConfig
from saccade.system.embedded import GLANCE, Embedded

MERGES = (1, 7, 8, 9, 10, 11)
"""Rows of the paper's Table 6 that merge."""


@dataclass(frozen=True)
class AblationRow:
    """One line of an ablation.

    Attributes:
        name: What to call it.
        number: Its row in the paper's Table 6; None for a rival.
        seeds: Seeds it is trained with.
        change: How a rival differs from the dense layout.
        plan: A plan that is on the model while it trains and answers, over its own method.
        weights: The row whose weights it takes, where it differs in decoding alone.
        cache: What leaves the KV cache once the prompt is read.
        longer: How many times the recipe's steps it is trained for.
        timed: Whether its times are taken; not of one that takes what another does.
    """

    name: str
    number: int | None = None
    seeds: tuple[int, ...] = (0,)
    change: tuple[tuple[str, Any], ...] = ()
    plan: str | None = None
    weights: str | None = None
    cache: str = "none"
    longer: int = 1
    timed: bool = True


@dataclass(frozen=True)
class AblationRecipe:
    """How much is trained.

    Attributes:
        align_steps: Steps in which a resampler, if there is one, learns to say what the projector says.
        base_steps: Steps of the dense model with a resampler that all rows start from.
        steps: Steps of each row.
        batch: Images per step.
        turns: Questions about each image, at most.
        base_lr: Highest learning rate of that model.
        lr: Highest learning rate of the rows.
        parts: Parts that train.
        precision: fp32, or bf16 (slower on processors without matrix units for it).
        seeds: Seeds taken of each row's, from the first on.
        repeats: Pairs of timed runs of each row.
        forced: Questions of each long task that are teacher-forced.
        max_length: Longest prompt with its answers, in rows.
    """

    align_steps: int = 300
    base_steps: int = 600
    steps: int = 400
    batch: int = 16
    turns: int = 8
    base_lr: float = 4e-4
    lr: float = 1e-4
    parts: tuple[str, ...] = ("all",)
    precision: str = "fp32"
    seeds: int = 3
    repeats: int = 7
    forced: int = 200
    max_length: int = 640


@dataclass(frozen=True)
class Ablation:
    """An ablation: what it starts from, how pictures are laid out, and its rows.

    Attributes:
        model: The embedded model that it starts from, and whose questions it asks.
        title: What pages call the models.
        layout: The dense layout, without what a row adds.
        merged: Rows that skipped ones are merged into: the paper's quarter.
        apart: What the layouts of rows that set skipped rows apart have beside that.
        rows: Its rows, the dense one first, in the order in which they are worth training.
        recipe: How much is trained.
    """

    model: Embedded
    title: str
    layout: Mapping[str, Any]
    merged: int
    rows: tuple[AblationRow, ...]
    recipe: AblationRecipe
    apart: Mapping[str, Any] = field(default_factory=dict)

    @property
    def mark(self) -> str:
        """What tells its run folder from Glance's."""
        return "" if self.model is GLANCE else f"-{self.model.name}"

    def quick(self) -> Ablation:
        """The same of a few steps of everything, which teach nothing."""
        recipe = replace(
            self.recipe, align_steps=2, base_steps=2, steps=2, batch=2, turns=2, seeds=1, repeats=1, forced=4
        )
        return replace(self, recipe=recipe)

    def only(self, names: Collection[str]) -> Ablation:
        """The same with some of its rows: those named, those whose weights they take, and the dense one.

        The dense row is trained with the seeds that these have.

        Raises:
            ValueError: If there is no row of a name.
        """
        known = {row.name: row for row in self.rows}
        odd = [name for name in names if name not in known]
        if odd:
            raise ValueError(f"no row {odd[0]!r}; there are {', '.join(map(repr, known))}")
        wanted = {self.dense, *names} | {known[name].weights for name in names}
        dense, *others = (row for row in self.rows if row.name in wanted)
        needed = {seed for row in others for seed in row.seeds} or set(dense.seeds)
        seeds = tuple(seed for seed in dense.seeds if seed in needed)
        return replace(self, rows=(replace(dense, seeds=seeds), *others))

    @property
    def dense(self) -> str:
        """Name of the dense row."""
        return self.rows[0].name

    @property
    def resampled(self) -> bool:
        """Whether a resampler takes the projector's place: then it is aligned, and a base trained, first."""
        return self.layout["layout"] == "cos"

    def layout_of(self, row: AblationRow) -> dict[str, Any]:
        """A row's configuration, for ``SkipVisionConfig.from_dict``."""
        made = dict(self.layout) | {"row": row.number or 0}
        pooled = "merge" in dict(row.change)
        if row.number or pooled:
            made |= self.apart
        if row.number in MERGES or pooled:
            made["merged"] = self.merged
        return made | dict(row.change) | {"cache": row.cache}

    def config(self, row: AblationRow) -> SkipVisionConfig:
        """The same, read."""
        return SkipVisionConfig.from_dict(self.layout_of(row))

    def seeds(self, row: AblationRow) -> tuple[int, ...]:
        """Seeds a row is trained with."""
        return row.seeds[: self.recipe.seeds]

    def rows_of(self, row: AblationRow) -> int:
        """Rows that a row's images have before any is merged or added: fewer at a lower resolution."""
        config = self.config(row)
        side = config.image_size or self.model.image_size
        return config.projected(round(self.model.rows * (side / self.model.image_size) ** 2))

    @property
    def tokens(self) -> int:
        """Rows of an image in the dense layout."""
        return self.rows_of(self.rows[0])

    def training(self, model: str, out: str, row: AblationRow | None = None, seed: int = 0) -> dict[str, Any]:
        """Configuration of a run of ``saccade train``.

        Args:
            model: Folder of the model that it starts from.
            out: Folder of the run.
            row: What is trained; None for the base.
            seed: Its seed.
        """
        recipe = self.recipe
        layout = dict(self.layout) | {"row": 0} if row is None else self.layout_of(row)
        data = {
            "kind": "glance",
            "images": 1_000_000,
            "turns": recipe.turns,
            "scale": self.model.scale,
        }
        return {
            "model": {"name": model, "skip_vision": layout},
            "train_modules": list(recipe.parts),
            "plan": None if row is None else row.plan,
            "data": [data],
            "optimisation": {
                "batch": recipe.batch,
                "steps": recipe.base_steps if row is None else recipe.steps * row.longer,
                "lr": recipe.base_lr if row is None else recipe.lr,
                "warmup": 0.05,
                "max_length": recipe.max_length,
                "seed": seed,
                "precision": recipe.precision,
                "betas": [0.9, 0.95],
                "weight_decay": 0.01,
                "schedule": "cosine",
            },
            "save_every": 100,
            "keep": 1,
            "logging_every": 25,
            "out": out,
        }
