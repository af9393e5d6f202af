"""The FFN probes against loops over rows and channels, and who is in which group."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from saccade.core.layout import Layout
from saccade.engine import apply, attached
from saccade.families import find
from saccade.methods.skip_vision import SkipVision
from saccade.research.analysis.capture import bare, record
from saccade.research.analysis.probes import GROUPS, massive_rows, probe_layers, probe_rows
from support.models import FACTORIES, SQUARE

PROMPT = [3, SQUARE, 6]


def slow(a_D, f_D):
    """The four probes of one row, number by number."""
    a, f = a_D.tolist(), f_D.tolist()
    size = math.sqrt(sum(x * x for x in a))
    return {
        "p1": sum(abs(y) / (abs(x) + 1e-6) for x, y in zip(a, f, strict=True)) / len(a),
        "p2": size,
        "p3": math.sqrt(sum(y * y for y in f)) / size,
        "p4": math.sqrt(sum((x + y) ** 2 for x, y in zip(a, f, strict=True))) / size,
    }


def halves(model, inputs, plan):
    """What enters the FFN half of every layer, and what its FFN makes of every row, by hooks of our own."""
    layers = find(model).parts(model).layers
    entering = []
    hooks = [
        layer.post_attention_layernorm.register_forward_pre_hook(
            lambda module, args: entering.append(args[0])
        )
        for layer in layers
    ]
    with torch.no_grad(), apply(model, plan):
        model(**inputs)
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        return [
            (a[0], layer.mlp(layer.post_attention_layernorm(a))[0])
            for a, layer in zip(entering, layers, strict=True)
        ]


def analysed(tiny, inputs, plan):
    family = find(tiny.model)
    run = record(tiny.model, inputs, plan)
    return probe_layers(family, family.parts(tiny.model).layers, run)


@pytest.mark.parametrize("name", ["llava-llama", "qwen2_5_vl", "qwen3_vl"])
def test_the_probes_of_every_group_are_those_of_a_loop_over_rows(name):
    tiny = FACTORIES[name]()
    inputs = tiny.singles([PROMPT])[0]
    plan = "ffn_skip(layers=1,3)"
    found = analysed(tiny, inputs, plan)
    visual = tiny.visual(inputs)[0].tolist()
    last = max(n for n, is_visual in enumerate(visual) if is_visual)
    for number, (a_ND, f_ND) in enumerate(halves(tiny.model, inputs, plan)):
        rows = {
            "visual": [n for n, is_visual in enumerate(visual) if is_visual],
            "text": list(range(last + 1, len(visual))),
        }
        rows["skipped"] = rows["visual"] if number in (1, 3) else []
        rows["retained"] = [] if number in (1, 3) else rows["visual"]
        for group, numbers in rows.items():
            assert found[group]["rows"][number] == len(numbers)
            values = [slow(a_ND[n], f_ND[n]) for n in numbers]
            for probe in ("p1", "p2", "p3", "p4"):
                each = [value[probe] for value in values]
                mean = pytest.approx(statistics.fmean(each), rel=1e-4) if each else None
                median = pytest.approx(statistics.median(each), rel=1e-4) if each else None
                assert found[group][probe]["mean"][number] == mean
                assert found[group][probe]["median"][number] == median


def test_rows_are_grouped_by_the_routes_row_sets_whatever_method_made_them(llava):
    inputs = llava.singles([PROMPT])[0]
    found = analysed(llava, inputs, "skip_vision(retained=4)")
    assert [found[group]["rows"] for group in GROUPS] == [[16] * 4, [4] * 4, [12] * 4, [6] * 4]
    cut = analysed(llava, inputs, "vtw(layer=2)")
    assert cut["visual"]["rows"] == [16, 16, 0, 0] and cut["text"]["rows"] == [6] * 4
    assert cut["visual"]["p3"]["mean"][2] is None
    later = analysed(llava, inputs, "random(keep=5,layer=1)+ffn_skip(layers=2-3)")
    assert later["skipped"]["rows"] == [0, 0, 5, 5] and later["retained"]["rows"] == [16, 5, 0, 0]


def test_rows_can_be_told_apart_as_another_plan_would(llava):
    inputs = llava.singles([PROMPT])[0]
    family, run = find(llava.model), record(llava.model, inputs, "ffn_skip(layers=none)")
    layout = run.layout
    apart = SkipVision(retained=4).layer_route(layout, torch.ones_like(layout.visual_BN), 0)
    found = probe_layers(family, family.parts(llava.model).layers, run, apart)
    assert [found[group]["rows"] for group in GROUPS] == [[16] * 4, [4] * 4, [12] * 4, [6] * 4]
    plain = analysed(llava, inputs, "ffn_skip(layers=none)")
    for number in range(4):
        # The forward is that of the whole model: both groups together are its visual rows.
        mean = (
            4 * found["retained"]["p3"]["mean"][number] + 12 * found["skipped"]["p3"]["mean"][number]
        ) / 16
        assert mean == pytest.approx(plain["visual"]["p3"]["mean"][number], rel=1e-5)


def test_a_skipping_model_is_probed_without_a_plan_of_the_users(llava):
    inputs = llava.singles([PROMPT])[0]
    family, layers = find(llava.model), find(llava.model).parts(llava.model).layers
    alone = analysed(llava, inputs, "skip_vision(retained=4)")
    with apply(llava.model, "skip_vision(retained=4)", resident=True) as own:
        run = record(llava.model, inputs, "ffn_skip(layers=none)")
        with bare(llava.model):
            assert attached(llava.model) is None
            found = probe_layers(family, layers, run)
        assert attached(llava.model) is own
    assert found == alone and found["skipped"]["rows"] == [12] * 4


def test_the_first_row_and_massive_rows_are_left_out():
    states = torch.ones(6, 8)
    states[4, 3] = -5e4
    assert massive_rows(states).tolist() == [False] * 4 + [True, False]
    # Large, but no larger than its neighbours: nothing stands out.
    assert not massive_rows(states[:4] * 5e4).any()
    assert not massive_rows(torch.randn(5, 8)).any()


def test_a_massive_row_is_in_no_group(llava):
    inputs = llava.singles([PROMPT])[0]
    plain = analysed(llava, inputs, "ffn_skip(layers=none)")
    family, run = find(llava.model), record(llava.model, inputs, "ffn_skip(layers=none)")
    layers = family.parts(llava.model).layers
    run.middles[2][20, 5] = 1e6  # a text row after the image
    found = probe_layers(family, layers, run)
    assert found["left_out"] == [0, 0, 1, 0] and plain["left_out"] == [0] * 4
    assert found["text"]["rows"] == [6, 6, 5, 6] and found["text"]["p2"]["mean"][2] < 1e3


def test_the_first_row_counts_nowhere_even_if_it_is_visual():
    tiny = FACTORIES["llava-llama"]()
    found = analysed(tiny, tiny.singles([[SQUARE, 4]])[0], "ffn_skip(layers=none)")
    assert found["visual"]["rows"] == [15] * 4 and found["text"]["rows"] == [4] * 4


def test_a_row_of_zeros_has_finite_probes():
    values = probe_rows(torch.zeros(1, 4), torch.zeros(1, 4))
    assert all(bool(torch.isfinite(value).all()) for value in values.values())


def test_text_before_the_image_is_no_text_of_the_question():
    from saccade.core.route import Route
    from saccade.research.analysis.probes import group_rows

    layout = Layout.from_mask(torch.tensor([[False, True, False, True, False]]))
    groups = group_rows(layout, Route.dense(layout, 1).layers[0])
    assert groups["text"].tolist() == [False, False, True, False, True]


def test_rows_are_massive_beside_those_that_are_alive():
    """Most of the prompt is dropped, and zeros; large numbers are nothing odd in this model."""
    tiny = FACTORIES["llava-llama"](layers=2)
    projector = tiny.model.model.multi_modal_projector.linear_2
    with torch.no_grad():
        for parameter in (tiny.model.get_input_embeddings().weight, *projector.parameters()):
            parameter *= 1e4
    inputs = tiny.batch([PROMPT])
    for plan in ("ffn_skip(layers=0)", "divprune(keep=0.1,position_policy=keep)"):
        found = analysed(tiny, inputs, plan)
        assert found["left_out"] == [0, 0], plan
        assert min(found["visual"]["rows"]) > 0 and min(found["text"]["rows"]) > 0
