"""The rows of Skip-Vision's ablation and its rivals, on the embedded model: what is trained, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from saccade.research.studies.lineup import KEPT
from saccade.skip_vision import SkipVisionConfig

SCALES = ((20, 16), (4, 50), (2, 100), (2, 100))
"""Windows (patches a side) and tokens: 266 of an image; the 66 of the coarser two are retained.

The finest windows have two tokens each, in two passes over the picture: so the second pass stands to the text
as the patches of Glance do, and the decoder need not learn to read anew.
"""
TOKENS = sum(tokens for _, tokens in SCALES)
"""Rows of an image in the dense layout."""
MERGED = 50
"""Rows that the 200 skipped ones are merged into: the paper's quarter."""
LAYOUT: Mapping[str, Any] = {
    "layout": "cos",
    "image_size": 160,
    "levels": [-2],
    "scales": [list(scale) for scale in SCALES],
    "fine": 2,
    "merged": None,
}
"""The dense Chain-of-Sight layout, without what a row adds."""
THREE = (0, 1, 2)
MERGES = (1, 7, 8, 9, 10, 11)


@dataclass(frozen=True)
class AblationRow:
    """One line of the ablation.

    Attributes:
        name: What to call it.
        number: Its row in the paper's Table 6; None for a rival.
        seeds: Seeds it is trained with.
        change: How a rival differs from the dense layout.
        plan: A plan that is on the model while it trains and answers, over its own method.
        weights: The row whose weights it takes, where it differs in decoding alone.
        cache: What leaves the KV cache once the prompt is read.
        longer: How many times the recipe's steps it is trained for.
    """

    name: str
    number: int | None = None
    seeds: tuple[int, ...] = (0,)
    change: tuple[tuple[str, Any], ...] = ()
    plan: str | None = None
    weights: str | None = None
    cache: str = "none"
    longer: int = 1

    def layout(self) -> dict[str, Any]:
        """The model's configuration, for ``SkipVisionConfig.from_dict``."""
        made = dict(LAYOUT) | {"row": 0 if self.number is None else self.number}
        if self.number in MERGES:
            made["merged"] = MERGED
        return made | dict(self.change) | {"cache": self.cache}

    def config(self) -> SkipVisionConfig:
        """The same, read."""
        return SkipVisionConfig.from_dict(self.layout())


DENSE = "CoS, dense"
MERGE = "Merge"
FULL = "SF FS LS Merge LV"
POOL = "mean pooling"

LONGER = ", 3 times the steps"
"""Ends the name of a row that is trained for longer."""
LATER = (3, 6)
"""First layers of Skip-FFN, of Glance's twelve, in rows that ask where the bypass hurts."""
LATE_SF = f"SF from layer {LATER[-1]}"
"""The row of the last of them with nothing merged."""


def later(layer: int) -> str:
    """Name of the row whose skipped rows bypass FFNs from this layer on."""
    return f"{FULL}, SF from layer {layer}{KEPT}"


_AT_PLACE = (("merge_order", "kept"),)
ROWS = (
    AblationRow(DENSE, 0, THREE),
    AblationRow(FULL, 10),
    AblationRow(MERGE + KEPT, 1, THREE, _AT_PLACE),
    AblationRow(FULL + KEPT, 10, THREE, _AT_PLACE),
    AblationRow("SF", 2),
    AblationRow("SF LS", 4),
    AblationRow("SF FS LS", 6),
    AblationRow("SF FS LS Merge" + KEPT, 8, change=_AT_PLACE),
    AblationRow(POOL + KEPT, change=(("merged", MERGED), ("merge", "mean"), *_AT_PLACE)),
    AblationRow("FastV", plan="fastv(layer=2,keep=0.3)"),
    AblationRow("Victor", change=(("registers", 16), ("register_layer", 3))),
    AblationRow(f"{FULL} SK{KEPT}", 11, THREE, _AT_PLACE, weights=FULL + KEPT, cache="small"),
    AblationRow(
        f"{FULL} SK middle+small{KEPT}", 11, THREE, _AT_PLACE, weights=FULL + KEPT, cache="middle+small"
    ),
    AblationRow(DENSE + LONGER, 0, longer=3),
    AblationRow(LATE_SF, 2, change=(("skip_ffn_layer", LATER[-1]),)),
    *(AblationRow(later(n), 10, change=(("skip_ffn_layer", n), *_AT_PLACE)) for n in LATER),
    AblationRow(FULL + KEPT + LONGER, 10, change=_AT_PLACE, longer=3),
)
"""In the order in which they are worth training; skip KV-cache is of decoding, so its rows need none.

The authors merge in the projector's place, from the most to the least similar row, and so does the row
without "positions kept"; the others keep merged rows in the picture's order, and the places between them.
The last five are not of the paper: they ask whether longer training, or FFNs in the first layers, close the
gap.
"""


@dataclass(frozen=True)
class AblationRecipe:
    """How much is trained.

    Attributes:
        align_steps: Steps in which the resampler learns to say what Glance's projector says.
        base_steps: Steps of the dense model that all rows start from.
        steps: Steps of each row.
        batch: Images per step.
        turns: Questions about each image, at most.
        base_lr: Highest learning rate of the base.
        lr: Highest learning rate of the rows.
        precision: fp32, or bf16 (slower on processors without matrix units for it).
        seeds: Seeds taken of each row's, from the first on.
        repeats: Pairs of timed runs of each row.
        forced: Questions of each long task that are teacher-forced.
    """

    align_steps: int = 300
    base_steps: int = 600
    steps: int = 400
    batch: int = 16
    turns: int = 8
    base_lr: float = 4e-4
    lr: float = 1e-4
    precision: str = "fp32"
    seeds: int = 3
    repeats: int = 7
    forced: int = 200

    def training(
        self,
        model: str,
        layout: Mapping[str, Any],
        out: str,
        seed: int,
        plan: str | None,
        base: bool,
        longer: int = 1,
    ) -> dict[str, Any]:
        """Configuration of a run of ``saccade train``.

        Args:
            model: Folder of the model that it starts from.
            layout: The layout it gets.
            out: Folder of the run.
            seed: Its seed.
            plan: A plan that is on the model while it trains.
            base: Whether it makes the base.
            longer: How many times a row's steps it is trained for.
        """
        return {
            "model": {"name": model, "skip_vision": dict(layout)},
            "train_modules": ["all"],
            "plan": plan,
            "data": [{"kind": "glance", "images": 1_000_000, "turns": self.turns}],
            "optimisation": {
                "batch": self.batch,
                "steps": self.base_steps if base else self.steps * longer,
                "lr": self.base_lr if base else self.lr,
                "warmup": 0.05,
                "max_length": 640,
                "seed": seed,
                "precision": self.precision,
                "betas": [0.9, 0.95],
                "weight_decay": 0.01,
                "schedule": "cosine",
            },
            "save_every": 100,
            "keep": 1,
            "logging_every": 25,
            "out": out,
        }


QUICK = AblationRecipe(align_steps=2, base_steps=2, steps=2, batch=2, turns=2, seeds=1, repeats=1, forced=4)
"""A few steps of everything, which teach nothing."""
