"""The recipe: what is trained how long, at which rates, by which optimizers."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from saccade.research.embedded.data import Mixture
from saccade.research.embedded.network import Network


@dataclass(frozen=True)
class TrainConfig:
    """The recipe. Its defaults are the ones the shipped weights were trained with.

    Attributes:
        steps: Steps; the schedule is laid over them, which makes a run repeatable.
        minutes: If positive, lay the schedule over this much time in training steps instead; pauses do not
            count.
        seed: Seed of the initial weights and of the data.
        see_share: Share of the schedule spent in stage 1.
        decay_from: Point of the schedule from which the learning rate falls linearly to almost nothing.
        muon_lr: Learning rate of the decoder's matrices (Muon).
        adam_lr: Learning rate of everything else (AdamW).
        weight_decay: Weight decay of the decoder's matrices.
        warmup: Steps over which each stage's learning rate rises.
        patch_weight: Weight of the patch losses in stage 2.
        point_weight: Weight of the pointing loss in stage 2.
        point_layers: Decoder layers whose first heads are taught where to look.
        glimpse_steps: Steps of stage 3, after the schedule.
        ema: Decay of the averaged weights, which are the ones exported.
        read_layers: Decoder layers that must be able to name what a patch shows.
        mixture: What the batches of stage 2 are made of; stage 1 uses its scenes only.
        bf16: Compute in bfloat16 where it is safe (autocast); weights and residual stream stay in float32.
            On processors with bfloat16 arithmetic this doubles the speed.
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
    see_share: float = 0.11
    decay_from: float = 0.8
    muon_lr: float = 5e-3
    adam_lr: float = 2e-3
    weight_decay: float = 0.02
    warmup: int = 40
    patch_weight: float = 0.1
    point_weight: float = 0.2
    point_layers: tuple[int, ...] = (7, 9)
    glimpse_steps: int = 300
    ema: float = 0.995
    read_layers: tuple[int, ...] = (5, 8)
    mixture: Mixture = field(default_factory=Mixture)
    bf16: bool = True
    threads: int = 2
    save_every: float = 150.0
    check_every: float = 240.0
    check_batches: int = 6
    workers: int = 1


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


def learning_rate_factor(config: TrainConfig, clock: Clock) -> float:
    """Warm-up at the start of each stage, a plateau, a linear fall."""
    rise = min(1.0, (clock.stage_step + 1) / config.warmup)
    fall = min(1.0, (1.0 - clock.done(config)) / (1.0 - config.decay_from))
    return rise * max(0.01, fall)


def build_optimizers(network: Network, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the decoder's matrices, AdamW for embeddings, gains and heads."""
    layers = network.model.model.language_model.layers
    matrices = [p for p in layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    frozen = {id(p) for p in network.model.model.vision_tower.encoder.parameters()}
    frozen |= {id(p) for p in network.model.model.vision_tower.post_layernorm.parameters()}
    rest = [p for p in network.parameters() if id(p) not in chosen | frozen]
    return [
        torch.optim.Muon(
            matrices, lr=config.muon_lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(rest, lr=config.adam_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]
