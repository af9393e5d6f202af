"""The pages that people read: which there are, their code blocks, and their prose."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FENCED = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
GENERATED = re.compile(r"<!-- generated:[\w-]+ -->.*?<!-- /generated -->", re.DOTALL)


def pages() -> list[str]:
    """Paths of all pages that people wrote, within the repository."""
    own = ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "CHANGELOG.md"]
    own += ["src/saccade/gaze/README.md", "src/saccade/glance/README.md"]
    return own + [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))]


def read(page: str) -> str:
    """The text of a page."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """Code blocks of a language."""
    return [body for _, kind, body in FENCED.findall(text) if kind == language]


def languages(text: str) -> set[str]:
    """Languages of a page's code blocks; empty for a block that names none."""
    return {kind for _, kind, _ in FENCED.findall(text)}


def lines(block: str) -> list[str]:
    """Commands of a shell block, with continued lines joined and comments left out."""
    whole = block.replace("\\\n", " ").splitlines()
    return [bare for line in whole if (bare := line.split("  #")[0].strip()) and not bare.startswith("#")]


def commands(text: str) -> list[str]:
    """Commands of all shell blocks of a page."""
    return [line for block in blocks(text, "sh") for line in lines(block)]


def prose_words(text: str) -> list[str]:
    """Words that a reader reads: without code blocks, generated parts and the targets of links."""
    for hidden in (FENCED, GENERATED):
        text = hidden.sub("", text)
    return re.findall(r"[^\W\d_][\w'-]*", re.sub(r"\]\([^)\s]*\)", "]", text))


def steps(text: str) -> list[tuple[str, str]]:
    """What a page runs, in its order: ``sh`` and a command, or ``python`` and a script."""
    found: list[tuple[str, str]] = []
    for _, kind, body in FENCED.findall(text):
        if kind == "sh":
            found += [("sh", line) for line in lines(body)]
        elif kind == "python":
            found.append(("python", body))
    return found
