"""``saccade cost`` reproduces the published FLOPs tables and says what a plan saves."""

from __future__ import annotations

import math

import pytest

from saccade.cli.cost import price
from saccade.core.pricing import closed_form
from saccade.core.shapes import SHAPES

TEXT = 66.6

# Facts: training-free methods, 1.3; model, visual, text, then dense, V-Skip, FFN-Skip, ShortV, VTW.
TABLE = [
    ("llava-1.5-7b", 576, TEXT, 19, 16, (8.54, 7.69, 5.58, 4.73, 4.70)),
    ("llava-1.5-13b", 576, TEXT, 24, 20, (16.64, 15.01, 10.77, 9.14, 9.17)),
    ("llava-next-7b", 2880, TEXT, 19, 16, (42.72, 36.40, 27.91, 21.60, 21.79)),
    ("llava-next-13b", 2109, TEXT, 24, 20, (59.08, 51.52, 37.59, 30.03, 30.39)),
    ("qwen2.5-vl-7b", 1280, 40, 7, 7, (17.93, 17.30, 14.28, 13.65, 4.87)),
]


@pytest.mark.parametrize(("name", "visual", "text", "budget", "first", "expected"), TABLE)
def test_closed_form_table_of_all_models(name, visual, text, budget, first, expected):
    shape = SHAPES[name]
    plans = [f"{m}(budget={budget})" for m in ("vskip", "ffn_skip", "shortv")]
    plans = ["dense", *plans, f"vtw(layer={first})"]
    found = [price(shape, plan, visual, text).cost.tflops for plan in plans]
    assert found == pytest.approx(expected, abs=0.0051)


@pytest.mark.parametrize(
    ("plan", "predicted", "published", "tolerance"),
    [
        ("dense", 8.539, 8.54, 0.005),
        ("vskip(budget=19)", 7.690, 7.69, 0.005),
        ("shortv(budget=19)", 4.729, 4.72, 0.0095),
        ("shortv(budget=4)", 7.737, 7.69, 0.048),
        ("vtw(budget=4)", 7.580, 7.69, 0.111),
        ("vtw(layer=16)", 4.702, None, 0),
        ("vtw(layer=17)", 4.942, 4.94, 0.005),
    ],
)
def test_v_skips_third_table(plan, predicted, published, tolerance):
    found = price(SHAPES["llava-1.5-7b"], plan, 576, TEXT).cost.tflops
    assert found == pytest.approx(predicted, abs=0.0006)
    if published is not None:
        assert found == pytest.approx(published, abs=tolerance)


@pytest.mark.parametrize(
    ("skipped", "predicted"),
    [
        ({}, 30.744),
        ({"query": 19}, 26.574),
        ({"query+ffn": 19}, 15.734),
        ({"alive": 16}, 15.80),
        ({"alive": 15}, 16.736),
    ],
)
def test_next_is_reproduced_over_its_spread_of_resolutions(skipped, predicted):
    mean, spread, text = 2109, 0.195 * 2109, 66.3
    shape = SHAPES["llava-next-7b"]
    # Two points with the mean and variance of the visual count, for the formula is quadratic in it.
    found = sum(closed_form(shape, v, text, skipped) for v in (mean - spread, mean + spread)) / 2 / 1e12
    assert found == pytest.approx(predicted, abs=0.006)


def test_the_papers_example_from_the_command_line(command):
    specs = ["vskip(budget=19)", "shortv(budget=19)", "ffn_skip(budget=19)"]
    words = [w for spec in specs for w in ("--plan", spec)]
    done = command("cost", "llava-1.5-7b", "--visual", 576, "--text", 66.6, *words)
    assert done.code == 0
    row = {spec: next(x for x in done.out.splitlines() if spec in x) for spec in specs}
    assert "8.54" in next(x for x in done.out.splitlines() if "dense" in x)
    assert "7.69" in row[specs[0]] and "4.73" in row[specs[1]] and "5.58" in row[specs[2]]


def test_json_holds_the_figures_of_the_first_plan_and_of_all(command, tmp_path):
    file = tmp_path / "new" / "cost.json"
    words = ("--plan", "vskip(budget=19)", "--plan", "vtw(layer=16)")
    assert command("cost", "--text", 64, *words, "--json", file).code == 0
    import json

    data = json.loads(file.read_text())
    wanted = {
        "tflops",
        "dense_tflops",
        "ratio",
        "kv_ratio",
        "equivalent_tokens",
        "executed_ratio",
        "decode_gflops",
    }
    assert wanted <= set(data) and all(wanted <= set(entry) for entry in data["plans"])
    assert data["ratio"] == data["plans"][0]["ratio"] == pytest.approx(data["tflops"] / data["dense_tflops"])
    vtw = data["plans"][1]
    assert vtw["kv_ratio"] == pytest.approx((640 + 64) / 2 / 640)
    assert vtw["equivalent_tokens"] == 288
    assert vtw["kv_bytes"] == (640 + 64) * 16 * 2 * 4096 * 2
    sets = vtw["layer_sets"]
    assert [(s["layers"], s["alive"]) for s in sets] == [("0-15", 640), ("16-31", 64)]
    assert math.fsum(s["tflops"] for s in sets) == pytest.approx(vtw["tflops"])


def test_the_whole_bill_stands_beside_the_decoders_and_says_when_the_tower_is_most_of_it(command):
    words = ("cost", "qwen2.5-vl-7b", "--plan", "divprune(keep=0.2)", "--plan", "resize(scale=0.5)")
    cut, small = (entry["whole"] for entry in command(*words, "--json", "-").json["plans"])
    parts = ("tower_tflops", "projector_tflops", "decoder_tflops", "head_tflops")
    assert cut["tflops"] == pytest.approx(sum(cut[part] for part in parts))
    assert cut["tower_tflops"] == cut["dense_tower_tflops"] > 4 * small["tower_tflops"]
    assert cut["tower_is_bottleneck"] and not small["tower_is_bottleneck"]
    told = command(*words).out
    assert "divprune(keep=0.2): the vision tower is 63 % of the whole bill" in told
    assert "resize(scale=0.5): the vision tower" not in told


def test_kv_bytes_follow_the_type_of_the_cache(command):
    half = command("cost", "--json", "-").json
    full = command("cost", "--dtype", "float32", "--json", "-").json
    assert full["kv_bytes"] == 2 * half["kv_bytes"]


def test_a_model_folder_is_priced_from_its_configuration_alone(command, llava, tmp_path):
    llava.model.config.save_pretrained(tmp_path)
    data = command("cost", tmp_path, "--text", 8, "--plan", "shortv(layers=0-3)", "--json", "-").json
    assert (data["shape"]["layers"], data["shape"]["hidden"], data["visual"]) == (4, 64, 16)
    # 4 layers, 24 rows dense; ShortV leaves K and V of all rows, and the 8 text rows.
    d, m, n, t = 64, 96, 24, 8
    dense = 8 * n * d * d + 4 * n * n * d + 6 * n * d * m
    skipped = 4 * n * d * d + 4 * t * d * d + 4 * t * n * d + 6 * t * d * m
    assert data["dense_tflops"] == pytest.approx(4 * dense / 1e12)
    assert data["tflops"] == pytest.approx(4 * skipped / 1e12)


def test_the_mask_reading_saves_less_than_the_bypass(command):
    data = command("cost", "--plan", "vskip(layers=3,reading=mask)", "--json", "-").json
    bypass = command("cost", "--plan", "vskip(layers=3)", "--json", "-").json
    assert bypass["ratio"] < data["ratio"] < 1
    assert bypass["executed_ratio"] < data["executed_ratio"] < 1


def test_score_rows_stand_beside_the_plan(command):
    done = command("cost", "--plan", "pyramiddrop()", "--plan", "fastv()", "--plan", "random()")
    rows = {
        name: next(x for x in done.out.splitlines() if name in x)
        for name in ("pyramiddrop", "fastv", "random")
    }
    assert "scores" in done.out and "< 0.01 %" in rows["fastv"]
    assert rows["pyramiddrop"].count("0.4") and "%" not in rows["random"]
    data = command("cost", "--plan", "pyramiddrop()", "--json", "-").json
    assert 0 < data["score_tflops"] < 0.01 * data["dense_executed_tflops"]


def test_a_shortened_prompt_is_priced_against_the_full_one(command):
    data = command(
        "cost", "--text", 64, "--plan", "resize(scale=0.5)+fastv(layer=3,keep=0.5)", "--json", "-"
    ).json
    assert (data["visual"], data["visual_tokens"]) == (576, 576)
    assert [s["alive"] for s in data["layer_sets"]] == [144 + 64, 72 + 64]
    full = command("cost", "--text", 64, "--json", "-").json
    assert data["dense_tflops"] == full["tflops"] and data["ratio"] < 0.3


def test_a_flops_ratio_is_reached_by_the_dial_of_a_reducer(command):
    data = command("cost", "--plan", "fastv(layer=3,flops=0.5)", "--json", "-").json
    assert 0.49 < data["ratio"] <= 0.5 and data["resolved"].startswith("fastv(keep=0.39")
    refused = command("cost", "--plan", "fastv(layer=16,flops=0.3)")
    assert refused.code == 2 and "the lowest, with fastv(keep=0.0,layer=16), is" in refused.err


def test_a_prompt_without_images_saves_nothing(command):
    data = command("cost", "--visual", 0, "--text", 32, "--plan", "shortv(budget=32)", "--json", "-").json
    assert (data["ratio"], data["kv_ratio"], data["equivalent_tokens"]) == (1, 1, 0)
