"""Glance: a miniature vision-language model that ships with the package, and its suite of tasks."""
