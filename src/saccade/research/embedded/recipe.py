"""The recipes: what is trained how long, at which rates, by which optimizers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from saccade.glance.draw import LARGE, PLAIN, SMALL, DrawnLook
from saccade.glance.model import GAZE, GLANCE, GlanceConfig
from saccade.research.embedded.data import Batches, Mixture
from saccade.research.embedded.muon import Muon
from saccade.research.embedded.network import Network


@dataclass(frozen=True)
class TrainingStage:
    """A part of the schedule.

    Attributes:
        learn: ``"see"``: from pictures alone; ``"answer"``: from questions too.
        until: Share of the schedule at which it ends.
        step: If positive, the step at which it ends instead, however long the schedule is.
        look: How scenes are drawn.
        batch: Pictures per batch; the mixture's if 0.
        thinned: Share of the batches whose pictures lose rows before the decoder (`Batches`).
        hold: Whether the patch readers stay as they are, so that what they read keeps its meaning for the
            decoder, which does not run.
        whole: Whether the tower is asked how a patch relates to the whole picture too, which the decoder's
            readers are asked before, and then no longer.
        spell_early: Whether long answers too are asked for half way through the decoder.
        sparse: Whether the model learns to do with few rows: thinned pictures keep few rows more often than
            many, the CLS row looks at one patch of every 2 x 2 of a thing, and the first layer is taught to
            look too, words that name nothing at whatever is drawn.
        shallow: Whether the tower loses a layer: features come one layer earlier, and the decoder, which can
            look at other rows too, has to do what that layer did. Later stages have to be shallow too.
        decay_from: If positive, point of the schedule up to `step` from which the learning rate falls to
            almost nothing at the end of this stage already.
    """

    learn: Literal["see", "answer"]
    until: float = 1.0
    step: int = 0
    look: DrawnLook = PLAIN
    batch: int = 0
    thinned: float = 0.0
    hold: bool = False
    whole: bool = False
    spell_early: bool = False
    sparse: bool = False
    shallow: bool = False
    decay_from: float = 0.0

    def __post_init__(self) -> None:
        """Refuses a fall of its own of a stage whose end is a share of the schedule.

        Raises:
            ValueError: Saying so.
        """
        if self.decay_from and not self.step:
            raise ValueError("a stage whose learning rate falls by itself ends at a step, not at a share")


@dataclass(frozen=True)
class TrainConfig:
    """A recipe. The defaults are Glance's, as its shipped weights were trained.

    Attributes:
        steps: Steps; the schedule is laid over them, which makes a run repeatable.
        minutes: If positive, lay the schedule over this much time in training steps instead; pauses do not
            count.
        seed: Seed of the initial weights and of the data.
        stages: The stages, in order; the last one lasts to the end.
        decay_from: Point of the schedule from which the learning rate falls linearly to almost nothing; a run
            that is resumed before it with more steps has lost nothing.
        start: What to start from: nothing, ``glance`` (its shipped weights, as far as they fit), or a folder
            of weights.
        muon_lr: Learning rate of the layers' matrices (Muon).
        adam_lr: Learning rate of everything else (AdamW).
        weight_decay: Weight decay of the layers' matrices.
        warmup: Steps over which each stage's learning rate rises.
        patch_weight: Weight of the patch losses beside answers.
        point_weight: Weight of the pointing loss.
        point_layers: Decoder layers whose first heads are taught where to look.
        look_weight: Weight of the loss of the CLS row's attention, where the tower mixes patches.
        early_layer: Decoder layer behind which short answers are asked for too; 0 for none.
        early_weight: Weight of their loss.
        glimpse_steps: Steps in which the CLS row of a tower that does not mix learns to look, at the end.
        ema: Decay of the averaged weights, which are the ones exported.
        read_layers: Decoder layers that must be able to name what a patch shows.
        mixture: What the batches are made of; learning to see uses its scenes only.
        bf16: Compute in bfloat16 where it is safe (autocast); weights and residual stream stay in float32.
            If None, where the device has arithmetic for it, which doubles the speed; without, it is 50 times
            slower.
        device: Where to compute: ``cpu``, or an accelerator, which takes a batch as one shard.
        threads: Shards of a batch, each computed by a thread of its own. Threads meet once a step: with
            several threads inside each operation instead, a busy machine makes training many times slower.
        save_every: Seconds between checkpoints.
        check_every: Seconds between accuracy checks on held-out scenes.
        check_batches: Batches per accuracy check.
        workers: Background processes drawing data; 0 draws in this process.
    """

    steps: int = 8500
    minutes: float = 0.0
    seed: int = 0
    stages: tuple[TrainingStage, ...] = (TrainingStage("see", until=0.11), TrainingStage("answer"))
    decay_from: float = 0.8
    start: str = ""
    muon_lr: float = 5e-3
    adam_lr: float = 2e-3
    weight_decay: float = 0.02
    warmup: int = 40
    patch_weight: float = 0.1
    point_weight: float = 0.2
    point_layers: tuple[int, ...] = (7, 9)
    look_weight: float = 0.0
    early_layer: int = 0
    early_weight: float = 0.0
    glimpse_steps: int = 300
    ema: float = 0.995
    read_layers: tuple[int, ...] = (5, 8)
    mixture: Mixture = field(default_factory=Mixture)
    bf16: bool | None = None
    device: str = "cpu"
    threads: int = 2
    save_every: float = 150.0
    check_every: float = 240.0
    check_batches: int = 6
    workers: int = 1

    @property
    def half(self) -> bool:
        """Whether to compute in bfloat16."""
        if self.bf16 is not None:
            return self.bf16
        return not self.device.startswith("cpu") or torch.cpu._is_avx512_bf16_supported()

    def going_on(self, folder: str) -> TrainConfig:
        """The last stage of this recipe from the weights in a folder."""
        return replace(self, start=folder, stages=self.stages[-1:])

    def from_shallow(self) -> TrainConfig:
        """The same from a model whose tower has lost its layer already."""
        return replace(self, stages=tuple(replace(stage, shallow=False) for stage in self.stages))

    def with_batch(self, batch: int) -> TrainConfig:
        """The same recipe with so many pictures a step in its last stage, and as many times more before."""
        times = batch / self.mixture.batch
        stages = tuple(replace(stage, batch=round(stage.batch * times)) for stage in self.stages)
        return replace(self, mixture=replace(self.mixture, batch=batch), stages=stages)

    def batches(self, stage: TrainingStage, split: str = "train") -> Batches:
        """What a stage is trained on; of another split, the questions that it is checked on."""
        see = stage.learn == "see"
        mixture = replace(self.mixture, batch=stage.batch or self.mixture.batch)
        if split != "train":
            return Batches(mixture, 0, split, stage.look)
        mixture = replace(mixture, text=0) if see else mixture
        return Batches(mixture, self.seed + see, split, stage.look, stage.thinned, stage.sparse)


@dataclass(frozen=True)
class Recipe:
    """All that makes an embedded model.

    Attributes:
        name: What it is called.
        sizes: Its architecture.
        config: Its training.
    """

    name: str
    sizes: GlanceConfig
    config: TrainConfig


RECIPES = {
    "glance": Recipe("glance", GLANCE, TrainConfig()),
    "gaze": Recipe(
        "gaze",
        GAZE,
        TrainConfig(
            steps=11500,
            stages=(
                TrainingStage("answer", step=1000, look=SMALL),
                TrainingStage("see", step=1250, look=LARGE, hold=True),
                TrainingStage("answer", step=3500, look=LARGE, decay_from=0.7),
                TrainingStage("see", step=3900, look=LARGE, whole=True),
                TrainingStage(
                    "answer",
                    step=6200,
                    look=LARGE,
                    thinned=0.6,
                    whole=True,
                    spell_early=True,
                    decay_from=0.78,
                ),
                TrainingStage(
                    "answer",
                    step=9200,
                    look=LARGE,
                    thinned=0.7,
                    whole=True,
                    spell_early=True,
                    sparse=True,
                    decay_from=0.85,
                ),
                TrainingStage(
                    "answer",
                    step=9900,
                    look=LARGE,
                    thinned=0.5,
                    spell_early=True,
                    sparse=True,
                    shallow=True,
                    decay_from=0.965,
                ),
                TrainingStage(
                    "answer", look=LARGE, thinned=0.65, spell_early=True, sparse=True, shallow=True
                ),
            ),
            decay_from=0.93,
            start="glance",
            muon_lr=4e-3,
            adam_lr=1.5e-3,
            patch_weight=0.2,
            point_layers=(2, 4, 6),
            look_weight=0.3,
            early_layer=6,
            early_weight=0.5,
            check_every=600.0,
            glimpse_steps=0,
            read_layers=(4,),
            mixture=Mixture(batch=16, text=160),
        ),
    ),
}


@dataclass
class Clock:
    """Where the run is: what a checkpoint keeps beside the weights."""

    step: int = 0
    spent: float = 0.0
    stage_step: int = 0
    images: int = 0
    glimpsed: bool = False

    def done(self, config: TrainConfig) -> float:
        """Position in the schedule, 0 to 1."""
        if config.minutes:
            return min(1.0, self.spent / (config.minutes * 60.0))
        return min(1.0, self.step / config.steps)

    def stage(self, config: TrainConfig) -> int:
        """Number of the stage, from 0."""
        done = self.done(config)
        for number, stage in enumerate(config.stages[:-1]):
            if self.step < stage.step if stage.step else done < stage.until:
                return number
        return len(config.stages) - 1


def learning_rate_factor(config: TrainConfig, clock: Clock) -> float:
    """Warm-up at the start of each stage, a plateau, a linear fall: at the end, or a stage's own."""
    stage = config.stages[clock.stage(config)]
    rise = min(1.0, (clock.stage_step + 1) / config.warmup)
    done, falls_from = clock.done(config), config.decay_from
    if stage.decay_from:
        done, falls_from = clock.step / stage.step, stage.decay_from
    return rise * max(0.01, min(1.0, (1.0 - done) / (1.0 - falls_from)))


def build_optimizers(network: Network, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of all layers that features and answers pass through, AdamW for the rest."""
    tower = network.model.model.vision_tower
    layers = [*tower.encoder.layers[:-1], *network.model.model.language_model.layers]
    matrices = [p for layer in layers for p in layer.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    last = tower.encoder.layers[-1]
    unused = {id(p) for p in (*last.parameters(), *tower.post_layernorm.parameters())}
    if network.mixes:
        # Of the last layer only what the CLS row looks with.
        looks = (last.layer_norm1, last.self_attn.q_proj, last.self_attn.k_proj)
        unused -= {id(p) for module in looks for p in module.parameters()}
    rest = [p for p in network.parameters() if id(p) not in chosen | unused]
    dtype, decay = torch.bfloat16 if config.half else torch.float32, config.weight_decay
    return [
        Muon(matrices, dtype, lr=config.muon_lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=config.adam_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]
