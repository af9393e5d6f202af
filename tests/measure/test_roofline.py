"""The roofline is the arithmetic where rows are many, and the weights' traffic where they are few."""

from __future__ import annotations

import pytest
import torch

from saccade.core.cards import Device
from saccade.core.pricing import cost
from saccade.core.route import Route
from saccade.core.shapes import SHAPES
from saccade.measure.bench import batched
from saccade.measure.roofline import layer_seconds, probe, roofline
from saccade.plans.plan import Plan

SHAPE = SHAPES["llava-1.5-7b"]
WEIGHTS = 2 * (4 * 4096 * 4096 + 3 * 4096 * 11008)


def ratio(plan: str, batch: int, device: Device) -> tuple[float, float]:
    route = Plan.of(plan).route(batched(576, 64, batch), SHAPE.layers)
    share = cost(SHAPE, route).executed_ratio
    return roofline(SHAPE, route, 2, device, share).time_ratio, share


def test_endless_bandwidth_leaves_the_flops():
    found, share = ratio("shortv(layers=0-31)", 1, Device(1e15, 1e30))
    assert found == pytest.approx(share)


def test_endless_arithmetic_leaves_the_traffic_of_the_weights():
    route = Route.dense(batched(0, 1, 1), 1)
    found = layer_seconds(SHAPE.each_layer[0], route.layers[0], route.layout, 2, Device(1e30, 1e12))
    assert found == pytest.approx(WEIGHTS / 1e12, rel=0.01)


def test_few_rows_on_a_fast_device_cannot_capture_all_and_a_batch_can():
    gpu = Device(700e12, 3e12)
    alone, share = ratio("shortv(layers=0-31)", 1, gpu)
    together, same = ratio("shortv(layers=0-31)", 16, gpu)
    assert share == pytest.approx(same)
    assert alone > together >= share * 0.999
    least = roofline(SHAPE, Route.dense(batched(576, 64, 1), 32), 2, gpu, 1.0)
    assert least.time_ratio == pytest.approx(1) and least.captured is None


def test_rows_that_are_skipped_read_no_weights():
    route = Plan.of("vtw(layer=0)").route(batched(576, 64, 1), 32)
    none = layer_seconds(SHAPE.each_layer[0], route.layers[0], route.layout, 2, Device(1e15, 1e12))
    text = Route.dense(batched(0, 64, 1), 1)
    assert none == layer_seconds(SHAPE.each_layer[0], text.layers[0], text.layout, 2, Device(1e15, 1e12))


def test_a_probe_gives_rates_of_this_machine():
    found = probe(torch.device("cpu"), torch.float32, repeats=1)
    assert 1e8 < found.flops_per_s < 1e14
    assert 1e7 < found.bytes_per_s < 1e13
