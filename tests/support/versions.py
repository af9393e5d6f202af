"""Digests of the code that makes answers, beside its versions: what reminds of raising them.

PYTHONPATH=src:tests python -m support.versions     writes the file anew (make versions)
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import saccade
from saccade import engine, models
from saccade.calibration.api import VERSION as CALIBRATION
from saccade.families import FAMILIES
from saccade.families.registry import adapters
from saccade.methods import METHODS
from saccade.research.analysis.study import VERSION as ANALYSIS
from saccade.skip_vision.wrap import VERSION as WRAPPED
from saccade.system.listing import files_with, registered

FILE = Path(__file__).resolve().parents[1] / "versions.json"
SOURCE = Path(saccade.__file__).parent
REFRESH = "make versions (PYTHONPATH=src:tests python -m support.versions)"

ALGORITHMS = ("select", "cluster", "bipartite", "merge")
"""Files of the pure core that are part of the methods that import them; the others are part of the engine."""
CORE = ("layout", "rows", "route", "stages", "program", "precision", "predicted")
RUNS = (*(f"core/{name}" for name in CORE), "plans/plan")
"""Files beside ``engine/`` that it runs on."""
UNTOLD = ("support", "__init__", "registry")
"""Modules without behaviour: tables, lists of names."""
BOUNDARIES = ("base",)
"""What every method or family derives from: a change of it is one of the engine."""


def plain(node: Any) -> Any:
    """Code as nested lists, the same under every Python: no positions, docstrings or empty parts."""
    if isinstance(node, list):
        return [plain(item) for item in node]
    if not isinstance(node, ast.AST):
        return node if isinstance(node, str | int | bool | None) else repr(node)
    fields = []
    for name, value in ast.iter_fields(node):
        if name in ("ctx", "kind", "type_comment", "type_ignores"):
            continue
        if name == "body" and isinstance(value, list):
            # Docstrings, those of attributes too, are strings that nothing is done with.
            value = [item for item in value if not _is_text(item) and not _is_version(item)]
        if value is not None and value != []:
            fields.append([name, plain(value)])
    return [type(node).__name__, fields]


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _is_version(node: ast.AST) -> bool:
    """The number itself is no behaviour."""
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return any(isinstance(t, ast.Name) and t.id in ("version", "VERSION") for t in targets)


def digest(paths: Iterable[Path]) -> str:
    """Digest of the code of some files."""
    told = [
        [path.relative_to(SOURCE).as_posix(), plain(ast.parse(path.read_text("utf-8")))]
        for path in sorted(paths)
    ]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def reach(start: Path, rooms: tuple[str, ...]) -> set[Path]:
    """A file and all that it imports, directly or not, of these rooms of the package."""
    found, todo = set(), [start]
    while todo:
        path = todo.pop()
        if path in found:
            continue
        found.add(path)
        todo += [p for p in _imported(path) if _room(p) in rooms and p.stem not in (*UNTOLD, *BOUNDARIES)]
    return found


def _imported(path: Path) -> Iterator[Path]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("saccade"):
            continue
        for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
            place = SOURCE.joinpath(*str(name).split(".")[1:])
            if place.with_suffix(".py").is_file():
                yield place.with_suffix(".py")


def _room(path: Path) -> str:
    """The first folder or file under the package; of the pure core, the file."""
    parts = path.relative_to(SOURCE).parts
    return (parts[1] if parts[0] == "core" else parts[0]).removesuffix(".py")


def _folder(name: str) -> list[Path]:
    return [path for path in (SOURCE / name).glob("*.py") if path.stem not in UNTOLD]


def parts() -> dict[str, tuple[int, set[Path]]]:
    """Everything that has a version: its number, and the files whose behaviour it stands for."""
    of_methods = ("methods", *ALGORITHMS)
    bases = {SOURCE / "methods" / "base.py", SOURCE / "families" / "base.py"}
    runs = {SOURCE / f"{name}.py" for name in RUNS}
    found = {
        f"method {name}": (cls.version, reach(Path(inspect.getfile(cls)), of_methods))
        for name, cls in sorted(METHODS.items())
    }
    found |= {
        f"family {family.name}": (family.version, reach(Path(inspect.getfile(type(family))), ("families",)))
        for family in sorted(FAMILIES.values(), key=lambda family: family.name)
    }
    return found | {
        "engine": (engine.VERSION, {*_folder("engine"), *runs, *bases}),
        "models": (models.VERSION, {SOURCE / "models.py", SOURCE / "asking.py"}),
        "calibration": (CALIBRATION, set(_folder("calibration"))),
        "analysis": (
            ANALYSIS,
            set(_folder("research/analysis")) - {SOURCE / "research" / "analysis" / "figures.py"},
        ),
        "skip_vision model": (WRAPPED, set(_folder("skip_vision"))),
    }


def now() -> dict[str, dict[str, Any]]:
    """Version and digest of every part, as the code is."""
    return {name: {"version": number, "digest": digest(files)} for name, (number, files) in parts().items()}


def noted() -> dict[str, dict[str, Any]]:
    """The same as it was last written down, but for families that the installed release does not have."""
    folder = SOURCE / "families"
    told = [
        found for stem in files_with(folder, r"^@register$") for found in registered(folder / f"{stem}.py")
    ]
    known = {adapter.name for adapter in adapters().values()}
    later = {f"family {found['name']}" for found in told if found["name"] not in known}
    return {name: part for name, part in json.loads(FILE.read_text("utf-8")).items() if name not in later}


def reminders(then: dict[str, dict[str, Any]], code: dict[str, dict[str, Any]]) -> list[str]:
    """What is to be done, a line for each part that is not as it was written down."""
    lines = []
    for name in sorted({*then, *code}):
        was, now = then.get(name), code.get(name)
        if was == now:
            continue
        if was is None or now is None:
            lines.append(f"{name}: {'new' if was is None else 'gone'}; {REFRESH}")
        elif now["version"] < was["version"]:
            lines.append(f"{name}: version {now['version']} was {was['version']}; versions are only raised")
        elif now["version"] > was["version"]:
            lines.append(f"{name}: version {now['version']} is new; {REFRESH}")
        else:
            lines.append(
                f"{name}: its code has changed. If any answer can come out otherwise, raise its version "
                f"(now {now['version']}), so that answers that were kept are not served again; then {REFRESH}"
            )
    return lines


if __name__ == "__main__":
    for line in reminders(noted() if FILE.exists() else {}, now()):
        print(line)
    FILE.write_text(json.dumps(now(), indent=1) + "\n", "utf-8")
    print(f"wrote {FILE}")
