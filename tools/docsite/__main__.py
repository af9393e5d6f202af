"""``python -m docsite FOLDER``: the documentation site, ready for its generator."""

from __future__ import annotations

import sys
from pathlib import Path

from docsite.build import Site

ROOT = Path(__file__).resolve().parents[2]


def main(words: list[str]) -> int:
    """Writes the sources.

    Returns:
        0; 2 for bad input.
    """
    if len(words) != 1:
        print("usage: python -m docsite FOLDER", file=sys.stderr)
        return 2
    if not (ROOT / "mkdocs.yml").is_file():
        print(f"{ROOT} is no clone of the repository: there is no mkdocs.yml", file=sys.stderr)
        return 2
    folder = Path(words[0])
    try:
        count = Site(ROOT).write(folder)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{count} pages in {folder}; next: zensical build --strict -f {folder / 'mkdocs.yml'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
