"""The documentation site's generated parts: method pages, commands, findings, tables, values, includes."""

from docsite.build import Site

__all__ = ["Site"]
