"""The training forward pass: the stock modules, called so that one pass serves many questions.

Numbers of rows: P visual rows and one `<user>` row before them, then T text rows. The tower, or where it
does not mix patches the first `depth` layers of the decoder, can be run alone, on the visual rows alone,
which is all that learning to see needs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers import LlavaForConditionalGeneration as Llava

from saccade.glance.tokenizer import PIXEL_MEAN, PIXEL_STD
from saccade.glance.vocabulary import HEAD_INDEX, IGNORE, LABEL_HEADS, LOCAL_HEADS
from saccade.research.embedded.attention import keep_wide, packed
from saccade.research.embedded.glimpse import looking_loss
from saccade.research.embedded.pointing import pointing_loss
from saccade.research.embedded.tower import tower_layers, tower_states


class PatchReader(nn.Module):
    """Linear heads that name what a patch shows; dropped after training."""

    def __init__(self, width: int, heads: tuple[str, ...] = tuple(LABEL_HEADS)) -> None:
        """Create one projection for all heads."""
        super().__init__()
        self.heads = heads
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.project = nn.Linear(width, sum(LABEL_HEADS[head] for head in heads))

    def losses(self, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean cross entropy per head in the order of `LABEL_HEADS`; 0 where a head is not read."""
        logits = self.project(self.norm(hidden)).flatten(0, 1).float()
        target = labels.flatten(0, 1).long()
        out = logits.new_zeros(len(LABEL_HEADS))
        for head, part in zip(
            self.heads, logits.split([LABEL_HEADS[h] for h in self.heads], -1), strict=True
        ):
            wanted = target[:, HEAD_INDEX[head]]
            loss = F.cross_entropy(part, wanted, ignore_index=IGNORE, reduction="sum")
            out[HEAD_INDEX[head]] = loss / (wanted != IGNORE).sum().clamp_min(1)
        return out


class Passed(NamedTuple):
    """What a training pass gives.

    Attributes:
        patches: Patch losses, readers x heads: the tower's first if it is read, then the decoder's.
        pointing: Loss of the heads that are taught where to look.
        looking: Loss of the CLS row's attention.
        early: Logits of the text rows half way through the decoder, or None.
        logits: Logits of the text rows (batch x text x vocabulary); None if the decoder did not run.
    """

    patches: torch.Tensor
    pointing: torch.Tensor
    looking: torch.Tensor
    early: torch.Tensor | None = None
    logits: torch.Tensor | None = None


class Network(nn.Module):
    """The model and its patch readers, with the two training passes.

    Attributes:
        shallow: Whether features come one layer earlier out of the tower (`TrainingStage.shallow`).
    """

    shallow = False

    def __init__(
        self,
        model: Llava,
        read_layers: tuple[int, ...],
        point_layers: tuple[int, ...],
        user_id: int,
        early_layer: int = 0,
    ) -> None:
        """Put a reader behind each decoder layer in `read_layers`; teach `point_layers` to look.

        Args:
            model: What is trained. A tower that mixes patches is read too, and its CLS row taught to look.
            read_layers: Decoder layers, counted from 1.
            point_layers: Likewise; the last of them takes the second look.
            user_id: Token before the picture.
            early_layer: Decoder layer, counted from 1, behind which an answer is asked for too; 0 for none.
        """
        super().__init__()
        self.model = model
        vision, text = model.config.vision_config, model.config.text_config
        model.set_attn_implementation("sdpa")
        keep_wide(model)
        self.read_layers = read_layers
        self.point_layers = point_layers
        self.early_layer = early_layer
        self.user_id = user_id
        self.mixes = vision.num_hidden_layers > 1
        self.patches = (vision.image_size // vision.patch_size) ** 2
        self.readers = nn.ModuleList(PatchReader(text.hidden_size) for _ in read_layers)
        if self.mixes:
            self.tower_reader = PatchReader(vision.hidden_size, LOCAL_HEADS)
            self.whole_reader = PatchReader(vision.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.model.device

    def _seen(
        self, pixels: torch.Tensor, labels: torch.Tensor, whole: bool = False, sparse: bool = False
    ) -> tuple[torch.Tensor, ...]:
        """The tower's patches, the losses of their reader (none x heads if unread) and of the CLS row."""
        images = (pixels.permute(0, 3, 1, 2).float() / 255.0 - PIXEL_MEAN) / PIXEL_STD
        states = tower_states(self.model, images, self.shallow)
        rows = states[-1][:, 1:]
        if not self.mixes:
            return rows, rows.new_zeros(0, len(LABEL_HEADS)), rows.new_zeros(())
        reader = self.whole_reader if whole else self.tower_reader
        losses = reader.losses(rows, labels)[None]
        layers = tower_layers(self.model, self.shallow)
        looks = [looking_loss(layers[i], states[i], labels, sparse) for i in (-2, -1)]
        return rows, losses, looks[0] + looks[1]

    def _positions(self, patches: int) -> torch.Tensor:
        """Decoder positions of `<user>` and the patches; those of a smaller picture spread over a whole one.

        So that what the decoder learns of rows and columns on small pictures, which cost less, holds on
        large ones.
        """
        side, whole = round(patches**0.5), round(self.patches**0.5)
        place = torch.arange(side) * (whole // side)
        return torch.cat((torch.zeros(1, dtype=torch.long), 1 + (place[:, None] * whole + place).flatten()))

    def _prefix(self, rows: torch.Tensor) -> torch.Tensor:
        rows = self.model.model.multi_modal_projector(rows)
        embed = self.model.model.language_model.embed_tokens
        user = embed(torch.full((len(rows), 1), self.user_id, device=rows.device))
        return torch.cat((user.float(), rows.float()), dim=1)

    def _looks(self, aim: torch.Tensor) -> dict[int, torch.Tensor]:
        """Which of the looks of `aims` each layer is taught."""
        looks = {**dict.fromkeys(self.point_layers, aim[:, 0]), self.point_layers[-1]: aim[:, 1]}
        if aim.shape[1] > 2:
            looks[1] = aim[:, 2]
        return looks

    def _decode(self, hidden, positions, mask, labels, depth, aim=None):
        decoder = self.model.model.language_model
        rotary = decoder.rotary_emb(hidden, positions)
        losses, pointing, early = [], hidden.new_zeros(()), None
        looks = {} if aim is None else self._looks(aim)
        with packed(self.model):
            for number, layer in enumerate(decoder.layers[:depth], start=1):
                if number in looks:
                    pointing = pointing + pointing_loss(layer, hidden, rotary, mask, looks[number])
                hidden = layer(
                    hidden, attention_mask=mask, position_ids=positions, position_embeddings=rotary
                )
                if labels is not None and number in self.read_layers:
                    reader = self.readers[self.read_layers.index(number)]
                    losses.append(reader.losses(hidden[:, 1 : 1 + labels.shape[1]], labels))
                if number == self.early_layer:
                    early = hidden
        return hidden, losses, pointing, early

    def see(self, pixels: torch.Tensor, labels: torch.Tensor, whole: bool = False) -> Passed:
        """Learning to see: the losses that need the visual rows alone."""
        rows, losses, looking = self._seen(pixels, labels, whole)
        if self.mixes:
            return Passed(losses, looking.new_zeros(()), looking)
        hidden = self._prefix(rows)
        positions = torch.arange(hidden.shape[1], device=pixels.device)[None]
        _, read, pointing, _ = self._decode(hidden, positions, None, labels, max(self.read_layers))
        return Passed(torch.stack(read), pointing, looking)

    def answer(
        self, pixels, labels, ids, positions, mask, aim, kept=None, closed=None, whole=False, sparse=False
    ) -> Passed:
        """Learning to answer: everything.

        Args:
            pixels: Pictures.
            labels: What their patches show.
            ids: Text rows.
            positions: Theirs, behind a whole picture.
            mask: Their additive mask.
            aim: Where they should look.
            kept: Patches that reach the decoder, pictures x rows, in order; all if None.
            closed: Whether the positions of a picture's rows, and of what follows, close up.
            whole: Whether the tower alone is asked what patches show, and how they relate to the whole.
            sparse: Whether the CLS row should look at few patches of everything (`worth_looking`).
        """
        rows, losses, looking = self._seen(pixels, labels, whole, sparse)
        # What follows a smaller picture stands where it will stand behind a whole one.
        positions = positions + (self.patches - rows.shape[1])
        before = self._positions(rows.shape[1]).to(pixels.device).expand(len(ids), -1)
        if kept is not None:
            rows, labels = (
                part.gather(1, kept[:, :, None].expand(-1, -1, part.shape[2])) for part in (rows, labels)
            )
            before = torch.cat((before[:, :1], before[:, 1:].gather(1, kept)), dim=1)
            before = torch.where(closed[:, None], torch.arange(before.shape[1], device=pixels.device), before)
            positions = positions - closed[:, None].long() * (self.patches - kept.shape[1])
        prefix = self._prefix(rows)
        decoder = self.model.model.language_model
        text = decoder.embed_tokens(ids)
        hidden = torch.cat((prefix, text.float()), dim=1)
        positions = torch.cat((before, positions), dim=1)
        hidden, read, pointing, early = self._decode(
            hidden, positions, mask, None if whole else labels, None, aim
        )

        def logits(rows: torch.Tensor) -> torch.Tensor:
            return self.model.lm_head(decoder.norm(rows[:, prefix.shape[1] :])).float()

        losses = torch.cat((losses, *(one[None] for one in read)))
        return Passed(losses, pointing, looking, None if early is None else logits(early), logits(hidden))
