"""What runs in a routed forward: kernels, masks, index work and synchronisation, and whose attention.

Shape letters: Q query rows, K keys, N rows.
"""

from __future__ import annotations

import contextlib

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from engine.reference import masked
from saccade.core.layout import Layout
from saccade.core.rows import RowIndex
from saccade.engine import Frame, apply
from support.models import SQUARE, TALL, tiny_llava, tiny_qwen

RAGGED = [[3, SQUARE, 5], [6], [2, SQUARE, 1, SQUARE, 2]]
SPECS = ("vskip(layers=1-3)", "shortv(layers=0,2)", "vtw(layer=1)")
SYNCS = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique_dim"}


class Watch(TorchDispatchMode):
    """Notes operators that a device would have to be waited for, and the boolean tensors that are made."""

    def __init__(self) -> None:
        super().__init__()
        self.syncs: list[str] = []
        self.masks: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func._schema.name.removeprefix("aten::") in SYNCS:
            self.syncs.append(func._schema.name)
        if isinstance(out, torch.Tensor) and out.dtype == torch.bool:
            self.masks.append(tuple(out.shape))
        return out


@contextlib.contextmanager
def watched_layers(model):
    """Watches the decoder layers alone."""
    watch, entered = Watch(), []

    def enter(module, args):
        entered.append(watch.__enter__())

    def leave(module, args, output):
        watch.__exit__(None, None, None)

    hooks = []
    for layer in model.model.language_model.layers:
        hooks += [layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave)]
    yield watch
    for hook in hooks:
        hook.remove()
    assert entered


@pytest.mark.parametrize("spec", (*SPECS, "ffn_skip(layers=0-3)", "vskip(layers=0-3,reading=mask)"))
@pytest.mark.parametrize("samples", [[RAGGED[0]], RAGGED], ids=["single", "ragged"])
@pytest.mark.parametrize("family", ["llava", "qwen"])
def test_no_layer_waits_for_the_device(request, family, samples, spec):
    tiny = request.getfixturevalue(family)
    inputs = tiny.batch(samples)
    with apply(tiny.model, spec), watched_layers(tiny.model) as watch:
        tiny.model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert watch.syncs == []


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("samples", [[RAGGED[0]], RAGGED], ids=["single", "ragged"])
def test_index_work_is_done_once_a_forward_not_once_a_layer(monkeypatch, samples, spec):
    counts: list[str] = []

    def counted(name, inner):
        return lambda *args, **kwargs: counts.append(name) or inner(*args, **kwargs)

    for owner in (RowIndex, Layout):
        inner = counted(owner.__name__, owner.from_mask.__func__)
        monkeypatch.setattr(owner, "from_mask", classmethod(inner))
    for name in ("mask", "_calls", "_append"):
        monkeypatch.setattr(Frame, name, counted(name, getattr(Frame, name)))
    work = {}
    for layers in (4, 8):
        counts.clear()
        tiny = tiny_llava(layers=layers)
        deep = spec if layers == 4 else spec.replace("1-3", "1-7").replace("0,2", "0,2-7")
        with apply(tiny.model, deep):
            tiny.model.generate(**tiny.batch(samples), max_new_tokens=3, do_sample=False)
        work[layers] = sorted(counts)
    assert work[4] == work[8] and "RowIndex" in work[4]


@contextlib.contextmanager
def watched_attention(monkeypatch):
    """Notes (queries, keys, causal, mask shape) of each attention call of the decoder."""
    calls = []
    inner = F.scaled_dot_product_attention

    def note(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, **kwargs):
        if q.shape[-1] == 16:
            shape = None if attn_mask is None else tuple(attn_mask.shape)
            calls.append((q.shape[2], k.shape[2], is_causal, shape))
        return inner(q, k, v, attn_mask=attn_mask, dropout_p=dropout_p, is_causal=is_causal, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", note)
    yield calls
    monkeypatch.undo()


def test_vskip_runs_causal_kernels_on_the_prefix_and_one_small_mask_on_the_rest(llava, monkeypatch):
    model = llava.model
    sample = llava.batch([[3, SQUARE, 5]])
    for layer in model.model.language_model.layers:
        assert layer.self_attn.head_dim == 16
    vision = 32 // 2
    assert model.config.vision_config.hidden_size // model.config.vision_config.num_attention_heads == vision
    with torch.no_grad(), apply(model, "vskip(layers=0-3)") as attachment:
        embeds = torch.randn(1, 24, 64)
        with watched_attention(monkeypatch) as calls, attachment.with_layout(Layout.single(16, 8, 3)):
            model.model.language_model(inputs_embeds=embeds)
    assert calls == [(3, 3, True, None), (5, 24, False, (5, 24))] * 4
    assert sample["input_ids"].shape[1] == 24


def test_vtw_runs_one_causal_square_over_the_text(llava, monkeypatch):
    with torch.no_grad(), apply(llava.model, "vtw(layer=0)") as attachment:
        embeds = torch.randn(1, 24, 64)
        with watched_attention(monkeypatch) as calls, attachment.with_layout(Layout.single(16, 8, 3)):
            llava.model.model.language_model(inputs_embeds=embeds)
    assert calls == [(8, 8, True, None)] * 4


@pytest.mark.parametrize("spec", (*SPECS, "ffn_skip(layers=0-3)", "vskip(layers=0-3,reading=mask)"))
def test_no_mask_is_larger_than_text_times_rows(llava, spec):
    inputs = llava.batch([[3, SQUARE, 5]])
    with torch.no_grad(), apply(llava.model, spec), watched_layers(llava.model) as watch:
        llava.model(**inputs)
    assert max((torch.Size(shape).numel() for shape in watch.masks), default=0) <= 8 * 24


def two_dimensional(batch_size, q_length, kv_length, q_offset=0, kv_offset=0, attention_mask=None, **kwargs):
    """A mask as flash attention wants it: the padding itself, or nothing."""
    if attention_mask is None or bool(attention_mask.all()):
        return None
    return attention_mask[:, -kv_length:]


@pytest.fixture
def flash():
    """An attention implementation with flash attention's 2-D masks; yields the layers that used it."""
    used = []

    def attend(module, query, key, value, attention_mask, **kwargs):
        if attention_mask is not None:
            q, k = query.shape[2], key.shape[2]
            assert attention_mask.shape == (query.shape[0], k)
            causal, itself = torch.ones(q, k, dtype=torch.bool).tril(k - q), torch.eye(k).bool()[k - q :]
            attention_mask = causal & attention_mask[:, None, None, :].bool() | itself
        used.append(getattr(module, "layer_idx", None))
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)

    AttentionInterface.register("flash_like", attend)
    AttentionMaskInterface.register("flash_like", two_dimensional)
    yield used
    for interface in (AttentionInterface, AttentionMaskInterface):
        interface._global_mapping.pop("flash_like")


@pytest.mark.parametrize("make", [tiny_llava, tiny_qwen])
@pytest.mark.parametrize("spec", SPECS)
def test_dense_layers_keep_the_models_attention_and_padding_is_right(flash, make, spec):
    tiny = make()
    inputs = tiny.batch(RAGGED)
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        with masked(tiny.model, spec, inputs):
            want = tiny.model(**inputs, use_cache=False).logits[real]
        with apply(tiny.model, spec):
            tokens = tiny.model.generate(**inputs, max_new_tokens=3, do_sample=False)
        tiny.model.set_attn_implementation({"text_config": "flash_like"})
        with apply(tiny.model, spec) as attachment:
            flash.clear()
            got = tiny.model(**inputs).logits[real]
            route = attachment.plan.route(Layout.from_mask(tiny.visual(inputs), inputs["attention_mask"]), 4)
            dense = [n for n, layer in enumerate(route.layers) if layer.is_dense]
            assert flash == dense
            assert torch.equal(tiny.model.generate(**inputs, max_new_tokens=3, do_sample=False), tokens)
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("make", [tiny_llava, tiny_qwen])
@pytest.mark.parametrize("spec", SPECS)
def test_eager_models_are_served(make, spec):
    sdpa, eager = make(), make(attn="eager")
    inputs = sdpa.batch([*RAGGED, [1, TALL, 2]])
    go = dict(max_new_tokens=3, do_sample=False)
    with apply(sdpa.model, spec), apply(eager.model, spec), torch.no_grad():
        real = inputs["attention_mask"].bool()
        a, b = eager.model(**inputs).logits[real], sdpa.model(**inputs).logits[real]
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)
        assert torch.equal(eager.model.generate(**inputs, **go), sdpa.model.generate(**inputs, **go))


@pytest.mark.parametrize("spec", (*SPECS, "vskip(layers=1-3,reading=mask)+vtw(layer=2)"))
def test_a_frame_follows_its_layers_to_another_device(llava, spec):
    """The same program, with distinct tensors and the same sharing, moved once."""
    inputs = llava.batch(RAGGED)
    frames = []
    hook = llava.model.model.language_model.layers[0].register_forward_pre_hook(
        lambda module, args, kwargs: frames.append(kwargs["saccade_frame"]), with_kwargs=True
    )
    with torch.no_grad(), apply(llava.model, spec):
        want = llava.model(**inputs).logits
        hook.remove()
        frame = frames[0]
        assert frame.on(torch.device("cpu")) is frame
        there = frame.on(torch.device("meta"))
        assert frame.on(torch.device("meta")) is there and there.device.type == "meta"
        # Made for another device, the first frame has to be moved by every layer here.
        foreign = Frame(frame.steps, frame.batch, frame.new, frame.past, frame.real_BT, torch.device("meta"))
        foreign.visual_BN = frame.visual_BN
        hook = llava.model.model.language_model.register_forward_pre_hook(
            lambda module, args, kwargs: (args, kwargs | {"saccade_frame": foreign}), with_kwargs=True
        )
        got = llava.model(**inputs).logits
        hook.remove()
    assert torch.equal(got, want)
    indices = [
        s for step in there.steps if step for s in (step.alive, step.query, step.ffn, step.narrow) if s
    ]
    assert all(rows.index_BR.device.type == rows.flat_T.device.type == "meta" for rows in indices)
    pattern = [[id(a) == id(b) for a in frame.steps] for b in frame.steps]
    assert [[id(a) == id(b) for a in there.steps] for b in there.steps] == pattern
    assert [s is None for s in there.steps] == [s is None for s in frame.steps]
