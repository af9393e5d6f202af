"""The training forward pass: the stock modules, called so that one pass serves many questions.

Numbers of rows: P visual rows and one `<user>` row before them, then T text rows. The first `depth`
layers can be run alone, on the visual rows alone, which is all stage 1 needs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from transformers import LlavaForConditionalGeneration as Llava

from saccade.glance.model import visual_rows
from saccade.glance.tokenizer import PIXEL_MEAN, PIXEL_STD
from saccade.glance.vocabulary import IGNORE, LABEL_HEADS
from saccade.research.embedded.pointing import pointing_loss


class PatchReader(nn.Module):
    """Linear heads that name what a patch shows, read from a decoder layer; dropped after training."""

    def __init__(self, width: int) -> None:
        """Create one projection for all heads."""
        super().__init__()
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.project = nn.Linear(width, sum(LABEL_HEADS.values()))

    def losses(self, hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean cross entropy per head, heads in the order of `LABEL_HEADS`."""
        logits = self.project(self.norm(hidden)).flatten(0, 1).float()
        target = labels.flatten(0, 1).long()
        parts = logits.split(list(LABEL_HEADS.values()), dim=-1)
        return torch.stack(
            [
                F.cross_entropy(part, target[:, i], ignore_index=IGNORE, reduction="sum")
                / (target[:, i] != IGNORE).sum().clamp_min(1)
                for i, part in enumerate(parts)
            ]
        )


class Network(nn.Module):
    """The model and its patch readers, with the two training passes."""

    def __init__(
        self, model: Llava, read_layers: tuple[int, ...], point_layers: tuple[int, ...], user_id: int
    ) -> None:
        """Put a reader behind each layer in `read_layers`; teach `point_layers` to look (counted from 1)."""
        super().__init__()
        self.model = model
        # With few rows and narrow heads, plain matrix products beat the fused CPU kernel, backward above all.
        model.set_attn_implementation({"text_config": "eager", "vision_config": "sdpa"})
        self.read_layers = read_layers
        self.point_layers = point_layers
        self.user_id = user_id
        self.readers = nn.ModuleList(PatchReader(model.config.text_config.hidden_size) for _ in read_layers)

    def _prefix(self, pixels: torch.Tensor) -> torch.Tensor:
        images = (pixels.permute(0, 3, 1, 2).float() / 255.0 - PIXEL_MEAN) / PIXEL_STD
        rows = visual_rows(self.model, images)
        embed = self.model.model.language_model.embed_tokens
        user = embed(torch.full((len(pixels), 1), self.user_id, device=pixels.device))
        return torch.cat((user.float(), rows.float()), dim=1)

    def _decode(self, hidden, positions, mask, labels, depth, aim=None):
        decoder = self.model.model.language_model
        rotary = decoder.rotary_emb(hidden, positions)
        losses, pointing = [], hidden.new_zeros(())
        for number, layer in enumerate(decoder.layers[:depth], start=1):
            if aim is not None and number in self.point_layers:
                look = aim[:, self.point_layers.index(number)]
                pointing = pointing + pointing_loss(layer, hidden, rotary, mask, look)
            hidden = layer(hidden, attention_mask=mask, position_ids=positions, position_embeddings=rotary)
            if number in self.read_layers:
                reader = self.readers[self.read_layers.index(number)]
                losses.append(reader.losses(hidden[:, 1 : 1 + labels.shape[1]], labels))
        return hidden, torch.stack(losses), pointing

    def see(self, pixels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Stage 1: patch losses, readers x heads, from the visual rows alone."""
        hidden = self._prefix(pixels)
        positions = torch.arange(hidden.shape[1], device=pixels.device)[None]
        mask = torch.full((hidden.shape[1], hidden.shape[1]), -1e9).triu(1)[None, None]
        return self._decode(hidden, positions, mask, labels, max(self.read_layers))[1]

    def answer(self, pixels, labels, ids, positions, mask, aim) -> tuple[torch.Tensor, ...]:
        """Stage 2: patch losses, pointing loss, and logits of the text rows (batch x text x vocabulary)."""
        prefix = self._prefix(pixels)
        decoder = self.model.model.language_model
        text = decoder.embed_tokens(ids)
        before = torch.arange(prefix.shape[1], device=pixels.device).expand(len(ids), -1)
        hidden = torch.cat((prefix, text.float()), dim=1)
        positions = torch.cat((before, positions), dim=1)
        hidden, losses, pointing = self._decode(hidden, positions, mask, labels, None, aim)
        return losses, pointing, self.model.lm_head(decoder.norm(hidden[:, prefix.shape[1] :])).float()
