"""The CLS row of the tower looks at what is drawn, and nothing else changes by that."""

from __future__ import annotations

import torch

from saccade.glance.model import GlanceConfig, build_model
from saccade.research.embedded.data import Batches, Mixture
from saccade.research.embedded.glimpse import cls_attention, drawn, teach_to_glimpse
from saccade.research.embedded.tower import visual_rows

SIZES = GlanceConfig(layers=2, width=32, heads=4, mlp=16, vision_width=32)


def test_the_cls_row_learns_to_look_at_what_is_drawn_and_features_stay() -> None:
    model = build_model(SIZES, seed=1)
    batches = Batches(Mixture(batch=8, text=0), 0, "train")
    pixels = batches[1 << 20]["pixels"]
    images = pixels.permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        before = visual_rows(model, images)
    losses = teach_to_glimpse(model, batches, 60, patch=SIZES.patch)
    with torch.no_grad():
        assert torch.equal(visual_rows(model, images), before)
        shares = cls_attention(model, pixels).exp()
    shown = drawn(pixels, SIZES.patch)
    assert losses[-1] < 0.8 * losses[0]
    assert float((shares * shown).sum(1).mean()) > 1.3 * float(shown.float().mean())
    assert all(p.requires_grad for p in model.parameters())


def test_a_patch_of_noise_is_background_and_one_of_a_drawing_is_not() -> None:
    draw = torch.Generator().manual_seed(0)
    image = torch.randint(90, 100, (1, 16, 16, 3), generator=draw, dtype=torch.uint8)
    image[0, 8:12, 8:12] = torch.tensor([250, 0, 0], dtype=torch.uint8)
    assert drawn(image, 8).tolist() == [[False, False, False, True]]
