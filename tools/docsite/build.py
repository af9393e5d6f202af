"""The site as a whole: which pages and files are made, and what stands for the marks within pages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from docsite import commands, findings, includes, methods
from docsite.tables import BLOCK, KNOWN
from docsite.values import filled
from saccade.methods import METHODS
from saccade.system.files import write_bytes, write_text

MARK = re.compile(r"^<!-- (table|include|figure|findings)(?:: (\S+))? -->$", re.MULTILINE)
"""A line that something generated stands for."""
ROOT_PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "src/saccade/gaze/README.md": "gaze.md",
    "src/saccade/glance/README.md": "glance.md",
}
"""Pages of the repository that the site has, and where."""


@dataclass(frozen=True)
class Site:
    """What the site is made of.

    Attributes:
        root: Folder of the repository.
    """

    root: Path

    @property
    def results(self) -> Path:
        """Folder of result files."""
        return self.root / "benchmarks" / "results"

    @cached_property
    def places(self) -> dict[str, str]:
        """Where the site has files of the repository."""
        files = {f"benchmarks/results/{path.name}": f"results/{path.name}" for path in self.assets.values()}
        return ROOT_PAGES | files | {"benchmarks/results": "measure.md"}

    @cached_property
    def assets(self) -> dict[str, Path]:
        """Result files, by their path in the site."""
        return {f"results/{path.name}": path for path in sorted(self.results.glob("*.json"))}

    def pages(self) -> dict[str, str]:
        """Markdown of the pages that are generated as a whole, by their path in the site."""
        made = {f"methods/{name}.md": methods.page(name, self.results) for name in METHODS}
        made["commands.md"] = commands.page()
        for source, place in ROOT_PAGES.items():
            if source != "README.md":
                text = (self.root / source).read_text(encoding="utf-8")
                made[place] = includes.relinked(text, place, self.places)
        return made

    @cached_property
    def drawn(self) -> findings.Drawn:
        """Pictures of the studies."""
        return findings.drawn(self.results)

    def pictures(self) -> dict[str, bytes]:
        """Pictures by their path in the site."""
        return {
            findings.place(study, model, label): picture
            for (study, model), pictures in self.drawn.items()
            for label, picture in pictures.items()
        }

    def written(self) -> dict[str, str]:
        """Markdown of the pages that people write, filled in, by their path in the site."""
        folder = self.root / "docs"
        pages = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.md"))}
        return {place: self.fill(path.read_text(encoding="utf-8"), place) for place, path in pages.items()}

    def settings(self) -> str:
        """The generator's settings: those of the repository, with the methods in the navigation."""
        text = (self.root / "mkdocs.yml").read_text(encoding="utf-8")
        first = "      - All methods: methods/index.md\n"
        if first not in text:
            raise ValueError("mkdocs.yml does not list methods/index.md as 'All methods'")
        listed = sorted(METHODS.items(), key=lambda item: item[1].title.lower())
        return text.replace(first, first + "".join(f"      - {c.title}: methods/{n}.md\n" for n, c in listed))

    def write(self, folder: Path) -> int:
        """Writes everything that the generator needs into a folder: ``mkdocs.yml`` and ``docs``.

        Returns:
            How many pages there are.
        """
        pages = {**self.written(), **self.pages()}
        for place, text in pages.items():
            write_text(folder / "docs" / place, text)
        files = {**self.pictures(), **{place: path.read_bytes() for place, path in self.assets.items()}}
        files["site.css"] = (self.root / "docs" / "site.css").read_bytes()
        for place, data in files.items():
            write_bytes(folder / "docs" / place, data)
        write_text(folder / "mkdocs.yml", self.settings())
        return len(pages)

    def fill(self, text: str, page: str) -> str:
        """A page with everything generated in its place.

        Args:
            text: Its Markdown.
            page: Its path in the site.

        Raises:
            ValueError: If a mark names something that is not there.
        """
        try:
            text = BLOCK.sub(lambda found: f"<!-- table: {found[2]} -->", text)
            text = MARK.sub(lambda found: self._made(found[1], found[2] or "", page), text)
            return filled(text, self.results)
        except ValueError as error:
            raise ValueError(f"{page}: {error}") from None

    def _made(self, what: str, name: str, page: str) -> str:
        if what == "table":
            if name not in KNOWN:
                raise ValueError(f"no generated table {name!r}; known: {', '.join(KNOWN)}")
            return includes.relinked(KNOWN[name](self.results), page, self.places)
        if what == "include":
            file, _, heading = name.partition("#")
            source = (self.root / file).read_text(encoding="utf-8")
            return includes.relinked(
                includes.section(source, heading) if heading else source, page, self.places
            )
        if what == "figure":
            way = "../" * page.count("/")
            return f"![{name}]({way}{name}.png)"
        return findings.page("", self.results, self.root / "docs" / "published.toml", self.drawn)
