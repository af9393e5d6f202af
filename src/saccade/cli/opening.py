"""The options that say how a model is opened: one group, the same for every command that opens one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saccade.cli import common
from saccade.opening.settings import ATTENTIONS, QUANTIZATIONS, Opening

if TYPE_CHECKING:
    from saccade.opening.loaded import Loaded

Revision = Annotated[str | None, typer.Option(metavar="NAME", help="Branch, tag or commit of a hub id.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Let code that lies beside the weights run.")
]

Generic = Annotated[
    bool,
    typer.Option(
        "--generic",
        help="Where nobody wrote an adapter for the family, make one by inspection, and check it.",
    ),
]

QUESTIONS = "QUESTIONS.jsonl"
"""What a command to type next calls questions that are the user's to find."""


OPTIONS: dict[str, Any] = {
    "device": Annotated[
        str | None,
        typer.Option(metavar="DEVICE", help="auto (an accelerator if there is one), cpu, cuda, cuda:1."),
    ],
    "dtype": Annotated[
        str | None, typer.Option(metavar="TYPE", help="float32, bfloat16 or float16; as saved if omitted.")
    ],
    "device_map": Annotated[
        str | None,
        typer.Option(
            metavar="MAP", help="auto, balanced or sequential: spread a model that is larger than one device."
        ),
    ],
    "attn": Annotated[str, typer.Option(metavar="NAME", help=f"Attention: {', '.join(ATTENTIONS)}.")],
    "revision": Revision,
    "quantize": Annotated[
        str | None,
        typer.Option(metavar="TYPE", help=f"Quantise weights as they are read: {', '.join(QUANTIZATIONS)}."),
    ],
    "adapter": Annotated[
        str | None, typer.Option(metavar="FOLDER", help="A PEFT adapter to put on the model.")
    ],
    "trust_remote_code": TrustRemoteCode,
    "generic": Generic,
    "accepted": Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="A report of saccade check --generic (--json): what it accepted is not checked again.",
        ),
    ],
}
"""Options of a command line by the field of `Opening` that each becomes; the field's default is theirs."""


def opened(model: str, opening: Opening, whole: bool = False) -> Loaded:
    """Loads a model; where its adapter is made by inspection, plans are checked when they are first used.

    Args:
        model: Which.
        opening: How.
        whole: Check a plan of every kind at once, for a command that measures more than it puts on.

    Raises:
        ValueError: If it cannot be loaded, or no adapter can be made, or none that holds.
    """
    from saccade import models

    loaded = models.open_as(model, opening)
    prove(loaded, whole and opening.accepted is None)
    return loaded


def prove(loaded: Loaded, whole: bool = False) -> None:
    """Has plans checked where the adapter of a model was made by inspection, on first use or all at once.

    Raises:
        ValueError: If all are checked at once and not even the stock model is what the check says it is.
    """
    if not loaded.family.generic:
        return
    from saccade.check import prove_on_use, prove_whole

    prove_on_use(loaded, common.Output.note)
    if whole:
        prove_whole(loaded, common.Output.note)


def words(opening: Opening) -> list[str]:
    """The options that open a model in the same way, for a command to type next."""
    flags = ("trust_remote_code", "generic")
    told = {name: value for name, value in opening.told().items() if name not in flags}
    told |= {} if opening.accepted is None else {"accepted": opening.accepted}
    same = {"device": opening.device, **told}
    options = common.given(*((f"--{name.replace('_', '-')}", value) for name, value in same.items()))
    options += ["--generic"] if opening.generic and opening.accepted is None else []
    return [*options, "--trust-remote-code"] if opening.trust_remote_code else options


def say_next(
    out: common.Output,
    model: str,
    plans: Sequence[str],
    task: Sequence[str] | None,
    data: Path | None,
    opening: Opening,
) -> None:
    """Says which command judges plans that were made on a file's questions, or on those of a suite's task."""
    # Not on the file itself: its questions were seen, and may have no answers.
    others = None if data is None else QUESTIONS
    asked = common.given(*(("--plan", plan) for plan in plans), ("--task", task), ("--data", others))
    out.line(f"next: {common.command('eval', model, *asked, *words(opening))}")
    if data is not None:
        out.line(f"{QUESTIONS}: questions that are not in {data}, on each line image, question and answer")


def opens(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the ``OPTIONS`` where it has a parameter ``opening``."""
    kind, usual = inspect.Parameter.POSITIONAL_OR_KEYWORD, Opening()
    group = [
        inspect.Parameter(name, kind, default=getattr(usual, name), annotation=option)
        for name, option in OPTIONS.items()
    ]
    own = inspect.signature(command, eval_str=True)
    parameters: list[inspect.Parameter] = []
    for parameter in own.parameters.values():
        parameters += group if parameter.name == "opening" else [parameter]

    @functools.wraps(command)
    def run(**given: Any) -> Any:
        opening = Opening(**{name: given.pop(name) for name in OPTIONS}, strict=bool(given.get("strict")))
        return command(**given, opening=opening)

    shown: Any = run
    del shown.__wrapped__
    shown.__signature__ = own.replace(parameters=parameters)
    shown.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return shown
