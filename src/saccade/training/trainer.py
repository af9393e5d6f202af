"""The trainer: transformers' own loop, with our data order, parameter groups, counting and checkpoints."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from torch import nn
from transformers import BatchFeature, PrinterCallback, Trainer, TrainingArguments

from saccade.families import Family, unwrap
from saccade.system.files import disk_trouble
from saccade.training import checkpoints, parts
from saccade.training.checkpoints import BEFORE, FOLDER, PREFIX
from saccade.training.collate import Batch, Collator
from saccade.training.config import TrainingConfig
from saccade.training.meter import TrainingMeter, check_finite
from saccade.training.mixture import Stream, warmup_of
from saccade.training.records import BadRecord


def arguments(config: TrainingConfig, steps: int, world: Any) -> TrainingArguments:
    """The configuration as transformers takes it.

    Args:
        config: The run.
        steps: Steps that it takes.
        world: The processes that train together.
    """
    settings, cuda = config.optimisation, world.device.type == "cuda"
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    # Renamed within the versions we support.
    kind = "activation" if "activation_checkpointing" in known else "gradient"
    recompute: dict[str, Any] = {
        f"{kind}_checkpointing": settings.checkpointing,
        f"{kind}_checkpointing_kwargs": {"use_reentrant": False} if settings.checkpointing else None,
    }
    args = TrainingArguments(
        output_dir=config.out,
        per_device_train_batch_size=settings.batch,
        gradient_accumulation_steps=settings.accumulation,
        max_steps=steps,
        learning_rate=settings.lr,
        lr_scheduler_type="constant_with_warmup" if settings.schedule == "constant" else settings.schedule,
        warmup_steps=warmup_of(settings.warmup, steps),
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        bf16=settings.precision == "bf16",
        use_cpu=not cuda,
        save_strategy="steps",
        save_steps=config.save_every,
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_num_workers=config.workers,
        dataloader_pin_memory=cuda,
        # The last layer of a tower may feed nothing; elsewhere every trained parameter is used in every step.
        ddp_find_unused_parameters="tower" in config.parts,
        **recompute,
    )
    if world.num_processes == 1:
        args._n_gpu = min(args.n_gpu, 1)  # several GPUs are several processes, never threads of one
    return args


class VlmTrainer(Trainer):
    """Trains a VLM on a stream of conversations.

    Attributes:
        settings: The run's configuration.
        family: Adapter of the model.
        meter: What this process counts.
    """

    def __init__(
        self,
        model: nn.Module,
        family: Family,
        settings: TrainingConfig,
        args: TrainingArguments,
        stream: Stream,
        collator: Collator,
        meter: TrainingMeter,
    ) -> None:
        self.settings, self.family, self.meter, self._stream = settings, family, meter, stream
        self._staging: Path | None = None
        self._blank = False
        self._needed = set(parts.needed(model, family))
        self._frozen = parts.frozen_towers(model, family)
        collate: Any = collator  # it makes batches that only this class takes apart
        config = vars(unwrap(model).config)
        before = dict(config)
        super().__init__(model, args, data_collator=collate, train_dataset=stream.mixture)
        # It writes use_cache into the configuration that is saved in the end; forwards are told instead.
        config.clear()
        config.update(before)
        self.remove_callback(PrinterCallback)

    def _get_train_sampler(self, train_dataset: Any = None) -> Stream:
        return self._stream

    def _get_collator_with_removed_columns(self, data_collator: Any, description: Any = None) -> Any:
        return data_collator

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW over the groups of every part."""
        if self.optimizer is None:
            settings = self.settings.optimisation
            self.optimizer = torch.optim.AdamW(
                parts.groups(model if model is not None else self._model, self.family, settings),
                lr=settings.lr,
                betas=settings.betas,
            )
        return self.optimizer

    def _get_learning_rate(self) -> float:
        # Called after the optimizer's step and before the scheduler's: these are the rates that were used.
        assert self.optimizer is not None
        self.meter.rates = {group["part"]: float(group["lr"]) for group in self.optimizer.param_groups}
        return super()._get_learning_rate()

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """Batches of a step. A record that cannot be used stops the run here, in the main process.

        Raises:
            BadRecord: If the policy is to stop.
        """
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        for batch in batches:
            if batch.problems and self.settings.on_bad_record == "stop":
                raise BadRecord(f"{batch.problems[0]} (on_bad_record: skip leaves such records out)")
        return batches, items

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> torch.Tensor:
        """Labels of the global batch, all processes and accumulated forwards together; at least one."""
        mine = torch.tensor(sum(batch.counts.labels for batch in batch_samples), device=device)
        labels = self.accelerator.gather(mine).sum()
        # The same on every process: all of them take the step, or none.
        self._blank = not bool(labels)
        self.meter.tally.labelled += not self._blank
        self.meter.learnt |= not self._blank
        return labels.clamp(min=1)

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """One forward and backward; the loss is a share of the global batch's mean over labels."""
        self.meter.saw(inputs)
        # Some processors make pictures in half precision, and not every stock tower casts what it is given.
        dtype = next(model.parameters()).dtype
        given = dict(BatchFeature(inputs.inputs).to(dtype))
        loss = super().training_step(model, given, num_items_in_batch)
        check_finite(loss.item(), self.state.global_step + 1)
        self.meter.tally.loss += loss.item()
        return loss

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The model's own loss; what does not train stays in eval mode."""
        for module in self._frozen:
            module.eval()
        return super().compute_loss(model, inputs | {"use_cache": False}, *args, **kwargs)

    def floating_point_ops(self, inputs: Any) -> int:
        """Nothing: `saccade.core.pricing` counts what a plan really costs."""
        return 0

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        found = super()._get_grad_norm(model, grad_norm)
        self.meter.grad_norm = float(found)
        if self._blank:
            # The optimizer's step comes next and passes over what has no gradient: without a label neither
            # weight decay nor momentum moves a weight.
            for parameter in model.parameters():
                parameter.grad = None
        return found

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging if self._staging is not None else self.settings.out)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Writes a checkpoint beside its place and moves it there when every process is done with it.

        Raises:
            ValueError: If the disk is full, or a weight is no number any more.
        """
        run, step = Path(self.settings.out), self.state.global_step
        last = checkpoints.found(run)
        kept = f"the last checkpoint is {last[-1]}" if last else "there is no checkpoint yet"
        self._check_weights(kept)
        kept += "; make room and --resume"
        name = self._agreed_name()
        self._staging = run / FOLDER / name
        target = run / FOLDER / f"{PREFIX}{step}"
        try:
            with disk_trouble(f"the checkpoint of step {step}", kept):
                super()._save_checkpoint(model, trial)
                self.meter.save(self._staging / target.name, self.args.process_index)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    # Of a step saved twice the first goes only when the second stands.
                    if target.exists():
                        os.replace(target, self._staging / BEFORE)
                    os.replace(self._staging / target.name, target)
        finally:
            if self.args.should_save:
                shutil.rmtree(self._staging, ignore_errors=True)
            self._staging = None
        if self.args.should_save:
            checkpoints.tidy(run, self.settings.keep)
        self.accelerator.wait_for_everyone()

    def _check_weights(self, kept: str) -> None:
        """Refuses weights that are no numbers, on all processes if any of them has one."""
        odd = checkpoints.not_finite((n, p) for n, p in self._model.named_parameters() if p.requires_grad)
        mine = torch.tensor(int(bool(odd)), device=self.args.device)
        if int(self.accelerator.gather(mine).sum()):
            raise ValueError(
                f"weights are no numbers after step {self.state.global_step}{f' ({odd})' if odd else ''}; "
                f"lower the learning rate, or look at the data; {kept}"
            )

    def _agreed_name(self) -> str:
        """A folder name that all processes share and no former run has left behind."""
        number = torch.tensor(uuid4().int % (1 << 62), device=self.args.device)
        return f".{int(self.accelerator.gather(number).flatten()[0])}.part"

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """What trains, and what may be newly made, under the model's own parameter names."""
        if not self.args.should_save:
            return
        assert output_dir is not None
        os.makedirs(output_dir, exist_ok=True)
        named = dict(self._model.named_parameters()) if state_dict is None else state_dict
        checkpoints.save_weights(Path(output_dir), {k: v for k, v in named.items() if k in self._needed})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            with checkpoints.damage(Path(resume_from_checkpoint)):
                super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        named = {k: v for k, v in self._model.named_parameters() if k in self._needed}
        checkpoints.load_weights(Path(resume_from_checkpoint), named)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            with checkpoints.damage(Path(checkpoint)):
                super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            with checkpoints.damage(Path(checkpoint)):
                super()._load_rng_state(checkpoint)

    @property
    def _model(self) -> nn.Module:
        assert self.model is not None
        return self.model

    @property
    def sharded(self) -> bool:
        """Whether no process holds the whole model."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)
