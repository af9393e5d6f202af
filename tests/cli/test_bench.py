"""``saccade bench``: what it reports, and what it refuses before building anything."""

from __future__ import annotations

import json

import pytest

from saccade.measure import target

SMALL = ("--text", 8, "--new-tokens", 3, "--repeats", 2, "--warmup", 1)
PHASE = {"flops_ratio", "time_ratio", "efficiency", "captured", "dense_s", "plan_s", "low", "high"}
USAGE = {"ttft_s", "tokens_per_s", "peak_memory_bytes", "kv_bytes", "total_s"}


def test_json_holds_every_figure_of_every_plan(command, toy, tmp_path):
    file = tmp_path / "bench.json"
    plans = ("--plan", "shortv(budget=4)", "--plan", "vtw(layer=2)")
    done = command("bench", toy, *SMALL, "--batch", 2, *plans, "--json", file)
    assert done.code == 0, done.err
    data = json.loads(file.read_text())
    assert PHASE - {"dense_s", "plan_s", "low", "high"} <= set(data)
    assert {"ttft_s", "tokens_per_s", "peak_memory_bytes"} <= set(data)
    first, second = data["plans"]
    for entry in (first, second):
        assert set(entry["prefill"]) >= PHASE and set(entry["decode"]) >= PHASE
        assert set(entry["dense"]) >= USAGE and set(entry["planned"]) >= USAGE
    assert (first["layers"], first["depth"], first["weights"], first["visual"]) == (4, 6, "random", 24)
    assert first["resolved"] == "shortv(layers=0-3)"


def test_cpu_builds_few_layers_and_says_so(command, toy):
    done = command("bench", toy, *SMALL, "--plan", "shortv(budget=2)")
    assert done.code == 0, done.err
    assert f"{toy}: 4 of 6 layers, random weights, float32" in done.out
    assert "captured" in done.out and "KV cache" in done.out


def test_standard_output_is_json_and_nothing_else(command, toy):
    done = command("bench", toy, "--layers", 6, *SMALL, "--plan", "shortv(budget=6)", "--json", "-")
    assert done.code == 0
    data = done.json
    assert data["resolved"] == "shortv(layers=0-5)"
    assert data["provenance"]["versions"].keys() == {"saccade", "python", "torch", "transformers"}
    assert "captured" in done.err, "the table goes to standard error instead"


def test_without_a_plan_the_attachment_itself_is_timed(command, toy):
    done = command("bench", toy, *SMALL)
    assert done.code == 0
    assert "attached without a plan" in done.out
    data = command("bench", toy, *SMALL, "--json", "-").json
    assert data["flops_ratio"] == 1 and data["captured"] is None and data["resolved"] == "dense"


def test_a_profile_names_operators_of_both_sides(command, toy):
    data = command("bench", toy, *SMALL, "--plan", "shortv(budget=4)", "--profile", "--json", "-").json
    rows = {row["op"]: row for row in data["profile"]}
    assert rows["aten::mm"]["dense_ms"] > 0 and rows["aten::mm"]["plan_ms"] > 0
    saved = [abs(row["saved_ms"]) for row in data["profile"]]
    assert saved == sorted(saved, reverse=True)


def test_a_roofline_is_stated_beside_the_times(command, toy):
    words = ("bench", toy, *SMALL, "--plan", "shortv(budget=4)", "--roofline")
    found = command(*words, "--json", "-")
    least = found.json["roofline"]
    assert 0 < least["plan_s"] < least["dense_s"] < found.json["prefill"]["dense_s"]
    assert "roofline of the prefill" in found.err and "GFLOP/s" in found.err


def test_times_elsewhere_are_predicted_beside_those_here(command, toy):
    from saccade.core.cards import card
    from saccade.core.layout import Layout
    from saccade.core.route import Route
    from saccade.measure.devices import Eye, prefill_seconds
    from saccade.plans.plan import Plan

    words = ("--plan", "vtw(layer=1)", "--on", "h100", "--on", "l4")
    done = command("bench", toy, *SMALL, "--layers", 6, "--batch", 1, *words)
    assert "predicted on h100: stock" in done.out and "not measured" in done.out
    told = command("bench", toy, *SMALL, "--layers", 6, *words, "--json", "-").json["predicted"]
    shape = target.shape_of(toy)
    layout = Layout.single(24, 8)
    for name, found in told.items():
        routes = (Route.dense(layout, 6), Plan.of("vtw(layer=1)").route(layout, 6))
        dense, plan = (prefill_seconds(shape, route, card(name), Eye()) for route in routes)
        assert (found["dense_s"], found["plan_s"]) == (pytest.approx(dense), pytest.approx(plan))
        assert found["time_ratio"] == pytest.approx(plan / dense)


def test_a_reducer_that_looks_at_the_tower_is_timed_on_made_up_numbers(command, toy):
    plans = ("--plan", "fastervlm(keep=8)", "--plan", "fastv(layer=2,keep=0.5)")
    done = command("bench", toy, *SMALL, *plans)
    assert done.code == 0, done.err
    told = [line for line in done.out.splitlines() if "made-up numbers" in line]
    assert len(told) == 1 and told[0].startswith("fastervlm(keep=8)")
    data = command("bench", toy, *SMALL, *plans, "--json", "-").json["plans"]
    assert [entry["vision_made_up"] for entry in data] == [True, False]
    assert data[0]["kv_ratio"] == pytest.approx((8 + 8) / (24 + 8))
    assert data[1]["kv_ratio"] == pytest.approx((2 * (24 + 8) + 2 * (12 + 8)) / (4 * (24 + 8)))


def test_one_new_token_has_no_decode_phase(command, toy):
    data = command("bench", toy, "--text", 8, "--new-tokens", 1, "--repeats", 1, "--json", "-").json
    assert data["decode"] is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ("toy", "--plan", "vskip(layers=2-5)"),
            "layer 5, but the model has 4 (0-3) (this bench builds 4 of the 6",
        ),
        (("toy", "--layers", 2, "--plan", "shortv(budget=3)"), "builds 2 of the 6 layers; see --layers"),
        (("toy", "--layers", 7), "toy has 6 layers, cannot build 7"),
        (("toy", "--plan", "vskip(flops=0.1)"), "cannot reach a FLOPs ratio of 0.1"),
        (("toy", "--dtype", "float31"), "float31"),
        (("toy", "--device", "cuda:64"), "cuda:64"),
        (("toy", "--device", "abacus"), "abacus"),
        (("toy", "--batch", 0), "--batch"),
        (("toy", "--on", "abacus"), "no device 'abacus' to predict times on"),
        (("toy", "--repeats", -1), "--repeats"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_built(command, toy, monkeypatch, words, expected):
    monkeypatch.setattr(target, "build", None)
    done = command("bench", *words)
    assert done.code == 2 and done.out == ""
    assert done.err.startswith("saccade: error: ") and done.err.count("\n") == 1
    assert expected in done.err


def test_what_does_not_fit_the_memory_is_refused_with_what_would(command, monkeypatch):
    monkeypatch.setattr(target, "free_memory", lambda device: 9 * 2**30)
    done = command("bench", "llava-1.5-7b", "--layers", 32, "--dtype", "bfloat16")
    assert done.code == 2
    assert "32 layers needs about 13" in done.err and "9.0 GiB are free" in done.err
    fits = int(done.err.split("--layers ")[1].split()[0])
    assert 15 <= fits <= 21


def test_the_embedded_model_is_benched_whole_with_its_vision_tower_apart(command):
    done = command("bench", "glance", *SMALL, "--plan", "vtw(layer=6)", "--json", "-")
    data = done.json
    assert (data["weights"], data["layers"], data["depth"]) == ("real", 12, 12)
    assert data["vision_ms"] > 0 and data["plan_vision_s"] > 0 and data["whole_time_ratio"] > 0
    assert data["whole"]["tower_tflops"] == data["whole"]["dense_tower_tflops"] > 0
    assert data["flops_ratio"] < data["whole"]["ratio"] < 1
    assert data["kv_ratio"] == pytest.approx((6 * (data["visual"] + 8) + 6 * 8) / (12 * (data["visual"] + 8)))
    refused = command("bench", "glance", "--layers", 2)
    assert refused.code == 2 and "has weights and runs whole" in refused.err and refused.err.count("\n") == 1
