"""The trainer of a healing: under the plan the model says of every token what it says without.

Teacher and pupil are one model: without plan and adapter, and with both. The loss is KL(dense || healed) over
the whole vocabulary at every row that chooses a token of the dense model's own answer.

Shape letters: B batch, N rows, T rows that choose a token, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.functional import kl_div, log_softmax

from saccade.engine import Attachment
from saccade.healing.batches import CHOSEN, DENSE_INPUTS, asked_rows
from saccade.training.encode import IGNORE
from saccade.training.trainer import VlmTrainer


class HealingTrainer(VlmTrainer):
    """Trains adapters under a plan towards the same model without it.

    Attributes:
        attachment: The plan, which is on the model.
    """

    def __init__(self, attachment: Attachment, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.attachment = attachment
        self._teacher_TV: torch.Tensor | None = None
        # Called by the library with what the pupil said; it then knows how the loss is scaled.
        self.compute_loss_func = self._distance

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """KL of the batch's answers over the labels of the global batch."""
        given = dict(inputs)
        dense = given.pop(DENSE_INPUTS, given)
        with torch.no_grad(), self._without():
            self._teacher_TV = _choosing(self._model, dense)
        chosen_BN = given.pop(CHOSEN)
        first = _first(chosen_BN)
        pupil = given | {"logits_to_keep": chosen_BN.shape[1] - first, "labels": chosen_BN[:, first:]}
        with self.attachment.answering(asked_rows(chosen_BN)):
            return super().compute_loss(model, pupil, *args, **kwargs)

    def _distance(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        assert self._teacher_TV is not None
        pupil_TV, teacher_TV = outputs.logits[labels != IGNORE], self._teacher_TV
        self._teacher_TV = None
        return distance(teacher_TV, pupil_TV) / num_items_in_batch

    @contextmanager
    def _without(self) -> Iterator[None]:
        """The model as it is without plan and adapter, in eval mode."""
        model: Any = self._model
        training = model.training
        self.attachment.remove()
        try:
            with model.disable_adapter():
                model.eval()
                yield
        finally:
            model.train(training)
            for module in self._frozen:
                module.eval()
            self.attachment.attach()


def distance(teacher_TV: torch.Tensor, pupil_TV: torch.Tensor) -> torch.Tensor:
    """KL(teacher || pupil) in nats, summed over rows, in float32 at least."""
    wide = torch.promote_types(pupil_TV.dtype, torch.float32)
    target, said = (log_softmax(logits.to(wide), dim=-1) for logits in (teacher_TV, pupil_TV))
    return kl_div(said, target, reduction="sum", log_target=True)


def _first(chosen_BN: torch.Tensor) -> int:
    """The first row of a batch that chooses a token of an answer."""
    return int((chosen_BN != IGNORE).any(0).nonzero()[0])


def _choosing(model: nn.Module, inputs: Mapping[str, Any]) -> torch.Tensor:
    """Logits (T, V) of the rows that choose a token, sample by sample."""
    given = dict(inputs)
    chosen_BN = given.pop(CHOSEN)
    first = _first(chosen_BN)
    logits_BNV = model(**given, use_cache=False, logits_to_keep=chosen_BN.shape[1] - first).logits
    return logits_BNV[chosen_BN[:, first:] != IGNORE]
