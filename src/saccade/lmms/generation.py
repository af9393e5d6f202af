"""How a task of lmms-eval wants answers generated, in the words of transformers; and where they stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import StoppingCriteria

DEFAULT_NEW_TOKENS = 1024
"""Longest answer where a task does not say, as in lmms-eval's own models."""

_SAMPLING = ("temperature", "top_p", "top_k")
_PASSED_ON = ("num_beams", "repetition_penalty", "no_repeat_ngram_size", "length_penalty", "min_new_tokens")
_OF_OTHERS = frozenset(
    {
        "image_aspect_ratio",
        "visual_cot",
        "interleaved_format",
        "use_cache",
        "skip_special_tokens",
    }
)


@dataclass(frozen=True)
class Generation:
    """Settings of one task's answers.

    Attributes:
        max_new_tokens: Longest answer in tokens.
        until: Texts that end an answer; they are not part of it.
        how: Arguments of the model's ``generate``, by name.
        ignored: Settings that mean nothing here.
    """

    max_new_tokens: int = DEFAULT_NEW_TOKENS
    until: tuple[str, ...] = ()
    how: tuple[tuple[str, Any], ...] = (("do_sample", False),)
    ignored: tuple[str, ...] = ()

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Generation:
        """Reads a task's ``generation_kwargs``.

        A temperature above 0 means sampling unless ``do_sample`` says otherwise, and one of 0 never does.
        Without sampling, what only sampling reads is left out.

        Raises:
            ValueError: If a setting does not fit.
        """
        given = {key: value for key, value in settings.items() if value is not None}
        longest = int(given.pop("max_new_tokens", given.pop("max_gen_toks", DEFAULT_NEW_TOKENS)))
        if longest < 1:
            raise ValueError(f"max_new_tokens is at least 1, got {longest}")
        until = _texts(given.pop("until", ())) + _texts(given.pop("stop_sequences", ()))
        warm = float(given.get("temperature", 0)) > 0
        sample = bool(given.pop("do_sample", warm))
        if sample and "temperature" in given and not warm:
            # Sampling at temperature 0 is greedy, and transformers refuses it in those words.
            sample = False
        how: dict[str, Any] = {"do_sample": sample}
        for key in _SAMPLING:
            value = given.pop(key, None)
            # None takes a checkpoint's own setting away, which would only cause a warning.
            how[key] = value if sample else None
        if sample:
            how = {key: value for key, value in how.items() if value is not None}
        how |= {key: given.pop(key) for key in _PASSED_ON if key in given}
        unknown = sorted(set(given) - _OF_OTHERS)
        return cls(longest, tuple(dict.fromkeys(until)), tuple(how.items()), tuple(unknown))

    def cut(self, text: str) -> str:
        """The text up to the first of ``until`` in it, without space around it."""
        text = text.strip()
        ends = [at for stop in self.until if (at := text.find(stop)) >= 0]
        return text[: min(ends)].strip() if ends else text


class StopsAt(StoppingCriteria):
    """Ends each sample of a batch once one of some texts is in its answer.

    Args:
        tokenizer: Reads the new tokens.
        until: The texts.
        prompt_rows: Rows of the prompt, padding included.
    """

    def __init__(self, tokenizer: Any, until: Sequence[str], prompt_rows: int) -> None:
        self.tokenizer, self.until, self.prompt_rows = tokenizer, tuple(until), prompt_rows

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        texts = self.tokenizer.batch_decode(input_ids[:, self.prompt_rows :], skip_special_tokens=True)
        # Space in front of an answer is no part of it (Generation.cut).
        done = [any(stop in text.lstrip() for stop in self.until) for text in texts]
        return torch.tensor(done, device=input_ids.device)


def _texts(value: Any) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else tuple(value)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"until is a text or a list of texts, got {value!r}")
    return tuple(text for text in texts if text)
