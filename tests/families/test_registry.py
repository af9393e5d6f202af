"""A model type has one adapter, whether it was met before or not."""

from __future__ import annotations

import pytest

from saccade.families import FAMILIES, Family, names, register
from saccade.families.registry import Registry


class Other(FAMILIES["llava"].__class__):  # type: ignore[misc, name-defined]
    name = "Other"
    model_types = ("llava",)


def test_a_taken_model_type_is_refused_also_before_its_adapter_is_imported():
    with pytest.raises(ValueError, match=r"model type 'llava' is taken by LLaVA-1\.5"):
        register(Other)
    with pytest.raises(ValueError, match=r"model type 'llava' is taken by LLaVA-1\.5"):
        Registry().add("llava", Other())


def test_a_family_of_anothers_own_is_found_beside_those_here():
    known = Registry()
    known.add("other", Other())
    assert known["other"].name == "Other" and "other" in known and "nosuch" not in known
    assert set(known) == {*FAMILIES, "other"} and len(known) == len(FAMILIES) + 1
    with pytest.raises(KeyError):
        known["nosuch"]


def test_names_are_those_of_the_adapters():
    assert names() == sorted({family.name for family in FAMILIES.values()})
    assert all(isinstance(family, Family) for family in FAMILIES.values())
