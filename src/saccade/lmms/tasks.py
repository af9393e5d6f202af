"""Which tasks lmms-eval is asked for: its own, and those of Glance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from saccade.glance.tasks import TASKS
from saccade.lmms.glance import write_tasks

PREFIX = "lmms:"
GLANCE = "glance"
GLANCE_SAMPLES = 100


@dataclass(frozen=True)
class Suite:
    """What is asked of every model.

    Attributes:
        tasks: Names of lmms-eval's tasks and groups, and ``glance`` or ``glance_TASK``.
        samples: Questions of each task; None for all, and 100 of each task of Glance.
        seed: Seed of Glance's scenes.
    """

    tasks: tuple[str, ...]
    samples: int | None = None
    seed: int = 0

    @classmethod
    def read(cls, text: str, samples: int | None = None, seed: int = 0) -> Suite:
        """Reads ``lmms:mme,pope``.

        Raises:
            ValueError: If it is of another form, or names a task of Glance that there is not.
        """
        names = tuple(
            dict.fromkeys(name.strip() for name in text.removeprefix(PREFIX).split(",") if name.strip())
        )
        if not text.startswith(PREFIX) or not names:
            raise ValueError(
                f"a suite is written lmms:TASK,TASK,... (for example lmms:mme,pope), got {text!r}"
            )
        known = {GLANCE, *(f"{GLANCE}_{task}" for task in TASKS)}
        for name in names:
            if name.startswith(GLANCE) and name not in known:
                raise ValueError(
                    f"Glance has no task {name!r}; take {GLANCE} or one of {', '.join(sorted(known))}"
                )
        return cls(names, samples, seed)

    @property
    def has_official(self) -> bool:
        """Whether any task is not one of Glance's."""
        return not all(name.startswith(GLANCE) for name in self.tasks)

    def write_own(self, folder: Path) -> Path | None:
        """Writes the tasks that are ours into a folder; None if there are none among them."""
        ours = [name for name in self.tasks if name.startswith(GLANCE)]
        if not ours:
            return None
        asked = () if GLANCE in ours else tuple(name.removeprefix(f"{GLANCE}_") for name in ours)
        return write_tasks(folder, self.samples or GLANCE_SAMPLES, seed=self.seed % (1 << 16), tasks=asked)
