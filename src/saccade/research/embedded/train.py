"""Training the embedded models on a few CPU cores: `saccade train glance`, `saccade train gaze`.

Seeing: the tower, or the decoder's first layers on the visual rows alone, learn to name what patches show.
Answering: questions, many per image, with the patch losses kept on at a lower weight. From questions alone a
model of this size stays blind for tens of thousands of images.
Glimpsing: the CLS row of the vision tower learns to look at what is not background.
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
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import LlavaForConditionalGeneration as Llava

from saccade.glance import weights_path
from saccade.glance.model import GlanceConfig, build_model
from saccade.glance.tasks import TASK_NAMES, TASKS
from saccade.glance.vocabulary import LABEL_HEADS
from saccade.measure.provenance import record
from saccade.opening.bars import quiet_bars
from saccade.research.embedded.checkpoint import CHECKPOINT, export, load_state, save_state
from saccade.research.embedded.data import loader, network_inputs
from saccade.research.embedded.glimpse import teach_to_glimpse
from saccade.research.embedded.network import Network
from saccade.research.embedded.progress import Progress
from saccade.research.embedded.quick import accuracy
from saccade.research.embedded.recipe import (
    RECIPES,
    Clock,
    TrainConfig,
    TrainingStage,
    build_optimizers,
    learning_rate_factor,
)
from saccade.research.embedded.tower import inherit
from saccade.system.files import alone, naming, read_json, write_text

METRICS, CONFIG = "metrics.jsonl", "config.json"
_SPELLED = torch.tensor([i for i, name in enumerate(TASK_NAMES) if TASKS[name].long_answer])


def short(targets: torch.Tensor, tasks: torch.Tensor) -> torch.Tensor:
    """Targets of the tasks with short answers alone; released models spell late, and name early."""
    return targets.masked_fill(torch.isin(tasks % 64, _SPELLED.to(tasks.device)) & (tasks >= 0), -100)


def shared_copy(network: Network) -> Network:
    """A second network over the same weights, with gradients of its own."""
    twin = copy.deepcopy(network)
    for mine, its in zip(twin.parameters(), network.parameters(), strict=True):
        mine.data = its.data
    return twin


class Trainer:
    """A run in a folder: step, check, save, resume."""

    def __init__(self, config: TrainConfig, sizes: GlanceConfig, run_dir: Path) -> None:
        """Build everything from the seed; `load` replaces it by a checkpoint."""
        self.config, self.run_dir, self.sizes, self.clock = config, run_dir, sizes, Clock()
        torch.set_num_threads(1)
        self.stages = [config.batches(stage) for stage in config.stages]
        model = build_model(sizes, config.seed)
        if config.start:
            folder = weights_path() if config.start == "glance" else Path(config.start)
            with quiet_bars():
                donor = Llava.from_pretrained(folder, dtype=torch.float32)
            if self.stage.shallow and donor.config.vision_config.num_hidden_layers == sizes.tower:
                # It has lost its layer already.
                config, sizes = config.from_shallow(), replace(sizes, tower=sizes.tower - 1)
                self.config, self.sizes, model = config, sizes, build_model(sizes, config.seed)
            inherit(model, donor.state_dict(), config.point_layers)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.network = Network(
                model,
                config.read_layers,
                config.point_layers,
                self.stages[0].encode.user,
                config.early_layer,
            )
        self.network.to(config.device)
        shards = config.threads if self.network.device.type == "cpu" else 1
        self.replicas = [self.network, *(shared_copy(self.network) for _ in range(shards - 1))]
        self._pool = ThreadPoolExecutor(shards)
        self.optimizers = build_optimizers(self.network, config)
        self.average = {name: p.detach().clone() for name, p in self.network.named_parameters()}
        self.shallow = self.stage.shallow
        self.stopping = False
        self._durations: deque[float] = deque(maxlen=50)
        self._mark = time.perf_counter()

    @property
    def stage(self) -> TrainingStage:
        """The stage that the run is in."""
        return self.config.stages[self.clock.stage(self.config)]

    def load(self, state: dict[str, Any] | None = None) -> None:
        """Continue from the run folder's checkpoint, which may have been read already."""
        state = load_state(self.run_dir) if state is None else state
        self.network.load_state_dict(state["network"])
        for name, tensor in state["average"].items():
            self.average[name].copy_(tensor)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.clock = Clock(**state["clock"])
        self.shallow = state.get("shallow", False)
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
                "shallow": self.shallow,
                "config": asdict(self.config),
            },
        )

    def step(self, batch: dict[str, torch.Tensor]) -> dict[str, float]:
        """One optimisation step; returns its losses."""
        count = len(self.replicas)
        self.shallow = self.stage.shallow
        self._as_deep_as_trained()
        batch = {name: tensor.to(self.network.device) for name, tensor in batch.items()}
        shards = [{k: v.tensor_split(count)[i] for k, v in batch.items()} for i in range(count)]
        results = list(self._pool.map(self._shard, self.replicas, shards))
        self._gather_gradients()
        if self.stage.hold:
            for parameter in self.network.tower_reader.parameters():
                parameter.grad = None
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        factor = learning_rate_factor(self.config, self.clock)
        for optimizer, rate in zip(self.optimizers, (self.config.muon_lr, self.config.adam_lr), strict=True):
            optimizer.param_groups[0]["lr"] = rate * factor
            optimizer.step()
        self._follow()
        loss, text, early, point, looking, *patch = torch.stack(results).mean(0).tolist()
        now = time.perf_counter()
        self._tick(now - self._mark, len(batch["pixels"]))
        self._mark = now
        parts = {"loss": loss, "answer": text, "early": early, "pointing": point, "looking": looking}
        return {**parts, **{f"patch/{k}": v for k, v in zip(LABEL_HEADS, patch, strict=True)}}

    def _shard(self, network: Network, shard: dict[str, torch.Tensor]) -> torch.Tensor:
        """Forward and backward of one shard; returns its loss and the parts of it."""
        torch.set_num_threads(1)  # the setting belongs to the calling thread
        for parameter in network.parameters():
            parameter.grad = None
        with self._precision():
            config = self.config
            text, early = (torch.zeros((), device=network.device) for _ in range(2))
            if "ids" in shard:
                inputs = network_inputs(shard, shard["labels"].shape[1] + 1, self.stage.sparse)
                passed = network.answer(**inputs, whole=self.stage.whole, sparse=self.stage.sparse)
                text = _cross_entropy(passed.logits, shard["targets"])
                loss = text + config.patch_weight * passed.patches.sum()
                loss = loss + config.point_weight * passed.pointing
                if passed.early is not None:
                    wanted = shard["targets"]
                    wanted = wanted if self.stage.spell_early else short(wanted, shard["tasks"])
                    early = _cross_entropy(passed.early, wanted)
                    loss = loss + config.early_weight * early
            else:
                passed = network.see(shard["pixels"], shard["labels"], self.stage.whole)
                loss = passed.patches.sum()
            loss = loss + config.look_weight * passed.looking
        loss.backward()
        told = torch.stack((loss, text, early, passed.pointing, passed.looking))
        # Of several readers the tower's, which goes first, or else the deepest.
        return torch.cat((told, passed.patches[0 if network.mixes else -1])).detach()

    def _precision(self) -> torch.autocast:
        # The cache of narrowed weights is one for all threads: which of them clears it when is chance.
        return torch.autocast(
            self.network.device.type, torch.bfloat16, enabled=self.config.half, cache_enabled=False
        )

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
        """Count the time of a step and its batch, and of one that was paused what is ordinary."""
        if len(self._durations) >= 5:
            seconds = min(seconds, 5.0 * statistics.median(self._durations))
        self._durations.append(seconds)
        stage = self.clock.stage(self.config)
        self.clock.spent += seconds
        self.clock.step += 1
        # Before anything is saved: a checkpoint between the stages belongs to the next one.
        same = self.clock.stage(self.config) == stage
        self.clock.stage_step = self.clock.stage_step + 1 if same else 0
        self.clock.images += images

    def _as_deep_as_trained(self) -> None:
        """Towers as the last step had them: behind the last one of a stage the next has begun already."""
        for network in self.replicas:
            network.shallow = self.shallow

    def check(self) -> dict[str, float]:
        """Accuracy per task of the averaged weights on held-out scenes."""
        self._as_deep_as_trained()
        current = {name: p.detach().clone() for name, p in self.network.named_parameters()}
        self.network.load_state_dict(self.average, strict=False)
        try:
            with self._precision():
                held_out = self.config.batches(self.stage, "calibration")
                return accuracy(self.network, held_out, self.config.check_batches)
        finally:
            self.network.load_state_dict(current, strict=False)

    def log(self, record: dict) -> None:
        """Append one line to the run's metrics."""
        where = {
            "step": self.clock.step,
            "minutes": round(self.clock.spent / 60, 2),
            "images": self.clock.images,
        }
        line = {**where, "stage": self.clock.stage(self.config) + 1, **record}
        path = self.run_dir / METRICS
        with naming(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def run(self) -> None:
        """Train to the end of the schedule; an interruption or a polite kill saves first."""
        if threading.current_thread() is threading.main_thread():
            for ending in (signal.SIGINT, signal.SIGTERM):
                signal.signal(ending, lambda *_: setattr(self, "stopping", True))
        progress = Progress(self.config.minutes, self.config.steps)
        while self.clock.done(self.config) < 1.0:
            number = self.clock.stage(self.config)
            batches = loader(self.stages[number], self.clock.step, self.config.workers)
            self._run_stage(batches, number, progress)
            if self.stopping:
                self.save()
                raise SystemExit(f"saved at step {self.clock.step}; continue with --resume")
        self.save()
        if self.config.glimpse_steps:
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
        scenes = self.config.batches(TrainingStage("see"))
        losses = teach_to_glimpse(self.network.model, scenes, steps, self.config.seed, patch)
        for name, parameter in self.network.named_parameters():
            self.average[name].copy_(parameter.detach())
        self.clock.glimpsed = True
        self.log({"glimpse": round(losses[-1], 4) if losses else None})
        self.save()

    def _run_stage(self, batches, number: int, progress: Progress) -> None:
        self._mark = time.perf_counter()
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
            answering = self.config.stages[number].learn == "answer"
            if answering and 0 < self.config.check_every <= spent - checked:
                self.log(self.check())
                checked = spent
                self._mark = time.perf_counter()
            if spent - saved >= self.config.save_every:
                self.save()
                saved = spent
                self._mark = time.perf_counter()
            progress.update(self.clock, number + 1, smooth)
            over = self.clock.done(self.config) >= 1.0 or self.clock.stage(self.config) != number
            if self.stopping or over:
                return


def schedule_of(run_dir: Path, given: Collection[str] = ()) -> dict[str, Any]:
    """What the run in a folder goes on with unless it is given anew.

    Its steps, or else minutes; and the folder that it began its only stage from, if it began so.
    """
    path = Path(run_dir) / CONFIG
    if not path.is_file():
        return {}
    found = read_json(path)
    kept = {}
    if "start" not in given and found.get("start") not in (None, "", "glance"):
        kept["start"] = found["start"]
    if not {"minutes", "steps"} & set(given):
        name = "minutes" if found.get("minutes") else "steps"
        kept |= {name: found[name]} if name in found else {}
    return kept


def resumed(config: TrainConfig, sizes: GlanceConfig, run_dir: Path) -> Trainer:
    """A run as its checkpoint has it: what it started from is not needed any more."""
    state = load_state(run_dir)
    held = GlanceConfig(**state["sizes"])
    config = config.from_shallow() if held.tower < sizes.tower else config
    trainer = Trainer(replace(config, start=""), held, run_dir)
    trainer.load(state)
    return trainer


def _cross_entropy(logits: torch.Tensor | None, targets: torch.Tensor) -> torch.Tensor:
    """Mean over the targets that are given; 0 if none is."""
    assert logits is not None
    total = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum")
    return total / (targets != -100).sum().clamp_min(1)


def train(
    config: TrainConfig | None = None,
    run_dir: Path = Path("runs/glance"),
    resume: bool = False,
    sizes: GlanceConfig | None = None,
) -> None:
    """Train an embedded model in `run_dir`, by default Glance; with `resume`, continue the run that is there.

    Raises:
        ValueError: The folder holds a run and `resume` is false, or the other way round; or another process
            is at it.
    """
    config, sizes = config or RECIPES["glance"].config, sizes or RECIPES["glance"].sizes
    run_dir = Path(run_dir)
    with alone(run_dir, folder=True):
        present = (run_dir / CHECKPOINT).exists()
        if present and not resume:
            raise ValueError(f"{run_dir} holds a run already: pass --resume, or choose another folder")
        if resume and not present:
            raise ValueError(f"{run_dir} holds no checkpoint to resume")
        trainer = resumed(config, sizes, run_dir) if resume else Trainer(config, sizes, run_dir)
        if not resume and (run_dir / CONFIG).exists():
            (run_dir / METRICS).unlink(missing_ok=True)  # of a run that ended before its first checkpoint
        told = {**asdict(trainer.config), "start": config.start, "sizes": asdict(trainer.sizes)}
        write_text(run_dir / CONFIG, json.dumps(told, indent=2) + "\n")
        trainer.log({"provenance": record(device=config.device, seed=config.seed, bf16=config.half)})
        trainer.run()


__all__ = ["TrainConfig", "Trainer", "export", "schedule_of", "train"]
