"""A process with everything imported that forks into programs: each is a process of its own, begun at once.

Lines of JSON on standard input: what to run, or which program to wait for. Lines of JSON come back.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import sys
from typing import Any, NoReturn


def imported() -> None:
    """What the programs of tests need; nothing computes yet, so that a fork is as a fresh start."""
    import matplotlib.pyplot
    import torch
    import torch.distributed
    import transformers
    from transformers import LlavaForConditionalGeneration, LlavaProcessor, Trainer

    import saccade.calibration
    import saccade.cli.app
    import saccade.evaluation
    import saccade.models
    import saccade.report.results
    import saccade.skip_vision
    import saccade.training

    torch.set_num_threads(1)
    assert LlavaForConditionalGeneration and LlavaProcessor and Trainer and matplotlib.pyplot
    assert transformers and torch.distributed and saccade


def become(asked: dict[str, Any]) -> NoReturn:
    """The program, in a fork: its folder, environment, streams and words."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(asked["cwd"])
        os.environ.clear()
        os.environ.update(asked["env"])
        for number, path in enumerate((os.devnull, asked["out"], asked["err"])):
            flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            os.dup2(os.open(path, flags, 0o600), number)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - the program's own
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
        sys.argv = list(asked["words"])
        try:
            if asked["words"][0] == "-m":
                sys.argv = list(asked["words"][1:])
                runpy.run_module(asked["words"][1], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(asked["words"][0], run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def main() -> None:
    """Forks until its input ends."""
    imported()
    gc.freeze()  # what is imported stays: no fork walks over it, nor copies its pages
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            status = os.waitpid(asked["wait"], 0)[1]
            told = os.waitstatus_to_exitcode(status)
        else:
            told = os.fork()
            if told == 0:
                become(asked)
        answers.write(json.dumps(told) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
