"""One object says how a model is opened: what it takes, what it refuses, and what the commands make of it."""

from __future__ import annotations

import inspect
import json
import pickle

import pytest
import torch
import typer

from saccade.cli.app import build, main
from saccade.cli.opening import OPTIONS, opens
from saccade.opening import Opening, read_device


def test_it_takes_the_names_of_from_pretrained():
    found = Opening.of(attn_implementation="eager", torch_dtype=torch.float16, token="t", max_memory={0: 1})
    assert (found.attn, found.dtype) == ("eager", torch.float16)
    assert found.hub == {"token": "t"} and found.rest == {"max_memory": {0: 1}}
    assert pickle.loads(pickle.dumps(found)) == found


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"quantize": "int3"}, "no quantisation 'int3'; there are int8, int4, nf4, fp8"),
        ({"attn": "paged"}, "no attention implementation 'paged'"),
        ({"dtype": "float12"}, "no data type 'float12'"),
        ({"dtype": "int8"}, "no data type 'int8'"),
        ({"device": "abacus"}, "no device 'abacus'; write auto, cpu, cuda or cuda:0"),
        ({"device": "mps"}, "no device 'mps'"),
        ({"device": "cuda:x"}, "no device 'cuda:x'"),
        ({"device": "auto:0"}, "no device 'auto:0'"),
        ({"device_map": "spread"}, "no device map 'spread'; there are auto, balanced"),
        ({"device": "cpu", "device_map": "auto"}, "a device or a device map, not both"),
        ({"quantize": "int8", "quantization_config": {}}, "quantize or quantization_config, not both"),
        ({"output_loading_info": True}, "output_loading_info cannot be given"),
    ],
)
def test_nonsense_is_refused_before_anything_is_read(given, said):
    with pytest.raises(ValueError, match=said):
        Opening.of(**given)


def test_devices_that_are_not_there_are_refused():
    assert Opening(device="auto").torch_device().type in ("cpu", "cuda")
    assert Opening.of(device=torch.device("cpu"), device_map=None).torch_device().type == "cpu"
    with pytest.raises(ValueError, match="device cuda:99 is not there"):
        Opening(device="cuda:99").torch_device()
    with pytest.raises(ValueError, match="no device 'mps'"):
        read_device("mps")
    assert read_device("cpu:0").type == "cpu"
    assert all(Opening(device_map=name).device_map == name for name in ("auto", "balanced", "cuda:1", "cpu"))


def test_records_name_what_is_not_the_default():
    assert Opening().told() == {}
    told = Opening(dtype=torch.bfloat16, device="cpu", attn="eager", trust_remote_code=True).told()
    assert told == {"dtype": "bfloat16", "attn": "eager", "trust_remote_code": "True"}


def test_provenance_has_every_setting_as_json_does_and_no_token():
    asked = Opening.of(
        dtype=torch.bfloat16, device_map={"": 0}, adapter="mine", token="hf_secret", max_memory={0: "1GiB"}
    )
    found = asked.recorded()
    assert json.loads(json.dumps(found)) == {
        "dtype": "bfloat16",
        "device_map": {"": 0},
        "attn": "sdpa",
        "revision": None,
        "quantize": None,
        "adapter": "mine",
        "trust_remote_code": False,
        "generic": False,
        "max_memory": {"0": "1GiB"},
    }
    assert Opening.of(quantization_config=object()).recorded()["quantization_config"] == "object"


def test_a_command_gets_the_group_as_one_object():
    made = []

    def command(name: str, opening: Opening, last: int = 1) -> None:
        made.append((name, opening, last))

    shown = opens(command)
    assert list(inspect.signature(shown).parameters) == ["name", *OPTIONS, "last"]
    app = typer.Typer()
    app.command()(shown)
    words = [
        "x",
        "--dtype",
        "bf16",
        "--attn",
        "eager",
        "--quantize",
        "int8",
        "--revision",
        "r",
        "--last",
        "2",
    ]
    typer.main.get_command(app)(words, standalone_mode=False)
    assert made == [("x", Opening(dtype="bf16", attn="eager", quantize="int8", revision="r"), 2)]


@pytest.mark.parametrize("name", ["generate", "explain", "eval", "bench", "calibrate", "analyze", "study"])
def test_every_command_that_opens_a_model_has_the_group(name):
    command = typer.main.get_command(build()).commands[name]
    has = {option for parameter in command.params for option in parameter.opts}
    assert has >= {"--device", "--dtype", "--device-map", "--attn", "--revision", "--quantize", "--adapter"}
    assert "--trust-remote-code" in has


def test_every_command_that_takes_a_models_name_takes_its_revision():
    def walk(command, path):
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, f"{path} {name}".strip())
        yield path, command

    found = {path: command for path, command in walk(typer.main.get_command(build()), "")}
    takes = [path for path, command in found.items() if any(p.name == "model" for p in command.params)]
    assert {"generate", "cost", "check", "plan validate"} <= set(takes)
    for path in takes:
        has = {option for parameter in found[path].params for option in parameter.opts}
        assert has >= {"--revision", "--trust-remote-code"}, path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--quantize", "int3"], "no quantisation 'int3'"),
        (["--attn", "fast"], "no attention implementation 'fast'"),
        (["--device", "cuda:99"], "device cuda:99 is not there"),
        (["--device-map", "sideways"], "no device map 'sideways'"),
        (["--attn", "flash_attention_2"], "flash"),
        (["--adapter", "nowhere"], "no model 'nowhere'"),
        (["--revision", "v2"], "is a folder, which has no revision"),
    ],
)
def test_what_cannot_be_done_is_one_line_with_exit_code_2(words, said, capfd):
    assert main(["generate", "glance", "--question", "how many?", *words]) == 2
    err = capfd.readouterr().err.strip()
    assert said in err.lower() and "\n" not in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bench", "llava-1.5-7b", "--quantize", "int8"], "takes --device, --dtype and --attn"),
        (["cost", "llava-1.5-7b", "--revision", "v2"], "it has no revision"),
        (["plan", "validate", "vskip(layers=1)", "--revision", "v2"], "need --model"),
        (["plan", "validate", "vskip(layers=1)", "--model", "glance", "--dtype", "bf16"], "without --strict"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(words, said, capfd):
    assert main(words) == 2
    err = capfd.readouterr().err.strip()
    assert said in err and "\n" not in err


@pytest.mark.parametrize("device", [None, "auto", "cuda"])
def test_processes_of_a_machine_take_its_accelerators_in_turn(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    opening = Opening(device=device, dtype="bf16")
    taken = [opening.of_process(number) for number in range(4)]
    assert [one.device for one in taken] == ["cuda:0", "cuda:1", "cuda:2", "cuda:0"]
    assert all(one.dtype == "bf16" for one in taken)
    for fixed in (Opening(device="cuda:2"), Opening(device="cpu"), Opening(device_map="auto")):
        assert fixed.of_process(1) == fixed


def test_processes_of_a_machine_without_accelerators_stay_on_its_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Opening().of_process(1) == Opening()
