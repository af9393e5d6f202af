"""What reaches the terminal: nothing that moves its cursor but what is ours, and warnings of one line."""

from __future__ import annotations

import sys
import warnings

import pytest
from rich.table import Table
from rich.text import Text

from saccade.cli import common
from saccade.cli.terminal import plain_warnings

EVIL = "red\x1b[31m \x1b]0;title\x07 \x9b2J \u202eleft \x00"


@pytest.fixture(params=[False, True], ids=["piped", "terminal"])
def terminal(request, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: request.param, raising=False)


def test_text_of_others_comes_out_written(terminal, capsys):
    out = common.Output(None)
    out.line(f"{EVIL}\nsecond line")
    table = Table("answer")
    table.add_row(Text(EVIL))
    table.add_row(EVIL)
    table.add_row(f"[/b][bold]{EVIL}[/bold] :smile:")
    out.table(table)
    found = capsys.readouterr().out
    assert found.count(r"\x1b[31m") == 4 and r"\u202eleft" in found and "\nsecond line" in found
    assert "[/b][bold]red" in found and "[/bold] :smile:" in found
    for raw in ("\x1b[31m", "\x1b]0", "\x9b", "\x07", "\u202e", "\x00"):
        assert raw not in found


def test_names_in_progress_bars_come_out_written(terminal, capsys):
    with common.progress() as bar:
        bar.advance(bar.add_task(f"[bold]{EVIL}", total=1))
    found = capsys.readouterr().err
    assert r"[bold]red\x1b[31m" in found and "\x1b[31m" not in found and "\x1b]0" not in found


def test_warnings_are_one_line_without_a_path(capsys):
    before = warnings.showwarning
    with plain_warnings("saccade", 1000), warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("two\nlines \x1b[31m", UserWarning, stacklevel=1)
    assert capsys.readouterr().err == "saccade: warning: two lines \\x1b[31m\n"
    assert warnings.showwarning is before
