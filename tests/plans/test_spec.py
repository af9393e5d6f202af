"""Spec strings are stable public surface: they come back as they went, and nonsense is a ValueError."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.methods import METHODS
from saccade.methods.ffn_skip import FFNSkip
from saccade.methods.shortv import ShortV
from saccade.methods.vskip import VSkip
from saccade.methods.vtw import VTW
from saccade.plans.spec import parse, write

layers = st.lists(st.integers(0, 60), unique=True, max_size=12).map(tuple)
flops = st.floats(0, 1, exclude_min=True, allow_nan=False)
choice = st.one_of(
    st.fixed_dictionaries({"layers": layers}),
    st.fixed_dictionaries({"budget": st.integers(0, 80)}),
    st.fixed_dictionaries({"flops": flops}),
    st.just({}),
)
methods = st.one_of(
    choice.map(lambda c: FFNSkip(**c)),
    choice.map(lambda c: ShortV(**c)),
    st.sampled_from(sorted(ShortV.presets)).map(lambda p: ShortV(preset=p)),
    st.tuples(st.sampled_from(sorted(ShortV.presets)), st.integers(0, 19)).map(
        lambda x: ShortV(preset=x[0], budget=x[1])
    ),
    st.tuples(choice, st.sampled_from(["bypass", "mask"])).map(lambda x: VSkip(**x[0], reading=x[1])),
    st.integers(0, 60).map(lambda n: VTW(layer=n)),
    st.integers(0, 60).map(lambda n: VTW(budget=n)),
    flops.map(lambda f: VTW(flops=f)),
    st.sampled_from(sorted(VTW.presets)).map(lambda p: VTW(preset=p)),
    st.just(VTW()),
)


@given(st.lists(methods, max_size=4).map(tuple))
def test_what_is_written_reads_back(given_methods):
    assert parse(write(given_methods)) == given_methods


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("dense", ()),
        (" dense ", ()),
        ("vskip(layers=12-31)", (VSkip(layers=tuple(range(12, 32))),)),
        ("shortv(layers=0,3,5-7)", (ShortV(layers=(0, 3, 5, 6, 7)),)),
        ("shortv(layers=0/3/5-7)", (ShortV(layers=(0, 3, 5, 6, 7)),)),
        ("ffn_skip(layers=1-7)", (FFNSkip(layers=tuple(range(1, 8))),)),
        ("vtw(layer=16)", (VTW(layer=16),)),
        ("vskip(budget=19)", (VSkip(budget=19),)),
        ("vskip(flops=0.9)", (VSkip(flops=0.9),)),
        ("vskip", (VSkip(),)),
        ("vskip()", (VSkip(),)),
        ("vskip(layers=none)", (VSkip(layers=()),)),
        (
            " vskip ( layers = 1 , 2 , reading = mask ) + vtw(layer=3)",
            (VSkip(layers=(1, 2), reading="mask"), VTW(layer=3)),
        ),
        ("vskip(reading=mask,layers=1,2)", (VSkip(layers=(1, 2), reading="mask"),)),
        ("shortv(preset=llava-1.5-7b,budget=8)", (ShortV(preset="llava-1.5-7b", budget=8),)),
    ],
)
def test_public_strings(text, expected):
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "nosuch(layers=1)",
        "vskip(",
        "vskip)",
        "vskip(layers=1))",
        "vskip(layers=1)+",
        "+",
        "+vskip(layers=1)",
        "vskip(layers=1)vtw(layer=2)",
        "vskip(layer=3)",
        "vskip(layers=a)",
        "vskip(layers=3-1)",
        "vskip(layers=-1)",
        "vskip(layers=1,1)",
        "vskip(layers=1-3,2)",
        "vskip(layers=1.5)",
        "vskip(budget=1.5)",
        "vskip(budget=-1)",
        "vskip(budget=many)",
        "vskip(budget=1_0)",
        "vskip(budget=\N{ARABIC-INDIC DIGIT THREE})",
        "vskip(flops=0)",
        "vskip(flops=1.01)",
        "vskip(flops=nan)",
        "vskip(flops=inf)",
        "vskip(reading=neither)",
        "vskip(layers=1,layers=2)",
        "vskip(budget=1,budget=1)",
        "vskip(layers=1,budget=2)",
        "vskip(3)",
        "vskip(=3)",
        "vskip(layers==3)",
        "vskip((layers=1))",
        "shortv(preset=gpt)",
        "shortv(preset=)",
        "vtw(layer=1,budget=2)",
        "vtw(layer=)",
        "vtw(layer=1,)",
        "vtw(layer=1-2)",
        "dense+vskip(layers=1)",
        "vskip;vtw",
        "VSKIP(layers=1)",
        "vskip[layers=1]",
        "vskip(budget=None",
        "{}",
        "vskip(layers=1\n\x00)",
    ],
)
def test_nonsense_is_a_value_error(text):
    with pytest.raises(ValueError):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "vskip(layers=0-99999999999)",
        "vskip(layers=99999999999999999999)",
        "vskip(budget=1" + "0" * 5000 + ")",
    ],
)
def test_absurd_sizes_are_refused_at_once(text):
    with pytest.raises(ValueError):
        parse(text)


@pytest.mark.parametrize("what", [None, 3, ["vskip"], b"vskip"])
def test_only_strings_are_read(what):
    with pytest.raises(ValueError, match="string"):
        parse(what)


def check(text: str) -> None:
    """Either methods that write and read the same, or a ValueError that says something."""
    try:
        found = parse(text)
    except ValueError as error:
        assert str(error)
    else:
        assert parse(write(found)) == found


@settings(max_examples=300)
@given(st.text())
def test_any_text(text):
    check(text)


pieces = st.one_of(
    st.sampled_from(
        [*METHODS, "dense", "layers", "layer", "budget", "flops", "preset", "reading", "mask", "none", "true"]
    ),
    st.sampled_from([*"(),+=/-. ", "1", "0", "12", "3-5", "0.5", "1e-3", "nan", "٣", "²", "_1", "1_0"]),
)


@settings(max_examples=500)
@given(st.lists(pieces, max_size=12).map("".join))
def test_almost_specs(text):
    check(text)


@settings(max_examples=300)
@given(
    st.sampled_from(sorted(METHODS)),
    st.sampled_from(["layers", "layer", "budget", "flops", "preset", "reading"]),
    st.text(max_size=8),
)
def test_any_value(name, key, value):
    check(f"{name}({key}={value})")
