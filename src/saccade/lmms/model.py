"""The class behind lmms-eval's ``--model saccade``, built when lmms-eval asks this module for ``Saccade``.

Arguments (``--model_args``): ``pretrained`` (a folder, a hub id, or ``glance``), ``plan`` (a plan file, or a
spec with its layers: ``saccade.lmms.arguments`` says how to write its commas), ``force`` (use a plan of
another model), ``blind`` (plain grey images), ``record`` (a folder for a note of what prompts cost), and how
the model is opened: ``dtype``, ``device_map``, ``attn``, ``revision``, ``quantize``, ``adapter``,
``trust_remote_code``. ``device`` and ``batch_size`` are lmms-eval's own options.
"""

from __future__ import annotations

import traceback
from functools import cache, partial
from pathlib import Path
from typing import Any

from saccade.lmms.arguments import read_count, read_flag, read_spec, read_text

WORDS = ("dtype", "device_map", "attn", "revision", "quantize", "adapter")
"""How the model is opened, beside its device and whether code of its own may run."""


def __getattr__(name: str) -> Any:
    # lmms-eval takes a class by its path; its base class is there only when lmms-eval is.
    if name == "Saccade":
        return _build()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _build() -> type:
    import torch
    from accelerate import Accelerator
    from lmms_eval.api.model import lmms
    from loguru import logger
    from tqdm import tqdm

    from saccade import models
    from saccade.engine import check_made_for
    from saccade.lmms.answering import Asker, SuiteQuestion
    from saccade.lmms.conversation import ChatMessages
    from saccade.lmms.generation import Generation
    from saccade.plans.plan import Plan
    from saccade.system.files import write_json

    class Saccade(lmms):
        """A model under a plan, as lmms-eval asks it; with several processes, each asks its share."""

        is_simple = False

        def __init__(
            self,
            pretrained: Any = "glance",
            plan: Any = "",
            force: Any = False,
            strict: Any = False,
            device: Any = None,
            trust_remote_code: Any = False,
            batch_size: Any = 1,
            max_batch_size: Any = None,
            blind: Any = False,
            record: Any = "",
            **words: Any,
        ) -> None:
            super().__init__()
            unknown = [name for name in words if name not in WORDS]
            if unknown:
                raise ValueError(
                    f"saccade takes no argument {', '.join(unknown)}; it takes pretrained, plan, force, "
                    "strict, device, dtype, device_map, attn, revision, quantize, adapter, "
                    "trust_remote_code, batch_size, blind and record"
                )
            self.accelerator = Accelerator()
            self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
            where = read_text(device) if device else "cuda" if torch.cuda.is_available() else "cpu"
            if where == "cuda" and self._world_size > 1:
                where = f"cuda:{self.accelerator.local_process_index}"
            self._device = torch.device(where)
            wanted = Plan.of(read_spec(plan))
            given = {name: read_text(word) for name, word in words.items() if word}
            exactly = read_flag(strict, "strict")
            loaded = models.load(
                read_text(pretrained),
                **given,
                strict=exactly,
                device=None if words.get("device_map") else where,
                trust_remote_code=read_flag(trust_remote_code, "trust_remote_code"),
            )
            anyway = read_flag(force, "force")
            check_made_for(loaded.model, wanted, force=anyway, strict=exactly)
            wanted = wanted.for_any() if anyway else wanted
            self._asker = Asker(
                loaded, wanted, read_flag(blind, "blind"), read_count(batch_size, "batch_size")
            )
            self._record = read_text(record)

        device = property(lambda self: self._device)
        batch_size = property(lambda self: self._asker.batch_size)
        tokenizer = property(lambda self: self._asker.loaded.processor.tokenizer)
        config = property(lambda self: self._asker.loaded.model.config)
        model = property(lambda self: self._asker.loaded.model)

        def generate_until(self, requests: list[Any]) -> list[str]:
            """Answers of this process's requests, in their order."""
            try:
                return self._generate([request.args for request in requests])
            except Exception:
                if self._world_size == 1:
                    raise
                # lmms-eval would log it and go on; the other processes would wait for this one for hours.
                traceback.print_exc()
                raise SystemExit(1) from None

        def _generate(self, requests: list[tuple]) -> list[str]:
            questions = []
            for context, to_messages, settings, doc, task, split in requests:
                wanted = Generation.read(settings)
                load = partial(self._conversation, to_messages, task, split, doc)
                questions.append(SuiteQuestion(task, len(context), wanted, load))
            ignored = {(q.task, name) for q in questions for name in q.generation.ignored}
            for task, name in sorted(ignored):
                logger.warning(f"{task}: generation setting {name} is not known to saccade and was left out")
            with tqdm(total=len(questions), disable=self._rank != 0, desc="Answering") as bar:
                texts = self._asker.ask(questions, bar.update)
            if self._record:
                count, cost = self._asker.cost()
                path = Path(self._record) / f"cost-{self._rank}.json"
                write_json(path, {"prompts": count, "cost": cost})
            return texts

        def _conversation(self, to_messages: Any, task: str, split: str, doc: int) -> ChatMessages:
            return ChatMessages.read(to_messages(self.task_dict[task][split][doc]))

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            """Not supported: the tasks of vision-language models ask for text.

            Raises:
                ValueError: Always.
            """
            raise ValueError(
                "saccade answers with text; this task wants likelihoods, take its generative form"
            )

        def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
            """Not supported: every question is answered once.

            Raises:
                ValueError: Always.
            """
            raise ValueError("saccade answers every question once; this task has several rounds")

    Saccade.__module__ = __name__
    return Saccade
