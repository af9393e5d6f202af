"""How weights are read: data types, devices, maps with offload, adapters, attention, memory."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch
from accelerate import cpu_offload

import saccade
from saccade.cli.app import main
from saccade.inputs.samples import Sample
from saccade.models import inputs
from saccade.opening.digest import weights_digest
from support import folders
from support.models import FACTORIES, SQUARE, WIDE

PROMPTS = [[3, SQUARE, 5], [4, WIDE, 3]]
PLANS = (
    "vskip(layers=1-2)",
    "shortv(layers=1)",
    "fastv(layer=2,keep=0.5)",
    "sparsevlm(layers=1,tokens=4)",
    "dart(layer=1,keep=0.5)",
    "vtw(layer=2)",
    "divprune(keep=4)",
    "fastervlm(keep=4)",
    "visionzip(dominant=4,contextual=2)",
    "skip_vision()",
)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "fp16", torch.bfloat16])
def test_weights_have_the_type_that_was_asked_for(name, whole):
    wanted = {"fp16": torch.float16}.get(
        name, name if isinstance(name, torch.dtype) else getattr(torch, str(name), None)
    )
    assert saccade.load(str(whole), dtype=name, device="cpu").model.dtype is wanted


def test_weights_are_as_saved_unless_told_otherwise(tmp_path):
    tiny = FACTORIES["llava-llama"](dtype=torch.float16)
    assert (
        saccade.load(str(folders.write(tmp_path, "llava-llama", tiny)), device="cpu").model.dtype
        is torch.float16
    )


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_attention_is_the_one_that_was_asked_for(attn, whole):
    loaded = saccade.load(str(whole), attn=attn, device="cpu")
    assert loaded.model.model.language_model.config._attn_implementation == attn
    assert (
        saccade.load(str(whole), attn_implementation=attn, device="cpu").model.config._attn_implementation
        == attn
    )


@pytest.mark.parametrize("family", ["llava-llama", "qwen2_5_vl", "llava_onevision"])
def test_a_model_that_is_partly_on_the_disk_answers_as_one_in_memory(family, tmp_path):
    folder = folders.write(tmp_path / "model", family)
    tiny = FACTORIES[family]()
    spread = {name: "cpu" for name in ("lm_head", "model.language_model.embed_tokens")}
    spread |= {"model.language_model.norm": "cpu", "model.language_model.rotary_emb": "cpu"}
    spread |= {f"model.language_model.layers.{n}": "disk" if n in (1, 2) else "cpu" for n in range(4)}
    core = dict(tiny.model.model.named_children())
    spread |= {f"model.{name}": "cpu" for name in core if name != "language_model"}
    spread |= {f"model.{name}": "cpu" for name, _ in tiny.model.model.named_parameters(recurse=False)}
    loaded = saccade.load(str(folder), device_map=spread, offload_folder=str(tmp_path / "off"))
    assert loaded.model.model.language_model.layers[1].mlp.up_proj.weight.device.type == "meta"
    batch = tiny.batch(PROMPTS)
    plans = [
        plan for plan in PLANS if not (family != "llava-llama" and plan.startswith(("fastervlm", "skip")))
    ]
    for plan in plans:
        with torch.no_grad(), saccade.apply(loaded.model, plan), saccade.apply(tiny.model, plan):
            one = loaded.model.generate(**batch, max_new_tokens=3, do_sample=False)
            other = tiny.model.generate(**batch, max_new_tokens=3, do_sample=False)
            assert torch.equal(one, other), plan
            torch.testing.assert_close(loaded.model(**batch).logits, tiny.model(**batch).logits, msg=plan)


def test_a_model_that_is_on_the_disk_whole_takes_inputs(whole, tmp_path):
    here = saccade.load(str(whole), device="cpu")
    there = saccade.load(str(whole), device_map="disk", offload_folder=str(tmp_path / "off"))
    assert there.model.device.type == "meta"
    sample = [Sample("a", "t", "", (), "w3 w4")]
    with torch.no_grad():
        got = there.model(**inputs(there, sample)).logits
        torch.testing.assert_close(got, here.model(**inputs(here, sample)).logits)


def test_weights_that_lie_elsewhere_are_the_same_weights(whole, tmp_path):
    here = saccade.load(str(whole), device="cpu")
    there = saccade.load(str(whole), device_map="disk", offload_folder=str(tmp_path / "off"))
    assert there.device.type == "cpu"
    assert weights_digest(there.model) == weights_digest(here.model)
    cpu_offload(here.model)
    assert {weight.device.type for weight in here.model.parameters()} == {"meta"}
    assert weights_digest(here.model) == weights_digest(there.model)


@pytest.mark.e2e
@pytest.mark.parametrize(
    "told",
    [
        ["calibrate", "MODEL", "--method", "vtw", "--samples", "2", "--out", "OUT/plan.json"],
        ["eval", "MODEL", "--plan", "vtw(layer=2)", "--samples", "1", "--json", "OUT/eval.json"],
        ["bench", "MODEL", "--plan", "vtw(layer=2)", "--repeats", "1", "--warmup", "0"],
        ["tune", "MODEL", "--flops", "0.8", "--allow", "freeze", "--samples", "13", "--held-out", "13",
         "--passes", "60", "--out", "OUT/plan.json"],
    ],
    ids=lambda told: told[0],
)  # fmt: skip
def test_commands_work_on_a_model_that_is_on_the_disk(told, tmp_path, capfd):
    words = [word.replace("MODEL", "glance").replace("OUT", str(tmp_path)) for word in told]
    if told[0] in ("calibrate", "eval"):
        words += ["--task", "count"]
    assert main([*words, "--device-map", "disk"]) in (0, None), capfd.readouterr().err


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (["heal", "glance", "vtw(layer=6)", "--steps", "1"], "healing needs all of them"),
        (
            ["eval", "glance", "--plan", "resize(scale=0.5)", "--samples", "1", "--task", "count"],
            "another size",
        ),
    ],
    ids=["heal", "resize"],
)
def test_what_needs_the_weights_at_hand_says_so(told, why, tmp_path, capfd):
    out = ["--out", str(tmp_path / "out")] if told[0] == "heal" else ["--json", str(tmp_path / "out.json")]
    assert main([*told, *out, "--device-map", "disk"]) == 2
    assert why in capfd.readouterr().err


def test_device_map_auto_opens_and_takes_inputs(whole):
    loaded = saccade.load(str(whole), device_map="auto")
    batch = inputs(loaded, [Sample("a", "t", "", (), "w3 w4")])
    made = loaded.model.generate(**batch, max_new_tokens=2, do_sample=False)
    assert made.shape[0] == 1


@pytest.fixture
def adapter(whole, tmp_path):
    from peft import LoraConfig, get_peft_model

    model = saccade.load(str(whole), device="cpu").model
    settings = LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    with warnings.catch_warnings():
        # It asks for a property that transformers has renamed.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        made = get_peft_model(model, settings)
    made.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", made.eval()


def test_an_adapter_is_merged_into_the_weights(adapter, whole):
    folder, made = adapter
    loaded = saccade.load(str(whole), adapter=str(folder), device="cpu")
    plain = saccade.load(str(whole), device="cpu")
    batch = FACTORIES["llava-llama"]().batch(PROMPTS)
    with torch.no_grad():
        one, other, without = (m(**batch).logits for m in (loaded.model, made, plain.model))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(one, without, atol=1e-2)
    assert type(loaded.model).__name__ == "LlavaForConditionalGeneration"


def test_an_adapter_of_another_model_is_refused(adapter, tmp_path):
    folder, _ = adapter
    with pytest.raises(ValueError, match=r"adapter"):
        saccade.load(str(folders.write(tmp_path / "q", "qwen2_vl")), adapter=str(folder), device="cpu")


def test_an_adapter_of_another_base_of_the_same_shape_is_warned_of(adapter, whole, tmp_path, capfd):
    folder, _ = adapter
    other = folders.write(tmp_path / "other", "llava-llama", FACTORIES["llava-llama"](seed=7))
    with pytest.warns(UserWarning, match=f"was made for .*{whole.name}, and is put on .*other") as caught:
        saccade.load(str(other), adapter=str(folder), device="cpu")
    assert len(caught) == 1
    with pytest.raises(ValueError, match=f"^strict: the adapter .* was made for .*{whole.name}"):
        saccade.load(str(other), adapter=str(folder), device="cpu", strict=True)
    words = ["generate", str(other), "--question", "w3", "--device", "cpu", "--adapter", str(folder)]
    capfd.readouterr()
    assert main([*words, "--strict"]) == 2
    said = capfd.readouterr().err.strip()
    assert said.startswith("saccade: error: strict: the adapter") and "\n" not in said


@pytest.mark.parametrize("base", ["hub/llava", "models--hub--llava/snapshots/1f", "elsewhere/llava", None])
def test_the_base_of_an_adapter_is_known_by_its_name(base, adapter, whole):
    """The folder of the tests is called llava."""
    folder, _ = adapter
    folders.change(folder / "adapter_config.json", base_model_name_or_path=base)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        saccade.load(str(whole), adapter=str(folder), device="cpu")
    told = [str(one.message) for one in caught if "adapter" in str(one.message)]
    assert told == (
        [f"the adapter {folder} does not say which model it was made for"] if base is None else []
    )


def test_an_adapter_without_weights_and_one_without_a_name(adapter, whole):
    folder, _ = adapter
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has no weights: neither adapter_model\.safetensors nor .*\.bin"):
        saccade.load(str(whole), adapter=str(folder), device="cpu")
    with pytest.raises(ValueError, match="the name of the adapter is empty"):
        saccade.load(str(whole), adapter=" ", device="cpu")


def test_a_folder_has_no_revision_and_a_model_has_a_name(whole):
    with pytest.raises(ValueError, match="is a folder, which has no revision 'v2'"):
        saccade.load(str(whole), revision="v2", device="cpu")
    with pytest.raises(ValueError, match="the name of the model is empty"):
        saccade.load("", device="cpu")


@pytest.mark.parametrize("harm", ["settings", "weights", "nothing there"])
def test_a_damaged_adapter_is_one_line_that_names_it(harm, adapter, whole, capfd):
    folder, _ = adapter
    if harm == "settings":
        (folder / "adapter_config.json").write_text("{", encoding="utf-8")
    elif harm == "weights":
        (folder / "adapter_model.safetensors").write_bytes(b"12345678abc")
    else:
        for file in folder.iterdir():
            file.unlink()
    words = ["generate", str(whole), "--question", "w3", "--device", "cpu", "--adapter", str(folder)]
    assert main(words) == 2
    said = capfd.readouterr().err.strip()
    assert str(folder) in said and "\n" not in said, said


PEAK = """
import sys, threading, time
from pathlib import Path
from transformers import AutoConfig
from saccade.opening.settings import Opening
from saccade.opening.weights import read_weights

def own():
    text = Path("/proc/self/status").read_text()
    return int(text.split("RssAnon:")[1].split()[0]) // 1024

peak, folder, done = 0, Path(sys.argv[1]), []

def watch():
    global peak
    while not done:
        peak = max(peak, own())
        time.sleep(0.002)

config = AutoConfig.from_pretrained(folder)
read_weights(folder, config, Opening(device="cpu"))
for dtype in ("auto", "float32"):
    before = peak = own()
    done.clear()
    thread = threading.Thread(target=watch)
    thread.start()
    model = read_weights(folder, config, Opening(device="cpu", dtype=dtype))
    done.append(1)
    thread.join()
    print(peak - before, sum(p.numel() * p.element_size() for p in model.parameters()) // 2**20)
    del model
"""


@pytest.mark.e2e
def test_no_second_copy_of_the_weights_lies_in_memory(tmp_path):
    import transformers as T

    tiny = FACTORIES["llava-llama"]().model.config
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 6}
    text = T.LlamaConfig(**{**tiny.text_config.to_dict(), **sizes})
    config = T.LlavaConfig(
        vision_config=tiny.vision_config, text_config=text, image_token_index=3, image_seq_length=16
    )
    with torch.device("meta"):
        model = T.LlavaForConditionalGeneration(config).to(torch.bfloat16)
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.01)
    model.save_pretrained(tmp_path / "model", max_shard_size="60MB")
    words = [sys.executable, "-c", PEAK, str(tmp_path / "model")]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stderr
    (mapped, half), (made, whole) = ([int(n) for n in line.split()] for line in ran.stdout.splitlines())
    assert half > 100 and abs(whole - 2 * half) <= 1
    # As saved, weights stay mapped from their files; in another type they are made once, tensor by tensor.
    assert mapped < half / 2 and made < 1.25 * whole
