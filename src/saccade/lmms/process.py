"""Running lmms-eval as a program: its progress goes on, its failures are found, which its exit code hides."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from saccade.lmms.arguments import write_arguments

LOG = "lmms-eval.log"
_TAIL = 1 << 18
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_SAID = re.compile(r"Error during evaluation: (.+?)(?:\. Please set `--verbosity=DEBUG`|$)", re.MULTILINE)
_RAISED = re.compile(
    r"^(?:[\w.]+\.)?((?:[A-Z]\w*)?(?:Error|Exception|Exit|Interrupt)(?:: .+)?)$", re.MULTILINE
)
# tenacity wraps what really happened.
_WRAPPER = "RetryError"


@dataclass(frozen=True)
class Job:
    """One evaluation of one model by lmms-eval.

    Attributes:
        tasks: Names of its tasks and groups.
        arguments: ``--model_args``, by name.
        output: Folder for what it writes.
        include: A folder with tasks of our own; None if there are none.
        device: ``cpu``, ``cuda``, ...
        batch_size: Questions per batch and process.
        limit: Questions of each task at most; None for all.
        processes: How many share the questions.
        max_new_tokens: Longest answer; None leaves it to the tasks.
    """

    tasks: tuple[str, ...]
    arguments: dict[str, str]
    output: Path
    include: Path | None = None
    device: str = "cpu"
    batch_size: int = 1
    limit: int | None = None
    processes: int = 1
    max_new_tokens: int | None = None

    def command(self) -> list[str]:
        """The command line."""
        words = [sys.executable, "-m"]
        if self.processes > 1:
            words += ["torch.distributed.run", "--standalone", "--nproc_per_node", str(self.processes), "-m"]
        words += ["lmms_eval", "eval", "--model", "saccade", "--model_args", write_arguments(self.arguments)]
        words += [
            "--tasks",
            ",".join(self.tasks),
            "--device",
            self.device,
            "--batch_size",
            str(self.batch_size),
        ]
        words += ["--output_path", str(self.output), "--log_samples", "--verbosity", "WARNING"]
        words += [] if self.include is None else ["--include_path", str(self.include)]
        words += [] if self.limit is None else ["--limit", str(self.limit)]
        words += (
            [] if self.max_new_tokens is None else ["--gen_kwargs", f"max_new_tokens={self.max_new_tokens}"]
        )
        return words


def check_installed() -> None:
    """Refuses to start without lmms-eval.

    Raises:
        ValueError: If it is not installed, saying how it is.
    """
    if importlib.util.find_spec("lmms_eval") is None:
        raise ValueError(
            "lmms-eval is not installed; pip install -e '.[lmms]' in the clone of Saccade, in an environment "
            "of its own and with your torch's version on the same line (torch==...), or pip replaces torch. "
            "Beside a CPU build of torch, the torchvision it brings must be made importable or removed "
            "(docs, lmms-eval)"
        )


def run(job: Job, echo: IO[Any] | None = None) -> Path:
    """Runs lmms-eval to its end; everything it prints goes on to ``echo`` and into a log beside its results.

    Args:
        job: What to evaluate.
        echo: Where its progress is shown; standard error if omitted.

    Returns:
        Its results file.

    Raises:
        ValueError: If it failed or wrote no results, with the reason it gave; its exit code may hide that.
    """
    echo = echo or sys.stderr
    job.output.mkdir(parents=True, exist_ok=True)
    log = job.output / LOG
    before = set(job.output.rglob("*_results.json"))
    tail = b""
    with log.open("wb") as stream:
        program = subprocess.Popen(job.command(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert program.stdout is not None
        try:
            # By pieces and not by lines: progress bars end in carriage returns.
            while piece := os.read(program.stdout.fileno(), 1 << 16):
                stream.write(piece)
                tail = (tail + piece)[-_TAIL:]
                echo.write(piece.decode("utf-8", "replace"))
                echo.flush()
            code = program.wait()
        except BaseException:
            _stop(program)
            raise
        finally:
            program.stdout.close()
    text = _COLOUR.sub("", tail.decode("utf-8", "replace")).replace("\r", "\n")
    found = sorted(set(job.output.rglob("*_results.json")) - before)
    if code != 0 or not found:
        what = f"stopped with exit code {code}" if code else "wrote no results"
        raise ValueError(f"lmms-eval {what}: {reason(text)}")
    return found[-1]


def reason(text: str) -> str:
    """Why lmms-eval failed, as far as what it printed tells."""
    raised = [line for line in _RAISED.findall(text) if not line.startswith(_WRAPPER)]
    said = [line for line in _SAID.findall(text) if not line.startswith(_WRAPPER)]
    if said or raised:
        return (said or raised)[-1]
    lines: Sequence[str] = [line.strip() for line in text.split("\n") if line.strip()]
    return lines[-1] if lines else "it printed nothing"


def _stop(program: subprocess.Popen) -> None:
    program.terminate()
    try:
        program.wait(timeout=20)
    except subprocess.TimeoutExpired:
        program.kill()
        program.wait()
