"""A plan for another shape is refused, one for other weights warned of once; like is compared with like."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace

import pytest
import torch

from saccade.engine import apply, check_made_for
from saccade.families import find
from saccade.opening.digest import SPREAD, differ, weights_digest
from saccade.plans.plan import Plan
from support.models import FACTORIES, tiny_llava


def made_for(model, dtype="float32", **more) -> Plan:
    """A plan as a calibration on this model leaves it."""
    facts = {"weights_hash": weights_digest(model), "dtype": dtype}
    return Plan(Plan.of("shortv(layers=1)").methods, find(model).identity(model), facts | more)


@pytest.fixture
def other():
    """A model of the same shape with other weights."""
    return tiny_llava(seed=7)


def test_the_same_weights_pass_without_a_word(other):
    plan = made_for(other.model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        apply(other.model, plan, strict=True).remove()


@pytest.mark.parametrize("name", sorted(FACTORIES))
def test_other_weights_are_warned_of_once_with_both_digests(name):
    first, second = FACTORIES[name](seed=1), FACTORIES[name](seed=2)
    plan = made_for(first.model)
    with pytest.warns(UserWarning, match="other weights") as caught:
        for _ in range(3):
            apply(second.model, plan).remove()
    assert len(caught) == 1
    line = str(caught[0].message)
    assert weights_digest(first.model) in line and weights_digest(second.model) in line and "\n" not in line
    with pytest.raises(ValueError, match="other weights"):
        apply(second.model, plan, strict=True)


def test_force_takes_them_silently_and_not_with_strict(llava, other):
    plan = made_for(other.model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        apply(llava.model, plan, force=True).remove()
    with pytest.raises(ValueError, match="one of them"):
        apply(llava.model, plan, force=True, strict=True)


def test_one_changed_weight_that_is_looked_at_changes_the_digest_and_the_memory_of_it(other):
    plan = made_for(other.model)
    check_made_for(other.model, plan, strict=True)
    weight = find(other.model).parts(other.model).layers[2].mlp.up_proj.weight
    with torch.no_grad():
        weight.view(-1)[:: max(1, weight.numel() // SPREAD)][:1] += 1
    with pytest.raises(ValueError, match="other weights"):
        check_made_for(other.model, plan, strict=True)


def test_the_digest_is_that_of_earlier_versions(other):
    """Slowly and by itself: what plan files and stores were written with."""
    import hashlib

    digest = hashlib.sha256()
    for name, tensor in sorted(other.model.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        spread = flat[:: max(1, flat.numel() // 64)][:64].float().cpu().numpy()
        digest.update(f"{name}{tuple(tensor.shape)}".encode() + spread.tobytes())
    assert weights_digest(other.model) == digest.hexdigest()[:16]


def test_number_formats_are_compared_like_with_like(other):
    single = other.model
    half = copy.deepcopy(single).to(torch.bfloat16)
    of_half, of_single = made_for(half, "bfloat16"), made_for(single)
    # Rounded here as they were there: the same weights.
    check_made_for(single, of_half, strict=True)
    with pytest.raises(ValueError, match="other weights"):
        check_made_for(tiny_llava(seed=9).model, of_half, strict=True)
    # What was rounded away cannot be compared: no warning, and strict says why.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_made_for(half, of_single)
    with pytest.raises(ValueError, match=r"cannot be told.*float32, and are bfloat16 here"):
        check_made_for(half, of_single, strict=True)
    # A file is from elsewhere, so it is said of that.
    with pytest.warns(UserWarning, match=r"cannot be told.*float32, and are bfloat16 here"):
        check_made_for(half, replace(of_single, file="plan.json"))


def test_nothing_is_said_where_nothing_is_known(llava, other):
    plan = made_for(other.model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for known in ({}, {"seed": 1}, {"weights_hash": plan.calibration["weights_hash"]}):
            check_made_for(llava.model, Plan(plan.methods, plan.model, known))
        check_made_for(llava.model.model, plan)  # a bare core
    with pytest.raises(LookupError, match="not in memory"):
        differ(copy.deepcopy(llava.model).to("meta"), plan.calibration)
    check_made_for(llava.model, Plan.of("shortv(layers=1)"), strict=True)  # written by hand: for any weights


@pytest.mark.parametrize("calibration", [{}, {"seed": 1}, {"weights_hash": None}])
def test_a_plan_file_that_notes_no_weights_says_so_once(calibration, llava, other, tmp_path):
    path = Plan(Plan.of("shortv(layers=1)").methods, {}, calibration).save(tmp_path / "plan.json")
    with pytest.warns(UserWarning, match=r"plan\.json does not say which weights") as caught:
        for _ in range(3):
            apply(other.model, path).remove()
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    for plan in (path, Plan.load(path), Plan.load(path).resolve(4)):
        with pytest.raises(ValueError, match=r"^strict: .*plan\.json does not say which weights"):
            apply(llava.model, plan, strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        apply(llava.model, path, force=True).remove()
        apply(llava.model, Plan.load(path).for_any(), strict=True).remove()


def test_adapters_lie_over_the_weights(other):
    from peft import LoraConfig, get_peft_model

    plan = made_for(other.model)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        adapted = get_peft_model(other.model, LoraConfig(target_modules=["q_proj"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_made_for(adapted, plan)
    with pytest.raises(ValueError, match="adapters"):
        check_made_for(adapted, plan, strict=True)


def test_a_digest_made_through_a_wrapper_is_known(other):
    wrapped = torch.nn.parallel.DataParallel(other.model)
    check_made_for(other.model, made_for(other.model), strict=True)
    assert differ(wrapped, {"weights_hash": weights_digest(wrapped), "dtype": "float32"}) is None


def test_the_shape_comes_first(qwen, other):
    plan = made_for(other.model)
    with pytest.raises(ValueError, match=r"another model \(.*model_type: llava in the plan, qwen2_5_vl here"):
        check_made_for(qwen.model, plan)
    check_made_for(qwen.model, plan, force=True)
