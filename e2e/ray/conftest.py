"""A cluster for every test."""

from __future__ import annotations

import pytest

from support.clusters import raylets


@pytest.fixture
def cluster():
    """Three raylets, each a machine to Ray."""
    with raylets() as made:
        yield made
