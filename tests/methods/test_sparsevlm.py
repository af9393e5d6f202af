"""SparseVLM and SparseVLM+: raters, published schedules, recycling, and what the plain account computes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import saccade
from saccade.core.cluster import density_peaks
from saccade.core.layout import Layout
from saccade.core.pricing import cost
from saccade.core.shapes import SHAPES
from saccade.core.stages import Evidence
from saccade.methods.rated import parted
from saccade.methods.sparsevlm import SparseVLM
from saccade.methods.sparsevlm_plus import SparseVLMPlus
from saccade.plans.budget import flops_ratio, reach_flops
from saccade.plans.plan import Plan
from support import decoder_reference as reference
from support.decoder_parity import LAYERS, check, check_never_waits, scenes, twins
from support.models import BANNER, SQUARE, WIDE

NAMES = ["llava-llama", "llava-qwen2", "qwen2_5_vl", "qwen3_vl"]
BOTH = [SparseVLM, SparseVLMPlus]


def table(rows: dict[int, tuple[int, ...]]):
    """Rows kept at a stage, for images of some sizes."""
    return lambda stage, whole: rows[whole][stage]


@pytest.mark.share(3)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("policy", [None, "keep"])
@pytest.mark.parametrize(
    ("options", "layers", "kept", "more"),
    [
        ("tokens=6", (1, 2, 4), {16: (8, 6, 4), 18: (9, 6, 3), 9: (6, 5, 4)}, {}),
        ("tokens=6,seed=3", (1, 2, 4), {16: (8, 6, 4), 18: (9, 6, 3), 9: (6, 5, 4)}, {"seed": 3}),
        (
            "tokens=0.4,layers=2/5,tau=0.5,theta=0.2",
            (2, 5),
            {16: (5, 2), 18: (5, 3), 9: (2, 1)},
            {"tau": 0.5, "theta": 0.2},
        ),
        (
            "tokens=6,recycle=false",
            (1, 2, 4),
            {16: (9, 7, 5), 18: (9, 7, 5), 9: (7, 6, 5)},
            {"recycle": False},
        ),
        (
            "tokens=6,scale=1.2,bias=2",
            (1, 2, 4),
            {16: (8, 6, 4), 18: (9, 6, 3), 9: (6, 5, 4)},
            {"rank": (1.2, 2)},
        ),
    ],
)
def test_rows_contents_and_logits_are_those_of_the_plain_account(name, policy, options, layers, kept, more):
    compact = policy is None and name.startswith("llava")
    spec = f"sparsevlm({options}{',position_policy=keep' if policy else ''})"
    check(name, spec, lambda m, i: reference.sparsevlm(m, i, layers, table(kept), compact=compact, **more))


@pytest.mark.parametrize("policy", ["keep", "compact"])
def test_an_image_within_its_budget_is_left_alone_beside_others(policy):
    kept = table({30: (19, 16, 13), 24: (18, 16, 14), 16: (16, 16, 16)})
    check(
        "llava_next-llama",
        f"sparsevlm(tokens=16,position_policy={policy})",
        lambda m, i: reference.sparsevlm(m, i, (1, 2, 4), kept, compact=policy == "compact"),
        [[2, BANNER, 1, WIDE, 8], [3, WIDE, 2, BANNER, 2, SQUARE, 5], [1, BANNER, 4]],
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("heads", [14, 2, 1])
def test_plus_is_what_the_plain_account_computes(name, heads):
    kept = table({16: (9, 7, 5), 18: (9, 7, 5), 9: (7, 6, 5)})
    check(
        name,
        f"sparsevlm_plus(tokens=6,heads={heads})",
        lambda m, i: reference.sparsevlm_plus(m, i, (1, 2, 4), kept, heads),
    )


@pytest.mark.parametrize(
    "spec", ["sparsevlm(tokens=1.0)", "sparsevlm_plus(tokens=16)", "sparsevlm(tokens=900)"]
)
def test_a_budget_of_all_rows_is_the_stock_model(spec):
    _, tiny = twins("llava-llama")
    inputs = tiny.batch(scenes("llava-llama"))
    with torch.no_grad():
        stock = tiny.model(**inputs).logits
        with saccade.apply(tiny.model, spec):
            assert torch.equal(tiny.model(**inputs).logits, stock)


def embeddings(texts: list[list[list[float]]], images: list[list[list[float]]]) -> Evidence:
    """The decoder's input of samples with an image each, a word before it and some after; left padded."""
    samples = [torch.tensor([[9.0, 9.0], *image, *text]) for image, text in zip(images, texts, strict=True)]
    longest = max(map(len, samples))
    hidden, visual, real = torch.full((len(samples), longest, 2), 5.0), [], []
    for b, sample in enumerate(samples):
        pad = longest - len(sample)
        hidden[b, pad:] = sample
        visual.append([pad + 1 <= n <= pad + len(images[b]) for n in range(longest)])
        real.append([n >= pad for n in range(longest)])
    layout = Layout.from_mask(torch.tensor(visual), torch.tensor(real))
    return Evidence(layout, layout.visual_BN, layout.image_BN, layout.counts, layout.counts, hidden)


def test_raters_are_the_words_that_the_image_points_to():
    asks = SparseVLM().asking(
        embeddings(
            [[[1.0, 0.0], [0.0, 1.0], [0.9, 0.0]], [[0.0, 1.0]], [[0.5, 0.5]] * 3, [[0.0, 3.0], [1.0, 0.0]]],
            [[[2.0, 0.0], [3.0, 0.1]], [[1.0, 0.0]] * 4, [[1.0, 2.0]], [[0.0, 1.0], [0.2, 1.0]]],
        )
    )
    # The words that are like the image; the last row where there is one word, or all are alike.
    assert [row.nonzero()[:, 0].tolist() for row in asks] == [[3, 5], [5], [5], [4]]


@pytest.mark.parametrize("name", NAMES)
def test_raters_of_a_real_input_are_those_of_the_plain_account(name):
    plain, _ = twins(name)
    several = 0
    for one in plain.singles(scenes(name)):
        walk = reference.Walk(plain.model, one)
        layout = Layout.from_mask(plain.visual(one))
        hidden = torch.stack([row.state for row in walk.rows])[None]
        found = SparseVLM().asking(
            Evidence(layout, layout.visual_BN, layout.image_BN, layout.counts, layout.counts, hidden)
        )
        assert found[0].nonzero()[:, 0].tolist() == reference.raters(walk)
        several += int(found.sum()) > 1
    assert several


PUBLISHED = {
    (SparseVLM, 192): ((309, 204, 113), 206.5),
    (SparseVLM, 128): ((312, 117, 39), 145.4),
    (SparseVLM, 96): ((249, 55, 27), 114.1),
    (SparseVLM, 64): ((82, 32, 18), 82.2),
    (SparseVLMPlus, 192): ((300, 200, 118), 206.8),
    (SparseVLMPlus, 128): ((238, 108, 60), 144.1),
    (SparseVLMPlus, 96): ((246, 54, 28), 113.9),
    (SparseVLMPlus, 64): ((66, 34, 20), 81.8),
}


@pytest.mark.parametrize(("cls", "tokens"), PUBLISHED)
def test_published_schedules(cls, tokens):
    rows, entering = PUBLISHED[cls, tokens]
    method = cls(tokens=tokens)
    assert through(method, 576, 32) == rows
    assert [s.before for s in method.stages(32)] == [3, 7, 16]
    price = cost(SHAPES["llava-1.5-7b"], Plan((method,)).route(Layout.single(576, 64), 32))
    assert price.equivalent_tokens == pytest.approx(entering, abs=0.06)
    assert leaving(method, 576, 32) == pytest.approx(tokens, abs=1)


def through(method: SparseVLM | SparseVLMPlus, rows: int, depth: int) -> tuple[int, ...]:
    """Rows after each stage, clusters included."""
    after, found = [], rows
    for stage in method.stages(depth):
        found = stage.by.kept(stage, found, rows, rows)
        after.append(found)
    return tuple(after)


def leaving(method: SparseVLM | SparseVLMPlus, rows: int, depth: int) -> float:
    """Rows that leave a layer, on average, layer by layer."""
    counts = dict(zip((s.before for s in method.stages(depth)), through(method, rows, depth), strict=True))
    alive, total = rows, 0
    for layer in range(depth):
        alive = counts.get(layer + 1, alive)
        total += alive
    return total / depth


@pytest.mark.parametrize("cls", BOTH)
@given(rows=st.integers(60, 3000), depth=st.integers(8, 80), share=st.floats(0.25, 1))
def test_any_budget_is_met_on_average(cls, rows, depth, share):
    method = cls(tokens=share)
    reached = leaving(method, rows, depth)
    assert reached <= share * rows + 1e-6
    # A row at each of three stages, and the cluster that it may unmake, is how fine the budget is.
    assert reached > share * rows - 6


@pytest.mark.parametrize("cls", BOTH)
@given(rows=st.integers(0, 1500), depth=st.integers(4, 60), fine=st.integers(0, 999))
def test_turning_it_up_never_costs_more(cls, rows, depth, fine):
    mild, strong = (leaving(cls().at_strength(n), rows, depth) for n in (fine, fine + 1))
    assert 0 <= strong <= mild <= rows
    assert leaving(cls().at_strength(0), rows, depth) == rows


@pytest.mark.parametrize("cls", BOTH)
def test_a_flops_ratio_is_reached(cls):
    shape, prompt = SHAPES["llava-1.5-7b"], Layout.single(576, 64)
    plan = reach_flops(Plan((cls(flops=0.5),)), shape, [prompt])
    assert 0.49 < flops_ratio(plan, shape, [prompt]) <= 0.5


@given(
    found=st.integers(0, 2000),
    share=st.floats(0, 1),
    recycling=st.one_of(st.none(), st.just((0.3, 0.1)), st.tuples(st.floats(0, 1), st.floats(0, 1))),
)
def test_what_is_left_parts_into_rows_and_clusters(found, share, recycling):
    asked = int(found * share)
    total = asked + (reference_clusters(found - asked, *recycling) if recycling else 0)
    ((kept, again, clusters),) = parted(((found,),), ((total,),), recycling)[0]
    assert kept + clusters == total and clusters <= again <= found - kept
    if recycling is None or total == found:
        assert kept == total
    else:
        assert kept >= asked and clusters == reference_clusters(found - kept, *recycling)
    if recycling == (0.3, 0.1) and total < found:
        assert kept <= asked + 1


def reference_clusters(pruned: int, tau: float, theta: float) -> int:
    """Clusters of pruned rows: the best tau of them and one, theta of these and one."""
    again = min(pruned, int(pruned * tau + 1e-9) + 1)
    return min(again, int(again * theta + 1e-9) + 1) if pruned else 0


@settings(max_examples=60)
@given(data=st.data())
def test_clusters_are_those_of_the_plain_account(data):
    sizes = data.draw(st.lists(st.integers(0, 12), min_size=1, max_size=4))
    clusters = [data.draw(st.integers(1, size)) if size else 0 for size in sizes]
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 10_000)))
    points = torch.randn(len(sizes), max(sizes), 5, generator=draw) * data.draw(
        st.sampled_from([0.1, 1.0, 30.0])
    )
    luck = torch.rand(points.shape[:2], generator=draw)
    real = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
    centres, labels = density_peaks(points, real, torch.tensor(clusters), luck, max(clusters))
    for g, (size, count) in enumerate(zip(sizes, clusters, strict=True)):
        assert (labels[g, size:] == -1).all()
        if not count:
            continue
        groups = reference.density_peaks(list(points[g, :size]), count, luck[g, :size].tolist())
        assert centres[g, :count].tolist() == [group[0] for group in groups]
        mine = [(labels[g] == c).nonzero()[:, 0].tolist() for c in range(count)]
        assert mine == [sorted(group) for group in groups]


def test_points_on_one_spot_are_their_own_centres():
    points, real = torch.ones(1, 4, 3), torch.ones(1, 4, dtype=torch.bool)
    luck = torch.tensor([[0.1, 0.9, 0.5, 0.2]])
    centres, labels = density_peaks(points, real, torch.tensor([2]), luck, 2)
    # Nothing is apart, so all peaks are 0 and position decides; a centre stays in its own cluster.
    assert centres.tolist() == [[0, 1]] and labels.tolist() == [[0, 1, 0, 0]]


def test_the_noise_is_seeded():
    _, tiny = twins("llava-llama")
    inputs = tiny.batch([[2, SQUARE, 9]])

    def run(seed: int) -> list[int]:
        # All recycled rows make one cluster: the luckiest is its centre, and the cluster takes its place.
        spec = f"sparsevlm(tokens=6,theta=0,seed={seed},position_policy=keep)"
        with torch.no_grad(), saccade.apply(tiny.model, spec) as handle, handle.tracing() as traces:
            tiny.model(**inputs)
        return traces[0].kept(1)[0]

    assert run(0) == run(0)
    assert len({tuple(run(seed)) for seed in range(6)}) > 1


def test_rank_decides_how_many_stay():
    _, tiny = twins("llava-llama")
    inputs = tiny.batch([[2, SQUARE, 12], [2, SQUARE, 3]])
    left = {}
    for scale in (0.5, 1.5):
        spec = f"sparsevlm(tokens=6,recycle=false,scale={scale})"
        with torch.no_grad(), saccade.apply(tiny.model, spec) as handle, handle.tracing() as traces:
            tiny.model(**inputs)
        left[scale] = [len(rows) for rows in traces[0].kept(1)]
    assert left[0.5] < left[1.5] and left[1.5][0] > left[1.5][1]


@pytest.mark.parametrize(
    "method", [SparseVLM(tokens=6), SparseVLM(tokens=6, recycle=False), SparseVLMPlus(tokens=6)]
)
@pytest.mark.parametrize("policy", [None, "keep", "compact"])
def test_they_never_wait_for_the_device(method, policy):
    check_never_waits(dataclasses.replace(method, position_policy=policy))


@pytest.mark.parametrize(
    "bad",
    [
        {"tokens": -1},
        {"tokens": 2.5},
        {"layers": (0,)},
        {"layers": ()},
        {"tau": 1.5},
        {"theta": -0.1},
        {"scale": 0},
        {"bias": 1.0},
        {"seed": -1},
        {"seed": 0.5},
    ],
)
def test_what_makes_no_sense_is_refused(bad):
    with pytest.raises(ValueError, match="sparsevlm"):
        SparseVLM(**bad)


def test_other_nonsense_is_refused():
    with pytest.raises(ValueError, match="heads"):
        SparseVLMPlus(heads=0)
    with pytest.raises(ValueError, match="too few"):
        SparseVLM().stages(3)
    with pytest.raises(ValueError, match="layer 8"):
        SparseVLM(layers=(3, 8)).stages(LAYERS)
