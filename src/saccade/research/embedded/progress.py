"""A progress line on standard error."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress


class Progress:
    """Shows a bar on a terminal, and a plain line a minute in a log file."""

    def __init__(self, minutes: float, steps: int) -> None:
        """Lay the bar over the schedule."""
        self._total = minutes * 60.0 if minutes else float(steps)
        self._by_steps = not minutes
        self._console = Console(stderr=True, markup=False)
        self._bar = None
        self._printed = 0.0
        if self._console.is_terminal:
            self._bar = RichProgress(
                TextColumn("stage {task.fields[stage]}"),
                BarColumn(),
                TextColumn("{task.percentage:.0f}%  {task.fields[text]}", markup=False),
                TimeElapsedColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task("steps", total=self._total, stage=1, text="")
            self._bar.start()

    def update(self, clock, stage: int, losses: dict[str, float]) -> None:
        """Show where the run is."""
        text = (
            f"step {clock.step}  {clock.images / max(clock.spent, 1e-9):.0f} images/s  "
            f"answer {losses.get('answer', 0):.3f}  content {losses.get('patch/content', 0):.3f}"
        )
        done = clock.step if self._by_steps else clock.spent
        if self._bar is not None:
            self._bar.update(self._task, completed=done, stage=stage, text=text)
        elif time.monotonic() - self._printed > 60.0:
            self._printed = time.monotonic()
            self._console.print(f"{100 * done / self._total:5.1f}%  stage {stage}  {text}", highlight=False)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.stop()
