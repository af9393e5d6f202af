"""Reducers before the decoder where rows are joined or interpolated: what is left equals a shorter prompt.

What the tower says of every row is held elsewhere; here slow accounts of the methods start from that.
"""

from __future__ import annotations

import pytest
import torch

from methods.test_shorter_prompts import TOWER, Told, pool
from saccade import apply
from saccade.core.stages import Evidence
from support.looking import evidence_of
from support.models import BIG, FACTORIES, SQUARE, TALL, WIDE
from support.reference import gap
from support.shorter import Shown, shorter

SAMPLES = [[3, SQUARE, 5], [2, WIDE, 1, TALL, 3], [1, BIG, 4]]
FAMILIES = ["llava_onevision", "internvl-qwen3"]


def images_of(evidence: Evidence) -> list[Shown]:
    """The images of a prompt of one sample, with what the method was told of them; view by view."""
    vision, grid, found = evidence.vision, evidence.grid, []
    assert grid is not None
    for image in range(len(evidence.found[0])):
        rows = (evidence.image_BN[0] == image).nonzero()[:, 0].tolist()
        lies = torch.stack((grid.plane_BN[0], grid.line_BN[0], grid.column_BN[0]), 1)[rows].tolist()
        views = []
        for number in sorted(set(vision.view_BN[0, rows].tolist()) - {-1}) if vision is not None else ():
            mine = [row for row in rows if int(vision.view_BN[0, row]) == number]
            keys = vision.keys_BNV[0, mine]
            keys = torch.cat((torch.zeros_like(keys[:1]), keys))
            heads = keys.new_zeros(vision.heads, 1, 1)
            view = Told(heads, keys, vision.features_BNV[0, mine], None, list(enumerate(mine)))
            view.told = {
                single: {p: float(x[0, row]) for p, row in enumerate(mine)}
                for single, x in ((False, vision.attention_BN), (True, vision.single_BN))
            }
            views.append(view)
        found.append(Shown(rows, evidence.hidden_BND[0, rows], views, [tuple(lie) for lie in lies]))
    return found


def left_of(spec: str, image: Shown, evidence: Evidence) -> list[torch.Tensor]:
    """What the decoder gets of an image: rows as they are, or what was made of features."""
    if evidence.vision is None:
        return [state for plane in planes_of(image) for _, state in pool(plane, 2)]
    found = []
    for one in TOWER[spec][1](image):
        row = one if isinstance(one, int) else one[1]["row"]
        if isinstance(one, int) or one[1]["kind"] == "dominant":
            # Nothing was merged into it; interpolated rows are then not what their features are projected to.
            found.append(image.states_ND[image.rows.index(row)])
        else:
            found.append(evidence.vision.project(one[1]["feature"]))
    return found


def planes_of(image: Shown) -> list[Shown]:
    """An image plane by plane, in row order; a newline row is of the plane before it."""
    found: list[Shown] = []
    last = None
    for row, state, (plane, line, column) in zip(image.rows, image.states_ND, image.places, strict=True):
        if plane not in (last, -1):
            found.append(Shown([], torch.zeros(0, len(state)), [], []))
            last = plane
        part = found[-1]
        part.rows.append(row)
        part.states_ND = torch.cat((part.states_ND, state[None]))
        part.places.append((min(plane, 0), line, column))
    return found


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("spec", [*TOWER, "pool(factor=2)"])
@torch.no_grad()
def test_a_reduced_prompt_equals_a_shorter_one(monkeypatch, spec, name):
    tiny, given = FACTORIES[name](layers=3), evidence_of(spec, monkeypatch)
    for single in tiny.singles(SAMPLES, seed=2):
        given.clear()
        with apply(tiny.model, spec):
            ours = tiny.model(**single).logits[0]
        (evidence,) = given
        images = images_of(evidence)
        left = [left_of(spec, image, evidence) for image in images]
        assert sum(map(len, left)) < sum(len(image.rows) for image in images)
        text = ~tiny.visual(single)[0]
        assert gap(ours[text], shorter(tiny, single, images, left)) < 1e-5
