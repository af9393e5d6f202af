"""FitPrune in plain loops: rows that leave by a recipe, and the search for one, on prompts that do shrink.

Nothing here knows the package under test; see ``decoder_reference``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from support.decoder_reference import Run, Seen, Walk, best


def read(walk: Walk, seen: Seen, image: int) -> tuple[list[float], list[float]]:
    """What every row of an image gets of the image's rows (the mean), and of the text after the last one."""
    strongest = seen.map_HNN.double().max(0).values.tolist()
    own, words = walk.of(image), walk.instruction()
    mean = [
        [sum(strongest[asker][j] for asker in who) / max(len(who), 1) for j in own] for who in (own, words)
    ]
    return mean[0], mean[1]


def cut(walk: Walk, image: int, stay: Sequence[int]) -> None:
    """Drops the rows of an image but those at some places among them."""
    rows = [walk.rows[i] for i in walk.of(image)]
    if rows:
        walk.replace(image, [rows[place] for place in sorted(stay)])


def fitprune(
    model: Any, inputs: dict[str, torch.Tensor], layers: Sequence[int], left: Sequence[float]
) -> Run:
    """Rows leave at the end of the layer before each of these, so that this share of every image is left."""
    walk = Walk(model, inputs)
    whole = [len(walk.of(image)) for image in range(walk.images)]

    def decide(walk: Walk, seen: Seen, stage: int) -> None:
        said = bool(walk.instruction())
        stays = []
        for image in range(walk.images):
            own, text = read(walk, seen, image)
            scores = [a * (b if said else 1.0) for a, b in zip(own, text, strict=True)]
            count = min(len(own), round(whole[image] * left[stage]))
            stays.append(best(scores, range(len(own)), count))
        for image, stay in enumerate(stays):
            cut(walk, image, stay)

    return walk.run({layer: stage for stage, layer in enumerate(layers)}, decide, "after", compact=False)


def spared(attention: Sequence[float], dense: float, alpha: float) -> set[int]:
    """The rows that may leave one after another, the least attended first, while enough attention is left."""
    gone: set[int] = set()
    for place in sorted(range(len(attention)), key=lambda i: attention[i]):
        after = sum(a for i, a in enumerate(attention) if i not in gone and i != place)
        if after < (1 - alpha) * dense:
            break
        gone.add(place)
    return gone


def alive(model: Any, inputs: dict[str, torch.Tensor], alpha: float, image_id: int) -> list[list[int]]:
    """Rows of every image in each layer of a forward that drops what can be spared at this alpha."""
    walk = Walk(model, inputs, image_id)
    depth = len(walk.decoder.layers)
    dense: dict[tuple[int, int], tuple[float, float]] = {}

    def note(walk: Walk, seen: Seen, stage: int) -> None:
        for image in range(walk.images):
            own, text = read(walk, seen, image)
            dense[stage, image] = sum(own), sum(text)

    Walk(model, inputs, image_id).run({n: n for n in range(1, depth)}, note, "after", compact=False)
    counts = [[len(walk.of(image)) for image in range(walk.images)]]

    def decide(walk: Walk, seen: Seen, stage: int) -> None:
        stays = []
        for image in range(walk.images):
            own, text = read(walk, seen, image)
            gone = spared(own, dense[stage, image][0], alpha)
            if walk.instruction():
                gone &= spared(text, dense[stage, image][1], alpha)
            stays.append([i for i in range(len(own)) if i not in gone])
        for image, stay in enumerate(stays):
            cut(walk, image, stay)
        counts.append([len(stay) for stay in stays])

    walk.run({n: n for n in range(1, depth)}, decide, "after", compact=False)
    return counts
