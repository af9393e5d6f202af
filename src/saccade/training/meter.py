"""What a run reports as it goes: a metrics file, a bar on standard error, and a stop between steps."""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback

from saccade.system.files import naming, read_json, read_text, write_json, write_text
from saccade.training.checkpoints import METER, damage
from saccade.training.collate import Batch
from saccade.training.folder import METRICS

KEYS: dict[str, type | tuple[type, ...]] = {
    "step": int, "loss": (float, type(None)), "lr": dict, "label_tokens": int
}  # fmt: skip
"""What is read again of a line, and its types."""
QUIET = 30.0
"""Seconds between progress lines where standard error is no terminal."""


@dataclass
class MetricSums:
    """Sums since the last line of metrics; in checkpoints too, so that no line depends on interruptions.

    ``labelled`` counts the steps whose global batch had a label: the others have no loss.
    """

    steps: int = 0
    labelled: int = 0
    loss: float = 0.0
    samples: int = 0
    images: int = 0
    tokens: int = 0
    labels: int = 0
    seconds: float = 0.0


@dataclass
class TrainingMeter:
    """Counts what one process does.

    Attributes:
        tally: Sums since the last line.
        refused: Why records were left out, and how often.
        learnt: Whether any step so far had a label.
        grad_norm: Norm of the last step's gradients, before they were scaled down.
        rates: Learning rate of every part at the last step.
    """

    tally: MetricSums = field(default_factory=MetricSums)
    refused: Counter[str] = field(default_factory=Counter)
    learnt: bool = False
    grad_norm: float = 0.0
    rates: dict[str, float] = field(default_factory=dict)

    def saw(self, batch: Batch) -> None:
        """Counts a batch."""
        self.tally.samples += batch.counts.samples
        self.tally.images += batch.counts.images
        self.tally.tokens += batch.counts.tokens
        self.tally.labels += batch.counts.labels
        self.refused.update(batch.problems)

    def save(self, folder: Path, rank: int) -> None:
        """Writes the sums beside a checkpoint's weights."""
        data = {"tally": asdict(self.tally), "refused": dict(self.refused), "learnt": self.learnt}
        write_json(folder / f"{rank}-{METER}", data)

    def load(self, folder: Path, rank: int) -> None:
        """Reads them back; a process that the run did not have before has only what all of them share.

        Raises:
            ValueError: If the file is damaged.
        """
        path = folder / f"{rank}-{METER}"
        own = path.exists()
        with damage(folder):
            data = read_json(path if own else folder / f"0-{METER}")
            tally, self.learnt = MetricSums(**data["tally"]), bool(data["learnt"])
            if own:
                self.tally, self.refused = tally, Counter(data["refused"])
            else:
                self.tally = MetricSums(steps=tally.steps, labelled=tally.labelled, seconds=tally.seconds)


class Reporter(TrainerCallback):
    """Writes a line of metrics every so many steps, and shows how far the run is.

    Attributes:
        meter: Sums of this process.
        history: Lines written, those before a resumption included.
        stopped: Whether a signal ended the run early.
    """

    def __init__(
        self,
        run: Path,
        meter: TrainingMeter,
        every: int,
        epoch_size: float,
        main: bool,
        total: Callable[[Any], Any],
    ) -> None:
        """Args:
        run: Folder of the run.
        meter: Sums of this process.
        every: Steps per line.
        epoch_size: Records of an epoch, on average.
        main: Whether this process writes and shows.
        total: Adds a tensor up over processes.
        """
        self.path, self.meter, self.every, self.epoch_size = run / METRICS, meter, every, epoch_size
        self.main, self.total = main, total
        self.history: list[dict[str, Any]] = []
        self.stopped = self.stopping = False
        self._bar: Progress | None = None
        self._console = Console(stderr=True, markup=False)
        self._began = self._shown = 0.0

    def resume(self, step: int) -> None:
        """Forgets lines after the checkpoint's step, in the file too.

        Raises:
            ValueError: If the file holds something else.
        """
        if self.path.exists():
            self.history = [line for line in _lines(self.path) if line["step"] <= step]
        if self.main:
            text = "".join(json.dumps(line) + "\n" for line in self.history)
            write_text(self.path, text)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began = self._shown = time.perf_counter()
        if self.main and self._console.is_terminal:
            columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(
                *columns, TextColumn("{task.fields[text]}", markup=False), console=self._console
            )
            self._bar.add_task("training", total=state.max_steps, completed=state.global_step, text="")
            self._bar.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = time.perf_counter()
        self.meter.tally.seconds += now - self._began
        self.meter.tally.steps += 1
        self._began = now
        if not self.meter.learnt and (self._seen(args, state) >= self.epoch_size or _done(state)):
            raise ValueError(nothing_learnt(self.meter.refused))
        if state.global_step % self.every == 0 or _done(state):
            self._write(args, state)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=state.global_step)
        if self.stopping and not _done(state):
            control.should_save = control.should_training_stop = self.stopped = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began = time.perf_counter()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.close()

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _write(self, args: Any, state: Any) -> None:
        mine, self.meter.tally = self.meter.tally, MetricSums()
        names = ("loss", "samples", "images", "tokens", "labels")
        sums = torch.tensor([float(getattr(mine, n)) for n in names], dtype=torch.float64)
        loss, samples, images, tokens, labels = self.total(sums).tolist()
        per_step = mine.seconds / mine.steps
        line = {
            "step": state.global_step,
            "epoch": round(self._seen(args, state) / self.epoch_size, 4),
            # None where no step since the last line had a label.
            "loss": loss / mine.labelled / args.world_size if mine.labelled else None,
            "lr": self.meter.rates,
            "grad_norm": self.meter.grad_norm,
            "step_seconds": round(per_step, 6),
            "samples_per_second": round(samples / mine.seconds, 3),
            "images_per_second": round(images / mine.seconds, 3),
            "tokens_per_second": round(tokens / mine.seconds, 1),
            "label_tokens": int(labels),
        }
        self.history.append(line)
        if self.main:
            with naming(self.path), self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line) + "\n")
            self._show(line, state.max_steps)

    @staticmethod
    def _seen(args: Any, state: Any) -> int:
        """Records that were drawn so far, by all processes."""
        each: int = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        return each * state.global_step

    def _show(self, line: dict[str, Any], steps: int) -> None:
        loss = "no labels" if line["loss"] is None else f"loss {line['loss']:.4f}"
        text = f"{loss}  {line['step_seconds']:.2f} s/step"
        now = time.perf_counter()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], text=text)
        elif now - self._shown > QUIET or line["step"] == steps:
            self._shown = now
            self._console.print(f"step {line['step']} of {steps}  {text}", highlight=False)

    @contextmanager
    def between_steps(self, alone: bool) -> Iterator[None]:
        """While it lasts, Ctrl-C and a polite kill end the run after the step, with a checkpoint.

        Args:
            alone: Whether this is the only process; several would not stop at the same step.
        """
        if not alone or threading.current_thread() is not threading.main_thread():
            try:
                yield
            finally:
                self.close()
            return

        def stop(number: int, frame: Any) -> None:
            if self.stopping:  # asked twice: at once
                raise KeyboardInterrupt
            self.stopping = True

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self.close()


def _done(state: Any) -> bool:
    return bool(state.global_step >= state.max_steps)


def _lines(path: Path) -> list[dict[str, Any]]:
    """Lines of metrics, in order; the last may be torn, as a kill leaves it."""
    texts = read_text(path, "a file of metrics").splitlines()
    lines = []
    for number, text in enumerate(texts, start=1):
        try:
            line = json.loads(text)
        except ValueError:
            if number == len(texts):
                break
            line = None
        known = isinstance(line, dict) and all(isinstance(line.get(k), kind) for k, kind in KEYS.items())
        if not known:
            raise ValueError(f"{path}, line {number} is damaged; move the file away and --resume")
        lines.append(line)
    return lines


def nothing_learnt(refused: Counter[str]) -> str:
    """What to say of a run that never saw a label."""
    first = f", for example: {min(refused)}" if refused else ""
    return f"there is nothing to train on: no record that was drawn has an answer that fits{first}"


def check_finite(loss: float, step: int) -> None:
    """Refuses to go on with a loss that is no number.

    Raises:
        ValueError: If it is not finite.
    """
    if not math.isfinite(loss):
        raise ValueError(f"the loss is {loss} at step {step}; lower the learning rate, or look at the data")
