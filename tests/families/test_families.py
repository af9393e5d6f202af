"""Adapters know the shapes, rows and attention of stock models, and say so where they do not."""

from __future__ import annotations

import json

import pytest
import torch
import transformers as T
from torch import nn

import saccade
from matrix.cases import TOLERANCE, model
from saccade.core.shapes import SHAPES, ShortConv
from saccade.families import FAMILIES, find, unwrap
from saccade.measure.target import FAMILY_OF
from support.models import FACTORIES, FFN, HEADS, HIDDEN, IMAGE, SQUARE, VOCAB, WIDE, decoder_of, tiny_llava
from support.recurrent import last_norm
from support.reference import gap, recompute
from support.sight import sees_BNN, told_kinds


@pytest.mark.parametrize("what", [T.LlamaConfig(), T.CLIPVisionConfig(), T.Blip2Config()])
def test_an_unknown_family_says_so(what):
    with pytest.raises(ValueError, match=r"supported: .*llava.*one file"):
        find(what)
    with pytest.raises(ValueError, match="Linear is no model of transformers"):
        find(nn.Linear(2, 2))


def test_apply_refuses_an_unknown_model():
    config = T.LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, vocab_size=8
    )
    with pytest.raises(ValueError, match="llama"):
        saccade.apply(T.LlamaForCausalLM(config), "vskip(layers=0)")


@pytest.mark.parametrize("name", FACTORIES)
def test_shape(name):
    tiny = model(name)
    shape = find(tiny.model).shape(tiny.model.config)
    kv = HEADS if tiny.model.config.get_text_config().model_type == "llama" else 2
    assert (shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.ffn, shape.vocab) == (
        4,
        HIDDEN,
        HEADS,
        kv,
        FFN,
        VOCAB,
    )
    assert shape.query_width == HIDDEN and shape.kv_width == HIDDEN * kv // HEADS


@pytest.mark.parametrize("name", FACTORIES)
def test_fingerprints_are_stable_json(name, tmp_path):
    first, again = FACTORIES[name](seed=0).model, FACTORIES[name](seed=1).model
    family = find(first)
    print_ = family.fingerprint(first.config)
    assert json.loads(json.dumps(print_)) == print_ == family.fingerprint(again.config)
    first.config.save_pretrained(tmp_path)
    assert family.fingerprint(T.AutoConfig.from_pretrained(tmp_path)) == print_
    assert family.fingerprint(FACTORIES[name](layers=3).model.config) != print_


def test_fingerprints_tell_models_apart():
    prints = [
        json.dumps(find(model(n).model).fingerprint(model(n).model.config), sort_keys=True) for n in FACTORIES
    ]
    assert len(set(prints)) == len(prints)


@pytest.mark.parametrize("name", FACTORIES)
def test_visual_rows_are_placeholder_rows(name):
    tiny = model(name)
    given = tiny.batch([[3, SQUARE, 2], [4], [1, WIDE, 1, SQUARE, 1]])
    assert torch.equal(
        find(tiny.model).visual_mask(tiny.model, given["input_ids"]), given["input_ids"] == IMAGE
    )


@pytest.mark.parametrize("name", FACTORIES)
@torch.no_grad()
def test_the_pieces_of_attention_are_those_of_the_stock_module(name):
    """q, k, v and the output projection, put together by hand, are the stock attention's output."""
    tiny = model(name, "eager")
    family = find(tiny.model)
    attn = family.parts(tiny.model).layers[1].self_attn
    caught = {}

    def catch(module, args, kwargs, output):
        caught.update(kwargs, hidden=kwargs["hidden_states"], out=output[0])

    handle = attn.register_forward_hook(catch, with_kwargs=True)
    given = tiny.batch([[3, SQUARE, 5]])
    tiny.model(**given)
    handle.remove()
    numbers = torch.arange(caught["hidden"].shape[1])[None]
    rotary = family.tables(attn, caught["position_embeddings"], numbers)
    q, gate = family.asking(attn, caught["hidden"], rotary)
    k, v = family.keys_values(attn, caught["hidden"], rotary)
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = family.capped(attn, q @ k.transpose(2, 3) * attn.scaling)
    sees = sees_BNN(tiny.model.config, 1, told_kinds(given), scores.shape[-1])
    mixed = scores.masked_fill(~sees[:, None], -torch.inf).softmax(-1) @ v
    assert gap(family.output(attn, mixed, gate), caught["out"]) < 1e-6
    assert torch.equal(
        family.queries(attn, caught["hidden"][:, :0], tuple(r[:, :0] for r in rotary)), q[:, :, :0]
    )


@pytest.mark.parametrize("name", FACTORIES)
def test_parts_are_the_models_own(name):
    tiny = model(name)
    parts = find(tiny.model).parts(tiny.model)
    assert parts.core is tiny.model.model and parts.decoder is decoder_of(tiny.model)
    assert (
        parts.layers is parts.decoder.layers
        and parts.norm is last_norm(parts.decoder)
        and parts.head is tiny.model.lm_head
    )
    if name == "llama4":
        # Its core is the whole model.
        return
    bare = find(tiny.model.model).parts(tiny.model.model)
    assert bare.decoder is parts.decoder and bare.head is None


def test_an_unsupported_text_decoder_says_so():
    text = T.GemmaConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        vocab_size=32,
    )
    config = T.LlavaConfig(
        vision_config=tiny_llava().model.config.vision_config, text_config=text, image_token_index=3
    )
    with pytest.raises(ValueError, match=r"gemma.*supported: llama, mistral, qwen2"):
        saccade.apply(T.LlavaForConditionalGeneration(config), "vskip(layers=0)")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own use of it
def test_peft_is_seen_through():
    import peft

    tiny = tiny_llava()
    given = tiny.batch([[3, SQUARE, 5]])
    wrapped = peft.get_peft_model(
        tiny.model, peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False, r=2)
    ).eval()
    assert unwrap(wrapped) is tiny.model and find(wrapped) is FAMILIES["llava"]
    with saccade.apply(wrapped, "shortv(layers=1)"), torch.no_grad():
        ours = wrapped(**given).logits
    assert gap(ours, recompute(tiny.model, [("shortv", (1,))], given).logits) < TOLERANCE
    with wrapped.disable_adapter(), torch.no_grad():
        assert gap(ours, wrapped(**given).logits) > 1e-3


def test_ddp_is_seen_through(tmp_path):
    from torch import distributed

    tiny = tiny_llava()
    given = tiny.batch([[3, SQUARE, 5]])
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(tiny.model)
        assert unwrap(wrapped) is tiny.model and find(wrapped) is FAMILIES["llava"]
        with saccade.apply(wrapped, "vskip(layers=1)"), torch.no_grad():
            ours = wrapped(**given).logits
    finally:
        distributed.destroy_process_group()
    assert gap(ours, recompute(tiny.model, [("vskip", (1,))], given).logits) < TOLERANCE


ANYWHERE = ("llava-1.5-7b", "qwen2.5-vl-7b")
"""Shapes that every family has to build: every head with keys of its own, and several to one."""


@pytest.mark.parametrize(
    ("family", "name"),
    [(f, n) for f in sorted(FAMILIES) for n in SHAPES if n in ANYWHERE or FAMILY_OF[n] == f],
)
def test_a_model_of_every_shape_can_be_built(family, name):
    """On the meta device: sizes alone. Matrix weights and FLOPs per token are two views of one thing."""
    adapter, shape = FAMILIES[family], SHAPES[name]
    config = adapter.config(shape, layers=2)
    with torch.device("meta"):
        built = adapter.model_class()(config)
    again = adapter.shape(config, name)
    for key in ("hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab"):
        assert getattr(again, key) == getattr(shape, key), key
    assert again.layers == 2 and adapter.config(shape).get_text_config().num_hidden_layers == shape.layers
    d, experts = shape.hidden, again.experts
    for layer, one in zip(adapter.parts(built).layers, again.each_layer, strict=True):
        weights = sum(p.numel() for p in layer.parameters() if p.ndim >= 2)
        # A family whose decoders may have experts builds those of the shape, any other one FFN as wide.
        ffn = 3 * d * one.ffn if one.experts is None else 3 * d * one.experts.held + d * one.experts.routing
        if one.recurrent is None:
            asks = (3 if one.gated else 2) * d * shape.query_width
            assert weights == 2 * d * shape.kv_width + asks + ffn
        else:
            held = one.recurrent
            if isinstance(held, ShortConv):
                # Two gates and what is mixed; output; the convolution.
                assert weights == 4 * d * d + held.kernel * d + ffn
                continue
            # Queries, keys and values; gate and output; decay and strength; the convolution.
            wide = 2 * held.key_heads * held.key_dim + held.value_heads * held.value_dim
            values, gates = 2 * held.value_heads * held.value_dim, 2 * held.value_heads
            assert weights == d * (wide + values + gates) + held.kernel * wide + ffn
        assert weights == one.weights()
    assert shape.experts is None or experts in (None, shape.experts)
    assert find(built) is adapter
