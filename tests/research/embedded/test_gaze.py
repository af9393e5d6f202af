"""Gaze: a tower that mixes patches, grown from small pictures to large ones, on the trainer of Glance."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from saccade.glance.draw import LARGE, SMALL
from saccade.glance.model import GAZE, GlanceConfig, Llava, build_model
from saccade.glance.scenes import KINDS, make_scene
from saccade.glance.tokenizer import PIXEL_MEAN, PIXEL_STD, build_processor
from saccade.glance.vocabulary import CONTENT_INDEX, HEAD_INDEX, IGNORE, LABEL_HEADS
from saccade.research.embedded.checkpoint import export, load_state
from saccade.research.embedded.data import Batches, Mixture, network_inputs
from saccade.research.embedded.glimpse import attention_of_cls, worth_looking
from saccade.research.embedded.muon import Muon, orthogonal
from saccade.research.embedded.network import Network
from saccade.research.embedded.pointing import HEADS
from saccade.research.embedded.recipe import (
    RECIPES,
    Clock,
    TrainConfig,
    TrainingStage,
    learning_rate_factor,
)
from saccade.research.embedded.tower import inherit, spread, tower_layers, tower_states, visual_rows
from saccade.research.embedded.train import Trainer, _cross_entropy, schedule_of, short, train

SIZES = GlanceConfig(
    layers=2, width=32, heads=4, mlp=16, vision_width=32, tower=2, tower_mlp=32, image_size=160
)
CONFIG = TrainConfig(
    steps=12,
    stages=(
        TrainingStage("answer", step=2, look=SMALL),
        TrainingStage("see", step=4, look=LARGE, hold=True),
        TrainingStage("answer", step=6, look=LARGE, decay_from=0.8),
        TrainingStage("see", step=8, look=LARGE, whole=True),
        TrainingStage("answer", step=10, look=LARGE, thinned=0.5, whole=True, spell_early=True, sparse=True),
        TrainingStage("answer", look=LARGE, thinned=0.5, spell_early=True, sparse=True, shallow=True),
    ),
    warmup=2,
    read_layers=(1,),
    point_layers=(1, 2),
    look_weight=0.3,
    early_layer=1,
    early_weight=0.5,
    glimpse_steps=0,
    mixture=Mixture(batch=2, text=48),
    check_every=0.0,
    workers=0,
)
ASKED = "<user><image> read the top line <assistant>"
POSITIONS = "vision_tower.embeddings.position_embedding.weight"


@pytest.fixture(scope="module")
def model():
    """A small model whose tower's layers do something."""
    made = build_model(SIZES, seed=0).eval()
    with torch.no_grad():
        for layer in made.model.vision_tower.encoder.layers:
            layer.mlp.fc2.weight.normal_(std=0.1)
            layer.self_attn.out_proj.weight.normal_(std=0.1)
    return made


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of all six stages."""
    folder = tmp_path_factory.mktemp("run")
    train(CONFIG, folder, sizes=SIZES)
    return folder


def test_the_shipped_sizes_are_those_that_were_asked_for() -> None:
    assert GAZE.tower >= 6 and GAZE.layers >= 12 and GAZE.visual_tokens == 400 == LARGE.side**2
    with torch.device("meta"):
        from saccade.glance.model import build_config

        count = sum(p.numel() for p in Llava(build_config(GAZE)).parameters())
    assert 5e6 <= count <= 13e6 and 2 * count <= 25 * 2**20


def test_training_and_stock_code_see_the_same_visual_rows(model) -> None:
    pixels = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        stock = torch.stack(list(model.model.get_image_features(pixels).pooler_output))
        assert torch.allclose(visual_rows(model, pixels), stock, atol=1e-5)


def test_the_tower_mixes_patches_both_ways(model) -> None:
    pixels = torch.randn(1, 3, 160, 160)
    changed = pixels.clone()
    changed[:, :, 80:88, 80:88] += 1.0
    with torch.no_grad():
        moved = (visual_rows(model, pixels) - visual_rows(model, changed)).abs().amax(-1)[0] > 1e-6
    assert moved[0] and moved[-1]


def test_a_new_tower_passes_patches_through() -> None:
    states = tower_states(build_model(SIZES, seed=0), torch.randn(1, 3, 160, 160))
    assert len(states) == SIZES.tower + 1 and torch.equal(states[0], states[-1])


def test_small_pictures_have_the_mean_of_the_positions_they_cover(model) -> None:
    positions = torch.randn(400, 8)
    small = spread(positions, 100)
    assert torch.allclose(small[11], positions.view(20, 20, 8)[2:4, 2:4].mean((0, 1)))
    assert torch.equal(spread(positions, 400), positions) and spread(small, 400).shape == (400, 8)
    with torch.no_grad():
        assert tower_states(model, torch.randn(1, 3, 80, 80))[-1].shape == (1, 101, 32)


def test_a_model_inherits_what_fits_and_opens_the_eyes_of_heads_that_are_taught() -> None:
    donor = build_model(GlanceConfig(layers=2, width=32, heads=4, mlp=16, vision_width=32), seed=1)
    grown = build_model(SIZES, seed=2)
    tower = {name: t.clone() for name, t in grown.state_dict().items() if "encoder" in name}
    inherit(grown, donor.state_dict(), taught=(2,))
    mine, its = grown.state_dict(), donor.state_dict()
    assert all(torch.equal(mine[name], tensor) for name, tensor in tower.items())
    for name, tensor in its.items():
        if "encoder" not in name and POSITIONS not in name and "layers.1.self_attn.q_proj" not in name:
            assert torch.equal(mine[name], tensor), name
    query = "model.language_model.layers.1.self_attn.q_proj.weight"
    rows = HEADS * 8
    assert torch.equal(mine[query][rows:], its[query][rows:])
    assert torch.allclose(mine[query][:rows], 0.2 * its[query][:rows])
    assert torch.equal(mine[f"model.{POSITIONS}"][0], its[f"model.{POSITIONS}"][0])


@pytest.mark.parametrize("after", [1, 2, 3, 5, 6, 8, 9, 10, 11])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(run, tmp_path, monkeypatch, after) -> None:
    step = Trainer.step

    def stop_after(self, batch):
        losses = step(self, batch)
        self.stopping = self.clock.step == after
        return losses

    monkeypatch.setattr(Trainer, "step", stop_after)
    with pytest.raises(SystemExit, match="--resume"):
        train(CONFIG, tmp_path, sizes=SIZES)
    monkeypatch.setattr(Trainer, "step", step)
    train(CONFIG, tmp_path, resume=True, sizes=SIZES)
    whole, parts = load_state(run), load_state(tmp_path)
    for key in ("network", "average"):
        assert all(torch.equal(w, parts[key][name]) for name, w in whole[key].items())


def test_a_run_that_ends_where_a_shallow_stage_would_begin_is_deep(tmp_path) -> None:
    config = replace(CONFIG, steps=10)
    train(config, tmp_path / "run", sizes=SIZES)
    assert not load_state(tmp_path / "run")["shallow"]
    for name in ("out", "again"):
        tower = Llava.from_pretrained(export(tmp_path / "run", tmp_path / name)).config.vision_config
        assert tower.num_hidden_layers == SIZES.tower + 1
        train(config, tmp_path / "run", resume=True, sizes=SIZES)  # takes no step


@pytest.mark.parametrize("shallow", [True, False])
def test_a_run_begun_with_a_folder_goes_on_without_it(run, tmp_path, shallow) -> None:
    """From the stage that it began with, and whatever has become of the folder."""
    config = CONFIG if shallow else replace(CONFIG, stages=CONFIG.stages[:5])
    folder = tmp_path / "start"
    if shallow:
        export(run, folder, torch.float32)
    else:
        build_model(SIZES, seed=1).save_pretrained(folder)
    begun = replace(config.going_on(str(folder)), steps=1)
    train(begun, tmp_path / "run", sizes=SIZES)
    shutil.rmtree(folder)
    kept = schedule_of(tmp_path / "run")
    assert kept == {"steps": 1, "start": str(folder)}
    train(replace(config.going_on(kept["start"]), steps=2), tmp_path / "run", resume=True, sizes=SIZES)
    state = load_state(tmp_path / "run")
    assert state["clock"]["step"] == 2 and state["sizes"]["tower"] == SIZES.tower - shallow
    assert export(tmp_path / "run", tmp_path / "out").is_dir()


def test_half_precision_repeats_bit_by_bit_with_several_threads(tmp_path) -> None:
    for folder in ("one", "other"):
        train(replace(CONFIG, bf16=True, threads=2), tmp_path / folder, sizes=SIZES)
    one, other = (load_state(tmp_path / folder)["network"] for folder in ("one", "other"))
    assert all(torch.equal(weight, other[name]) for name, weight in one.items())


def test_a_run_that_goes_on_keeps_the_length_it_was_begun_with(run, tmp_path) -> None:
    assert schedule_of(run) == {"steps": CONFIG.steps}
    assert schedule_of(tmp_path) == {} == schedule_of(run, ["minutes"])


def test_a_run_put_off_goes_through_the_same_stages(tmp_path, run) -> None:
    longer = replace(CONFIG, steps=60)
    for step in range(12):
        assert Clock(step=step).stage(longer) == Clock(step=step).stage(CONFIG) == step // 2


def test_every_part_that_is_used_learns_and_held_readers_stay(tmp_path) -> None:
    trainer = Trainer(CONFIG, SIZES, tmp_path)
    for number, stage in enumerate(CONFIG.stages):
        trainer.clock.step = 2 * number
        before = {name: p.detach().clone() for name, p in trainer.network.named_parameters()}
        losses = trainer.step(trainer.stages[number][0])
        assert all(np.isfinite(value) for value in losses.values())
        moved = {n for n, p in trainer.network.named_parameters() if not torch.equal(p, before[n])}
        assert any("encoder.layers.0.self_attn.q_proj" in name for name in moved)
        assert any("encoder.layers.1." in name for name in moved) == (not stage.shallow)
        assert any("encoder.layers.2.self_attn.q_proj" in name for name in moved), "the last layer looks"
        assert not any("encoder.layers.2.mlp" in name for name in moved)
        local = not stage.hold and not stage.whole
        assert any("tower_reader" in name for name in moved) == local
        assert any("whole_reader" in name for name in moved) == stage.whole
        assert any(name.startswith("readers") for name in moved) == (stage.learn == "answer" and local)
        assert any("language_model" in name for name in moved) == (stage.learn == "answer")


def test_an_export_is_a_stock_model_of_large_pictures(run, tmp_path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = export(run, tmp_path / "gaze")
    loaded, processor = (
        AutoModelForImageTextToText.from_pretrained(folder),
        AutoProcessor.from_pretrained(folder),
    )
    scene = make_scene("text", 3, LARGE)
    given = processor(images=[scene.image], text=ASKED, return_tensors="pt")
    assert given["pixel_values"].shape[-1] == 160
    assert int((given["input_ids"] == loaded.config.image_token_id).sum()) == 400
    assert torch.isfinite(loaded(**given).logits).all()


def test_a_shallow_tower_is_the_stock_one_without_a_layer(run, tmp_path) -> None:
    """What the last stage trains is what is exported: features one layer earlier, the last layer looking."""
    trainer = Trainer(CONFIG, SIZES, tmp_path)
    (network := trainer.network).load_state_dict(load_state(run)["average"], strict=False)
    pixels = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        states = tower_states(network.model, pixels, shallow=True)
        assert len(states) == SIZES.tower
        folder = export(run, tmp_path / "gaze", torch.float32)
        stock = Llava.from_pretrained(folder).eval()
        assert stock.config.vision_config.num_hidden_layers == SIZES.tower
        features = stock.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2]
        assert torch.allclose(features, states[-1], atol=1e-5)
        deep = tower_states(network.model, pixels)[-1]
        assert not torch.allclose(deep, states[-1], atol=1e-3)
        stock.set_attn_implementation("eager")
        looks = stock.model.vision_tower(pixels, output_attentions=True).attentions
        for number in (-2, -1):
            layer = tower_layers(network.model, shallow=True)[number]
            ours = attention_of_cls(layer, states[number]).exp()
            assert torch.allclose(ours, looks[number].mean(1)[:, 0, 1:], atol=1e-6)


def test_a_packed_row_trains_the_prompt_that_users_give(model) -> None:
    """Logits of a packed question equal those of the same question alone in a stock forward."""
    batches = replace(CONFIG, mixture=Mixture(batch=2, text=48)).batches(CONFIG.stages[-1], "calibration")
    batch, user = batches[0], batches.encode.user
    network = Network(model, (), (1, 2), user).eval()
    processor = build_processor(160)
    with torch.no_grad():
        logits = network.answer(**network_inputs(batch, batches.prefix)).logits
        assert logits is not None
        image = Image.fromarray(batch["pixels"][0].numpy())
        pixels = processor.image_processor(image, return_tensors="pt")["pixel_values"]
        at = (batch["segments"][0] == 1).nonzero().flatten()
        ids = torch.cat((torch.tensor([user] + [model.config.image_token_index] * 400), batch["ids"][0, at]))
        stock = model(input_ids=ids[None], pixel_values=pixels).logits[0, 401:]
    assert torch.allclose(logits[0, at], stock, atol=1e-3)


def thinned(share: float = 1.0, sparse: bool = False) -> Batches:
    stage = replace(CONFIG.stages[-1], thinned=share, sparse=sparse)
    return replace(CONFIG, mixture=Mixture(batch=8, text=48)).batches(stage)


def test_a_thinned_picture_is_a_prompt_without_the_rows_that_left(model) -> None:
    """As stock's decoder answers it, with the positions kept or closed up."""
    batches = thinned()
    batch, user = batches[1], batches.encode.user
    kept, closed = batch["kept"], batch["closed"]
    assert 40 <= kept.shape[1] < 400 and closed.any() and not closed.all()
    network = Network(model, (), (1, 2), user).eval()
    decoder = model.model.language_model
    with torch.no_grad():
        logits = network.answer(**network_inputs(batch, batches.prefix)).logits
        assert logits is not None
        for picture, rows in enumerate(kept):
            assert rows.tolist() == sorted(set(rows.tolist()))
            at = (batch["segments"][picture] == 0).nonzero().flatten()
            pixels = (batch["pixels"][picture].permute(2, 0, 1) / 255.0 - PIXEL_MEAN) / PIXEL_STD
            image = visual_rows(model, pixels[None])[0, rows]
            words = [
                decoder.embed_tokens(torch.tensor([user])),
                image,
                decoder.embed_tokens(batch["ids"][picture, at]),
            ]
            places = [0, *(1 + rows).tolist(), *range(401, 401 + len(at))]
            if closed[picture]:
                places = list(range(len(places)))
            out = decoder(inputs_embeds=torch.cat(words)[None], position_ids=torch.tensor([places]))
            stock = model.lm_head(out.last_hidden_state[0, 1 + len(rows) :])
            assert torch.allclose(logits[picture, at], stock, atol=1e-3)


def test_a_share_of_the_batches_is_thinned_and_none_that_is_judged_on() -> None:
    found = ["kept" in thinned(0.5)[number] for number in range(12)]
    assert any(found) and not all(found)
    stage = replace(CONFIG.stages[-1], thinned=1.0)
    assert "kept" not in CONFIG.batches(stage, "calibration")[0]
    plain, thin = thinned(0.0)[3], thinned(1.0)[3]
    assert all(torch.equal(plain[name], thin[name]) for name in plain), "what is drawn stays"


def test_sparse_batches_keep_few_rows_more_often_than_many() -> None:
    left = torch.tensor([thinned(sparse=True)[number]["kept"].shape[1] for number in range(40)])
    assert left.min() >= 24 and left.max() > 200
    assert 60 < left.float().median() < 140, "log-uniform from 6 % of 400: the middle is at 98"


def test_where_a_sparse_model_looks_moves_nothing_but_its_losses(model) -> None:
    """The first layer and the CLS row are taught more; what is answered is the same pass."""
    batches = thinned(0.0)
    batch = batches[0]
    network = Network(model, (), (2,), batches.encode.user).eval()
    with torch.no_grad():
        plain, sparse = (
            network.answer(**network_inputs(batch, batches.prefix, on), sparse=on) for on in (False, True)
        )
        aim = network_inputs(batch, batches.prefix, True)["aim"]
        assert list(network._looks(aim)) == [2, 1] and list(network._looks(aim[:, :2])) == [2]
        third = network.answer(**network_inputs(batch, batches.prefix, True) | {"aim": aim[:, :2]})
    assert torch.equal(plain.logits, sparse.logits)
    assert sparse.pointing > plain.pointing == third.pointing and sparse.looking != plain.looking


def test_what_a_row_is_told_to_look_at_are_the_rows_that_are_left() -> None:
    batch = thinned()[2]
    whole = network_inputs({k: v for k, v in batch.items() if k not in ("kept", "closed")}, 401)["aim"]
    aim = network_inputs(batch, 401)["aim"]
    for picture, rows in enumerate(batch["kept"]):
        assert torch.equal(aim[picture][..., 0], whole[picture][..., 0])
        assert torch.equal(aim[picture][..., 1:], whole[picture][..., 1 + rows])


def test_a_smaller_picture_stands_at_the_positions_of_a_whole_one(model) -> None:
    """What the decoder learns of rows and columns on small pictures holds on large ones."""
    network = Network(model, (), (1, 2), 0)
    assert network._positions(400).tolist() == list(range(401))
    small = network._positions(100)
    assert small[0] == 0 and small[1:].view(10, 10)[3, 4] == 1 + 6 * 20 + 8
    batches = replace(CONFIG, mixture=Mixture(batch=2, text=48)).batches(CONFIG.stages[0], "calibration")
    seen = []
    decoder = model.model.language_model
    hook = decoder.rotary_emb.register_forward_hook(lambda module, given, out: seen.append(given[1]))
    with torch.no_grad():
        network.eval().answer(**network_inputs(batches[0], batches.prefix))
    hook.remove()
    assert torch.equal(seen[0][0, :101], small)
    assert torch.equal(seen[0][:, 101:], batches[0]["positions"] + 300), "text follows a whole picture"


@pytest.mark.parametrize("kind", KINDS)
def test_large_scenes_are_the_plan_twice_as_large_and_labelled_whole(kind: str) -> None:
    for seed in range(12):
        scene = make_scene(kind, seed, LARGE)
        assert scene.pixels.shape == (160, 160, 3) and scene.labels.shape == (400, len(LABEL_HEADS))
        content = scene.labels[:, HEAD_INDEX["content"]].reshape(20, 20)
        for plan_row, plan_column in np.ndindex(10, 10):
            patch = content[2 * plan_row : 2 * plan_row + 2, 2 * plan_column : 2 * plan_column + 2]
            assert (patch > 0).all() == (patch > 0).any() and len(set(patch[patch > 0])) <= 1
        for head, classes in LABEL_HEADS.items():
            known = scene.labels[:, HEAD_INDEX[head]]
            assert ((known == IGNORE) | ((known >= 0) & (known < classes))).all(), head


def test_texture_says_nothing_and_differs_between_pictures() -> None:
    from saccade.glance.draw import Canvas

    grounds = [Canvas(np.random.default_rng(seed), LARGE).pixels for seed in range(6)]
    assert all(g.std() < 20 for g in grounds) and max(float(g.std()) for g in grounds) > 1


def test_cls_should_look_at_things_and_most_at_their_middle() -> None:
    labels = torch.full((1, 400, len(LABEL_HEADS)), IGNORE)
    grid = labels.view(1, 20, 20, -1)
    grid[0, 4:8, 8:12, HEAD_INDEX["content"]] = CONTENT_INDEX["circle"]
    target = worth_looking(labels)[0].view(20, 20)
    assert target.sum() == pytest.approx(1.0) and target[4:8, 8:12].sum() > 0.95
    assert target[5, 9] > target[4, 8] > target[0, 0]
    sparse = worth_looking(labels, sparse=True)[0].view(20, 20)
    most = {divmod(int(at), 20) for at in sparse.flatten().topk(4).indices}
    assert most == {(4, 8), (4, 10), (6, 8), (6, 10)} and sparse.sum() == pytest.approx(1.0)
    assert sparse[4, 8] > 4 * sparse[5, 9] > sparse[0, 0]


def test_the_attention_taught_is_that_of_the_stock_layer(model) -> None:
    pixels = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        states = tower_states(model, pixels)
        model.set_attn_implementation("eager")
        stock = model.model.vision_tower(pixels, output_attentions=True).attentions
        model.set_attn_implementation("sdpa")
        layers = model.model.vision_tower.encoder.layers
        for number in (-2, -1):
            ours = attention_of_cls(layers[number], states[number]).exp()
            assert torch.allclose(ours, stock[number].mean(1)[:, 0, 1:], atol=1e-6)


def test_a_stage_may_have_a_fall_of_its_own() -> None:
    """The rate falls to the end of the third stage, and of those from the fifth on, and rises again."""
    recipe = RECIPES["gaze"].config

    def factor(step: int, stage_step: int = 999) -> float:
        return learning_rate_factor(recipe, Clock(step=step, stage_step=stage_step))

    assert factor(2449) == 1.0 and factor(2975) == pytest.approx(0.5) and factor(3499) <= 0.01
    assert factor(3500, 0) == pytest.approx(1 / recipe.warmup) and factor(3600) == factor(4800) == 1.0
    assert 0.4 < factor(5518) < 0.6 and factor(6199) <= 0.01
    assert factor(6200, 0) == pytest.approx(1 / recipe.warmup) and factor(6300) == factor(7800) == 1.0
    assert 0.4 < factor(8510) < 0.6 and factor(9199) <= 0.01
    assert factor(9540) == 1.0 and 0.4 < factor(9727) < 0.6 and factor(9899) <= 0.01
    assert factor(10600) == 1.0 and 0.4 < factor(11097) < 0.6 and factor(recipe.steps - 1) <= 0.01


def test_a_fall_of_its_own_needs_a_step_to_end_at() -> None:
    with pytest.raises(ValueError, match="ends at a step"):
        TrainingStage("answer", until=0.5, decay_from=0.3)


def test_long_answers_are_asked_for_early_where_the_stage_says_so(tmp_path) -> None:
    early = {}
    for spelled in (False, True):
        stage = replace(CONFIG.stages[-1], spell_early=spelled, thinned=0.0)
        config = replace(CONFIG, stages=(stage,), mixture=Mixture(batch=2, text=48, kinds=(("text", 1),)))
        trainer = Trainer(config, SIZES, tmp_path / str(spelled))
        early[spelled] = trainer.step(trainer.stages[0][0])["early"]
    assert early[True] > 0 and early[True] != early[False]


def test_a_shard_without_short_answers_has_no_early_loss() -> None:
    targets = torch.tensor([[3, -100, 4]])
    tasks = torch.tensor([[7, -1, 2 + 64]])  # a word, spelled, and a count
    assert short(targets, tasks).tolist() == [[-100, -100, 4]]
    nothing = _cross_entropy(torch.randn(1, 3, 9), torch.full((1, 3), -100))
    assert float(nothing) == 0.0
    logits = torch.randn(1, 3, 9)
    wanted = torch.nn.functional.cross_entropy(logits[0, [0, 2]], torch.tensor([3, 4]))
    assert torch.allclose(_cross_entropy(logits, targets), wanted)


def test_muon_steps_as_torchs_does() -> None:
    torch.manual_seed(0)
    first = [torch.nn.Parameter(torch.randn(*shape)) for shape in ((24, 40), (40, 24), (24, 24), (24, 40))]
    second = [torch.nn.Parameter(p.detach().clone()) for p in first]
    options = {"lr": 1e-2, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    theirs, ours = torch.optim.Muon(first, **options), Muon(second, **options)
    start = [p.detach().clone() for p in first]
    for _ in range(3):
        for a, b in zip(first, second, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        theirs.step()
        ours.step()
    for a, b, begun in zip(first, second, start, strict=True):
        # torch's computes in bfloat16.
        assert float((a - b).norm()) < 0.05 * float((a - begun).norm())
    for dtype in (torch.float32, torch.bfloat16):
        values = torch.linalg.svdvals(orthogonal(torch.randn(3, 20, 60), dtype=dtype))
        assert float(values.min()) > 0.6 and float(values.max()) < 1.3


def test_larger_batches_grow_in_every_stage() -> None:
    recipe = RECIPES["gaze"].config
    larger = recipe.with_batch(2 * recipe.mixture.batch)
    for stage, before in zip(larger.stages, recipe.stages, strict=True):
        assert larger.batches(stage).mixture.batch == 2 * recipe.batches(before).mixture.batch


def test_a_model_folder_goes_on_in_the_last_stage_with_the_weights_it_has(run, tmp_path) -> None:
    folder = export(run, tmp_path / "gaze", torch.float32)
    config = CONFIG.going_on(str(folder))
    assert config.stages == CONFIG.stages[-1:]
    trainer = Trainer(config, SIZES, tmp_path)
    assert trainer.sizes.tower == SIZES.tower - 1 and not trainer.stage.shallow
    average = load_state(run)["average"]
    for name, parameter in trainer.network.named_parameters():
        if name.startswith("model."):
            there = name.replace("encoder.layers.1", "encoder.layers.2")
            assert torch.equal(parameter, average[there]), name
    trainer.step(trainer.stages[0][0])
    trainer.save()
    again = export(tmp_path, tmp_path / "again")
    assert Llava.from_pretrained(again).config.vision_config.num_hidden_layers == SIZES.tower
