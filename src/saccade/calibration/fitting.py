"""FitPrune's search: from what some samples attend to, how many rows leave in which layer (arXiv 2409.10197).

Every row gets attention in a layer: of its own image, and of the text behind it. A share alpha of either may
be lost in every layer, against the dense model; rows leave that both can spare. So one number makes a whole
recipe, and the smallest whose recipe is as cheap as wanted is found by bisection. As in the authors' code the
model is run for every alpha that is tried, on rows that really are fewer; nothing is said of answers.

Shape letters: N rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any

import torch

from saccade import models
from saccade.calibration.drawing import data_hash
from saccade.calibration.noted import check_samples, hangs_on, origin
from saccade.calibration.options import CalibrationOptions
from saccade.calibration.probes import Progress
from saccade.calibration.reach import prompts_of
from saccade.core.layout import Views
from saccade.core.stages import Choice, Evidence, Look, Stage
from saccade.engine import apply
from saccade.helpers import Helpers, spread
from saccade.identity import code_of
from saccade.inputs.samples import Sample
from saccade.methods.fitprune import FitPrune, with_recipe
from saccade.methods.reducer import Reducer
from saccade.opening.digest import weights_digest
from saccade.plans.budget import SLACK, flops_ratio
from saccade.plans.plan import Plan
from saccade.system.journal import Journal

STEPS = 7
"""Halvings of the range of alpha; the authors stop below 0.01, which is as many."""

KEPT = ("of", "position_policy")
"""Parameters of the method that are no part of what is looked for."""

ROUNDING = 1e-9
"""Share of the attention by which sums may be off."""

GRAIN = 4
"""Decimals of the shares in a recipe."""

Sums = tuple[tuple[tuple[float, float], ...], ...]
"""By layer and image: attention that its rows get of their own image (the mean of its rows) and of text."""


@dataclass(frozen=True)
class Watching(Reducer):
    """What a forward of the search does: looks after every layer, and drops what is to spare.

    Attributes:
        befores: Layers before which rows may leave.
        alpha: Share of the attention that may be lost; nothing is dropped if None.
        dense: What the dense model's rows get, by stage; of no use without ``alpha``.
        seen: Where what rows get is noted, by stage; and how many rows every image has then.
    """

    name = "fitprune"
    title = "FitPrune's search"

    befores: tuple[int, ...] = ()
    alpha: float | None = None
    dense: Sums = ()
    seen: dict[int, tuple[tuple[tuple[float, float], ...], tuple[int, ...]]] = field(
        default_factory=dict, compare=False
    )

    def parameters(self) -> dict[str, Any]:
        return {}

    def stages(self, num_layers: int) -> tuple[Stage, ...]:
        look = Look(ask="readers")
        return tuple(Stage(before, self, number, look) for number, before in enumerate(self.befores))

    def kept(self, stage: Stage, found: int, start: int, original: int, views: Views = ()) -> int:
        # A stage at which all stay is not reached; how many do is said by the choice.
        return max(found - 1, 0)

    def choose(self, stage: Stage, evidence: Evidence) -> Choice:
        read_B2N: Any = evidence.read_B2N
        read_2N, alive_N = read_B2N[0].double().cpu(), evidence.alive_BN[0].cpu()
        image_N, keep_N = evidence.image_BN[0].cpu(), alive_N.clone()
        words = int(evidence.layout.instruction_BN.sum())
        sums, counts = [], []
        for image in range(len(evidence.found[0])):
            rows = (alive_N & (image_N == image)).nonzero()[:, 0]
            both_2N = read_2N[:, rows] / torch.tensor([[max(len(rows), 1)], [max(words, 1)]])
            sums.append((float(both_2N[0].sum()), float(both_2N[1].sum())))
            if self.alpha is not None:
                before = self.dense[stage.number][image]
                gone_N = spare(both_2N[0], before[0], self.alpha)
                if words:
                    gone_N = gone_N & spare(both_2N[1], before[1], self.alpha)
                keep_N[rows[gone_N]] = False
            counts.append(int((keep_N & (image_N == image)).sum()))
        self.seen[stage.number] = tuple(sums), tuple(counts)
        return Choice(keep_N.to(evidence.alive_BN.device)[None], counts=(tuple(counts),))


def spare(attention_N: torch.Tensor, dense: float, alpha: float) -> torch.Tensor:
    """Boolean (N): as many of the least attended rows as may leave.

    Args:
        attention_N: What each of them gets.
        dense: What all rows get in the dense model, those that have left before included.
        alpha: Share of it that may be lost.
    """
    order_N = attention_N.argsort(stable=True)
    allowed = attention_N.sum() - (1 - alpha) * dense
    fits_N = attention_N[order_N].cumsum(0) <= allowed + ROUNDING * dense
    return torch.zeros_like(fits_N).scatter(0, order_N, fits_N)


@dataclass(frozen=True)
class Attended:
    """What is run on every sample: told to other processes too.

    Attributes:
        befores: Layers before which rows may leave.
    """

    befores: tuple[int, ...]

    def of(
        self, loaded: models.Loaded, sample: Sample, alpha: float | None = None, dense: Any = ()
    ) -> dict[str, Any]:
        """One forward: ``sums`` and ``left`` (rows of every image before each layer, first all of them).

        Raises:
            ValueError: Naming the sample, if it cannot be run.
        """
        sums = tuple(tuple((float(a), float(b)) for a, b in stage) for stage in dense)
        watching = Watching(befores=self.befores, alpha=alpha, dense=sums)
        try:
            inputs = models.inputs(loaded, [sample])
            with (
                torch.inference_mode(),
                apply(loaded.model, Plan((watching,))) as handle,
                handle.tracing() as traces,
            ):
                logits = loaded.model(**inputs, use_cache=True, logits_to_keep=1).logits
        except ValueError as error:
            raise ValueError(f"sample {sample.id}: {error}") from error
        if not bool(torch.isfinite(logits).all()):
            raise ValueError(
                f"sample {sample.id}: the model's logits are not finite; check its weights and dtype"
            )
        rows = traces[0].layout.counts[0] if traces else ()
        left, seen = [rows], []
        for number in range(len(self.befores)):
            # Once no row is left, no decision is taken.
            found, after = watching.seen.get(number, (((0.0, 0.0),) * len(rows), (0,) * len(rows)))
            left.append(after)
            seen.append(found)
        return {"sums": seen, "left": left}


class Fitter:
    """Finds recipes for some samples; what was run is kept.

    Attributes:
        prompts: Prompts that were run so far, those found in the journal left out.
    """

    def __init__(
        self,
        loaded: models.Loaded,
        samples: Sequence[Sample],
        journal: Journal | None = None,
        progress: Progress | None = None,
        helpers: Helpers[str] | None = None,
    ) -> None:
        """Gets ready; nothing is run yet.

        Args:
            loaded: The model.
            samples: What is looked at; those without a picture say nothing.
            journal: Keeps what was run; its owner finishes it.
            progress: Called with (prompts done, prompts in all).
            helpers: Other processes that run prompts too, of the same model.

        Raises:
            ValueError: If no sample has a picture, two have one id, or no layer can be looked at.
        """
        check_samples(loaded, samples)
        self.loaded, self.samples = loaded, [sample for sample in samples if sample.visual]
        if not self.samples:
            raise ValueError(f"none of the {len(samples)} samples has an image: there is nothing to fit to")
        recurrent = loaded.shape.recurrent_layers
        self.layers = loaded.shape.layers
        befores = tuple(n for n in range(1, self.layers) if n - 1 not in recurrent)
        if not befores:
            raise ValueError("this decoder has no layer behind one with attention, so no row can leave by it")
        self.attended, self.prompts = Attended(befores), 0
        self._progress, self._helpers = progress, helpers
        settings = hangs_on(loaded, self.samples, code_of(loaded, Plan((FitPrune(),))))
        self._section = (journal or Journal(None)).section({"fit": befores, **settings})
        self._known = self._section.by("run")
        self._tell()

    @property
    def images(self) -> int:
        """Images that were looked at."""
        return sum(len(run["left"][0]) for run in self._runs(None, {}).values())

    @property
    def total(self) -> int:
        """Prompts that a search runs: each once as it is, and once for every alpha that is tried."""
        return len(self.samples) * (1 + STEPS)

    def left(self, step: int) -> tuple[float, ...]:
        """Share of an image's rows left before each layer from layer 1 on, at alpha = step / 2^STEPS.

        The mean over the images. At the last step everything may be lost, which needs no forward.
        """
        if step >= 2**STEPS:
            first = self.attended.befores[0]
            return tuple(1.0 if layer < first else 0.0 for layer in range(1, self.layers))
        dense = self._runs(None, {})
        found = self._runs(step / 2**STEPS, dense)
        images = [
            [after[image] / whole for after in run["left"][1:]]
            for run in found.values()
            for image, whole in enumerate(run["left"][0])
            if whole
        ]
        means = [round(sum(column) / len(images), GRAIN) for column in zip(*images, strict=True)]
        shares = dict(zip(self.attended.befores, accumulate(means, min), strict=True))
        return tuple(accumulate((shares.get(layer, 1.0) for layer in range(1, self.layers)), min))

    def fitted(self, reaches: Callable[[FitPrune], bool], **like: Any) -> tuple[FitPrune, float] | None:
        """The recipe of the smallest alpha that is cheap enough, and that alpha.

        As in the authors' code no more rows leave once it is: later layers drop nothing.

        Args:
            reaches: Whether a recipe is cheap enough; never less so with fewer rows.
            **like: Further parameters of the method.

        Returns:
            None where dropping everything is not enough.
        """
        whole = with_recipe((1.0,) * (self.layers - 1), **like)
        if reaches(whole):
            return whole, 0.0
        low, high = 0, 2**STEPS
        if not reaches(with_recipe(self.left(high), **like)):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            if reaches(with_recipe(self.left(middle), **like)):
                high = middle
            else:
                low = middle
        left = self.left(high)
        until = next(n for n in range(1, len(left) + 1) if reaches(with_recipe(_until(left, n), **like)))
        self._tell(self.total)
        return with_recipe(_until(left, until), **like), high / 2**STEPS

    def _runs(self, alpha: float | None, dense: Mapping[str, Any]) -> dict[str, Any]:
        """What a forward of every sample came to, by sample."""
        told = "dense" if alpha is None else f"{alpha:g}"
        names = {sample.id: f"{told} {sample.id}" for sample in self.samples}
        wanting = [sample for sample in self.samples if names[sample.id] not in self._known]
        parts = []
        for sample in wanting:
            more = () if alpha is None else (alpha, dense[sample.id]["sums"])
            parts.append(
                (names[sample.id], (sample, *more), partial(self.attended.of, self.loaded, sample, *more))
            )
        for name, found in spread(self._helpers, self.attended.of, parts):
            self._known[name] = {"run": name, **found}
            self._section.append(self._known[name])
            self.prompts += 1
            self._tell()
        return {sample: self._known[name] for sample, name in names.items()}

    def _tell(self, done: int | None = None) -> None:
        if self._progress is not None:
            self._progress(min(len(self._known) if done is None else done, self.total), self.total)


def fitted_plan(
    loaded: models.Loaded,
    samples: Sequence[Sample],
    options: CalibrationOptions,
    journal: Journal,
    progress: Progress | None = None,
    helpers: Helpers[str] | None = None,
) -> Plan:
    """The plan with the recipe that just reaches the FLOPs ratio that is asked for, on the samples' prompts.

    Raises:
        ValueError: If no recipe reaches it, or the samples or the model do not fit.
    """
    asked = options.wanted
    target = float(asked.method.flops or 1.0)
    for other in asked.others:
        other.resolve(loaded.shape.layers)
    fitter = Fitter(loaded, samples, journal, progress, helpers)
    layouts, weights = prompts_of(loaded, samples)

    def ratio(method: FitPrune) -> float:
        return flops_ratio(asked.with_method(method), loaded.shape, layouts, weights)

    like = {key: value for key, value in asked.method.parameters().items() if key in KEPT}
    found = fitter.fitted(lambda method: ratio(method) <= target + SLACK, **like)
    if found is None:
        lowest = ratio(with_recipe(fitter.left(2**STEPS), **like))
        raise ValueError(
            f"{asked.method.name} cannot reach a FLOPs ratio of {target:g} on {loaded.name}: with no "
            f"visual row behind the first layer that it can look at, it is {lowest:.4f}"
        )
    method, alpha = found
    calibration = {
        "asked": {"flops": target},
        "metric": "attention",
        "fit": {"alpha": alpha, "left": list(shares(method, loaded.shape.layers)), "images": fitter.images},
        "samples": [sample.id for sample in samples],
        "tasks": list(dict.fromkeys(sample.task for sample in samples)),
        "draw": options.drawn,
        "seed": options.seed,
        "data_hash": data_hash(samples),
        "weights_hash": weights_digest(loaded.model),
        **origin(loaded),
    }
    return Plan(asked.with_method(method).methods, loaded.family.identity(loaded.model), calibration)


def shares(method: FitPrune, layers: int) -> tuple[float, ...]:
    """What of an image's rows is alive in every layer."""
    recipe = dict(method.recipe(layers))
    return tuple(accumulate((recipe.get(layer, 1.0) for layer in range(layers)), min))


def _until(left: Sequence[float], layers: int) -> tuple[float, ...]:
    """A recipe of which only the first layers' cuts are made."""
    return (*left[:layers], *(left[layers - 1],) * (len(left) - layers))
