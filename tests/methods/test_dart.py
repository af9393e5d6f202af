"""DART keeps pivots and what is least like them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import saccade
from saccade.methods.dart import DART
from support import decoder_reference as reference
from support.decoder_parity import check, check_never_waits, scenes, twins


@pytest.mark.parametrize("name", ["llava-llama", "llava-qwen2", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize(("layer", "keep", "pivots"), [(3, 0.5, 4), (2, 0.8, 1), (6, 0.4, 3), (1, 0.1, 2)])
def test_rows_and_logits_are_those_of_the_plain_account(name, layer, keep, pivots):
    spec = f"dart(layer={layer},keep={keep},pivots={pivots})"
    check(name, spec, lambda m, i: reference.dart(m, i, layer, keep, pivots))


def test_a_short_instruction_has_fewer_pivots():
    plain, fast = twins("llava-llama")
    for words in (1, 2):
        scene = [[3, (24, 24), words]]
        run = reference.dart(plain.model, plain.singles(scene)[0], 3, 0.5)
        spec = "dart(layer=3,keep=0.5)"
        with torch.no_grad(), saccade.apply(fast.model, spec) as handle, handle.tracing() as traces:
            fast.model(**fast.singles(scene)[0])
        assert traces[0].kept(3)[0] == run.alive[3] and len(run.alive[3]) == 12


def test_keeping_all_is_the_stock_model():
    _, tiny = twins("llava-llama")
    inputs = tiny.batch(scenes("llava-llama"))
    with torch.no_grad():
        stock = tiny.model(**inputs).logits
        with saccade.apply(tiny.model, "dart(keep=1)"):
            assert torch.equal(tiny.model(**inputs).logits, stock)


def test_counts_are_the_authors():
    method = DART()
    (stage,) = method.stages(32)
    assert stage.before == 5 and method.compact == "never"
    # 576 rows: each of eight pivots takes int(576 * 0.222 / 8) = 15, and four visual pivots stay.
    assert method.kept(stage, 576, 576, 576) == 4 + 8 * 15
    assert DART(keep=64).kept(stage, 576, 576, 576) == 4 + 8 * 8
    assert DART(keep=64).kept(stage, 50, 50, 50) == 50
    assert DART(keep=0.5, of="original").kept(stage, 300, 300, 576) == 4 + 8 * 36


@given(rows=st.integers(0, 3000), fine=st.integers(0, 999))
def test_turning_it_up_never_keeps_more(rows, fine):
    mild, strong = DART().at_strength(fine), DART().at_strength(fine + 1)
    (stage,) = mild.stages(32)
    counts = [m.kept(stage, rows, rows, rows) for m in (mild, strong)]
    assert 0 <= counts[1] <= counts[0] <= rows
    assert DART(keep=1).kept(stage, rows, rows, rows) == rows


def test_it_never_waits_for_the_device():
    check_never_waits(DART(layer=3, keep=0.3))


@pytest.mark.parametrize("bad", [{"layer": 0}, {"pivots": 0}, {"pivots": 1.5}, {"keep": -1}])
def test_what_makes_no_sense_is_refused(bad):
    with pytest.raises(ValueError, match="dart"):
        DART(**bad)
