"""The paper's FLOPs figures by its own convention, and ours beside them."""

from dataclasses import replace

import pytest

from saccade.core.shapes import SHAPES
from saccade.skip_vision import SkipVisionConfig, ablation_row
from saccade.skip_vision.accounting import saving

LLAMA3 = SHAPES["llava-llama3-8b"]


@pytest.mark.parametrize(
    ("config", "rows", "dense", "printed", "exact"),
    [
        (SkipVisionConfig(retained=100, merged=156), 576, 576, 0.247, 0.229),
        (SkipVisionConfig(retained=256, merged=None), 576, 576, 0.605, 0.564),
        (ablation_row(10), 1296, 1296, 0.260, 0.246),
        (ablation_row(1), 1296, 1296, 0.397, 0.396),
        (ablation_row(2), 1296, 1296, 0.452, 0.391),
        (SkipVisionConfig(layout="llava-hd", retained=576, merged=576), 2880, 2880, 0.247, 0.231),
    ],
)
def test_the_published_shares(config, rows, dense, printed, exact):
    found = saving(config, LLAMA3, rows, dense)
    assert found.paper_ratio == pytest.approx(printed, abs=0.0006)
    assert found.ours.ratio == pytest.approx(exact, abs=0.0012)


def test_llava_of_table_5():
    found = saving(SkipVisionConfig(retained=64, merged=156), SHAPES["llava-1.5-7b"], 576, 576)
    assert found.ours.ratio == pytest.approx(0.203, abs=0.001)
    assert (found.attend, found.pass_ffn, found.cached) == (222, 66, 222)


@pytest.mark.parametrize("layer", [0, 8, 31])
def test_layers_that_keep_their_ffns_cost_what_those_of_the_merge_cost(layer):
    """Row 10 is row 1 with Skip-FFN: with the first layers as in row 1 its share lies between theirs."""
    full, merge = (saving(ablation_row(row), LLAMA3, 1296, 1296).paper_ratio for row in (10, 1))
    found = saving(replace(ablation_row(10), skip_ffn_layer=layer), LLAMA3, 1296, 1296)
    assert found.paper_ratio == pytest.approx(full + (merge - full) * layer / 32, abs=1e-4)
    assert found.pass_ffn == 275


def test_text_is_in_our_share_and_the_cache_in_its_own():
    config = replace(ablation_row(10), cache="small")
    bare, real = (saving(config, LLAMA3, 1296, 1296, text) for text in (0, 60))
    assert bare.paper_ratio == real.paper_ratio and real.ours.ratio > bare.ours.ratio
    assert (real.attend, real.pass_ffn, real.cached) == (530, 275, 275)
    assert real.ours.kv_ratio == pytest.approx((275 + 60) / (1296 + 60))
    # 128 KiB a row in bf16, of 1296 - 275 rows.
    assert real.ours.dense_kv_bytes - real.ours.kv_bytes == (1296 - 275) * 128 * 1024
