"""What a sentence of a model says: an option's letter, yes or no (pure)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

NEAR = 160
"""Letters before and after a mention in which its context is looked for."""

_OPENING = " \t\r\n\u00a0*_`\"'([{<"
# Possessive, as all runs here: a model that repeats itself must not cost a search through all ways to match.
_DRESS = r"[\s*_`\"'(\[{<]*+"
_UNDRESS = r"[\s*_`\"')\]}>.,:;!]*+"
_IS = r"(?:is|was|seems|appears\s+to\s+be|(?:would|should|must|will|has\s+to|can\s+only)\s+be)\b"
_SURELY = r"(?:(?:therefore|thus|clearly|definitely|indeed|most\s+likely|likely|probably|then)\b,?\s*)?"
_ANSWER = rf"\banswer\b[*_\"]*+(?:(?:\s+(?:to|for)\b[^.!?\n]{{0,80}}?)?\s+{_IS})?[*_]*+\s*+:?\s*+{_SURELY}"
_CONCLUDED = r"\b(?:so|therefore|thus|hence)\b,?\s*"

_LETTER = re.compile(r"(?<![\w.])(?<!\w')(?:[A-Z](?!\w|'\w)|[a-z](?!\w|'\w|\.\w))")
_LETTER_ALONE = re.compile(rf"{_DRESS}([A-Za-z]){_UNDRESS}")
_LETTER_FIRST = re.compile(r"\s*(?:[\[(*]+[A-Za-z][\])*]+|[A-Za-z][).:])(?=\s|$|[.:)*])")
# "A cat" and "I think" are words, not letters; "A is right" and "A or B" speak of letters.
_WORD_BEHIND = {
    "A": re.compile(
        r"\s+(?!(?:or|and|is|as|but|rather|because|since|was|has|does|shows|matches|which|where)\b)[a-z]"
    ),
    "I": re.compile(r"\s+(?!(?:or|and|is|as|but|rather|because|since)\b)[a-z]"),
}
# A small "a" or "i" counts only if it is marked as a letter, for it may begin a phrase.
_MARKED = re.compile(r"[)\]*'\"]|\s*[.,;]?\s*$|\s+(?:because|since|is)\b")

_NAMED = re.compile(r"(?:\bthe\s+)?\b(?:option|choice|letter)s?\s*:?\s*$", re.IGNORECASE)
_ANSWERED = re.compile(
    rf"(?:{_ANSWER}|\b(?:option|choice)\s*(?:{_IS}\s*:?|:)\s*"
    r"|\b(?:choose|chose|pick|select|go(?:ing)?\s+with)\s*"
    rf"|{_CONCLUDED}(?:(?:it\s+is|it's|it\s+must\s+be)\s*)?)$",
    re.IGNORECASE,
)
_REFUSED = re.compile(
    r"\b(?:neither|nor|unlike|than|instead\s+of|none\s+of|(?:rul|eliminat|exclud)(?:e|es|ed|ing)(?:\s+out)?"
    r"|(?:not|cannot|never|\w+n't)(?:\s+(?:be|choose|pick|select|(?:think|believe)\s+(?:it\s+is|it's)))?)"
    r"(?:\s+(?:the\s+)?(?:(?:correct|right)\s+)?answer(?:\s+is)?)?\s*$",
    re.IGNORECASE,
)
_CLOSED = r"[\s*_`\"')\]}>]*+"
_BETWEEN = rf"{_CLOSED}(?:\([^()]*+\)\s*+)?"
_RIGHT = (
    r"(?:correct|best|true|answer\b|right\b(?!\s+(?:of|next|beside|behind|above|below|there|side|hand)\b))"
)
_PRAISED = re.compile(
    rf"{_BETWEEN}{_IS}\s+{_SURELY}(?:the\s+|a\s+)?(?:(?:only|most|one)\s+)?{_RIGHT}", re.IGNORECASE
)
_WRONG = re.compile(
    rf"{_BETWEEN}(?:"
    r"(?:is|are|was|were|seems?)\s+(?:\w+ly\s+|also\s+|both\s+)?(?:incorrect|wrong|false|ruled\s+out)\b"
    r"|(?:can|must)\s+be\s+(?:ruled\s+out|eliminated|excluded)\b"
    rf"|(?:(?:is|are|was|were)(?:\s+\w+ly)?\s+not|(?:is|are)n't|cannot\s+be|can't\s+be)\s+(?:the\s+)?{_RIGHT})",
    re.IGNORECASE,
)
_LINK = re.compile(
    # A comma links only in a list that ends in "or": "A, B or C".
    rf"{_CLOSED}(?:,?\s*+(?:\b(?:or|nor|(and))\b|[/&])"
    rf"|,(?=(?:{_DRESS}[A-Za-z]{_CLOSED},){{0,25}}{_DRESS}[A-Za-z]{_CLOSED},?\s*+n?or\b))"
    rf"\s*+(?:(?:option|choice)s?\b)?{_DRESS}",
    re.IGNORECASE,
)
_SPEAKS = re.compile(rf"{_BETWEEN}(?:is|was|shows|has|does|matches)\b")

_YES_NO = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
_YES_NO_ANSWERED = re.compile(
    rf"(?:{_ANSWER}{_DRESS}(yes|no)\b|{_CONCLUDED}{_DRESS}(yes|no)\b(?=\s*[^\s\w]|\s*$))(?!\s+or\s+(?:yes|no)\b)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Mention:
    """Letters of options that a text names in one breath: "option B", "A or C".

    Attributes:
        letters: The letters, capital.
        start: Where the first stands.
        named: Whether the word option stands before.
        answered: Whether the text gives them as its answer.
        praised: Whether the text calls them right.
        refused: Whether the text turns them down.
        bracketed: Whether the first stands in brackets.
    """

    letters: frozenset[str]
    start: int
    named: bool
    answered: bool
    praised: bool
    refused: bool
    bracketed: bool


def option_letter(text: str) -> str | None:
    """The option a text chooses, as a capital letter; None where it chooses none, or several.

    A letter alone ("B", "(B)", "b.") is the option. Else letters that are turned down are left out ("not B",
    "rather than option D", "A and C are incorrect"), and of the others these are asked in order:

    1. the last that is stated as the answer: "the answer is option B", "Answer: B", "I choose B", "so B";
    2. that which is called right: "option B is correct", "B is the best answer";
    3. that in front with a mark: "B. a dog", "(B) a dog";
    4. the first after the word option: "option B shows it";
    5. the only one in brackets;
    6. the only capital letter that stands alone.

    The first of these that finds a letter decides; where it finds two in one breath ("the answer is A or B"),
    or two that are both called right, in brackets or alone, none is chosen.
    """
    text = text.replace("\u2019", "'")
    alone = _LETTER_ALONE.fullmatch(text)
    if alone:
        return alone[1].upper()
    found = _mentions(text)
    refused = frozenset().union(*(each.letters for each in found if each.refused))
    answered = [each for each in found if each.answered and not each.refused]
    if answered:
        return _only(answered[-1:])
    left = [each for each in found if not each.letters & refused]
    front = _LETTER_FIRST.match(text)
    in_brackets = [each for each in left if each.bracketed]
    for chosen in (
        [each for each in left if each.praised],
        [each for each in left if front and each.start < front.end() and len(_letters(in_brackets)) < 2],
        [each for each in left if each.named][:1],
        in_brackets,
        left,
    ):
        if chosen:
            return _only(chosen)
    return None


def _letters(mentions: Sequence[Mention]) -> frozenset[str]:
    return frozenset().union(*(each.letters for each in mentions))


def _only(mentions: Sequence[Mention]) -> str | None:
    letters = _letters(mentions)
    return next(iter(letters)) if len(letters) == 1 else None


def _mentions(text: str) -> list[Mention]:
    """Every mention of options, in the order of the text."""
    front, groups = _LETTER_FIRST.match(text), list[list[re.Match[str]]]()
    for letter in _LETTER.finditer(text):
        linked = bool(groups) and _is_linked(text, groups[-1][-1], letter)
        # What stands before a list ("options a or b") stands before all of it.
        before = _before(text, groups[-1][0] if linked else letter)
        in_front = front is not None and letter.start() < front.end()
        if in_front or _is_option(text, letter, before):
            if linked:
                groups[-1].append(letter)
            else:
                groups.append([letter])
    return [_mention(text, group) for group in groups]


def _before(text: str, letter: re.Match[str]) -> str:
    """What stands before a letter, less its dress."""
    return text[max(0, letter.start() - NEAR) : letter.start()].rstrip(_OPENING)


def _is_linked(text: str, last: re.Match[str], letter: re.Match[str]) -> bool:
    link = _LINK.match(text, last.end())
    if link is None or link.end() != letter.start():
        return False
    # "The answer is B and A is wrong" speaks of each by itself.
    return not (link[1] and _SPEAKS.match(text, letter.end()))


def _is_bracketed(text: str, letter: re.Match[str]) -> bool:
    return text[letter.start() - 1 : letter.start()] in tuple("([") and text[letter.end() :][:1] in tuple(
        ")]"
    )


def _is_option(text: str, letter: re.Match[str], before: str) -> bool:
    """Whether a single letter stands for an option, and is no word."""
    if _is_bracketed(text, letter):
        return True
    named = _NAMED.search(before) is not None
    if letter[0].isupper():
        word = _WORD_BEHIND.get(letter[0])
        return named or word is None or word.match(text, letter.end()) is None
    marked = letter[0] not in "ai" or _MARKED.match(text, letter.end()) is not None
    return marked and (named or _ANSWERED.search(before) is not None)


def _mention(text: str, group: Sequence[re.Match[str]]) -> Mention:
    first, last = group[0], group[-1]
    before = _before(text, first)
    bare = _NAMED.sub("", before).rstrip(_OPENING)
    return Mention(
        letters=frozenset(each[0].upper() for each in group),
        start=first.start(),
        named=bare != before,
        answered=any(_ANSWERED.search(each) for each in (before, bare)),
        praised=_PRAISED.match(text, last.end()) is not None,
        refused=_REFUSED.search(bare) is not None or _WRONG.match(text, last.end()) is not None,
        bracketed=_is_bracketed(text, first),
    )


def yes_or_no(text: str) -> str | None:
    """``"yes"`` or ``"no"``; None where neither word is said.

    The last that is stated as the answer counts ("Final answer: yes", "so no."), else the first.
    """
    answered = list(_YES_NO_ANSWERED.finditer(text))
    found = answered[-1] if answered else _YES_NO.search(text)
    return next(filter(None, found.groups())).lower() if found else None
