"""Training Glance from nothing on a few CPU cores: `saccade train glance`.

Stage 1 (see): the decoder's first layers learn, on the visual rows alone, to name what each patch shows.
Stage 2 (answer): questions, many per image, with the patch losses kept on at a lower weight. From
questions alone a model of this size stays blind for tens of thousands of images.
Stage 3 (glimpse): the CLS row of the vision tower learns to look at what is not background.
"""

from __future__ import annotations

import copy
import json
import math
import signal
import statistics
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.nn.functional as F

from saccade.glance.model import GlanceConfig, build_model
from saccade.glance.vocabulary import LABEL_HEADS
from saccade.research.embedded.checkpoint import CHECKPOINT, export, load_state, save_state
from saccade.research.embedded.data import Batches, loader, network_inputs
from saccade.research.embedded.glimpse import teach_to_glimpse
from saccade.research.embedded.network import Network
from saccade.research.embedded.progress import Progress
from saccade.research.embedded.quick import accuracy
from saccade.research.embedded.recipe import Clock, TrainConfig, build_optimizers, learning_rate_factor
from saccade.system.files import alone, naming, write_text

METRICS, CONFIG = "metrics.jsonl", "config.json"


def shared_copy(network: Network) -> Network:
    """A second network over the same weights, with gradients of its own."""
    twin = copy.deepcopy(network)
    for mine, its in zip(twin.parameters(), network.parameters(), strict=True):
        mine.data = its.data
    return twin


class Trainer:
    """A run in a folder: step, check, save, resume."""

    def __init__(self, config: TrainConfig, run_dir: Path, sizes: GlanceConfig) -> None:
        """Build everything from the seed; `load` replaces it by a checkpoint."""
        self.config, self.run_dir, self.sizes = config, run_dir, sizes
        torch.set_num_threads(1)
        self.batches = Batches(config.mixture, config.seed, "train", sizes.visual_tokens)
        self.scenes = Batches(replace(config.mixture, text=0), config.seed + 1, "train", sizes.visual_tokens)
        self.held_out = Batches(config.mixture, 0, "calibration", sizes.visual_tokens)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.network = Network(
                build_model(sizes, config.seed),
                config.read_layers,
                config.point_layers,
                self.batches.encode.user,
            )
        self.replicas = [self.network, *(shared_copy(self.network) for _ in range(config.threads - 1))]
        self._pool = ThreadPoolExecutor(config.threads)
        self.optimizers = build_optimizers(self.network, config)
        self.average = {name: p.detach().clone() for name, p in self.network.named_parameters()}
        self.clock = Clock()
        self.stopping = False
        self._durations: deque[float] = deque(maxlen=50)

    @property
    def seeing(self) -> bool:
        """Whether the run is in stage 1."""
        return self.clock.done(self.config) < self.config.see_share

    def load(self) -> None:
        """Continue from the run folder's checkpoint."""
        state = load_state(self.run_dir)
        self.network.load_state_dict(state["network"])
        self.average = state["average"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.clock = Clock(**state["clock"])
        self._forget_later()

    def _forget_later(self) -> None:
        """Drops lines of metrics of steps that come again, and one that a kill has torn."""
        path = self.run_dir / METRICS
        if not path.exists():
            return
        kept = []
        for line in path.read_text("utf-8").splitlines(keepends=True):
            with suppress(ValueError, TypeError, KeyError):
                if json.loads(line)["step"] <= self.clock.step:
                    kept.append(line)
        write_text(path, "".join(kept))

    def save(self) -> None:
        """Write the checkpoint; a crash half way leaves the old one."""
        save_state(
            self.run_dir,
            {
                "network": self.network.state_dict(),
                "average": self.average,
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "clock": asdict(self.clock),
                "sizes": asdict(self.sizes),
                "config": asdict(self.config),
            },
        )

    def step(self, batch: dict[str, torch.Tensor]) -> dict[str, float]:
        """One optimisation step; returns its losses."""
        began = time.perf_counter()
        count = len(self.replicas)
        shards = [{k: v.tensor_split(count)[i] for k, v in batch.items()} for i in range(count)]
        results = list(self._pool.map(self._shard, self.replicas, shards))
        self._gather_gradients()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        factor = learning_rate_factor(self.config, self.clock)
        for optimizer, rate in zip(self.optimizers, (self.config.muon_lr, self.config.adam_lr), strict=True):
            optimizer.param_groups[0]["lr"] = rate * factor
            optimizer.step()
        self._follow()
        self._tick(time.perf_counter() - began, len(batch["pixels"]))
        loss, text, point, *patch = torch.stack(results).mean(0).tolist()
        return {
            "loss": loss,
            "answer": text,
            "pointing": point,
            **{f"patch/{k}": v for k, v in zip(LABEL_HEADS, patch, strict=True)},
        }

    def _shard(self, network: Network, shard: dict[str, torch.Tensor]) -> torch.Tensor:
        """Forward and backward of one shard; returns its loss and the parts of it."""
        torch.set_num_threads(1)  # the setting belongs to the calling thread
        for parameter in network.parameters():
            parameter.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bf16):
            if "ids" in shard:
                patch, point, logits = network.answer(**network_inputs(shard, self.batches.prefix))
                text = F.cross_entropy(logits.flatten(0, 1), shard["targets"].flatten(), ignore_index=-100)
                loss = text + self.config.patch_weight * patch.sum() + self.config.point_weight * point
            else:
                patch = network.see(shard["pixels"], shard["labels"])
                text = point = torch.zeros(())
                loss = patch.sum()
        loss.backward()
        return torch.cat((torch.stack((loss, text, point)), patch[-1])).detach()

    def _gather_gradients(self) -> None:
        """Average the shards' gradients into the first replica's."""
        first = [p.grad for p in self.network.parameters() if p.grad is not None]
        for replica in self.replicas[1:]:
            torch._foreach_add_(first, [p.grad for p in replica.parameters() if p.grad is not None])
        torch._foreach_div_(first, float(len(self.replicas)))

    def _follow(self) -> None:
        """Move the averaged weights; fast at first, so that they never hold the initial noise."""
        decay = min(self.config.ema, 1.0 - 10.0 / (10.0 + self.clock.step))
        with torch.no_grad():
            average = [self.average[name] for name, _ in self.network.named_parameters()]
            torch._foreach_lerp_(average, list(self.network.parameters()), 1.0 - decay)

    def _tick(self, seconds: float, images: int) -> None:
        """Count time in steps only, and a step that was paused as an ordinary one."""
        if len(self._durations) >= 5:
            seconds = min(seconds, 5.0 * statistics.median(self._durations))
        self._durations.append(seconds)
        seeing = self.seeing
        self.clock.spent += seconds
        self.clock.step += 1
        # Before anything is saved: a checkpoint between the stages belongs to the next one.
        self.clock.stage_step = self.clock.stage_step + 1 if self.seeing == seeing else 0
        self.clock.images += images

    def check(self) -> dict[str, float]:
        """Accuracy per task of the averaged weights on held-out scenes."""
        current = {name: p.detach().clone() for name, p in self.network.named_parameters()}
        self.network.load_state_dict(self.average, strict=False)
        try:
            with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bf16):
                return accuracy(self.network, self.held_out, self.config.check_batches)
        finally:
            self.network.load_state_dict(current, strict=False)

    def log(self, record: dict) -> None:
        """Append one line to the run's metrics."""
        where = {
            "step": self.clock.step,
            "minutes": round(self.clock.spent / 60, 2),
            "images": self.clock.images,
        }
        line = {**where, "stage": 1 if self.seeing else 2, **record}
        path = self.run_dir / METRICS
        with naming(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def run(self) -> None:
        """Train to the end of the schedule; an interruption or a polite kill saves first."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: setattr(self, "stopping", True))
        progress = Progress(self.config.minutes, self.config.steps)
        while self.clock.done(self.config) < 1.0:
            seeing = self.seeing
            source = self.scenes if seeing else self.batches
            self._run_stage(loader(source, self.clock.step, self.config.workers), seeing, progress)
            if self.stopping:
                self.save()
                raise SystemExit(f"saved at step {self.clock.step}; continue with --resume")
        self.save()
        self._glimpse()
        if self.config.check_every > 0:
            self.log(self.check())
        progress.close()

    def _glimpse(self) -> None:
        """Stage 3, on the averaged weights: they are the ones that are exported."""
        if self.clock.glimpsed:
            return
        self.network.load_state_dict(self.average, strict=False)
        steps, patch = self.config.glimpse_steps, self.sizes.patch
        losses = teach_to_glimpse(self.network.model, self.scenes, steps, self.config.seed, patch)
        for name, parameter in self.network.named_parameters():
            self.average[name].copy_(parameter.detach())
        self.clock.glimpsed = True
        self.log({"glimpse": round(losses[-1], 4) if losses else None})
        self.save()

    def _run_stage(self, batches, seeing: bool, progress: Progress) -> None:
        saved = checked = logged = self.clock.spent
        smooth: dict[str, float] = {}
        for batch in batches:
            losses = self.step(batch)
            if not math.isfinite(losses["loss"]):
                raise RuntimeError(
                    f"loss is not finite at step {self.clock.step}; resume with a lower learning rate"
                )
            smooth = {k: 0.95 * smooth.get(k, v) + 0.05 * v for k, v in losses.items()}
            spent = self.clock.spent
            if spent - logged >= 20.0:
                self.log({k: round(v, 4) for k, v in smooth.items()})
                logged = spent
            if not seeing and 0 < self.config.check_every <= spent - checked:
                self.log(self.check())
                checked = spent
            if spent - saved >= self.config.save_every:
                self.save()
                saved = spent
            progress.update(self.clock, 1 if seeing else 2, smooth)
            if self.stopping or self.clock.done(self.config) >= 1.0 or self.seeing != seeing:
                return


def train(
    config: TrainConfig | None = None,
    run_dir: Path = Path("runs/glance"),
    resume: bool = False,
    sizes: GlanceConfig | None = None,
) -> None:
    """Train Glance in `run_dir`; with `resume`, continue the run that is there.

    Raises:
        ValueError: The folder holds a run and `resume` is false, or the other way round; or another process
            is at it.
    """
    config, sizes = config or TrainConfig(), sizes or GlanceConfig()
    run_dir = Path(run_dir)
    with alone(run_dir, folder=True):
        present = (run_dir / CHECKPOINT).exists()
        if present and not resume:
            raise ValueError(f"{run_dir} holds a run already: pass --resume, or choose another folder")
        if resume and not present:
            raise ValueError(f"{run_dir} holds no checkpoint to resume")
        trainer = Trainer(config, run_dir, sizes)
        if resume:
            trainer.load()
        elif (run_dir / CONFIG).exists():
            (run_dir / METRICS).unlink(missing_ok=True)  # of a run that ended before its first checkpoint
        write_text(run_dir / CONFIG, json.dumps({**asdict(config), "sizes": asdict(sizes)}, indent=2) + "\n")
        trainer.run()


__all__ = ["TrainConfig", "Trainer", "export", "train"]
