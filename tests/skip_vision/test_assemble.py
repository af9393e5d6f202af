"""The rows that an image becomes, against loops that are written out from the paper's layout tables."""

import pytest
import torch
from torch import nn

from saccade.skip_vision import SkipVisionConfig
from saccade.skip_vision.abstractor import Abstractor
from saccade.skip_vision.chain_of_sight import Scale
from skip_vision.test_merge import slow_merge

WIDTH = 6
COARSE, MIDDLE, FINE = Scale(4, 2), Scale(2, 8), Scale(1, 16)
LAYOUTS = {
    "cos of three scales": (dict(layout="cos", scales=(COARSE, MIDDLE, FINE)), 2, 8, 16),
    "cos of three scales, two skipped": (dict(layout="cos", scales=(COARSE, MIDDLE, FINE), fine=2), 2, 0, 24),
    "cos of two scales": (dict(layout="cos", scales=(COARSE, FINE)), 2, 0, 16),
    "cos of one scale": (dict(layout="cos", scales=(MIDDLE,)), 0, 8, 0),
    "llava": (dict(layout="llava", retained=5), 0, 5, 11),
    "llava-hd": (dict(layout="llava-hd", retained=9), 0, 9, 18),
}
"""A configuration, and its rows: of the coarsest scale, retained beside them, skipped."""


def summary(scorer, rows):
    """A mean of raw rows by the softmax of scores of normed ones, row by row; plain without scores."""
    if not bool(scorer.score.weight.any()):
        return sum(rows) / len(rows)
    scores = []
    for row in rows:
        normed = (row - row.mean()) / (row.var(unbiased=False) + 1e-5).sqrt()
        normed = normed * scorer.norm.weight + scorer.norm.bias
        scores.append(float((scorer.score.weight[0] * normed).sum()))
    whole = sum(torch.tensor(score).exp() for score in scores)
    return sum(torch.tensor(score).exp() / whole * row for score, row in zip(scores, rows, strict=True))


def expected(made, rows, coarse, middle):
    """Retained rows, the former summary, skipped rows, the latter summary."""
    config = made.config
    retained, skipped = rows[: coarse + middle], rows[coarse + middle :]
    if config.merged is not None and len(skipped) > config.merged:
        skipped = [*slow_merge(torch.stack(skipped), config.merged)[0].float()]
    pooled = retained[coarse:] if config.former_source == "usual" and middle else retained
    # LV is the last of the skipped rows here; what it is spared comes in the decoder.
    latter = skipped or retained
    return [*retained, summary(made.scorer, pooled), *skipped, summary(made.scorer, latter)]


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("source", ["usual", "retained"])
@pytest.mark.parametrize("learned", [True, False], ids=["learned", "mean"])
@pytest.mark.parametrize("merge", [None, 7])
@pytest.mark.parametrize("local", [False, True])
def test_summaries_are_of_the_rows_that_the_paper_pools(name, source, learned, merge, local):
    fields, coarse, middle, skipped = LAYOUTS[name]
    config = SkipVisionConfig(
        **fields, merged=merge, former_source=source, local=local, learned_summary=learned
    )
    torch.manual_seed(11)
    made = Abstractor(config, nn.Identity(), WIDTH)
    with torch.no_grad():
        if learned:
            for parameter in made.scorer.parameters():
                parameter.copy_(torch.randn_like(parameter) * 2)
        rows = torch.randn(2, coarse + middle + skipped, WIDTH) + torch.arange(WIDTH)
        if config.layout == "llava-hd":
            found = torch.stack([made.pack(one, coarse + middle) for one in rows])
        else:
            if config.layout == "llava":  # attention falls from the first patch to the last
                made.glimpse.attention_BP = -torch.arange(16.0).expand(2, -1)
            found = made(rows)
        for one, got in zip(rows, found, strict=True):
            want = torch.stack(expected(made, [*one], coarse, middle))
            torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
            at = coarse + middle
            assert float(got[at].norm()) > 1 and float(got[-1].norm()) > 1
