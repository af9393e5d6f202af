"""Methods are frozen, registered, resolved by budget, order, preset or depth, and touch the rows they say."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass

import pytest
import torch

from saccade.core.layout import Layout
from saccade.core.route import LayerRoute
from saccade.core.shapes import SHAPES
from saccade.methods import METHODS, LayerMethod, Method, register
from saccade.methods.ffn_skip import FFNSkip
from saccade.methods.kinds import ADAPTIVE, LAYERWISE, PLAIN, SKIPPING, TRAINED
from saccade.methods.shortv import ShortV
from saccade.methods.vskip import VSkip
from saccade.methods.vtw import VTW
from saccade.plans.names import method_names
from support.reference import lost

LAYOUT = Layout.from_mask(torch.tensor([[False, True, True, False], [True, False, False, False]]))
LAYERED = [VSkip, FFNSkip, ShortV]


def test_the_registry_is_complete_and_linked():
    # Names are known before anything is imported, by the files; each file holds the method it is called by.
    assert len(METHODS) >= 23 and set(METHODS) == set(method_names())
    for name, cls in METHODS.items():
        assert cls.name == name and cls.title and cls.__doc__
        # Plain baselines are nobody's method: what their docstrings cite used or opposed them.
        cited = name not in PLAIN and "arXiv" in cls.__doc__
        assert (cls.paper is None) if name in PLAIN else cls.paper or not cited, "its paper has no link"
        assert cls.saves and set(cls.saves) <= {"prefill", "kv", "decode"}


def test_lists_of_methods_by_kind_say_what_the_methods_are():
    assert set(SKIPPING) == {name for name, cls in METHODS.items() if issubclass(cls, LayerMethod)}
    assert set(LAYERWISE) == {name for name, cls in METHODS.items() if cls.score is not None}
    assert {*PLAIN, *ADAPTIVE, *TRAINED} <= set(METHODS)
    usual = {name: cls.usual_values().get("keep") for name, cls in METHODS.items()}
    assert set(ADAPTIVE) == {name for name, keep in usual.items() if keep == "the picture decides"}


def test_a_method_of_which_nothing_is_said_changes_nothing():
    """What most methods answer alike is said once: a name, a title and one rule make a method."""

    @dataclass(frozen=True)
    class Nothing(Method):
        """Only a test."""

        name = "nothing_test"
        title = "Nothing"
        saves = ()

    method = Nothing()
    assert method.is_resolved and method.resolve(3) is method and not method.needs_order
    assert method.max_strength(3) == 0 and method.at_strength(0) == method and method.stages(3) == ()
    assert all(layer.is_dense for layer in method.route(LAYOUT, 3).layers)
    assert method.visual_rows(7) == 7 and not method.shortens and method.tower_merge is None
    assert str(method) == "nothing_test()" and method.usual_values() == {}
    with pytest.raises(ValueError, match=r"saccade cost MODEL --plan 'nothing_test\(flops=0.5\)' tells it"):
        Nothing(flops=0.5).resolve(3)


@pytest.mark.parametrize("method", [VSkip, VTW])
def test_a_ratio_without_a_prompt_names_the_command_that_finds_its_layers(method):
    with pytest.raises(ValueError, match=f"saccade calibrate --method {method.name} --flops 0.9"):
        method(flops=0.9).resolve(12)


@pytest.mark.parametrize(
    "method", [VSkip(layers=(1,)), FFNSkip(layers=(1,)), ShortV(layers=(1,)), VTW(layer=1)]
)
def test_methods_are_frozen_and_hashable(method):
    with pytest.raises(FrozenInstanceError):
        method.budget = 3
    assert hash(method) == hash(method.resolve(4)) and method.resolve(4) == method


@pytest.mark.parametrize(
    ("method", "meaning"),
    [
        (VSkip(layers=(0, 2)), ("vskip", (0, 2))),
        (VSkip(layers=(0, 2), reading="mask"), ("vskip_mask", (0, 2))),
        (FFNSkip(layers=(1,)), ("ffn_skip", (1,))),
        (ShortV(layers=(1, 3)), ("shortv", (1, 3))),
        (VTW(layer=2), ("vtw", (2, 3))),
    ],
)
def test_row_sets_are_those_of_the_papers(method, meaning):
    for number, layer in enumerate(method.route(LAYOUT, 4).check().layers):
        gone = lost([meaning], number)
        for name, rows in (("alive", layer.alive_BN), ("query", layer.query_BN), ("ffn", layer.ffn_BN)):
            expected = LAYOUT.text_BN if name in gone else torch.ones_like(LAYOUT.text_BN)
            assert torch.equal(rows, expected), (number, name)
        assert layer.visibility == ("text_and_self" if "sight" in gone else "causal")


@pytest.mark.parametrize("cls", LAYERED)
def test_a_budget_takes_the_head_of_the_order(cls):
    assert cls(budget=2).resolve(4, [3, 0, 1, 2]) == cls(layers=(0, 3))
    assert cls(budget=0).resolve(4, [3, 0, 1, 2]) == cls(layers=())
    assert cls(layers=(1,)).with_budget(3) == cls(budget=3) == cls(flops=0.5).with_budget(3)
    for bad in (
        lambda: cls(budget=5).resolve(4, [0, 1, 2, 3]),
        lambda: cls(budget=2).resolve(4),
        lambda: cls().resolve(4, [0, 1, 2, 3]),
    ):
        with pytest.raises(ValueError):
            bad()


def test_withdrawal_by_budget_counts_from_the_end():
    assert VTW(budget=3).resolve(8) == VTW(layer=5) and VTW(budget=0).resolve(8) == VTW(layer=8)
    assert VTW(layer=3).with_budget(2) == VTW(budget=2)
    for bad in (
        lambda: VTW(budget=9).resolve(8),
        lambda: VTW(layer=9).resolve(8),
        lambda: VTW().resolve(8),
        lambda: VTW(flops=0.5).resolve(8),
    ):
        with pytest.raises(ValueError):
            bad()


@pytest.mark.parametrize(("cls", "preset"), [(c, p) for c in (ShortV, VTW) for p in c.presets])
def test_presets_fit_their_models(cls, preset):
    depth = SHAPES[preset].layers
    assert cls(preset=preset).resolve(depth).is_resolved
    with pytest.raises(ValueError):
        cls(preset=preset).resolve(5)


def test_published_orders_start_with_the_last_layer_and_have_the_published_length():
    for preset, order in ShortV.presets.items():
        assert order[0] == SHAPES[preset].layers - 1 and len(set(order)) == len(order)
        assert len(order) == (19 if "7b" in preset else 24)
        assert ShortV(preset=preset, budget=3).resolve(SHAPES[preset].layers).layers == tuple(
            sorted(order[:3])
        )
    assert ShortV.presets["llava-1.5-7b"][:5] == (31, 29, 30, 28, 0)
    assert {k: VTW.presets[k] for k in ("llava-1.5-7b", "llava-1.5-13b", "qwen2.5-vl-7b")} == {
        "llava-1.5-7b": 16,
        "llava-1.5-13b": 20,
        "qwen2.5-vl-7b": 7,
    }


@pytest.mark.parametrize(
    "bad",
    [
        lambda c: c(layers=(1, 1)),
        lambda c: c(layers=(-1,)),
        lambda c: c(layers=(True,)),
        lambda c: c(layers=(1.0,)),
        lambda c: c(budget=-1),
        lambda c: c(budget=1.5),
        lambda c: c(flops=0),
        lambda c: c(flops=2),
        lambda c: c(flops=float("nan")),
        lambda c: c(layers=(1,), budget=1),
        lambda c: c(layers=(1,), flops=0.5),
        lambda c: c(budget=1, flops=0.5),
        lambda c: c(preset="gpt"),
        lambda c: c(layers=(4,)).resolve(4),
        lambda c: c(flops=0.5).resolve(4, [0, 1, 2, 3]),
        lambda c: c(budget=1).route(LAYOUT, 4),
        lambda c: c(layers=(4,)).route(LAYOUT, 4),
    ],
)
@pytest.mark.parametrize("cls", LAYERED)
def test_nonsense_is_a_value_error(cls, bad):
    with pytest.raises(ValueError):
        bad(cls)


def test_parameters_are_what_differs_from_the_defaults():
    assert VSkip(layers=(1, 2)).parameters() == {"layers": (1, 2)}
    assert VSkip(budget=2, reading="mask").parameters() == {"budget": 2, "reading": "mask"}
    assert VTW().parameters() == {}


def test_a_new_method_is_one_class():
    @dataclass(frozen=True)
    class Blank(LayerMethod):
        """Only a test."""

        name = "blank_test"
        title = "Blank"
        paper = "https://example.org"
        saves = ("prefill",)

        def touched(self, layout, full_BN):
            return LayerRoute(full_BN, full_BN, full_BN)

    try:
        assert register(Blank) is Blank and METHODS["blank_test"] is Blank and issubclass(Blank, Method)
        assert all(layer.is_dense for layer in Blank(layers=(0,)).route(LAYOUT, 2).layers)
    finally:
        METHODS.pop("blank_test", None)


@pytest.mark.parametrize(
    ("name", "paper", "match"),
    [("Bad Name", "https://x", "identifier"), ("vskip", "https://x", "taken"), ("fresh", "ftp://x", "link")],
)
def test_bad_registrations_are_refused(name, paper, match):
    cls = type("Other", (), {"name": name, "paper": paper})
    with pytest.raises(ValueError, match=match):
        register(cls)
    assert METHODS["vskip"] is VSkip and "fresh" not in METHODS
