"""What every study works with: a model, questions, and a store of answers and of scores of layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from saccade.calibration import ascending, data_hash, draw, scores
from saccade.calibration.api import scores_code
from saccade.calibration.drawing import Draw
from saccade.calibration.measures import mean_sd
from saccade.calibration.probes import find_probe
from saccade.core.layout import Layout
from saccade.evaluation.orders import CALIBRATION_SAMPLES
from saccade.evaluation.runner import BLIND, DENSE, AnswerRun, count_prompts
from saccade.helpers import Helpers
from saccade.identity import code_of, setup_digest
from saccade.inputs.samples import Sample
from saccade.models import Loaded
from saccade.opening.digest import weights_digest
from saccade.plans.plan import Plan
from saccade.plans.spec import parse
from saccade.research.studies.cells import Column
from saccade.research.studies.questions import StudyQuestions
from saccade.research.studies.store import Key, Store
from saccade.system.files import locked

MANY_TASKS = 5
"""Above this many tasks a mixture takes ``FEW`` samples of each before it is drawn from."""
FEW = 4
SCORES = ("vig", "ffn", "lc")
"""What orders the layers of V-Skip, FFN-Skip and ShortV; VTW withdraws from the end."""


@dataclass(frozen=True)
class StudyScores:
    """Scores of every layer on some samples.

    Attributes:
        score: Name of the score.
        samples: The samples, without their images.
        values_SL: One row per sample.
    """

    score: str
    samples: tuple[Sample, ...]
    values_SL: tuple[tuple[float, ...], ...]

    @property
    def mean(self) -> list[float]:
        """Mean of every layer."""
        return mean_sd(self.values_SL)[0]

    @property
    def sd(self) -> list[float]:
        """Standard deviation of every layer over samples."""
        return mean_sd(self.values_SL)[1]

    @property
    def order(self) -> tuple[int, ...]:
        """Layers from the least to the most harmful."""
        return ascending(self.mean)

    def part(self, places: Sequence[int]) -> StudyScores:
        """The same scores on some of the samples."""
        return StudyScores(
            self.score, tuple(self.samples[i] for i in places), tuple(self.values_SL[i] for i in places)
        )

    def drawn(self, count: int, how: Draw, seed: int) -> StudyScores:
        """The same scores on samples drawn as a calibration draws them."""
        place = {sample.id: i for i, sample in enumerate(self.samples)}
        return self.part([place[sample.id] for sample in draw(self.samples, count, how, seed)])

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary for JSON."""
        return {
            "score": self.score,
            "n": len(self.samples),
            "mean": self.mean,
            "sd": self.sd,
            "order": list(self.order),
            "samples": [sample.id for sample in self.samples],
        }


def silent(text: str) -> None:
    """Says nothing."""


@dataclass
class StudyBench:
    """A model and questions to study it on.

    Attributes:
        loaded: The model.
        questions: The questions.
        store: Where answers and scores are kept.
        tokens: Longest answer in tokens.
        note: Called with a line of text when a part begins.
        step: Progress of a calibration: samples done and of all.
        helpers: Other processes that score, search and answer too, of the same model (`saccade.helpers`).
    """

    loaded: Loaded
    questions: StudyQuestions
    store: Store
    tokens: int = 24
    note: Callable[[str], None] = silent
    step: Callable[[int, int], None] | None = None
    helpers: Helpers[Any] | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return self.questions.tasks

    @property
    def depth(self) -> int:
        """Layers of the model."""
        return self.loaded.shape.layers

    @cached_property
    def weights(self) -> str:
        """Digest of the model's weights."""
        return weights_digest(self.loaded.model)

    @cached_property
    def setup(self) -> str:
        """Digest of what else of the model answers depend on; empty for the shipped Glance."""
        return setup_digest(self.loaded)

    @property
    def dtype(self) -> str:
        """Number format of the weights."""
        return str(self.loaded.model.dtype).removeprefix("torch.")

    def asked(self, task: str) -> tuple[Sample, ...]:
        """The held-out questions of a task, without their images."""
        return self.questions.bare(task)[0]

    def column(self, task: str, name: str, plan: Plan | None = None, blind: bool = False) -> Column:
        """What is asked of a task under a plan, and where its answers are kept."""
        digest = self.questions.bare(task)[1]
        # The name tells the plan where only the cell is wanted; that of a blind model says so first.
        code = code_of(self.loaded, Plan(parse(name.removeprefix(BLIND).strip() or DENSE)))
        key = Key(self.weights, self.dtype, name, digest, self.tokens, self.setup, code)
        return Column(AnswerRun(name, plan, blind), key)

    def scored(self, score: str, samples: Sequence[Sample], what: str = "", tokens: int = 1) -> StudyScores:
        """Scores of every layer on these samples, measured once for all studies.

        Args:
            score: Name of the score.
            samples: Samples with their images.
            what: What they are, for the note.
            tokens: How many tokens of the model's own answer it looks at.
        """
        over = "" if tokens == 1 else f" summed over {tokens} tokens"

        def measure(kept: Path) -> list[list[float]]:
            # Another process that is at the same keeps what it has; this one then measures for itself.
            with locked(kept.with_suffix(".lock")) as mine:
                found = scores(
                    self.loaded.model,
                    self.loaded.processor,
                    samples,
                    score,
                    answer_tokens=tokens,
                    check=False,
                    checkpoint=kept if mine else None,
                    progress=self.step,
                    helpers=self.helpers,
                )
            return [list(row) for row in found.values_SL]

        code = scores_code(self.loaded, find_probe(score))
        told = f"layers by {score}{over}"
        try:
            values = self.measured(f"{score}{over}", samples, measure, told, what, code)
        except ValueError as error:
            # A sample is named already; that none has a picture is said of no task, and one can be left out.
            if any(sample.visual for sample in samples):
                raise
            raise ValueError(f"{what or 'the samples'}: {error}; --task says which are studied") from None
        bare = tuple(replace(sample, images=()) for sample in samples)
        return StudyScores(score, bare, tuple(map(tuple, values)))

    def measured(
        self,
        name: str,
        samples: Sequence[Sample],
        measure: Callable[[Path], list[Any]],
        told: str,
        what: str = "",
        code: str = "",
    ) -> list[Any]:
        """Something measured of these samples, one entry per sample, once for all studies.

        Args:
            name: What it is filed under.
            samples: Samples with their images.
            measure: Measures it, if it is not known; told a file where it may keep what it has on the way.
            told: What is measured, for the note.
            what: What the samples are, for the note.
            code: Versions of the code that it hangs on (``code_of``).
        """
        settings: dict[str, Any] = {
            "weights": self.weights,
            "dtype": self.dtype,
            "score": name,
            "samples": [sample.id for sample in samples],
            "data": data_hash(samples),
        }
        if self.setup:
            settings["setup"] = self.setup
        if code:
            settings["code"] = code
        values = self.store.measured(settings)
        if values is None:
            self.note(f"measuring {told} on {len(samples)} samples{what and f' of {what}'}")
            values = measure(self.store.measuring(settings))
            self.store.put_measured(settings, values)
        return values

    def pool(self, score: str, task: str) -> StudyScores:
        """Scores on the whole calibration pool of a task."""
        return self.scored(score, self.questions.calibration(task), f"task {task}")

    def pooled(self, score: str) -> StudyScores:
        """Scores on the calibration pools of all tasks."""
        parts = [self.pool(score, task) for task in self.tasks]
        return StudyScores(
            score,
            tuple(sample for part in parts for sample in part.samples),
            tuple(row for part in parts for row in part.values_SL),
        )

    def own(self, score: str, task: str, tokens: int = 1) -> StudyScores:
        """Scores on 20 samples of a task (the papers' number): the first of its pool."""
        samples = self.questions.calibration(task, CALIBRATION_SAMPLES)
        return self.scored(score, samples, f"task {task}", tokens)

    def mixture(self) -> list[Sample]:
        """Calibration samples of all tasks, a few of each."""
        few = FEW if len(self.tasks) > MANY_TASKS else CALIBRATION_SAMPLES
        return [sample for task in self.tasks for sample in self.questions.calibration(task, few)]

    def calibrated(self, names: Sequence[str] = SCORES, tokens: int = 1) -> dict[str, StudyScores]:
        """Scores by name on 20 samples of the mixture, drawn evenly over sub-tasks (the papers' number)."""
        pool = self.mixture()
        drawn = draw(pool, min(CALIBRATION_SAMPLES, len(pool)), "stratified", self.questions.seed)
        return {name: self.scored(name, drawn, "all tasks", tokens) for name in names}

    def prompts(self, most: int = 64) -> tuple[list[Layout], list[float]]:
        """Layouts of prompts like those that are asked, and how often each occurs."""
        counts = count_prompts(self.loaded, self.mixture(), most=most)
        return [Layout.single(v, t, views=self.loaded.shape.views(v)) for v, t in counts], [
            float(n) for n in counts.values()
        ]


def orders_of(scored: Mapping[str, StudyScores]) -> dict[str, Sequence[int]]:
    """Orders of layers by score name."""
    return {name: found.order for name, found in scored.items()}


def told_of(scored: Mapping[str, StudyScores]) -> dict[str, Any]:
    """What a result says of a calibration by several scores on the same samples."""
    samples = len(next(iter(scored.values())).samples)
    return {"samples": samples} | {name: found.to_dict() for name, found in scored.items()}
