"""How far a plan moves the whole answer: teacher-forced on the dense model's own answer, as serving would.

A prompt is read under the plan, decisions and cache included; then the dense model's answer follows on that
cache in one forward. So every row that chooses a token of the answer is compared, decisions fall where they
fall in serving, and an answer all of whose tokens come out first is the greedy answer under the plan.

Shape letters: B batch, N rows, A tokens of an answer, T rows that choose one, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch

from saccade import models
from saccade.asking import stop_tokens
from saccade.calibration.measures import kl, lead
from saccade.engine import apply
from saccade.evaluation.ledger import sample_digest
from saccade.families import Family
from saccade.families.offsets import position_offsets, position_offsets_kept
from saccade.helpers import Helpers, Once, spread
from saccade.identity import code_of, model_digest
from saccade.inputs.samples import Sample, in_batches, likeness
from saccade.models import Loaded
from saccade.plans.plan import Plan
from saccade.system.journal import Journal, Section

VERSION = 1
"""Raised when losses come out otherwise; what was kept of the former is then not used again."""

Progress = Callable[[int], None]
"""Called with the number of prompts that were run, dense and planned."""


@dataclass(frozen=True)
class Loss:
    """What a plan did to the answers of some samples, sample by sample.

    Attributes:
        kl: KL of the answer's distribution in nats, summed over its tokens: KL(dense || plan).
        agrees: Whether the greedy answer is the dense model's.
        margin: Probability of the likeliest first token less that of the second.
    """

    kl: tuple[float, ...]
    agrees: tuple[bool, ...]
    margin: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean KL in nats."""
        return sum(self.kl) / len(self.kl)

    @property
    def agreement(self) -> float:
        """Share of the answers that are the dense model's."""
        return sum(self.agrees) / len(self.agrees)

    def __add__(self, other: Loss) -> Loss:
        return Loss(self.kl + other.kl, self.agrees + other.agrees, self.margin + other.margin)


@dataclass(frozen=True, eq=False)
class _Batch:
    """Prompts that run together, and what the dense model says to them.

    Attributes:
        samples: The questions.
        answer_BA: The dense answers without their end, padded on the right.
        lengths: Rows of every sample that choose a token of its answer.
        target: Tokens of every answer, its end included where it has one.
        dense: Logits (T, V) of every sample.
    """

    samples: tuple[Sample, ...]
    answer_BA: torch.Tensor
    lengths: tuple[int, ...]
    target: tuple[tuple[int, ...], ...]
    dense: tuple[torch.Tensor, ...]


@dataclass(frozen=True, eq=False)
class Judged:
    """What plans are measured on, as helpers are told it.

    Attributes:
        samples: The questions.
        parts: Into how many parts they are split.
        batch_size: Prompts that run together.
        tokens: Longest answer that is looked at.
    """

    samples: tuple[Sample, ...]
    parts: int
    batch_size: int
    tokens: int


class Judge:
    """Measures plans on fixed samples, part by part, and keeps what it has measured.

    Parts are measured one after another, so that a plan that is bad on the first need not be run on the rest.

    Attributes:
        prompts: Prompts that were run so far, those found in the journal left out.
    """

    def __init__(
        self,
        loaded: Loaded,
        samples: Sequence[Sample],
        *,
        parts: int = 1,
        batch_size: int = 32,
        tokens: int = 24,
        journal: Journal | None = None,
        progress: Progress | None = None,
        helpers: Helpers[Any] | None = None,
    ) -> None:
        """Gets ready; nothing is run until a plan is measured.

        Args:
            loaded: The model.
            samples: The questions; answers are not used.
            parts: Into how many parts of like size they are split, samples in turn.
            batch_size: Prompts that run together.
            tokens: Longest answer that is looked at.
            journal: Keeps what was measured; its owner finishes it.
            progress: Called after every batch with the prompts that it ran.
            helpers: Other processes that measure too, of the same model (`ahead`).

        Raises:
            ValueError: If there are fewer samples than parts, or a sample cannot be asked.
        """
        if not 1 <= parts <= len(samples):
            raise ValueError(f"{len(samples)} samples cannot be split into {parts} parts")
        models.try_longest(loaded, samples)
        self.loaded, self.samples, self.tokens = loaded, tuple(samples), tokens
        self.parts = [self.samples[start::parts] for start in range(parts)]
        self.prompts = 0
        self._batch_size, self._progress, self._helpers = batch_size, progress, helpers
        self._told = Once(Judged(self.samples, parts, batch_size, tokens))
        self._dense: dict[int, list[_Batch]] = {}
        self._inputs: dict[tuple[int, int, float], Any] = {}
        self._journal = journal or Journal(None)
        self._settings = {
            "tune": VERSION,
            "weights": model_digest(loaded),
            "dtype": str(loaded.model.dtype),
            "samples": sample_digest(samples),
            "parts": parts,
            "batch": batch_size,
            "tokens": tokens,
        }
        self._known: dict[tuple[str, int], Loss] = {}
        self._section: Section | None = None

    def section(self) -> Section:
        """Where losses of this judge's samples are kept."""
        if self._section is None:
            self._section = self._journal.section(self._settings)
            for entry in self._section.entries:
                loss = Loss(tuple(entry["kl"]), tuple(map(bool, entry["agrees"])), tuple(entry["margin"]))
                self._known[entry["plan"], entry["part"]] = loss
        return self._section

    def known(self, plan: Plan, part: int) -> Loss | None:
        """The loss of a plan on a part, if it was measured before."""
        self.section()
        return self._known.get((self._filed(plan), part))

    def measure(self, plan: Plan, part: int) -> Loss:
        """The loss of a plan on one part of the samples.

        Raises:
            ValueError: If the plan cannot run, or logits are not finite.
        """
        found = self.known(plan, part)
        if found is not None:
            return found
        found = self._measured(plan, part)
        self._keep(plan, part, found)
        return found

    def ahead(self, wanted: Iterable[tuple[Plan, int]]) -> None:
        """Measures plans on parts together with the helpers, before they are asked for one by one.

        Without helpers nothing is done beforehand. A plan that cannot run is left for ``measure`` to refuse.

        Args:
            wanted: Plans with the parts they will be measured on.
        """
        if self._helpers is None:
            return
        left = {(self._filed(plan), part): plan for plan, part in wanted if self.known(plan, part) is None}
        if len(left) < 2:
            return
        parts = (
            ((plan, part), (self._told, plan, part), partial(self._tried, plan, part))
            for (_, part), plan in left.items()
        )
        for (plan, part), (found, there) in spread(self._helpers, measured_there, parts):
            if there:
                self._ran(len(self.parts[part]))
            if found is not None:
                self._keep(plan, part, found)

    def _tried(self, plan: Plan, part: int, there: bool = False) -> tuple[Loss | None, bool]:
        """The loss of a plan on a part, None where it cannot run; and whether a helper found it."""
        try:
            return self._measured(plan, part), there
        except ValueError:
            return None, there

    def _measured(self, plan: Plan, part: int) -> Loss:
        losses = [self._loss(plan, part, number) for number in range(len(self._batches(part)))]
        found = losses[0]
        for more in losses[1:]:
            found += more
        return found

    def _keep(self, plan: Plan, part: int, found: Loss) -> None:
        self._known[self._filed(plan), part] = found
        self.section().append(
            {
                "plan": self._filed(plan),
                "part": part,
                "kl": list(found.kl),
                "agrees": [int(value) for value in found.agrees],
                "margin": list(found.margin),
            }
        )

    def whole(self, plan: Plan) -> Loss:
        """The loss of a plan on all samples, in the order of the parts."""
        self.ahead((plan, part) for part in range(len(self.parts)))
        found = self.measure(plan, 0)
        for part in range(1, len(self.parts)):
            found += self.measure(plan, part)
        return found

    def order(self, part: int) -> list[Sample]:
        """The samples of a part in the order in which its losses have them."""
        return [sample for batch in self._batches(part) for sample in batch.samples]

    def _filed(self, plan: Plan) -> str:
        code = code_of(self.loaded, plan)
        return f"{plan.key} [{code}]" if code else plan.key

    def _loss(self, plan: Plan, part: int, number: int) -> Loss:
        batch = self._batches(part)[number]
        logits = self._forced(plan, batch, self._prepared(part, number, batch, plan))
        distances, agrees, margins = [], [], []
        for sample, full_TV, tried_TV, target in zip(
            batch.samples, batch.dense, logits, batch.target, strict=True
        ):
            if not bool(torch.isfinite(tried_TV).all()):
                raise ValueError(f"sample {sample.id}: logits are not finite under {plan.spec}; try float32")
            distances.append(float(kl(full_TV, tried_TV, "full-perturbed").sum()))
            agrees.append(tried_TV.argmax(-1).tolist() == list(target))
            margins.append(lead(tried_TV[0]))
        self._ran(len(batch.samples))
        return Loss(tuple(distances), tuple(agrees), tuple(margins))

    def _ran(self, prompts: int) -> None:
        self.prompts += prompts
        if self._progress is not None:
            self._progress(prompts)

    def _batches(self, part: int) -> list[_Batch]:
        """The batches of a part with their dense answers, which are made when they are first wanted."""
        if part not in self._dense:
            samples, tokenizer = self.parts[part], self.loaded.processor.tokenizer
            order = sorted(range(len(samples)), key=lambda i: (likeness(samples[i], tokenizer), i))
            made = in_batches(samples, order, self._batch_size)
            self._dense[part] = [
                self._answered(part, number, tuple(samples[i] for i in indices))
                for number, indices in enumerate(made)
            ]
        return self._dense[part]

    @torch.inference_mode()
    def _answered(self, part: int, number: int, samples: tuple[Sample, ...]) -> _Batch:
        loaded = self.loaded
        inputs = self._prepared(part, number, samples, Plan())
        answers, targets = said(loaded, inputs, self.tokens)
        longest = max(map(len, answers))
        pad = next(iter(stop_tokens(loaded.model)), 0)
        answer_BA = torch.tensor(
            [[*answer, *[pad] * (longest - len(answer))] for answer in answers], dtype=torch.long
        ).view(len(samples), longest)
        batch = _Batch(
            samples,
            answer_BA.to(loaded.device),
            tuple(len(answer) + 1 for answer in answers),
            tuple(targets),
            (),
        )
        dense = self._forced(Plan(), batch, inputs)
        if not all(bool(torch.isfinite(full_TV).all()) for full_TV in dense):
            raise ValueError(
                "the model's logits are not finite even without a plan; check its weights and dtype"
            )
        self._ran(len(samples))
        return _Batch(batch.samples, batch.answer_BA, batch.lengths, batch.target, tuple(dense))

    def _prepared(self, part: int, number: int, batch: _Batch | tuple[Sample, ...], plan: Plan) -> Any:
        """Inputs of a batch; plans that make the prompt itself shorter have some of their own."""
        key = (part, number, models.image_scale(plan))
        if key not in self._inputs:
            samples = batch.samples if isinstance(batch, _Batch) else batch
            self._inputs[key] = models.inputs(self.loaded, samples, plan)
        return self._inputs[key]

    def _forced(self, plan: Plan, batch: _Batch, inputs: Mapping[str, Any]) -> list[torch.Tensor]:
        """Logits (T, V) of every sample's answer under a plan, on the CPU."""
        logits_BTV = forced(self.loaded.family, self.loaded.model, inputs, batch.answer_BA, plan)
        each = zip(logits_BTV, batch.lengths, strict=True)
        return [logits_TV[:length].float().cpu() for logits_TV, length in each]


_JUDGES: WeakKeyDictionary[Judged, Judge] = WeakKeyDictionary()
"""Of a helper: what the dense model says to samples is found once there too."""


def measured_there(loaded: Loaded, told: Judged, plan: Plan, part: int) -> tuple[Loss | None, bool]:
    """What a helper does of ``Judge.ahead``.

    Args:
        loaded: The model.
        told: What plans are measured on.
        plan: The plan.
        part: On which part.
    """
    judge = _JUDGES.get(told)
    if judge is None:
        judge = _JUDGES[told] = Judge(
            loaded, told.samples, parts=told.parts, batch_size=told.batch_size, tokens=told.tokens
        )
    return judge._tried(plan, part, there=True)


@torch.inference_mode()
def said(
    loaded: Loaded, inputs: Mapping[str, Any], tokens: int
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """The dense model's own greedy answers to a batch of prompts.

    Args:
        loaded: The model.
        inputs: Prompts, padded on the left.
        tokens: Longest answer.

    Returns:
        Of every prompt the tokens of its answer, and those that its rows choose: the same with what ends it.
    """
    with apply(loaded.model, Plan()):
        whole_BN = models.ask(loaded, inputs, tokens)
    stops = stop_tokens(loaded.model)
    said_BA = whole_BN[:, inputs["input_ids"].shape[1] :]
    visual_BA = loaded.family.visual_mask(loaded.model, said_BA).tolist()
    answers: list[tuple[int, ...]] = []
    targets: list[tuple[int, ...]] = []
    for words, visual in zip(said_BA.tolist(), visual_BA, strict=True):
        end = next((i for i, token in enumerate(words) if token in stops), None)
        target = words if end is None else words[: end + 1]
        answer = target[:-1]
        # A placeholder in an answer would be read as an image that is not there.
        stop = next((i for i, mark in enumerate(visual[: len(answer)]) if mark), None)
        if stop is not None:
            answer, target = answer[:stop], target[: stop + 1]
        answers.append(tuple(answer))
        targets.append(tuple(target))
    return answers, targets


@torch.inference_mode()
def forced(
    family: Family, model: Any, inputs: Mapping[str, Any], answer_BA: torch.Tensor, plan: Plan
) -> torch.Tensor:
    """Logits (B, A + 1, V) that choose the tokens of given answers and what follows, as serving has them.

    Args:
        family: Adapter of the model.
        model: The model, under no plan but its own.
        inputs: Prompts, padded on the left.
        answer_BA: Tokens of the answers, padded on the right.
        plan: What the prompts are read under.
    """
    mask, rows, answer = inputs["attention_mask"], inputs["input_ids"].shape[1], answer_BA.shape[1]
    longer = torch.nn.functional.pad(mask, (0, answer), value=1)
    at_BN = (longer.cumsum(1) - 1).clamp(min=0)
    # Where positions have several axes the model finds those of the prompt, and says how far they lie behind.
    one_axis, core = family.compact_positions, family.parts(model).core
    with apply(model, plan), position_offsets_kept(core):
        first = {"position_ids": at_BN[:, :rows]} if one_axis else {}
        read = model(**inputs, **first, use_cache=True, logits_to_keep=1)
        if not answer:
            return read.logits
        more = {"position_ids": at_BN[:, rows:]} if one_axis else {}
        behind_B1 = position_offsets(core)
        if not one_axis and behind_B1 is not None:
            more["position_ids"] = (at_BN[:, rows:] + behind_B1.to(at_BN)).expand(3, -1, -1)
        later = model(
            input_ids=answer_BA,
            attention_mask=longer,
            past_key_values=read.past_key_values,
            use_cache=True,
            **more,
        )
    return torch.cat([read.logits, later.logits], dim=1)
