"""A healing from questions to a plan with an adapter: answers, steps, files, and the verdict on them."""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from saccade import models
from saccade.engine import attached
from saccade.evaluation.comparison import check_plans, compare
from saccade.evaluation.results import Comparison
from saccade.families import unwrap
from saccade.healing.batches import AnswerCollator, AnsweredPool, own_answers
from saccade.healing.building import wrapped
from saccade.healing.learning import Stopped, learn
from saccade.healing.result import AFTER, BEFORE, Healed, agreement, spent
from saccade.healing.save import ADAPTER, PLAN, healed_plan, merge, write_adapter
from saccade.healing.settings import OPTION, HealingConfig, HealingSettings
from saccade.healing.touched import adapted_names, first_touched
from saccade.inputs.data import Entry
from saccade.inputs.samples import Sample
from saccade.measure.provenance import record
from saccade.models import Loaded
from saccade.opening.bars import quiet_bars
from saccade.opening.digest import weights_digest
from saccade.plans.plan import Plan, PlanLike
from saccade.report.text import percent
from saccade.system.files import read_json, read_text, write_json
from saccade.system.journal import Journal
from saccade.training import build as building
from saccade.training.folder import METRICS, RUN, checkpoint_of
from saccade.training.mixture import RecordMixture
from saccade.training.run import (
    Fit,
    begun,
    check_learnt,
    check_weights,
    for_itself,
    take_steps,
    world_of,
)
from saccade.tuning.questions import Questions, apart, referenced, split

RESULT, PARTIAL = "heal.json", "heal.partial.jsonl"
"""What a healing came to, and what is kept of it until that is written."""


@dataclass(frozen=True)
class HealingWatch:
    """How a healing says what it does.

    Attributes:
        say: Called with a line of text.
        begin: Called when a part begins, with its name and how many questions it has.
        step: Called with the questions that were answered meanwhile.
    """

    say: Callable[[str], None] = field(default_factory=lambda: _silent)
    begin: Callable[[str, int], None] = field(default_factory=lambda: _silent)
    step: Callable[[int], None] = field(default_factory=lambda: _silent)


def _silent(*told: object) -> None:
    """Says nothing."""


def heal(
    model: nn.Module,
    processor: Any,
    samples: Iterable[Sample | Entry],
    plan: PlanLike,
    out: str | os.PathLike,
    *,
    held_out: Iterable[Sample | Entry] | None = None,
    merge: bool = False,
    watch: HealingWatch | None = None,
    **wanted: Any,
) -> Healed:
    """Trains an adapter with which a model says under a plan what it says without, from its own answers.

    ``saccade.heal(model, processor, samples, "plan.json", "healed").plan`` is what to serve: with it on, the
    adapter is on; with it off, the model is bit for bit what it was.

    Args:
        model: A stock Hugging Face VLM.
        processor: Its processor.
        samples: Questions with pictures; answers are not trained on.
        plan: The plan to heal.
        out: Folder of the run: the plan, the adapter, the result, checkpoints. The same call goes on where it
            was interrupted.
        held_out: Questions that judge what it brought; a part of ``samples`` if omitted. Without answers the
            dense model's own are the reference.
        merge: Whether to write a model folder too, with the adapter in its weights.
        watch: What is told on the way.
        **wanted: Fields of `saccade.healing.HealingSettings`: ``steps``, ``batch``, ``lr``, ``rank`` ...

    Raises:
        ValueError: If the plan, the questions, the settings or the folder do not fit, saying how.
        Stopped: If a signal asked it to stop early.
    """
    settings = HealingSettings(**wanted)
    questions = split(samples, settings) if held_out is None else apart(samples, held_out, settings)
    return run(
        models.wrap(model, processor), Plan.of(plan), questions, settings, out, merging=merge, watch=watch
    )


def run(
    loaded: Loaded,
    plan: Plan,
    questions: Questions,
    settings: HealingSettings,
    out: str | os.PathLike,
    *,
    merging: bool = False,
    watch: HealingWatch | None = None,
) -> Healed:
    """The same on questions that are drawn already: ``search`` of them are trained on."""
    folder, told = Path(out), watch or HealingWatch()
    plan, learnt = wanted_plan(loaded, plan), None
    if settings.learn is None:
        first_touched(plan, loaded.shape.layers)  # refuses a plan that changes nothing
    world = world_of(cpu=loaded.device.type == "cpu")
    if world.num_processes > 1:
        raise ValueError("a healing runs in one process; on several devices take device_map")
    with for_itself(folder, world), Journal(folder / PARTIAL) as journal:
        for note in questions.notes:
            told.say(note)
        told.begin("the dense model's answers", len(questions.search))
        targets = own_answers(loaded, questions.search, settings.tokens, journal, progress=told.step)
        pool = AnsweredPool(questions.search, targets)
        if settings.learn is not None:
            told.say(f"{settings.learn_steps} steps of gates on every layer, beside {plan.spec}")
            learnt = learn(loaded, plan, pool, questions.search, settings, folder, world)
            plan = learnt.plan
            told.say(f"learnt: {plan.spec}, {percent(learnt.facts['flops_ratio'])} of the FLOPs")
        first, names = adapted_names(loaded, plan)
        config = settings.run(plan.spec, str(folder), settings.rate(loaded.shape.hidden))
        told.say(
            f"{settings.steps} steps on {len(targets)} questions, {rounds(settings, len(targets))}; adapters "
            f"on {len(names)} linear layers of the decoder, from layer {first} on"
        )
        if (folder / PLAN).exists():
            # Only what came after the steps is left to do, if this is the same run.
            checkpoint_of(folder, begun(config, RecordMixture([pool], settings.seed), world), None, OPTION)
        else:
            start = None if learnt is None else learnt.start
            _trained(loaded, plan, pool, settings, config, names, world, start)
        healed = Plan.load(folder / PLAN)
        report, history = read_json(folder / RUN), _history(folder)
        told.begin("held-out questions", 3 * len(questions.held_out))
        found = compare(
            loaded.model,
            loaded.processor,
            referenced(loaded, questions, settings, journal),
            {BEFORE: plan, AFTER: healed},
            batch_size=settings.batch,
            max_new_tokens=settings.tokens,
            blind=False,
            ledger=journal,
        )
        told.step(3 * len(questions.held_out))
        files = {"plan": folder / PLAN, "adapter": folder / ADAPTER, "result": folder / RESULT}
        if merging:
            files |= merge(loaded, healed, folder)
        data = told_of(loaded, plan, healed, found, settings, questions, report, history, first, len(names))
        data["heal"] |= {} if learnt is None else {"learnt": learnt.facts}
        write_json(folder / RESULT, data)
        journal.finish()
    return Healed(healed, found, data, files)


def rounds(settings: HealingSettings, questions: int) -> str:
    """How often a healing meets a question; of few it learns the questions rather than the plan."""
    times = settings.steps * settings.batch * settings.accumulation / questions
    if times < 1.5:
        return "each about once"
    return f"each about {times:.0f} times: more different ones heal further"


def wanted_plan(loaded: Loaded, plan: Plan) -> Plan:
    """The plan with its layers.

    Raises:
        ValueError: If it cannot be healed on this model.
    """
    if plan.adapter is not None:
        raise ValueError(f"{plan.file or plan.spec} is healed already; give the plan that it was healed from")
    if attached(loaded.model) is not None and not attached(loaded.model).resident:  # type: ignore[union-attr]
        raise ValueError("this model has a plan on it; take it off first")
    if unwrap(loaded.model) is not loaded.model:
        raise ValueError("the model is wrapped (PEFT, DDP or compile); heal the stock model inside")
    if any(method.releases for method in plan.methods):
        raise ValueError(
            f"{plan.spec} lets rows leave the cache once the prompt is read, which training in one forward "
            "does not: train with it instead (saccade train)"
        )
    check_plans(loaded, {plan.spec: plan})
    odd = next((n for n, p in loaded.model.named_parameters() if not p.is_floating_point()), None)
    if odd is not None or getattr(loaded.model, "is_quantized", False):
        raise ValueError(
            "the model's weights are quantised, into which no adapter goes; open it as it is saved"
        )
    if any(p.device.type == "meta" for p in loaded.model.parameters()):
        raise ValueError(
            "some of the model's weights are offloaded to the host or the disk, and healing needs all of "
            "them at hand: take a device that holds it, or several (device_map=balanced)"
        )
    return plan.resolve(loaded.shape.layers)


def _trained(
    loaded: Loaded,
    plan: Plan,
    pool: AnsweredPool,
    settings: HealingSettings,
    config: HealingConfig,
    names: Sequence[str],
    world: Any,
    start: Mapping[str, torch.Tensor] | None,
) -> None:
    """Takes the steps, and writes the adapter and the plan; ``start`` is what the adapter begins with.

    Raises:
        Stopped: If a signal asked it to stop early.
    """
    from saccade.healing.trainer import HealingTrainer

    folder, lora = Path(config.out), config.lora
    assert lora is not None
    made_for = {
        "weights_hash": weights_digest(loaded.model),
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
    }

    def trainer(built: building.Built, args: Any, stream: Any, meter: Any) -> HealingTrainer:
        assert built.plan is not None
        return HealingTrainer(
            built.plan, built.model, loaded.family, config, args, stream, AnswerCollator(loaded, plan), meter
        )

    with wrapped(loaded, plan, lora, names, start) as build, quiet_bars():
        memory = Memory(loaded.device)
        done = take_steps(config, Fit([pool], build, trainer, OPTION), world, resume=True)
        if done.reporter.stopped:
            raise Stopped(f"step {done.trainer.state.global_step} of {settings.steps} is saved")
        check_learnt(done.trainer)
        check_weights(done.built.model)
        digest = write_adapter(done.built.model, loaded, plan, lora, made_for, folder)
    write_json(folder / RUN, done.report | {"finished": True, "memory": memory.told()})
    facts = {"steps": settings.steps, "samples": len(pool), "settings": settings.told()}
    facts |= {"data_hash": done.report["data"][0]["sha256"], "questions": pool.ids}
    healed_plan(loaded, plan, digest, made_for, facts, folder)


class Memory:
    """Peak memory from here on: of the accelerator, or of the process on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def told(self) -> dict[str, Any]:
        """Bytes, and how they were taken."""
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
            return {"peak_bytes": peak, "source": "torch.cuda.max_memory_allocated"}
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return {"peak_bytes": peak, "source": "largest resident size of the process"}


def told_of(
    loaded: Loaded,
    plan: Plan,
    healed: Plan,
    found: Comparison,
    settings: HealingSettings,
    questions: Questions,
    report: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    first: int,
    modules: int,
) -> dict[str, Any]:
    """The data of the result file."""
    same = {name: agreement(found, name) for name in (BEFORE, AFTER)}
    return {
        "heal": {
            "spec": plan.spec,
            "adapter": healed.adapter and healed.adapter.digest,
            "settings": settings.told(),
            "samples": len(questions.search),
            "held_out_samples": len(questions.held_out),
            "answers": "given" if questions.answered else "the dense model's own",
            "agreement": {name: vars(one) for name, one in same.items()},
            "first_layer": first,
            "modules": modules,
            "rank": settings.rank,
            "lr": settings.rate(loaded.shape.hidden),
            "batch": settings.batch * settings.accumulation,
            "training": spent(history, settings.steps, report["config"]["logging_every"]),
            "curve": [[line["step"], line["loss"]] for line in history],
            "memory": report["memory"],
        },
        "model": {
            "name": loaded.name,
            "layers": loaded.shape.layers,
            "weights": healed.calibration["weights_hash"],
        },
        **found.to_dict(),
        "provenance": record(model=loaded.model, seed=settings.seed),
    }


def _history(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in read_text(folder / METRICS).splitlines()]
