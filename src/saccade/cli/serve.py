"""``saccade serve``: a model and its plans behind an OpenAI-compatible server."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saccade.cli import common
from saccade.cli.opening import opened, opens
from saccade.opening.settings import Opening

if TYPE_CHECKING:
    from saccade.serve.settings import ServeSettings

NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)=(.+)", re.DOTALL)
ENGINES = ("saccade", "vllm")
SHOWN = {"vskip6": "vskip(layers=6-11)", "divprune": "divprune(keep=0.5,position_policy=keep)"}
"""Plans of the embedded model where none is given."""
MIB = 2**20


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("serve")(opens(serve))


def serve(
    model: common.Model = "glance",
    plan: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PLAN",
            help="A plan file or spec that requests name as MODEL@NAME, by its file or methods where no name "
            "is given; repeatable.",
        ),
    ] = None,
    engine: Annotated[
        str, typer.Option(metavar="NAME", help="saccade, or vllm: `vllm serve` with the plan, if installed.")
    ] = "saccade",
    host: Annotated[str, typer.Option(help="Address to listen at; others need an API key.")] = "127.0.0.1",
    port: Annotated[int, common.count("Port; any free one if 0.", 65535, least=0)] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="What clients must show (others on this machine see it)."),
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The same, read from a file.")
    ] = None,
    allow_url: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="Addresses of pictures that are fetched; none if omitted."),
    ] = None,
    batch: Annotated[int, common.count("Answers written side by side.", 1024)] = 8,
    queue: Annotated[int, common.count("Requests that may wait.", 65536)] = 64,
    max_tokens: Annotated[int, common.count("Longest answer.", common.MOST_TOKENS)] = 1024,
    max_body: Annotated[int, common.count("Largest request in MiB.", 4096)] = 32,
    max_pixels: Annotated[
        int, common.count("Pixels of the pictures of a request.", 100_000_000)
    ] = 25_000_000,
    max_images: Annotated[int, common.count("Pictures of a request.", 1024)] = 16,
    timeout: Annotated[float, typer.Option(min=1, max=86400, help="Seconds a request may take.")] = 300,
    prefix_cache: Annotated[
        int,
        common.count("MiB of keys and values kept of pictures that were asked about.", 1_048_576, least=0),
    ] = 512,
    force: common.Force = False,
    strict: common.Strict = False,
    threads: common.Threads = None,
    opening: Opening = Opening(),
) -> None:
    """Answer OpenAI's chat requests with a model, dense or under plans that they name; a page is at /.

    Example: saccade serve glance --plan vskip6="vskip(layers=6-11)"
    """
    if engine not in ENGINES:
        raise ValueError(f"there is no engine {engine!r}; there is {' and '.join(ENGINES)}")
    named = _named(plan or [])
    common.check_names(model, list(named.values()), opening=opening)
    from saccade.serve.settings import ServeLimits, ServeSettings

    limits = ServeLimits(
        batch, queue, max_body * MIB, max_pixels, max_images, max_tokens, timeout, prefix_cache * MIB
    )
    settings = ServeSettings(host, port, _key(api_key, api_key_file), allow_url, limits)
    if not settings.alone and settings.key is None:
        raise ValueError(f"{host} is reached from other machines: give --api-key-file, or stay at 127.0.0.1")
    if engine == "vllm":
        if allow_url is not None or limits != ServeLimits() or force or strict or threads is not None:
            raise ValueError(
                "--engine vllm takes --plan, --host, --port and an API key alone of how requests are served; "
                "for limits of vLLM's own start `vllm serve` with the plan"
            )
        return _vllm(model, named, settings, opening)
    _check_installed("fastapi", "uvicorn", "prometheus_client")
    _serve(model, named, settings, force, strict, threads, opening)


def _serve(
    model: str,
    named: dict[str, str],
    settings: ServeSettings,
    force: bool,
    strict: bool,
    threads: int | None,
    opening: Opening,
) -> None:
    from saccade.engine import check_made_for
    from saccade.plans.plan import Plan
    from saccade.serve import run
    from saccade.system.embedded import EMBEDDED

    if not named and model in EMBEDDED:
        named = SHOWN
    at = run.listen(settings)
    common.use_threads(threads)
    loaded = opened(model, opening)
    plans = {name: Plan.of(text) for name, text in named.items()}
    for name, one in plans.items():
        check_made_for(loaded.model, one, force=force, strict=strict)
        loaded.family.check_accepted([method.name for method in one.methods], one)
        plans[name] = one.for_any() if force or strict else one
    out = common.Output(None)

    def ready(worker: run.Worker) -> None:
        names = ", ".join([loaded.name, *(f"{loaded.name}@{name}" for name in plans)])
        never = sorted(set(plans) - worker.reader.reuses)
        for name in never:
            out.note(f"{name} decides by the whole prompt: pictures are read again for every question")
        if not worker.reader.joins:
            out.note("this model's cache cannot be joined: requests are answered one after another")
        out.line(f"serving {names} at {run.address(at)} (Ctrl-C ends it)")

    run.serve(loaded, plans, settings, at, ready, threads)


def _named(plans: list[str]) -> dict[str, str]:
    """Plans by name; one without has that of its file, or of its methods."""
    found: dict[str, str] = {}
    for text in plans:
        match = NAMED.fullmatch(text)
        if match is not None:
            name, what = match.groups()
        else:
            what = text
            stem = (
                Path(text).stem if text.lower().endswith(".json") else "+".join(re.findall(r"(\w+)\(", text))
            )
            name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.") or "plan"
        if name in found:
            raise ValueError(f"two plans are called {name!r}; write --plan NAME=PLAN")
        found[name] = what
    return found


def _key(given: str | None, file: Path | None) -> str | None:
    if given is not None and file is not None:
        raise ValueError("give --api-key or --api-key-file, not both")
    if file is not None:
        from saccade.system.files import read_text

        return read_text(file, "a file that holds a key").strip()
    return given


def _check_installed(*modules: str) -> None:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"serving needs {' and '.join(missing)}: pip install {' '.join(missing)}")


def _vllm(model: str, named: dict[str, str], settings: ServeSettings, opening: Opening) -> None:
    """Becomes ``vllm serve``; its plug-in reads the plan from the environment."""
    import os
    import shutil

    if len(named) > 1:
        raise ValueError("vllm serves one plan; start one server for each")
    program = shutil.which("vllm")
    if program is None or importlib.util.find_spec("vllm") is None:
        raise ValueError(
            "vllm is not installed here: take --engine saccade, or pip install 'vllm>=0.32,<0.33'"
        )
    if opening != Opening(dtype=opening.dtype, revision=opening.revision, strict=opening.strict):
        raise ValueError("--engine vllm takes --dtype and --revision alone of how a model is opened")
    words = [*vllm_command(program, model), "--host", settings.host, "--port", str(settings.port)]
    words += common.given(("--dtype", opening.dtype), ("--revision", opening.revision))
    if settings.key is not None:
        os.putenv("VLLM_API_KEY", settings.key)
    for text in named.values():
        os.putenv("SACCADE_PLAN", text)
    os.execv(words[0], words)


def vllm_command(program: str, model: str) -> list[str]:
    """How vLLM's server of a model is started here, before its options."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        version("vllm")
    except PackageNotFoundError:
        # Its wheel for CPUs goes by another name, under which its own command does not find its version.
        return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    return [program, "serve", model]
