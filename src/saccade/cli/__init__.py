"""The ``saccade`` command; heavy imports wait inside the commands, so that ``--help`` is quick."""

from saccade.cli.app import main

__all__ = ["main"]
