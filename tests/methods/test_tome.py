"""ToMe against a slow account of the paper: python loops over tokens, full attention maps."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import transformers as T
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

import saccade
from saccade import models
from saccade.core.bipartite import add, match, merge
from saccade.core.tower import merged_away
from saccade.engine.tower import TowerTap
from saccade.families import find
from saccade.methods.tome import ToMe
from support.models import BIG, FACTORIES, SQUARE, TALL, WIDE, tiny_llava, tiny_llava_next, tiny_qwen

SAMPLES = [[3, SQUARE, 2, TALL], [4], [1, WIDE, 5]]


def matched(metric: list[list[float]], r: int, protected: int) -> list[list[int]]:
    """Groups of tokens after one matching, in the paper's order: what stays of A, then B."""
    tokens = len(metric)
    r = min(r, (tokens - protected) // 2)
    a, b = list(range(0, tokens, 2)), list(range(1, tokens, 2))

    def cosine(x: list[float], y: list[float]) -> float:
        dot = sum(p * q for p, q in zip(x, y, strict=True))
        return dot / (math.sqrt(sum(p * p for p in x)) * math.sqrt(sum(q * q for q in y)))

    edges = []
    for i in a:
        if i < protected:
            continue
        best = max(b, key=lambda j: (cosine(metric[i], metric[j]), -j))
        edges.append((-cosine(metric[i], metric[best]), i, best))
    gone = {i: j for _, i, j in sorted(edges)[:r]}
    return [[i] for i in a if i not in gone] + [[j, *(i for i in a if gone.get(i) == j)] for j in b]


def tower_by_hand(
    tower, pixels: torch.Tensor, r: int, layers: int
) -> list[tuple[torch.Tensor, list[set[int]]]]:
    """Features of every view and which first tokens each is made of, layer by layer, token by token."""
    protected = int(hasattr(tower.embeddings, "class_embedding"))
    states = tower.embeddings(pixels)
    states = tower.pre_layrnorm(states) if protected else states
    results = []
    for x in states:
        made = [{n} for n in range(len(x))]
        for layer in list(tower.encoder.layers)[:layers]:
            attn, normed = layer.self_attn, layer.layer_norm1(x)
            heads, width = attn.num_heads, attn.head_dim
            q, k, v = (p(normed).view(-1, heads, width) for p in (attn.q_proj, attn.k_proj, attn.v_proj))
            mixed = torch.zeros(len(x), heads, width)
            sizes = torch.tensor([float(len(one)) for one in made])
            for head in range(heads):
                weights = (q[:, head] @ k[:, head].T / math.sqrt(width)).exp() * sizes
                mixed[:, head] = weights / weights.sum(1, keepdim=True) @ v[:, head]
            x = x + attn.out_proj(mixed.flatten(1))
            groups = matched(k.mean(1).tolist(), r, protected)
            x = torch.stack(
                [sum(x[n] * len(made[n]) for n in one) / sum(len(made[n]) for n in one) for one in groups]
            )
            made = [set().union(*(made[n] for n in one)) for one in groups]
            x = x + layer.mlp(layer.layer_norm2(x))
        results.append((x, made))
    return results


def deep(layers: int = 4, image: int = 32, towers: str = "clip") -> T.LlavaForConditionalGeneration:
    """A tiny LLaVA with a tower deep enough to merge in several layers."""
    config = copy.deepcopy(tiny_llava().model.config)
    sizes = dict(
        hidden_size=32, intermediate_size=48, num_hidden_layers=layers, num_attention_heads=2,
        image_size=image, patch_size=8,
    )  # fmt: skip
    if towers == "clip":
        config.vision_config = T.CLIPVisionConfig(**sizes, projection_dim=32)
    else:
        config.vision_config, config.vision_feature_select_strategy = T.SiglipVisionConfig(**sizes), "full"
    torch.manual_seed(0)
    model = T.LlavaForConditionalGeneration(config).eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                noise = torch.randn(parameter.shape, generator=draw)
                parameter.copy_(noise * 1.2 * parameter[0].numel() ** -0.5)
    model.generation_config.suppress_tokens = list(range(7))
    model.generation_config.pad_token_id = 0
    return model


def prompts(side: int, images: tuple[int, ...] = (1, 2), seed: int = 0) -> dict[str, torch.Tensor]:
    """A left-padded batch; sample number i has ``images[i]`` images."""
    draw = torch.Generator().manual_seed(seed)
    patches = (side // 8) ** 2
    rows = [[8, *([3] * patches + [9]) * n, 10, 11] for n in images]
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    pixels = torch.randn(sum(images), 3, side, side, generator=draw)
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "pixel_values": pixels}


@settings(max_examples=60)
@drawn(st.integers(1, 17), st.integers(0, 12), st.integers(0, 1), st.integers(0, 10_000))
def test_a_matching_is_that_of_the_paper(tokens, r, protected, seed):
    draw = torch.Generator().manual_seed(seed)
    metric = torch.randn(2, tokens, 5, generator=draw)
    x, sizes = (
        torch.randn(2, tokens, 3, generator=draw),
        torch.randint(1, 6, (2, tokens), generator=draw).float(),
    )
    pairs = match(metric, r, protected)
    if merged_away(tokens, r, protected) <= 0:
        assert pairs is None
        return
    found, new = merge(x, sizes, pairs)
    for view in range(2):
        groups = matched(metric[view].tolist(), r, protected)
        assert len(groups) == tokens - min(r, (tokens - protected) // 2) == found.shape[1]
        for number, group in enumerate(groups):
            assert {n for n in range(tokens) if int(pairs.into_TN[view, n]) == number} == set(group)
            weight = sizes[view, group]
            assert float(new[view, number]) == float(weight.sum())
            mean = (x[view, group] * weight[:, None]).sum(0) / weight.sum()
            assert torch.allclose(found[view, number], mean, atol=1e-5)
        if protected:
            assert groups[0] == [0]
    assert torch.allclose(new.sum(1), sizes.sum(1))


def test_equal_similarities_are_taken_in_order():
    """All tokens alike: the first of A merge, all into the first of B; the same in any batch."""
    pairs = match(torch.ones(3, 8, 4), 2, 1)
    assert pairs.go_TR.tolist() == [[1, 2]] * 3 and pairs.target_TR.tolist() == [[0, 0]] * 3
    assert pairs.stay_TU.tolist() == [[0, 3]] * 3
    assert add(torch.arange(8.0).view(1, 8, 1).expand(3, -1, -1), pairs)[0, :, 0].tolist() == [
        0,
        6,
        7,
        3,
        5,
        7,
    ]


def test_half_precision_is_averaged_in_full():
    x = torch.full((1, 8, 4), 300.0, dtype=torch.float16)
    sizes = torch.full((1, 8), 400.0)
    found, new = merge(x, sizes, match(torch.ones(1, 8, 4), 3, 0))
    assert found.dtype == torch.float16 and bool((found == 300).all()) and float(new.sum()) == 3200


@pytest.mark.parametrize("towers", ["clip", "siglip"])
@pytest.mark.parametrize("r", [1, 2, 5, 100])
@torch.no_grad()
def test_the_tower_is_that_of_the_paper(towers, r):
    model = deep(towers=towers)
    given = prompts(32)
    family, core = find(model), model.model
    hand = tower_by_hand(core.vision_tower, given["pixel_values"], r, layers=3)
    tap = TowerTap(model, family, frozenset({"made"}), ToMe(r=r).tower_merge)
    features = model.get_image_features(given["pixel_values"]).pooler_output
    tap.remove()
    protected = int(towers == "clip")
    for view, (states, made) in enumerate(hand):
        for state, group in zip(states, made, strict=True):
            for patch in group - ({0} if protected else set()):
                expected = core.multi_modal_projector(state)
                assert torch.allclose(features[view][patch - protected], expected, atol=1e-5)


def shortened(model, given, r: int, layers: int = 3) -> torch.Tensor:
    """Logits of the last row of every sample, from a prompt that never had more than the merged rows."""
    core, logits, image = model.model, [], 0
    for ids, mask in zip(given["input_ids"], given["attention_mask"], strict=True):
        ids = ids[mask.bool()].tolist()
        rows, at = [], 0
        while at < len(ids):
            if ids[at] != 3:
                rows.append(core.get_input_embeddings()(torch.tensor([ids[at]])))
                at += 1
                continue
            pixels = given["pixel_values"][image : image + 1]
            states, made = tower_by_hand(core.vision_tower, pixels, r, layers)[0]
            first = 1 if hasattr(core.vision_tower.embeddings, "class_embedding") else 0
            groups = sorted((min(group), n) for n, group in enumerate(made))[first:]
            rows.append(core.multi_modal_projector(states[[n for _, n in groups]]))
            image, at = image + 1, at + sum(len(group) for group in made) - first
        out = model.model.language_model(inputs_embeds=torch.cat(rows)[None], use_cache=False)
        logits.append(model.lm_head(out.last_hidden_state[0, -1]))
    return torch.stack(logits)


@pytest.mark.parametrize("towers", ["clip", "siglip"])
@pytest.mark.parametrize("r", [1, 3, 50])
@torch.no_grad()
def test_the_model_sees_the_groups_and_nothing_else(towers, r):
    model = deep(towers=towers)
    given = prompts(32)
    expected = shortened(model, given, r)
    with saccade.apply(model, f"tome(r={r})"):
        ours = model(**given).logits[:, -1]
        said = model.generate(**given, max_new_tokens=4, do_sample=False)
    assert torch.allclose(ours, expected, atol=1e-4)
    dense = model.generate(**given, max_new_tokens=4, do_sample=False)
    assert said.shape == dense.shape and torch.equal(
        said[:, : given["input_ids"].shape[1]], given["input_ids"]
    )
    assert (said[:, -4] == (expected.index_fill(1, torch.arange(7), -torch.inf)).argmax(1)).all()


@torch.no_grad()
def test_kept_rows_and_their_sources():
    """Every row is the average of its group: the first patch's row stays, weights say what it is made of."""
    model, given = deep(), prompts(32, (1, 2))
    hand = tower_by_hand(model.model.vision_tower, given["pixel_values"], 3, layers=3)
    with saccade.apply(model, "tome(r=3)") as attached, attached.tracing() as traces:
        model(**given)
    trace, view = traces[0], 0
    sources = trace.sources(0)
    for b, ids in enumerate(given["input_ids"]):
        starts = [n for n in range(len(ids)) if ids[n] == 3 and ids[n - 1] != 3]
        kept = []
        for start in starts:
            for group in hand[view][1]:
                if group == {0}:
                    continue
                rows = sorted(start + patch - 1 for patch in group)
                kept.append(rows[0])
                expected = torch.zeros(len(ids))
                expected[rows] = 1 / len(rows)
                assert torch.allclose(sources[b, rows[0]], expected)
            view += 1
        assert trace.kept(0)[b] == sorted(kept)


@torch.no_grad()
def test_tiles_merge_on_their_own_and_newlines_go():
    tiny = tiny_llava_next()
    given = tiny.batch(SAMPLES)
    family = find(tiny.model)
    shown = family.picture(tiny.model, given)
    views = shown.view_R
    with saccade.apply(tiny.model, "tome(r=2)") as attached, attached.tracing() as traces:
        tiny.model(**given)
    trace = traces[0]
    visual = tiny.visual(given)
    numbers = torch.full(visual.shape, -1).masked_scatter(visual, views)
    sources, alive = trace.sources(0), trace.alive(0)
    assert bool((numbers[alive] >= 0).all()), "a newline row stays"
    merged = 0
    for b in range(len(visual)):
        for row in alive[b].nonzero()[:, 0].tolist():
            of = sources[b, row].nonzero()[:, 0]
            assert set(numbers[b, of].tolist()) == {int(numbers[b, row])}, "a group has patches of two tiles"
            assert int(of[0]) == row
            merged += len(of) - 1
    # One layer makes the features, each of its 9 views loses two; some of those are padding of the tiles.
    assert 0 < merged <= 2 * sum(shown.views) and int(alive.sum()) < int((views >= 0).sum())


@pytest.mark.parametrize("name", ["llava-llama", "llava_next-llama", "llava_onevision"])
@torch.no_grad()
def test_a_batch_is_its_singles(name):
    tiny = FACTORIES[name]()
    with saccade.apply(tiny.model, "tome(r=3)"):
        batch = tiny.model(**tiny.batch(SAMPLES)).logits[:, -1]
        for one, single in zip(batch, tiny.singles(SAMPLES), strict=True):
            assert torch.allclose(one, tiny.model(**single).logits[0, -1], atol=1e-4)


@torch.no_grad()
def test_nothing_is_merged_with_r_of_0():
    tiny = tiny_llava()
    given = tiny.batch(SAMPLES)
    logits = tiny.model(**given).logits
    assert ToMe(r=0).stages(4) == () and ToMe(r=0).tower_merge is None
    with saccade.apply(tiny.model, "tome(r=0)"):
        layers = tiny.model.model.vision_tower.encoder.layers
        assert not any("forward" in layer.__dict__ for layer in layers)
        assert torch.equal(tiny.model(**given).logits, logits)
    with saccade.apply(tiny.model, "tome(r=4)"):
        assert "forward" in layers[0].__dict__
        text = tiny.batch([[4]])
        plain = tiny.model(**text).logits
    assert torch.equal(plain, tiny.model(**text).logits)
    assert torch.equal(tiny.model(**given).logits, logits)


@torch.no_grad()
def test_outside_of_features_the_tower_is_stock():
    tiny = tiny_llava()
    tower, pixels = tiny.model.model.vision_tower, tiny.batch([[SQUARE]])["pixel_values"]
    before = tower(pixels).last_hidden_state
    with saccade.apply(tiny.model, "tome(r=4)"):
        assert torch.equal(tower(pixels).last_hidden_state, before)
        tiny.model.get_image_features(pixels)
        assert torch.equal(tower(pixels).last_hidden_state, before)


def test_towers_that_cannot_merge_say_why():
    with pytest.raises(ValueError, match=r"Qwen2\.5-VL: it takes patches packed"):
        saccade.apply(tiny_qwen().model, "tome()")
    with pytest.raises(ValueError, match="taken before its first layer"):
        saccade.apply(models.load("glance").model, "tome()")
    several = tiny_llava().model
    several.config.vision_feature_layer = [-1, -2]
    with pytest.raises(ValueError, match="features come from several layers"):
        saccade.apply(several, "tome()")
    cut = deep(towers="siglip")
    cut.config.vision_feature_select_strategy = "default"
    with pytest.raises(ValueError, match="no CLS row"):
        saccade.apply(cut, "tome()")
    for model in (several, cut):
        assert not any("forward" in m.__dict__ or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(("r", "message"), [(-1, "from 0"), (1.5, "number"), (True, "number")])
def test_wrong_numbers_are_refused(r, message):
    with pytest.raises(ValueError, match=message):
        ToMe(r=r)
    with pytest.raises(ValueError, match="of=original"):
        saccade.Plan.of("tome(of=original)")


def test_the_published_schedule():
    """CLIP-L/14-336 with feature layer -2: 23 layers, 576 patches and a CLS token; r of 16 leaves 208."""

    def kept(r: int, rows: int = 576) -> int:
        method = ToMe(r=r)
        return method.kept(ToMe(r=1).stages(32)[0], rows, rows, rows)

    assert [kept(r) for r in (0, 1, 8, 16, 25)] == [576, 553, 392, 208, 13]
    assert kept(288) == 1 and kept(16, 2880) == 5 * 208
    halved = 576
    for _ in range(23):
        halved -= min(40, halved // 2)
    assert kept(40) == halved
    assert [kept(r) for r in range(100)] == sorted((kept(r) for r in range(100)), reverse=True)


@pytest.mark.parametrize("r", [16, 24])
@torch.no_grad()
def test_a_tower_of_576_patches_loses_r_per_layer(r):
    """The counts of the price list are those of a run, at the depth and size of LLaVA-1.5's tower."""
    model = deep(layers=24, image=192)
    tap = TowerTap(model, find(model), frozenset({"made"}), ToMe(r=r).tower_merge)
    seen = []
    layers = model.model.vision_tower.encoder.layers
    hooks = [layer.register_forward_hook(lambda m, a, out: seen.append(out.shape[1])) for layer in layers]
    model.get_image_features(torch.randn(1, 3, 192, 192))
    for hook in hooks:
        hook.remove()
    tap.remove()
    assert seen == [577 - r * n for n in range(1, 24)] + [577 - r * 23]
    assert ToMe(r=r).kept(ToMe(r=r).stages(32)[0], 576, 576, 576) == 576 - r * 23


@pytest.mark.parametrize("reentrant", [False, True])
def test_training_with_checkpointing_has_the_same_gradients(reentrant):
    model, given = deep(), prompts(32)
    given["labels"] = given["input_ids"]

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        model(**given).loss.backward()
        return [p.grad.clone() for p in model.model.vision_tower.parameters() if p.grad is not None]

    with saccade.apply(model, "tome(r=3)"):
        model.train()
        plain = gradients()
        kind = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
        options = {f"{kind}_checkpointing_kwargs": {"use_reentrant": reentrant}}
        getattr(model, f"{kind}_checkpointing_enable")(**options)
        again = gradients()
    assert len(plain) == len(again) > 10
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(plain, again, strict=True))


@torch.no_grad()
def test_what_a_tower_method_sees_of_merged_patches():
    """After merging, a group has the attention that its patches got together, and the mean of their keys."""
    model, given = deep(), prompts(32, (1,))
    family, tower = find(model), model.model.vision_tower
    states, made = tower_by_hand(tower, given["pixel_values"], 3, layers=3)[0]
    from saccade.core.layout import Layout
    from saccade.engine.tower import vision

    layout = Layout.from_mask(given["input_ids"] == 3)
    for which in ("made", "reads"):
        tap = TowerTap(model, family, frozenset({which}), ToMe(r=3).tower_merge)
        tap.begin()
        model(**given)
        found = vision(tap.captured(), which, layout, torch.zeros(*layout.visual_BN.shape, 64))
        tap.remove()
        at = layout.visual_BN[0].nonzero()[:, 0]
        holders = {min(group) - 1: n for n, group in enumerate(made) if group != {0}}
        for patch, row in enumerate(at.tolist()):
            if patch not in holders:
                assert float(found.attention_BN[0, row]) == 0 and int(found.sizes_BN[0, row]) == 0
                assert bool((found.features_BNV[0, row] == 0).all())
                continue
            n = holders[patch]
            assert int(found.sizes_BN[0, row]) == len(made[n]) and int(found.into_BN[0, row]) == row
            assert torch.allclose(found.features_BNV[0, row], states[n], atol=1e-5)
        assert torch.allclose(found.cls_TV[0], states[0], atol=1e-5)
        total = float(found.attention_BN.sum())
        assert 0.5 < total < 1
        if which == "reads":
            layer = tower.encoder.layers[3]
            attn, normed = layer.self_attn, layer.layer_norm1(states)
            q, k = (p(normed).view(-1, 2, 16) for p in (attn.q_proj, attn.k_proj))
            sizes = torch.tensor([float(len(group)) for group in made])
            for patch, n in holders.items():
                weights = (torch.einsum("hw,nhw->hn", q[0], k) / 4).exp() * sizes
                expected = (weights[:, n] / weights.sum(1)).mean()
                assert float(found.attention_BN[0, at[patch]]) == pytest.approx(float(expected), abs=1e-5)


@torch.no_grad()
def test_it_goes_before_other_methods():
    tiny = tiny_llava()
    given = tiny.batch(SAMPLES)
    for spec in (
        "tome(r=3)+fastervlm(keep=0.5)",
        "tome(r=3)+fastv(layer=2,keep=0.5)",
        "tome(r=3)+vskip(layers=3)",
    ):
        with saccade.apply(tiny.model, spec) as attached, attached.tracing() as traces:
            tiny.model(**given)
        kept = [len(rows) for rows in traces[0].kept(3)]
        # 16 patches lose three in the one layer that makes the features.
        per_image = {"vskip": 13, "fastv": 6, "fastervlm": 6}[spec.split("+")[1].split("(")[0]]
        assert kept == [2 * per_image, 0, per_image]
    with pytest.raises(ValueError, match="one rule only"):
        saccade.apply(tiny.model, "tome(r=3)+tome(r=2)")


@torch.no_grad()
def test_large_images_with_several_tiles_run():
    tiny = tiny_llava_next()
    given = tiny.batch([[2, BIG, 3, WIDE, 2]])
    with saccade.apply(tiny.model, "tome(r=4)"):
        said = tiny.model.generate(**given, max_new_tokens=3, do_sample=False)
    assert said.shape[1] == given["input_ids"].shape[1] + 3
