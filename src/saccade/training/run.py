"""A training run in a folder: checked, trained, resumed, and ended with a model folder."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from saccade.measure import record
from saccade.models import image_scale
from saccade.opening.bars import quiet_bars
from saccade.opening.digest import digest_of
from saccade.plans.plan import Plan
from saccade.system.embedded import suite_of
from saccade.system.files import alone, disk_trouble, write_bytes, write_json
from saccade.training import build as building
from saccade.training import checkpoints, parts
from saccade.training.collate import Collator
from saccade.training.config import TrainingConfig
from saccade.training.curve import loss_curve
from saccade.training.folder import (
    CURVE,
    METRICS,
    MODEL,
    PLANNED,
    RUN,
    check_folder,
    check_frozen,
    checkpoint_of,
)
from saccade.training.meter import Reporter, TrainingMeter, nothing_learnt
from saccade.training.mixture import RecordMixture, Stream, steps_of, warmup_of
from saccade.training.sources import RecordPool, check_pictured, open_source

SHOWN = 20


@dataclasses.dataclass(frozen=True)
class TrainingOutcome:
    """What a run left.

    Attributes:
        folder: The run's folder.
        steps: Steps it has taken.
        finished: False if it was asked to stop early; ``--resume`` goes on.
        main: Whether this process is the one that writes and speaks.
        report: What ``run.json`` holds.
    """

    folder: Path
    steps: int
    finished: bool
    main: bool
    report: dict[str, Any]

    @property
    def model(self) -> Path:
        """The trained model's folder."""
        return self.folder / MODEL


def train(config: TrainingConfig, resume: bool = False, from_step: int | None = None) -> TrainingOutcome:
    """Trains a model as configured; under ``torchrun`` or ``accelerate launch``, on all processes together.

    The run's folder gets ``run.json`` (configuration, versions, data hashes), ``metrics.jsonl``,
    ``loss.png``, ``checkpoints/`` and ``model/``, which `saccade.models.load` reads.

    Args:
        config: The run.
        resume: Go on from the folder's last checkpoint; from the beginning if there is none.
        from_step: Go on from the checkpoint of this step; metrics and checkpoints after it are dropped.

    Raises:
        ValueError: If the folder holds a run already and is not to be resumed, or another run; if another
            process is at it; if there is no checkpoint of the step; if data or model cannot be used; if a
            checkpoint cannot be written.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads or before)
    try:
        world = world_of()
        with quiet_bars(), for_itself(Path(config.out), world):
            return _train(config, world, resume or from_step is not None, from_step)
    finally:
        torch.set_num_threads(before)


def world_of(cpu: bool | None = None) -> Any:
    """The processes that train together.

    Args:
        cpu: Whether they compute on the CPU; where there is no accelerator if omitted.
    """
    try:
        from accelerate import PartialState
    except ImportError:
        raise ValueError("training needs the accelerate package: pip install accelerate") from None
    return PartialState(cpu=not torch.cuda.is_available() if cpu is None else cpu)


@contextmanager
def for_itself(run: Path, world: Any) -> Iterator[None]:
    """Keeps a folder for this run while it lasts; its main process holds it for all.

    Raises:
        ValueError: On every process, if another run holds it.
    """
    with ExitStack() as stack:
        refusal = ""
        if world.is_main_process:
            try:
                stack.enter_context(alone(run, folder=True))
            except (ValueError, OSError) as error:
                if world.num_processes == 1:
                    raise
                refusal = str(error)
        if world.num_processes > 1:
            from accelerate.utils import gather_object

            refusal = "".join(gather_object([refusal]))
        if refusal:
            raise ValueError(refusal)
        if world.is_main_process:
            checkpoints.recover(run)
        yield


@dataclasses.dataclass(frozen=True)
class Fit:
    """What a run trains on and with, where it is not a YAML file's.

    Attributes:
        pools: Where records come from.
        build: Makes the model ready.
        trainer: Makes the trainer of a built model: of its arguments, the stream and the meter.
        option: The option that names the run's folder, for messages.
    """

    pools: Sequence[RecordPool]
    build: Callable[[], building.Built]
    trainer: Callable[[building.Built, Any, Stream, TrainingMeter], Any]
    option: str = "--run"


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A run whose steps are taken.

    Attributes:
        built: The trained model.
        trainer: What trained it.
        reporter: Its metrics.
        report: What ``run.json`` holds.
    """

    built: building.Built
    trainer: Any
    reporter: Reporter
    report: dict[str, Any]


def _train(config: TrainingConfig, world: Any, resume: bool, from_step: int | None) -> TrainingOutcome:
    settings, run = config.optimisation, Path(config.out)
    check_folder(run, resume)
    building.check(config)
    skip = config.on_bad_record == "skip"
    pools = [open_source(s, settings.seed, skip, suite_of(config.model.name).scale) for s in config.data]
    check_pictured(pools, config.parts)
    fit = Fit(
        pools,
        lambda: building.build(config),
        lambda built, args, stream, meter: _trainer(config, built, args, stream, meter, world),
    )
    done = take_steps(config, fit, world, resume, from_step)
    main = world.is_main_process
    if done.reporter.stopped:
        return TrainingOutcome(run, done.trainer.state.global_step, False, main, done.report)
    _end(config, done, main)
    world.wait_for_everyone()
    return TrainingOutcome(run, done.report["steps"], True, main, done.report)


def take_steps(
    config: TrainingConfig, fit: Fit, world: Any, resume: bool, from_step: int | None = None
) -> Fitted:
    """Trains, from the beginning or from a checkpoint, with metrics and checkpoints in the run's folder.

    Args:
        config: The run.
        fit: What it trains on and with.
        world: The processes that train together.
        resume: Go on from the folder's last checkpoint; from the beginning if there is none.
        from_step: The checkpoint to go on from, by its step.

    Raises:
        ValueError: As ``train``.
    """
    from transformers import set_seed

    from saccade.training.trainer import arguments

    settings, run = config.optimisation, Path(config.out)
    mixture = RecordMixture(fit.pools, settings.seed)
    report = begun(config, mixture, world)
    steps = report["steps"]
    stream = Stream(mixture, steps * report["global_batch"])
    last = checkpoint_of(run, report, from_step, fit.option) if resume else None
    set_seed(settings.seed)
    built = fit.build()
    trained = parts.needed(built.model, built.loaded.family)
    frozen = {name: one for name, one in built.model.state_dict().items() if name not in trained}
    report["frozen_weights"] = digest_of(frozen)
    if last is not None:
        check_frozen(run, report["frozen_weights"], fit.option)
    report |= {
        "processes": world.num_processes,
        "parameters": parts.counts(built.model, built.loaded.family),
        "provenance": record(model=built.loaded.model, device=world.device, seed=settings.seed),
        "finished": False,
    }
    world.wait_for_everyone()
    if world.is_main_process:
        _warn_of_warmup(settings.warmup, steps)
        write_json(run / RUN, report)
    meter = TrainingMeter()
    trainer = fit.trainer(built, arguments(config, steps, world), stream, meter)
    reporter = Reporter(
        run, meter, config.logging_every, mixture.per_epoch, world.is_main_process, _totals(trainer, world)
    )
    trainer.add_callback(reporter)
    if last is not None:
        checkpoints.check(last, trainer.sharded)
        trainer.meter.load(last, world.process_index)
        reporter.resume(checkpoints.step_of(last))
        if world.is_main_process:
            checkpoints.forget_after(run, checkpoints.step_of(last))
    elif world.is_main_process:
        (run / METRICS).unlink(missing_ok=True)
    world.wait_for_everyone()
    with reporter.between_steps(alone=world.num_processes == 1):
        trainer.train(resume_from_checkpoint=str(last) if last is not None else None)
    report["refused"] = _refused(mixture, trainer.meter, world.num_processes)
    return Fitted(built, trainer, reporter, report)


def begun(config: TrainingConfig, mixture: RecordMixture, world: Any) -> dict[str, Any]:
    """What a run writes down when it begins, by which it is told from others.

    Args:
        config: The run.
        mixture: What it draws from.
        world: The processes that train together.
    """
    settings = config.optimisation
    global_batch = settings.batch * settings.accumulation * world.num_processes
    plan = None if config.plan is None else Plan.of(config.plan)
    return {
        "config": config.as_data(),
        # A file may hold another plan by the time that the run goes on.
        **({PLANNED: plan.spec} if plan is not None and plan.file else {}),
        "data": [pool.describe() for pool in mixture.pools],
        "global_batch": global_batch,
        "steps": steps_of(mixture.per_epoch, settings.epochs, settings.steps, global_batch),
    }


def _warn_of_warmup(warmup: int | float, steps: int) -> None:
    """Says so where the learning rate never gets to what is asked for."""
    rise = warmup_of(warmup, steps)
    if rise >= steps:
        warnings.warn(
            f"optimisation.warmup: the learning rate rises over {rise} steps, and the run takes {steps}: it "
            f"gets to {(steps - 1) / rise:.1%} of what is set; take a shorter warmup, or more steps",
            UserWarning,
            stacklevel=2,
        )


def _trainer(
    config: TrainingConfig, built: building.Built, args: Any, stream: Stream, meter: TrainingMeter, world: Any
) -> Any:
    from saccade.training.trainer import VlmTrainer

    # Processes wait for each other wherever one runs the tower. And AdamW passes over what has no gradient,
    # but not over a gradient of zero: how a global batch is split up must not matter.
    shows = world.num_processes > 1 or config.parts != ("decoder",)
    scale = image_scale(config.plan)
    collator = Collator(built.loaded, config.optimisation.max_length, always_image=shows, scale=scale)
    return VlmTrainer(built.model, built.loaded.family, config, args, stream, collator, meter)


def _totals(trainer: Any, world: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """What adds a tensor up over processes."""

    def total(sums: torch.Tensor) -> torch.Tensor:
        if world.num_processes == 1:
            return sums
        # Not every device knows doubles.
        return trainer.accelerator.gather(sums.float().to(trainer.args.device)[None]).double().sum(0).cpu()

    return total


def _refused(mixture: RecordMixture, meter: TrainingMeter, processes: int) -> dict[str, Any]:
    """Records that were left out, each counted once: when the sources were opened, and on the way."""
    opened = [message for pool in mixture.pools for message in pool.refused]
    met = sorted(meter.refused)
    if processes > 1:
        from accelerate.utils import gather_object

        met = sorted(set(gather_object(met)))
    return {"before": len(opened), "on_the_way": len(met), "examples": (opened + met)[:SHOWN]}


def _end(config: TrainingConfig, done: Fitted, main: bool) -> None:
    run, built, trainer, report = Path(config.out), done.built, done.trainer, done.report
    check_learnt(trainer)
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) if trainer.sharded else None
    if not main:
        return
    history = done.reporter.history
    report |= {"finished": True, "final": history[-1] if history else None, "model": MODEL}
    loaded = building.finish(built, weights, config)
    check_weights(loaded.model)
    kept = f"the run is kept in {run / checkpoints.FOLDER}; make room and --resume"
    with disk_trouble(f"the model to {run / MODEL}", kept):
        building.save(loaded, built.skips, run / MODEL)
        if history:
            write_bytes(run / CURVE, loss_curve(history, f"Training {config.model.name}"))
        write_json(run / RUN, report)


def check_learnt(trainer: Any) -> None:
    """Refuses what comes of a run that never saw a label.

    Raises:
        ValueError: If it never did.
    """
    if not trainer.meter.learnt:
        raise ValueError(nothing_learnt(trainer.meter.refused))


def check_weights(model: Any) -> None:
    """Refuses trained weights that are no numbers.

    Raises:
        ValueError: Naming the first of them.
    """
    odd = checkpoints.not_finite(model.named_parameters())
    if odd:
        raise ValueError(f"the model is not saved: {odd} holds what is no number; lower the learning rate")
