"""Rules that score an answer against references, by name and with their parameters (pure)."""

from __future__ import annotations

import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import lru_cache
from typing import Any, ClassVar

from saccade.scoring.quantities import quantity, same_quantity
from saccade.scoring.reading import option_letter, yes_or_no
from saccade.scoring.text import edits_of, is_match, normalise

_CALL = re.compile(r"\s*([a-z_]+)\s*(?:\(([^()]*)\))?\s*")


@dataclass(frozen=True)
class Rule(ABC):
    """How an answer is scored against one reference: from 0 to 1."""

    name: ClassVar[str]
    takes: ClassVar[str] = "text"

    @abstractmethod
    def score(self, prediction: str, answer: str) -> float:
        """What a prediction is worth where this is the right answer."""

    def suits(self, answer: str) -> bool:
        """Whether a reference can be scored by this rule at all."""
        return bool(answer.strip())

    def __str__(self) -> str:
        changed = [
            f"{f.name}={_written(value)}"
            for f in fields(self)
            if (value := getattr(self, f.name)) != f.default
        ]
        return f"{self.name}({','.join(changed)})" if changed else self.name


@dataclass(frozen=True)
class Exact(Rule):
    """The same text, case, spacing and a full stop aside."""

    name = "exact"

    def score(self, prediction: str, answer: str) -> float:
        return float(is_match(prediction, answer))


@dataclass(frozen=True)
class Contains(Rule):
    """The reference stands somewhere in the prediction.

    Attributes:
        words: Whether it has to stand there as whole words, and numbers whole ("300" not in "1,300", "3" not
            in "3.5" or "3:30"); scripts without spaces want false.
    """

    words: bool = True
    name = "contains"

    def score(self, prediction: str, answer: str) -> float:
        said, right = normalise(prediction), normalise(answer)
        if not right:
            return float(not said)
        if not self.words:
            return float(right in said)
        before = r"(?<!\w)(?<!\d[.,:])" if right[0].isdigit() else r"(?<!\w)"
        after = r"(?!\w|[.,:]\d)" if right[-1].isdigit() else r"(?!\w)"
        return float(re.search(before + re.escape(right) + after, said) is not None)


@dataclass(frozen=True)
class Anls(Rule):
    """Normalised Levenshtein similarity, 0 where it is not above the threshold (arXiv 1905.13648, eq. 1).

    Attributes:
        threshold: Normalised distance from which on an answer is worth nothing.
    """

    threshold: float = 0.5
    name = "anls"

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError(f"anls: threshold is above 0 and at most 1, got {self.threshold:g}")

    def score(self, prediction: str, answer: str) -> float:
        edits, longest = edits_of(prediction, answer)
        # As it is written: 0.7 is 7 / 10, and three edits of ten are not below 0.3.
        near = edits < Fraction(repr(self.threshold)) * longest
        return 1 - edits / longest if near else float(not longest)


@dataclass(frozen=True)
class Option(Rule):
    """The letter of an option, however it is dressed: "B", "(B)", "B. a dog", "The answer is B"."""

    name = "option"
    takes = "the letter of an option"

    def score(self, prediction: str, answer: str) -> float:
        said = option_letter(prediction)
        return float(said is not None and said == option_letter(answer))

    def suits(self, answer: str) -> bool:
        lone = re.fullmatch(r"\W*[A-Za-z]\W*", answer) is not None
        return lone and option_letter(answer) is not None


@dataclass(frozen=True)
class YesNo(Rule):
    """The yes or no that the prediction states as its answer, else its first."""

    name = "yes_no"
    takes = "yes or no"

    def score(self, prediction: str, answer: str) -> float:
        said = yes_or_no(prediction)
        return float(said is not None and said == yes_or_no(answer))

    def suits(self, answer: str) -> bool:
        return normalise(answer) in ("yes", "no")


@dataclass(frozen=True)
class Number(Rule):
    """The number of the prediction, within a share of the right one.

    Attributes:
        tolerance: That share; ChartQA's relaxed accuracy allows 0.05 (arXiv 2203.10244, section 5). Of a
            year that is a century: where years or counts are asked, give 0.
    """

    tolerance: float = 0.05
    name = "number"
    takes = "a number"

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"number: tolerance is at least 0 and below 1, got {self.tolerance:g}")

    def score(self, prediction: str, answer: str) -> float:
        said, right = quantity(prediction), quantity(answer)
        return float(said is not None and right is not None and same_quantity(said, right, self.tolerance))

    def suits(self, answer: str) -> bool:
        return quantity(answer) is not None


RULES: dict[str, type[Rule]] = {rule.name: rule for rule in (Exact, Contains, Anls, Option, YesNo, Number)}


def make(name: str, parameters: Mapping[str, Any]) -> Rule:
    """A rule from its name and parameters.

    Raises:
        ValueError: If there is no such rule or parameter, or a value does not fit.
    """
    if name not in RULES:
        raise ValueError(f"no score {name!r}; known: {', '.join(RULES)}")
    known = {f.name: f.default for f in fields(RULES[name])}
    for key, value in parameters.items():
        if key not in known:
            has = f"it has: {', '.join(known)}" if known else "it has none"
            raise ValueError(f"score {name} has no parameter {key!r}; {has}")
        wanted = bool if isinstance(known[key], bool) else int | float
        if not isinstance(value, wanted) or isinstance(value, bool) != (wanted is bool):
            kind = "true or false" if wanted is bool else "a number"
            raise ValueError(f"score {name}: {key} is {kind}, got {value!r}")
        if abs(value) > sys.float_info.max:
            raise ValueError(f"score {name}: {key} is too large")
    return RULES[name](**parameters)


@lru_cache(maxsize=256)
def parse(text: str) -> Rule:
    """A rule from text: ``anls``, ``number(tolerance=0.1)``; ``parse(str(rule)) == rule``.

    Raises:
        ValueError: If it cannot be read, naming what is allowed.
    """
    match = _CALL.fullmatch(text)
    if match is None:
        raise ValueError(f"cannot read score {text!r}; write name or name(key=value): {', '.join(RULES)}")
    name, inner = match.groups()
    parameters: dict[str, Any] = {}
    for piece in (inner or "").split(","):
        key, mark, value = (part.strip() for part in piece.partition("="))
        if mark:
            parameters[key] = _value(value, f"score {name}: {key}")
        elif key:
            raise ValueError(f"score {name}: {key!r} has no name; write key=value")
    return make(name, parameters)


def read(data: Any) -> Rule:
    """A rule as a line of a file gives it: text as for ``parse``, or ``{"number": {"tolerance": 0.1}}``.

    Raises:
        ValueError: If it is neither, or not a rule.
    """
    if isinstance(data, str):
        return parse(data)
    if isinstance(data, dict) and len(data) == 1:
        ((name, parameters),) = data.items()
        if isinstance(parameters, dict):
            return make(name, parameters)
    raise ValueError(f'a score is a name such as "anls" or {{"number": {{"tolerance": 0.1}}}}, got {data!r}')


def best(rule: Rule, prediction: str, answers: Sequence[str]) -> float:
    """The best score over all references."""
    return max(rule.score(prediction, answer) for answer in answers)


def _written(value: bool | float) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    short = format(value, "g")
    return short if float(short) == value else repr(value)


def _value(text: str, where: str) -> bool | float:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{where}: {text!r} is not a number, true or false") from None
