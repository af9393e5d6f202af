"""The documentation site's generated parts: method pages, commands, findings, tables, values, includes."""
