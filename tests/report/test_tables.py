"""Tables come from the registry and from result files; stale ones are found."""

import json

import pytest

from docsite import tables
from saccade.methods import METHODS

README = "# x\n\n<!-- generated:{name} -->\nold\n<!-- /generated -->\n\nafter\n"


@pytest.fixture
def readme(tmp_path):
    def write(name="methods"):
        path = tmp_path / "README.md"
        path.write_text(README.format(name=name))
        return path

    return write


def test_methods_are_those_of_the_registry(tmp_path):
    text = tables.methods(tmp_path)
    for name, cls in METHODS.items():
        row = next(line for line in text.split("\n") if f"`{name}`" in line)
        assert (f"[{cls.title}]({cls.paper})" if cls.paper else cls.title) in row
    assert len(text.split("\n")) == len(METHODS) + 2


def test_refreshing_is_idempotent_and_touches_only_the_block(readme):
    path = readme()
    assert tables.main([str(path)]) == 0
    first = path.read_text()
    assert first.startswith("# x\n\n<!-- generated:methods -->\n| method") and first.endswith(
        "-->\n\nafter\n"
    )
    assert tables.main([str(path)]) == 0 and path.read_text() == first
    assert list(path.parent.iterdir()) == [path]


def test_check_finds_stale_tables_and_changes_nothing(readme, capsys):
    path = readme()
    before = path.read_text()
    assert tables.main(["--check", str(path)]) == 1
    assert path.read_text() == before and "stale" in capsys.readouterr().err
    tables.main([str(path)])
    assert tables.main(["--check", str(path)]) == 0


@pytest.mark.parametrize(
    "name",
    ["glance", "glance-family", "glance-positions", "glance-trained", "glance-tasks", "gate", "bench"],
)
def test_a_missing_result_file_is_said(readme, name):
    path = readme(name)
    assert tables.main([str(path)]) == 0
    assert "No result file yet" in path.read_text()


def test_results_are_those_of_the_file(study, readme):
    path = readme("glance")
    results = path.parent / "benchmarks" / "results"
    results.mkdir(parents=True)
    table = study | {"headline": study["headline"]["layers"], "calibration": {"samples": 20}}
    (results / "study_budget.json").write_text(json.dumps(table))
    assert tables.main([str(path)]) == 0
    text = path.read_text()
    main = next(e for e in study["plans"] if e["name"] == study["headline"]["layers"][0])
    assert f"{100 * main['mean']['accuracy']:.1f} %" in text
    assert "20 held-out questions of 2 tasks" in text
    path.write_text(README.format(name="glance-tasks"))
    (results / "glance_eval.json").write_text(json.dumps(study))
    assert tables.main([str(path)]) == 0
    blind = study["dense"]["tasks"]["count"]["blind"]
    assert f"| count | 10 | {100 * blind:.1f} % | 90.0 %" in path.read_text()


def filmed(study: dict, family: dict) -> dict:
    """What the benchmark of videos writes."""
    dense, kinds = study["dense"], [*study["dense"]["tasks"]]
    fewer = {"frames": 2, "name": "2 of 4 frames", "spec": "dense"} | {
        key: study["plans"][0][key] for key in ("mean", "tasks")
    }
    cost = {"flops_ratio": 0.5, "whole_ratio": 0.6, "kv_ratio": 0.55}
    return {
        "model": {"frames": 4},
        "guessed": dict.fromkeys(kinds, 0.25),
        "dense": dense,
        "fewer_frames": [fewer | {"cost": cost}],
        "plans": [row | {"cost": cost} if row.get("mean") else row for row in family["rows"]],
        "provenance": {"dtype": "float32", "batch": 25, "device": "a CPU"},
    }


def test_videos_stand_by_kind_and_by_plan_beside_fewer_frames(study, family, readme):
    path = readme("video-kinds")
    path.write_text(path.read_text() + README.format(name="video-plans"))
    assert tables.main([str(path)]) == 0 and path.read_text().count("No result file yet") == 2
    results = path.parent / "benchmarks" / "results"
    results.mkdir(parents=True)
    found = filmed(study, family)
    (results / "video.json").write_text(json.dumps(found))
    assert tables.main([str(path)]) == 0
    lines = path.read_text().split("\n")
    for kind, score in found["dense"]["tasks"].items():
        line = next(x for x in lines if x.startswith(f"| {kind} "))
        assert (
            f"| 25.0 % | {100 * score['blind']:.1f} % |" in line
            and f"{100 * score['accuracy']:.1f} %" in line
        )
    fewer = next(x for x in lines if x.startswith("| 2 of 4 frames | frames |"))
    assert fewer.endswith("| 50.0 % | 60.0 % | 55.0 % |")
    for row in found["plans"]:
        if row.get("mean"):
            line = next(x for x in lines if f"`{row['spec']}`" in x)
            assert f"| {row['mean']['gained']}, {row['mean']['lost']} |" in line
        else:
            assert f"- {row['name']}: {row['reason']}" in lines


def matched(family: dict) -> dict:
    """What the study of all methods at equal FLOPs writes."""
    plans = [row | {"positions": "authors"} for row in family["rows"]]
    return {k: v for k, v in family.items() if k != "rows"} | {"plans": plans}


def test_the_family_stands_with_its_losses_and_with_what_could_not_run(family, readme):
    path = readme("glance-family")
    results = path.parent / "benchmarks" / "results"
    results.mkdir(parents=True)
    (results / "study_iso_flops.json").write_text(json.dumps(matched(family)))
    assert tables.main([str(path)]) == 0
    text = path.read_text()
    lines = text.split("\n")
    ran = [row for row in family["rows"] if row.get("mean")]
    assert {row["method"] for row in ran} >= {"fastv", "random", "uniform", "pool", "resize", "vtw"}
    for row in ran:
        line = next(x for x in lines if f"`{row['spec']}`" in x and row["title"] in x)
        assert f"{100 * row['mean']['accuracy']:.1f} %" in line and "75.0 %" in line
        assert f"{100 * row['mean']['difference']:+.1f}" in line
    absent = [row for row in family["rows"] if not row.get("mean")]
    assert absent
    for row in absent:
        told = [x for x in lines if x.startswith(f"- {row['title']} at ")]
        assert any(f"{100 * row['asked']:.0f} %" in x.split(":")[0] for x in told)
    assert any(x.startswith("- V-Skip at 70 %, 50 %, 30 %: vskip cannot reach it on toy") for x in lines)
    assert "20 held-out questions of 2 tasks" in text and "in the decoder" in text


def test_positions_kept_stand_beside_closed_up_and_not_among_the_methods(family, readme):
    path = readme("glance-family")
    results = path.parent / "benchmarks" / "results"
    results.mkdir(parents=True)
    found = matched(family)
    ran = [row for row in found["plans"] if row.get("mean")][:2]
    kept = ran[0] | {"name": f"{ran[0]['name']}, positions kept", "positions": "keep", "title": "kept"}
    gap = {"first": kept["name"], "second": ran[0]["name"], "difference": 0.25}
    gap |= {"difference_low": 0.1, "difference_high": 0.4}
    data = found | {"plans": [*ran, kept], "positions": [gap]}
    (results / "study_iso_flops.json").write_text(json.dumps(data))
    assert tables.main([str(path)]) == 0
    assert path.read_text().count("\n| ") == 2 + 1 + 2 and "kept" not in path.read_text()
    path.write_text(README.format(name="glance-positions"))
    assert tables.main([str(path)]) == 0
    (row,) = [line for line in path.read_text().split("\n") if line.startswith(f"| {ran[0]['name']}")]
    assert "+25.0 (+10.0 to +40.0)" in row


@pytest.mark.parametrize("name", ["study-budget", "study-iso-flops", "study-realism-gaze"])
def test_any_page_may_have_what_studies_found(readme, name):
    path = readme(name)
    assert tables.main([str(path)]) == 0
    assert "No result file yet; `saccade study" in path.read_text()


def test_bench_files_become_rows(readme):
    path = readme("bench")
    results = path.parent / "benchmarks" / "results"
    results.mkdir(parents=True)
    phase = {"flops_ratio": 0.9, "time_ratio": 0.91, "captured": 0.9}
    run = {
        "name": "llava-1.5-7b",
        "plan": "vskip(budget=19)",
        "layers": 4,
        "depth": 32,
        "batch": 1,
        "visual": 576,
        "text": 64,
        "prefill": phase,
        "decode": None,
        "kv_ratio": 1.0,
        "provenance": {"device": "cpu of a test", "dtype": "float32"},
    }
    (results / "bench_one.json").write_text(json.dumps(run))
    (results / "bench_two.json").write_text(json.dumps({"runs": [run, run]}))
    tables.main([str(path)])
    rows = [line for line in path.read_text().split("\n") if "cpu of a test" in line]
    assert len(rows) == 3 and "0.910" in rows[0]


@pytest.mark.parametrize(
    "text", ["<!-- generated:nosuch -->\n<!-- /generated -->\n", "<!-- generated:methods -->\nnever closed\n"]
)
def test_bad_markers_are_refused(tmp_path, text, capsys):
    path = tmp_path / "README.md"
    path.write_text(text)
    assert tables.main([str(path)]) == 2
    assert capsys.readouterr().err and path.read_text() == text


def test_a_missing_file_is_refused(tmp_path, capsys):
    assert tables.main([str(tmp_path / "nosuch.md")]) == 2
    assert tables.main([]) == 2


def test_the_tables_of_this_repository_are_fresh(root):
    marked = [p for p in sorted(root.glob("*.md")) if "<!-- generated:" in p.read_text(encoding="utf-8")]
    assert tables.main(["--check", *map(str, marked)]) == (0 if marked else 2)


def test_trained_rows_stand_with_their_losses_and_with_times_where_they_were_taken(readme):
    path = readme("glance-trained")
    results = path.parent / "benchmarks" / "results"
    results.mkdir(parents=True)

    def row(name: str, accuracy: float, gap: float, **more) -> dict:
        mean = {"accuracy": accuracy, "low": accuracy - 0.01, "high": accuracy + 0.01}
        mean |= {"difference": gap, "difference_low": gap - 0.02, "difference_high": gap + 0.02}
        cost = {"flops_ratio": 0.31, "kv_ratio": 0.46}
        return {
            "name": name,
            "mean": mean,
            "cost": cost,
            "visual_ratio_paper": 0.28,
            "seeds": {"0": 1},
        } | more

    plans = [row("dense", 0.8, 0.0), row("skipping", 0.5, -0.3, times={"train_s": {"ratio": 0.55}})]
    found = {
        "plans": plans,
        "dense": {"mean": {"blind": 0.17}, "tasks": {"count": {}}},
        "data": {"questions": 40},
        "recipe": {"steps": 400, "batch": 16},
        "provenance": {},
    }
    (results / "study_skip_vision.json").write_text(json.dumps(found))
    assert tables.main([str(path)]) == 0
    text = path.read_text()
    assert "| dense | 1 | 80.0 % (79.0 to 81.0) |  | 28.0 % | 31.0 % | 46.0 % |  |" in text
    assert "| 50.0 % (49.0 to 51.0) | -30.0 (-32.0 to -28.0) | 28.0 % | 31.0 % | 46.0 % | 55.0 % |" in text
    assert "40 held-out questions of 1 tasks" in text and "blind: 17.0 %" in text


def test_checkpoints_tell_where_each_group_ran_and_failed(tmp_path):
    assert "No result file yet" in tables.KNOWN["checkpoints-methods"](tmp_path)
    cells = [
        {
            "checkpoint": name,
            "family": "llava",
            "environment": where,
            "case": case,
            "group": group,
            "why": why,
        }
        for name, where, case, group, why in (
            ("a/one", "with", "eval", "eval", ""),
            ("a/one", "without", "eval", "eval", ""),
            ("a/one", "with", "plan x", "merged", ""),
            ("a/one", "without", "plan x", "merged", "it broke"),
            ("b/two", "with", "eval", "eval", ""),
        )
    ]
    data = {"groups": {"commands": ["eval"], "methods": ["merged"]}, "cells": cells}
    (tmp_path / "checkpoints.json").write_text(json.dumps(data))
    commands = tables.KNOWN["checkpoints-commands"](tmp_path).split("\n")
    assert commands[0] == "| checkpoint | family | eval |"
    assert commands[2:] == ["| a/one | `llava` | yes |", "| b/two | `llava` | yes with |"]
    methods = tables.KNOWN["checkpoints-methods"](tmp_path).split("\n")
    assert methods[2:] == ["| a/one | `llava` | **no** without; yes with |", "| b/two | `llava` | not run |"]


def test_families_tell_how_far_a_check_found_every_group_of_methods(tmp_path):
    assert "No result file yet" in tables.KNOWN["checkpoints-families"](tmp_path)

    def row(group, plan, dtype, status, worst):
        return {"group": group, "plan": plan, "dtype": dtype, "status": status, "worst": worst, "why": ""}

    checked = {
        "a": [
            row("merged", "tome(r=4)", "float32", "refused", None),
            row("merged", "token_merge(keep=0.5)", "float32", "passed", 3e-7),
            row("merged", "token_merge(keep=0.5)", "bfloat16", "passed", 2e-2),
        ],
        "b": [
            row("merged", "token_merge(keep=0.5)", "float32", "passed", 5e-7),
            row("composed", "fastv(keep=0.5)+vskip(layers=1)", "float32", "failed", 0.5),
        ],
    }
    cells = [{"family": "llava", "checked": rows} for rows in checked.values()]
    cells += [{"family": "llava"}, {"family": "qwen2_vl", "checked": checked["a"][1:2]}]
    (tmp_path / "checkpoints.json").write_text(json.dumps({"cells": cells}))
    head, _, *lines = tables.KNOWN["checkpoints-families"](tmp_path).split("\n")
    assert head == "| family | merged | composed |"
    assert lines == [
        "| `llava` | refused: tome; 5e-07; 2e-02 | **no**: fastv |",
        "| `qwen2_vl` | 3e-07 | not run |",
    ]


def test_opening_stands_beside_stock_figure_by_figure(tmp_path):
    from docsite.checkpoint_tables import FIGURES

    assert "No result file yet" in tables.KNOWN["opening"](tmp_path)
    pair = {"dense": 2.0, "plan": 3.0, "ratio": 1.5, "low": 1.25, "high": 1.75}
    data = {"kind": "opening", "shape": "llava-1.5-7b", "layers": 2, "weights_mib": 1900, "shards": 3}
    data |= {"repeats": 4, "figures": {name: pair for name in FIGURES}}
    made = {"dtype": "bfloat16", "device": "a machine", "threads": 1}
    (tmp_path / "opening_cpu.json").write_text(json.dumps(data | {"provenance": made}))
    text = tables.KNOWN["opening"](tmp_path)
    assert text.startswith("| `llava-1.5-7b`, 2 layers | stock | Saccade | ratio (quartiles) |")
    assert "| opening, seconds | 2 | 3 | 1.50 (1.25 to 1.75) |" in text
    assert "1900 MiB of random weights in 3 files, bfloat16; 4 pairs" in text
