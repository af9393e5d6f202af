"""The documentation site's generated parts: method pages, commands, findings, tables, values, includes."""

from saccade.report.site.build import Site

__all__ = ["Site"]
