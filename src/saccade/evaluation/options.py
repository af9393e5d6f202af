"""How questions are asked of a model: one value, made once by the command line or by Python, passed whole."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EvaluationOptions:
    """How an evaluation asks its questions.

    Attributes:
        batch_size: Questions per batch.
        max_new_tokens: Longest answer in tokens.
        blind: Whether the stock model is asked with plain grey images too.

    Raises:
        ValueError: If a size is below 1.
    """

    batch_size: int = 32
    max_new_tokens: int = 24
    blind: bool = True

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.max_new_tokens < 1:
            raise ValueError(
                f"batch size and new tokens are at least 1, got {self.batch_size} and {self.max_new_tokens}"
            )
