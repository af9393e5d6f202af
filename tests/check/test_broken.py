"""A check has teeth: an engine or an adapter that is broken in one place does not pass."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import pytest
import torch

import saccade.check
from saccade.core.select import top
from saccade.core.stages import Choice
from saccade.engine import attach, attention, forward, layers
from saccade.engine.cache import RaggedLayer
from saccade.engine.frame import Frame
from saccade.engine.steps import Moves
from saccade.families import find
from saccade.methods.fastv import FastV
from support.checks import loaded, prompts
from support.models import FACTORIES


def wrong_layer(monkeypatch, tiny):
    made = layers.AttentionStandIn.__init__

    def shifted(self, owner, family, number, *args):
        made(self, owner, family, (number + 1) % 4, *args)

    monkeypatch.setattr(layers.AttentionStandIn, "__init__", shifted)


def wrong_rows(monkeypatch, tiny):
    family = type(find(tiny.model))
    right = family.visual_mask
    monkeypatch.setattr(family, "visual_mask", lambda *args, **kwargs: right(*args, **kwargs).roll(1, 1))


def no_mask(monkeypatch, tiny):
    right = Frame.mask
    monkeypatch.setattr(Frame, "mask", lambda *args: torch.ones_like(right(*args)))


def no_causality(monkeypatch, tiny):
    right = Frame._call

    def open_(self, *args):
        call = right(self, *args)
        return replace(call, mask=None if call.mask is None else torch.ones_like(call.mask), causal=False)

    monkeypatch.setattr(Frame, "_call", open_)


def padding_is_seen(monkeypatch, tiny):
    build = Frame.build.__func__

    def blind(cls, route, num_layers, batch, new, past, mask, *args):
        whole = None if mask is None else torch.ones_like(mask)
        return build(cls, route, num_layers, batch, new, past, whole, *args)

    monkeypatch.setattr(Frame, "build", classmethod(blind))


def wrong_columns(monkeypatch, tiny):
    right = RaggedLayer.update

    def rolled(self, key_states, value_states, *args, **kwargs):
        return right(self, key_states, value_states.roll(1, 2), *args, **kwargs)

    monkeypatch.setattr(RaggedLayer, "update", rolled)


def nothing_is_released(monkeypatch, tiny):
    monkeypatch.setattr(forward, "release", lambda *args: None)


def ffn_runs(monkeypatch, tiny):
    def dense(self, rows, hidden, *args, **kwargs):
        return self.inner(hidden, *args, **kwargs)

    monkeypatch.setattr(layers.MlpStandIn, "_routed", dense)


def wrong_rotation(monkeypatch, tiny):
    def first(rows, rotary):
        return rotary if rows is None else tuple(part[:, : rows.count] for part in rotary)

    monkeypatch.setattr(attention, "take_rotary", first)


def nothing_closes_up(monkeypatch, tiny):
    monkeypatch.setattr("saccade.engine.decide.closed_up", still)


def still(visual_BN, left_BN):
    """Positions that should have closed up and did not."""
    none = torch.zeros_like(visual_BN).long()
    return Moves(none, none.sum(1, keepdim=True))


def something_stays(monkeypatch, tiny):
    right = attach.Attachment.remove

    def remove(self):
        right(self)
        self.parts.layers[0].mlp.forgotten = True

    monkeypatch.setattr(attach.Attachment, "remove", remove)


def lowest_scores(monkeypatch, tiny):
    def choose(self, stage, evidence):
        scores_BN = -evidence.weights_BHRN.mean(1)[:, 0]
        return Choice(top(scores_BN, evidence.alive_BN, evidence.image_BN, evidence.keep))

    monkeypatch.setattr(FastV, "choose", choose)


def one_row_more(monkeypatch, tiny):
    right = FastV.choose

    def choose(self, stage, evidence):
        kept_BN = right(self, stage, evidence).keep_BN.clone()
        for b in range(len(kept_BN)):
            spare = (evidence.alive_BN[b] & ~kept_BN[b]).nonzero()
            kept_BN[b, spare[:1, 0]] = True
        counts = tuple(tuple(k + 1 for k in sample) for sample in evidence.keep)
        return Choice(kept_BN, counts)

    monkeypatch.setattr(FastV, "choose", choose)


FAULTS = [
    (wrong_layer, "vskip(layers=1-2)", "outputs"),
    (wrong_layer, "shortv(layers=0)", "outputs"),
    (wrong_rows, "ffn_skip(layers=1-2)", "outputs"),
    (wrong_rows, "fastervlm(keep=0.5)", "outputs"),
    (no_mask, "vskip(layers=1-2)", "batch"),
    (no_mask, "vtw(layer=2)", "cache"),
    (no_causality, "vskip(layers=1-2)", "outputs"),
    (padding_is_seen, "vskip(layers=1-2)", "batch"),
    (wrong_columns, "vtw(layer=2)", "cache"),
    (wrong_columns, "random(keep=0.5)", "cache"),
    (nothing_is_released, "skip_vision(retained=0.5,cache=small)", "cache"),
    (ffn_runs, "shortv(layers=1-2)", "outputs"),
    (ffn_runs, "skip_vision(retained=0.5)", "outputs"),
    (wrong_rotation, "fastv(layer=2,keep=0.5)", "outputs"),
    (wrong_rotation, "vskip(layers=1-2)", "outputs"),
    (nothing_closes_up, "divprune(keep=0.5,position_policy=compact)", "outputs"),
    (something_stays, "vskip(layers=1-2)", "identical"),
    (lowest_scores, "fastv(layer=2,keep=0.5)", "choice"),
    (one_row_more, "fastv(layer=2,keep=0.5)", "choice"),
]


@lru_cache
def sound(plan):
    """Whether the plan passes where nothing is broken."""
    tiny = FACTORIES["llava-llama"](layers=4)
    return saccade.check.run(loaded(tiny), plan, prompts=prompts(tiny)).passed


@pytest.mark.parametrize(("fault", "plan", "probe"), FAULTS)
def test_a_fault_is_found(monkeypatch, fault, plan, probe):
    assert sound(plan)
    tiny = FACTORIES["llava-llama"](layers=4)
    fault(monkeypatch, tiny)
    report = saccade.check.run(loaded(tiny), plan, prompts=prompts(tiny))
    assert not report.passed
    assert report.rows[-1].outcomes[probe].status == "failed", report.rows[-1].outcomes


@pytest.mark.parametrize("name", ["llava_next-mistral", "qwen3_vl", "internvl-qwen2", "llava_onevision"])
def test_an_adapter_that_is_off_by_one_row_is_found_in_every_family(monkeypatch, name):
    tiny = FACTORIES[name](layers=3)
    wrong_rows(monkeypatch, tiny)
    report = saccade.check.run(loaded(tiny), "shortv(layers=1-2)", prompts=prompts(tiny))
    stock, plan = report.rows
    assert stock.outcomes["choice"].status == "failed" and "2 differ" in stock.why
    assert plan.outcomes["outputs"].status == "failed"


def test_a_fault_in_the_served_number_format_alone_is_found(monkeypatch):
    tiny = FACTORIES["llava-llama"](layers=4, dtype=torch.bfloat16)
    right = attention.routed_attention

    def coarse(*args):
        out = right(*args)
        return out if out.dtype == torch.float32 else (out * 4).round() / 4

    monkeypatch.setattr(layers, "routed_attention", coarse)
    report = saccade.check.run(loaded(tiny), "vskip(layers=1-2)", prompts=prompts(tiny))
    assert [row.status for row in report.rows] == ["passed", "passed", "passed", "failed"]
