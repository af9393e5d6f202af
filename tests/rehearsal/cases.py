"""What is run on every checkpoint: the words after ``saccade``, and what must be true of the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rehearsal.checkpoint import Checkpoint
from rehearsal.scene import QUESTION, SIZES, Scene
from support.programs import Result

LAYERS = 4
"""Decoder layers of every small copy."""
TOKENS = 3
"""Tokens that answers may have."""


@dataclass(frozen=True)
class Place:
    """Where a case runs.

    Attributes:
        checkpoint: What is known of the checkpoint.
        model: Its folder.
        scene: Pictures and questions.
        work: Folder of the checkpoint's own for what commands write.
    """

    checkpoint: Checkpoint
    model: Path
    scene: Scene
    work: Path

    @property
    def pictured(self) -> bool:
        """Whether the checkpoint is asked about pictures alone: its processor takes nothing else."""
        return "generate text alone" in self.checkpoint.lacks

    @property
    def questions(self) -> Path:
        """Questions that it can be asked."""
        return self.scene.pictured if self.pictured else self.scene.questions


@dataclass(frozen=True)
class Case:
    """One command.

    Attributes:
        name: What it shows; stable, for cases are drawn by it.
        group: Column of the conformance table.
        words: The program's words at a place, ``--json`` left out.
        check: Holds what it printed, parsed, against what is known; raises an AssertionError. Gives what the
            result file should keep, if anything. None where the program itself checks.
        after: Names of cases whose files it needs.
        program: The module that runs; with a ``check`` it is ``saccade`` and gets ``--json -``.
        refused: Size of a picture that some stock processors refuse: the command must end with exit code 2
            and one line that names it.
        film: Whether it asks about a video, of checkpoints that take them: without torchvision, where their
            processors read none, the command must end with exit code 2 and one line that says so.
        large: Whether it takes too long for a part that runs often.
        once: Whether it says the same in every environment, and runs in the first alone.
        lacking: Whether it is what is run where a package is missing that the checkpoint needs: the command
            must end with exit code 2 and one line that names it. Nothing else runs there.
    """

    name: str
    group: str
    words: Callable[[Place], list[object]]
    check: Callable[[Place, Any], dict[str, Any] | None] | None
    after: tuple[str, ...] = ()
    program: str = "saccade"
    refused: str = ""
    large: bool = False
    once: bool = False
    lacking: bool = False
    film: bool = False

    def suits(self, checkpoint: Checkpoint, torchvision: bool) -> bool:
        """Whether the case says something about a checkpoint: only some refuse a picture, and some lack it.

        Args:
            checkpoint: The checkpoint.
            torchvision: Whether that is there; every other package is.
        """
        if {self.name, self.group} & set(checkpoint.lacks):
            return False
        if self.film and ("video" not in checkpoint.chat or (self.check is None and not torchvision)):
            return False
        if self.lacking or (not torchvision and "torchvision" in checkpoint.needs):
            return self.lacking and not torchvision and "torchvision" in checkpoint.needs
        return not self.refused or checkpoint.visual_tokens[self.refused] is None

    def judge(self, place: Place, done: Result) -> dict[str, Any]:
        """Raises an AssertionError that says what is wrong with what the program left behind.

        Returns:
            What the result file should keep of it.
        """
        if self.film and done.code:
            (line,) = done.err.strip().splitlines() or [""]
            assert done.code == 2 and "videos need torchvision: pip install" in line, done.err
            return {}
        if self.lacking:
            (line,) = done.err.strip().splitlines() or [""]
            assert done.code == 2 and "needs torchvision: pip install" in line, done.err
            return {}
        if self.refused:
            (line,) = done.err.strip().splitlines() or [""]
            assert done.code == 2 and str(place.scene.picture("thread")) in line, done.err
            return {}
        assert done.code == 0, done.err.strip()[-400:]
        return (self.check(place, done.json) if self.check is not None else None) or {}


PLANS = {
    "layers skipped": f"vskip(layers=1-{LAYERS - 2})",
    "scored in the tower": "fastervlm(keep=0.5)",
    "blind or by content": "divprune(keep=0.5)",
    "scored in the decoder": "fastv(layer=2,keep=0.5)",
    "merged": "token_merge(keep=0.5)",
    "resized": "resize(scale=0.5)",
    "cache released": "skip_vision(retained=0.5,cache=small)",
    "composed": f"divprune(keep=0.5)+vskip(layers=1-{LAYERS - 2})",
}
"""One plan of each group of methods."""


def _ask(*pictures: str, more: Sequence[object] = ()) -> Callable[[Place], list[object]]:
    def words(place: Place) -> list[object]:
        images = [word for name in pictures for word in ("--image", place.scene.picture(name))]
        asked = ("--question", QUESTION, "--max-new-tokens", TOKENS)
        return ["generate", place.model, *asked, *images, *more]

    return words


def _answered(place: Place, found: Any) -> None:
    assert 1 <= found["dense"]["new_tokens"] <= TOKENS
    assert len(found["dense"]["kv_lengths"]) == LAYERS


def _planned(place: Place, found: Any) -> None:
    _answered(place, found)
    (picture,) = found["images"]
    size = SIZES[Path(picture).stem]
    assert found["visual_tokens"] == place.checkpoint.visual_tokens["{}x{}".format(*size)]
    assert 0 < found["flops_ratio"] < 1
    assert 1 <= found["planned"]["new_tokens"] <= TOKENS


def _skipped(place: Place, found: Any) -> None:
    _planned(place, found)
    assert _rows(found["planned"]) == _rows(found["dense"]), "skipped layers keep every row's key and value"


def _dropped(place: Place, found: Any) -> None:
    _planned(place, found)
    dense = _rows(found["dense"])
    # Layers with a window hold no more than that; the last of the others has lost rows.
    last = max(layer for layer, rows in enumerate(dense) if rows == max(dense))
    assert _rows(found["planned"])[last] < dense[last]
    assert found["planned"]["kv_bytes"] < found["dense"]["kv_bytes"]


def _rows(side: Any) -> list[int]:
    """Rows of the prompt in the cache of each layer."""
    return [length - side["new_tokens"] for length in side["kv_lengths"]]


def _plan(group: str, spec: str) -> Case:
    check = _skipped if group == "layers skipped" else _dropped
    # A small picture is the least that some processors make of one; it gets no smaller.
    picture = "wide" if group == "resized" else "square"
    return Case(f"plan {group}", group, _ask(picture, more=["--plan", spec]), check)


def _calibrated(place: Place, found: Any) -> None:
    scores = found["plan"]["calibration"]["scores"]["mean"]
    assert len(scores) == LAYERS and all(score >= 0 for score in scores)
    assert found["spec"].startswith("vskip(")


def _evaluated(place: Place, found: Any) -> None:
    assert {*found["dense"]["tasks"]} == ({"one", "two"} if place.pictured else {"one", "two", "none"})
    assert [plan["name"] for plan in found["plans"]] == [PLANS["layers skipped"]]


def _explained(place: Place, found: Any) -> None:
    assert found["answers"].keys() == {"dense", "planned"}
    assert all(Path(file).stat().st_size for file in found["pictures"])


def _analysed(place: Place, found: Any) -> None:
    assert len(found["attention"]["vig"]["mean"]) == LAYERS
    assert found["files"]


def _timed(place: Place, found: Any) -> None:
    assert found["plan"] == PLANS["layers skipped"] and found["prefill"]["flops_ratio"] < 1


def _priced(place: Place, found: Any) -> None:
    assert found


def _valid(place: Place, found: Any) -> None:
    assert found["valid"] and found["resolved"]


def _checked(place: Place, found: Any) -> dict[str, Any]:
    """A check that passed; of every plan what was found of it, for the conformance table."""
    assert found["passed"] and found["model"]["layers"] == LAYERS
    kept = ("group", "plan", "dtype", "status", "why")
    rows = [{key: row[key] for key in kept} | {"worst": _worst(row)} for row in found["rows"]]
    return {"checked": rows}


def _worst(row: Any) -> float | None:
    """How far the worst row of a plan was from the reference, over everything that was compared."""
    far = [one["distance"]["worst"] for one in row["outcomes"].values() if one["distance"] is not None]
    return max(far, default=None)


def _first_checked(place: Place, found: Any) -> None:
    assert found["passed"] and found["model"]["layers"] == LAYERS
    assert found["model"]["layers_checked"] == 2


def _trained(place: Place, found: Any) -> None:
    assert found["final"]["loss"] > 0 and Path(found["model"]).is_dir()


def _train(place: Place) -> list[object]:
    """Two steps of projector and decoder, on records with and without a picture."""
    config = place.work / "train.yaml"
    config.write_text(
        f"model: {{name: '{place.model}'}}\n"
        "stage: 2\n"
        f"data: [{{kind: conversations, file: '{place.scene.conversations}'}}]\n"
        "optimisation: {batch: 1, steps: 2, lr: 1.0e-3, max_length: 8192}\n"
        "save_every: 2\nlogging_every: 1\n"
        f"out: '{place.work / 'run'}'\n",
        encoding="utf-8",
    )
    return ["train", config]


def _prompt(picture: str, large: bool = False) -> Case:
    def words(place: Place) -> list[object]:
        return [place.checkpoint.short, place.model, place.scene.folder, picture]

    return Case(f"prompt {picture}", "prompt", words, None, program="rehearsal.prompts", large=large)


CASES = (
    _prompt("square"),
    _prompt("wide", large=True),
    _prompt("tall"),
    Case("a picture that stock refuses", "prompt", _ask("thread"), None, refused="1x4000"),
    Case("a package that is missing", "prompt", _ask("square"), None, lacking=True),
    Case("generate one picture", "generate", _ask("square"), _answered),
    Case("generate two pictures", "generate", _ask("square", "low"), _answered),
    Case("generate text alone", "generate", _ask(), _answered),
    Case(
        "generate a video",
        "generate",
        lambda p: [
            *("generate", p.model, "--video", p.scene.clip, "--frames", 2, "--question", QUESTION),
            *("--max-new-tokens", TOKENS, "--plan", PLANS["layers skipped"]),
        ],
        _answered,
        film=True,
    ),
    Case(
        "prompt of a video",
        "prompt",
        lambda p: [p.checkpoint.short, p.model, p.scene.folder],
        None,
        program="rehearsal.films",
        film=True,
    ),
    Case(
        "calibrate",
        "calibrate",
        lambda p: [
            *("calibrate", p.model, "--data", p.questions, "--budget", 2, "--samples", 2),
            *("--answer-tokens", 2, "--out", p.work / "plan.json"),
        ],
        _calibrated,
    ),
    Case(
        "plan validate",
        "plan validate",
        lambda p: ["plan", "validate", p.work / "plan.json", "--model", p.model],
        _valid,
        after=("calibrate",),
    ),
    Case(
        "eval",
        "eval",
        lambda p: [
            *("eval", p.model, "--data", p.questions, "--plan", PLANS["layers skipped"]),
            *("--batch", 2, "--max-new-tokens", TOKENS),
        ],
        _evaluated,
    ),
    Case(
        "explain",
        "explain",
        lambda p: [
            *("explain", p.scene.picture("square"), QUESTION, "--model", p.model),
            *("--image", p.scene.picture("low"), "--plan", PLANS["scored in the decoder"]),
            *("--max-new-tokens", TOKENS, "--output", p.work / "explain.html"),
        ],
        _explained,
    ),
    Case(
        "analyze",
        "analyze",
        lambda p: [
            *("analyze", p.model, "--data", p.questions, "--samples", 2, "--out", p.work / "analysis"),
        ],
        _analysed,
    ),
    Case(
        "bench",
        "bench",
        lambda p: [
            *("bench", p.model, "--plan", PLANS["layers skipped"], "--visual", 64, "--text", 8),
            *("--new-tokens", 2, "--repeats", 1),
        ],
        _timed,
    ),
    Case("cost", "cost", lambda p: ["cost", p.model, "--plan", PLANS["layers skipped"]], _priced),
    Case("train", "train", _train, _trained),
    Case(
        "eval what was trained",
        "train",
        lambda p: [
            *("eval", p.work / "run" / "model", "--data", p.questions, "--max-new-tokens", TOKENS),
            *("--plan", PLANS["layers skipped"], "--no-blind"),
        ],
        _evaluated,
        after=("train",),
    ),
    Case("README", "Python", lambda p: [p.model], None, program="rehearsal.readme"),
    *(_plan(group, spec) for group, spec in PLANS.items()),
    Case(
        "check", "check", lambda p: ["check", p.model, "--dtype", "float32"], _checked, large=True, once=True
    ),
    Case(
        "check the first layers",
        "check",
        lambda p: ["check", p.model, "--layers", 2, "--plan", "vskip(layers=1)"],
        _first_checked,
        large=True,
    ),
)
"""Every case, in the order they run: one that needs another's files comes after it."""
