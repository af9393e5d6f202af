"""What plans come to inside vLLM, and which are refused in one line."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from saccade.methods import METHODS
from saccade.plans.adapter import AdapterRef
from saccade.plans.plan import Plan
from saccade.vllm.work import LayerWork, ServedModel, work_of
from support.models import FACTORIES

LAYERS = 4
DENSE, NO_QUERY, NO_FFN = LayerWork(), LayerWork(asks=False), LayerWork(feeds=False)
FROZEN, GONE = LayerWork(asks=False, feeds=False), LayerWork(False, False, False)


def served(spec: str, can_close_up: bool = True):
    return work_of(Plan.of(spec), ServedModel(LAYERS, can_close_up))


@pytest.mark.parametrize(
    ("spec", "layers"),
    [
        ("vskip(layers=1-2)", (DENSE, NO_QUERY, NO_QUERY, DENSE)),
        ("ffn_skip(layers=0,3)", (NO_FFN, DENSE, DENSE, NO_FFN)),
        ("shortv(layers=2)", (DENSE, DENSE, FROZEN, DENSE)),
        ("vtw(layer=2)", (DENSE, DENSE, GONE, GONE)),
        ("vskip(layers=0-1)+ffn_skip(layers=1-2)+vtw(layer=3)", (NO_QUERY, FROZEN, NO_FFN, GONE)),
        ("divprune(keep=0.5)+shortv(layers=0)", (FROZEN, DENSE, DENSE, DENSE)),
        ("vskip(layers=none)", (DENSE,) * LAYERS),
    ],
)
def test_layers_are_what_the_methods_say(spec, layers):
    work = served(spec)
    assert work.layers == layers
    assert work.skips == any(layer != DENSE for layer in layers)
    assert work.first_without == (layers.index(GONE) if GONE in layers else None)


@pytest.mark.parametrize(
    ("spec", "can_close_up", "words"),
    [
        ("divprune(keep=4)", True, ["always"]),
        ("divprune(keep=4)", False, ["never"]),
        ("random(keep=0.5)", True, ["never"]),
        ("random(keep=0.5,position_policy=compact)+uniform(keep=0.5)", True, ["always", "never"]),
        ("pool(factor=2)+vtw(layer=2)", True, ["always"]),
    ],
)
def test_stages_before_the_decoder_are_served_with_their_word_on_positions(spec, can_close_up, words):
    work = served(spec, can_close_up)
    assert [stage.compact for stage in work.stages] == words
    assert work.gaps == ("never" in words)


REFUSED = {
    "fastv(layer=2)": "decides inside the decoder",
    "pyramiddrop(layers=1,2,3)": "decides inside the decoder",
    "fitprune(layers=1,left=0.5)": "decides inside the decoder",
    "sparsevlm(layers=1,tokens=4)": "decides inside the decoder",
    "dart(layer=2)": "decides inside the decoder",
    "random(layer=2)": "decides inside the decoder",
    "fastervlm()": "looks into the vision tower",
    "visionzip()": "looks into the vision tower",
    "vispruner()": "looks into the vision tower",
    "prumerge()": "layer of the vision tower that reads the features",
    "tome()": "vision tower",
    "cdpruner()": "hears the prompt's words",
    "hiprune()": "looks into the vision tower",
    "pixelprune()": "leaves patches out of the vision tower",
    "skip_vision()": "row's place in its picture",
    "skip_vision(cache=small)": "frees rows of the KV cache",
    "vskip(layers=1,reading=mask)": "see text and themselves alone",
    "victor(layer=2)": "vLLM",
    "divprune(keep=4)+vtw(layer=0)": "no visual row enters the decoder",
    "vskip(budget=2)": "calibration",
}


@pytest.mark.parametrize("spec", REFUSED)
def test_what_is_not_served_says_why_in_one_line(spec):
    with pytest.raises(ValueError, match=REFUSED[spec]) as refusal:
        served(spec)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 300


def test_positions_that_cannot_close_up_are_refused_where_they_are_wanted():
    with pytest.raises(ValueError, match="position_policy=keep"):
        served("divprune(keep=4,position_policy=compact)", can_close_up=False)


def test_every_method_is_served_or_refused_in_words():
    said = {spec.split("(")[0] for spec in REFUSED}
    for name, cls in METHODS.items():
        layers = {"layers": (1,)} if "layers" in cls.__dataclass_fields__ else {}
        layer = {"layer": 2} if name in ("vtw",) else {}
        try:
            work = work_of(Plan((cls(**layers, **layer),)), ServedModel(LAYERS))
        except ValueError as refusal:
            assert "\n" not in str(refusal)
        else:
            assert name not in said - {"random", "vskip", "divprune"}, name
            assert work.skips or work.stages or work.plan.shortening, name


def test_what_a_plan_comes_to_travels_to_other_processes():
    work = served("vskip(layers=1)+divprune(keep=6)+vtw(layer=2)")
    got = pickle.loads(pickle.dumps(work))
    assert (got.layers, got.digest, got.first_without) == (work.layers, work.digest, 2)
    assert [(stage.by, stage.compact) for stage in got.stages] == [(s.by, s.compact) for s in work.stages]


def test_plans_are_told_apart_by_what_they_do():
    assert served("vskip(layers=1)").digest != served("vskip(layers=2)").digest
    assert served("vskip(layers=1,2)").digest == served("vskip(layers=1-2)").digest


def test_a_healed_plan_is_refused_for_the_engine_runs_the_weights_of_the_model():
    plan = replace(Plan.of("vskip(layers=1)"), adapter=AdapterRef("adapter", "0" * 16))
    with pytest.raises(ValueError, match=r"brings weights of its own.*saccade heal --merge"):
        work_of(plan, ServedModel(LAYERS))


def test_rows_leave_no_decoder_that_recurs():
    for spec in ("vskip(layers=1)", "ffn_skip(layers=0)", "divprune(keep=4)"):
        assert work_of(Plan.of(spec), ServedModel(4, recurs=True)).plan.spec == Plan.of(spec).spec
    with pytest.raises(ValueError, match=r"layers that recur .*before the decoder instead"):
        work_of(Plan.of("vskip(layers=1)+vtw(layer=2)"), ServedModel(4, recurs=True))


def test_rows_are_not_chosen_where_marks_stand_among_them():
    model = ServedModel.of(FACTORIES["llava-pixtral"](layers=LAYERS).model.config)
    for spec in ("vskip(layers=1)", "ffn_skip(layers=0)", "vtw(layer=2)"):
        assert work_of(Plan.of(spec), model).plan.spec == Plan.of(spec).spec
    for spec in ("divprune(keep=4)", "random(keep=0.5)", "pool(factor=2)"):
        with pytest.raises(ValueError, match="marks between them"):
            work_of(Plan.of(spec), model)


SHOWN = (
    "fastervlm(keep=4)",
    "vispruner(keep=4)",
    "visionzip()",
    "hiprune(keep=4)",
    "fastervlm()+divprune(keep=4)",
)


@pytest.mark.parametrize("spec", SHOWN)
def test_where_the_tower_shows_it_methods_look(spec):
    work = work_of(Plan.of(spec), ServedModel(LAYERS, shows=True))
    assert [look.tower for look in work.looks] == ["made"]
    with pytest.raises(ValueError, match="shows nothing on this model"):
        work_of(Plan.of(spec), ServedModel(LAYERS))


def test_no_new_rows_are_made_of_those_that_the_tower_chose():
    shown = ServedModel(LAYERS, shows=True)
    with pytest.raises(ValueError, match="leave one of the two out"):
        work_of(Plan.of("fastervlm(keep=0.5)+pool(factor=2)"), shown)


@pytest.mark.parametrize(
    "name", ["llava-llama", "llava_next-mistral", "internvl-qwen2", "qwen2_5_vl", "qwen3_5"]
)
def test_what_a_model_shows_is_read_off_its_configuration(name):
    config = FACTORIES[name](layers=2).model.config
    model = ServedModel.of(config)
    assert model.layers == 2
    assert model.shows == name.startswith(("llava", "internvl")) and not model.marked
    assert model.recurs == (name == "qwen3_5") and model.closes_up != name.startswith("qwen")
    if name.startswith("llava"):
        config.vision_feature_layer = [-2, -1]
        assert not ServedModel.of(config).shows
