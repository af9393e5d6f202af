"""From a conversation to token ids and labels, by the processor's own chat template.

Prompts come out as they are tokenised at inference: what is rendered with the generation prompt before an
answer is tokenised as a whole, and only where that does not continue what stands already is a segment
tokenised alone. Answers stand behind the prompt that asks for them, also in the history of later turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from saccade.families import find, unwrap
from saccade.inputs.prompts import placeholders
from saccade.training.records import BadRecord, Turn

IGNORE = -100


@dataclass(frozen=True)
class Encoded:
    """Token ids of a conversation, each image still one placeholder.

    Attributes:
        ids: Token ids.
        labels: The same where an assistant speaks, `IGNORE` elsewhere. Where a template writes no end between
            an answer and what follows it, the token that follows has the end as its label: the model learns
            to stop there, and still reads what the template writes.
        ends: Length after every answer: where whole turns can be cut off.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    ends: tuple[int, ...]


class ConversationEncoder:
    """Encodes conversations for one processor.

    Attributes:
        image_token: What a prompt holds in the place of an image's rows.
        image_id: Its id.
        written: What a template writes for an image.
        stops: Token ids that end a turn.
    """

    def __init__(self, processor: Any, model: Any) -> None:
        """Reads the processor's tokens.

        Args:
            processor: A processor with a chat template and an image token.
            model: Its model, whose generation settings know more ways to end a turn.

        Raises:
            ValueError: If the processor has no chat template, image token or end of sequence.
        """
        self.processor, self.tokenizer = processor, processor.tokenizer
        if not getattr(processor, "chat_template", None):
            raise ValueError("training needs a processor with a chat template; this one has none")
        token = getattr(processor, "image_token", None)
        if token is None:
            raise ValueError("training needs a processor with an image token; this one has none")
        self.written = self.image_token = str(token)
        self._placeholders: tuple[str, ...] = ()
        self.family = None if model is None else find(model)
        if self.family is not None:
            config: Any = unwrap(model).config
            ids, written = self.family.visual_ids(config), self.family.written_ids(config)
            self._placeholders = placeholders(processor, self.family, config)
            if written and ids != written:
                self.image_token, self.written = self.tokenizer.convert_ids_to_tokens([ids[0], written[0]])
        self.image_id: int = self.tokenizer.convert_tokens_to_ids(self.image_token)
        end = self.tokenizer.eos_token_id
        if end is None:
            raise ValueError("training needs a tokenizer with an end-of-sequence token; this one has none")
        more = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
        more = [] if more is None else [more] if isinstance(more, int) else list(more)
        self.end: int = end
        self.stops = frozenset((end, *more))
        # Generation settings may name ends that the tokenizer has no text for.
        texts = self.tokenizer.convert_ids_to_tokens(sorted(self.stops))
        self._stop_texts = [text for text in texts if text is not None]

    def __call__(self, turns: Sequence[Turn], where: str) -> Encoded:
        """Encodes one conversation.

        Args:
            turns: The messages; user and assistant take turns after an optional system message.
            where: The record's place, for errors.

        Raises:
            BadRecord: If the template cannot write the conversation turn by turn, an answer would end in its
                middle, or a text holds what the model reads as a picture.
        """
        messages = [turn.message() for turn in turns]
        texts: list[str] = []
        told = written = ""
        for number, turn in enumerate(turns):
            if turn.role == "assistant":
                self._check_unbroken(turn, where)
                asked = self._render(messages[:number], True, where)
                answered = self._answered(asked, self._render(messages[: number + 1], False, where))
                before = self._render(messages[:number], False, where)
                opened = self._opened(asked, answered, before, turn)
                texts += [_onto(written, told, asked), _onto(written, told, opened)]
                told, written = answered, texts[-1]
        if not self._ended(texts[-1][len(texts[-2]) :]):
            # Without an end in the template nothing would teach the model to stop.
            texts[-1] += self.tokenizer.eos_token
        images = sum(turn.images for turn in turns)
        if texts[-1].count(self.image_token) != images:
            raise BadRecord(
                f"{where}: the text holds {texts[-1].count(self.image_token)} {self.image_token} "
                f"for {images} images"
            )
        self._check_unseen(turns, where)
        return self._join(texts, where)

    def _render(self, messages: list[dict[str, Any]], prompt: bool, where: str) -> str:
        try:
            text = self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        except Exception as error:  # templates raise whatever their author chose
            raise BadRecord(f"{where}: the chat template refuses it: {error}") from None
        return text if self.family is None else self.family.spelled(self.processor, text)

    def _answered(self, prompt: str, text: str) -> str:
        """A text up to the end of its answer. Where no token ends it, space after it begins the next turn."""
        return text if self._ended(text[len(prompt) :]) else text.rstrip()

    def _opened(self, asked: str, answered: str, before: str, turn: Turn) -> str:
        """A text whose answer stands behind the prompt that asks for it.

        Some templates open a written answer otherwise than the one they ask for (LLaVA-OneVision's); a model
        answers behind the latter.
        """
        text = "".join(piece or "" for piece in turn.pieces)
        pairs = zip(asked, answered, strict=False)
        shared = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(asked), len(answered)))
        _, found, end = answered[shared:].partition(text)
        if shared == len(asked) or shared < len(before) or not found:
            return answered
        return asked + text + end

    def _check_unbroken(self, turn: Turn, where: str) -> None:
        """Refuses an answer with an end of turn in its text: the model would learn to stop there."""
        text = "".join(piece or "" for piece in turn.pieces).rstrip()
        for end in self._stop_texts:
            # Data may end an answer as the model does.
            if end.strip() and end in text.removesuffix(end):
                raise BadRecord(
                    f"{where}: an answer holds {end} in its text, which ends a turn of this model"
                )

    def _check_unseen(self, turns: Sequence[Turn], where: str) -> None:
        """Refuses words that stand for a picture or a video, as asking does: its rows would hold nothing."""
        said = [piece for turn in turns for piece in turn.pieces if piece is not None]
        for token in self._placeholders:
            if any(token in piece for piece in said):
                raise BadRecord(f"{where}: the text holds {token!r}, which this model reads as a picture")

    def _ended(self, answer: str) -> bool:
        return any(end in answer for end in self._stop_texts)

    def _join(self, texts: list[str], where: str) -> Encoded:
        # A template that writes the first token itself must not get it twice.
        bos = self.tokenizer.bos_token
        special = not (bos and texts[0].startswith(bos))
        whole: list[list[int]] = self.tokenizer(texts, add_special_tokens=special)["input_ids"]
        if special and self.tokenizer("", add_special_tokens=True)["input_ids"][-1:] == [self.end]:
            whole = [ids[:-1] for ids in whole]  # such tokenizers end every text, prompts too
        ids: list[int] = []
        labels: list[int] = []
        ends: list[int] = []
        before, unended = "", False
        for number, (text, tokens) in enumerate(zip(texts, whole, strict=True)):
            if not text.startswith(before):
                raise BadRecord(f"{where}: the chat template does not write conversations turn by turn")
            if tokens[: len(ids)] == ids:
                new = tokens[len(ids) :]
            else:
                new = self.tokenizer(text[len(before) :], add_special_tokens=False)["input_ids"]
            answer = number % 2 == 1
            ids += new
            if answer:
                labels += self._spoken(new)
                ends.append(len(ids))
            else:
                stop = [self.end] if unended and new else []
                labels += stop + [IGNORE] * (len(new) - len(stop))
            before, unended = text, answer and self.stops.isdisjoint(new)
        return Encoded(tuple(ids), tuple(labels), tuple(ends))

    def _spoken(self, answer: list[int]) -> list[int]:
        """Labels of an answer, up to its end-of-turn token: what the template writes after it is none."""
        last = max((n for n, token in enumerate(answer) if token in self.stops), default=len(answer) - 1)
        return answer[: last + 1] + [IGNORE] * (len(answer) - last - 1)


def _onto(written: str, told: str, text: str) -> str:
    """A text with its beginning, as the template tells it, as it is written here."""
    return written + text[len(told) :] if text.startswith(told) else text


def cut(encoded: Encoded, turns: Sequence[Turn], answers: int) -> tuple[Encoded, tuple[Turn, ...]]:
    """The conversation up to so many answers."""
    end = encoded.ends[answers - 1]
    kept: list[Turn] = []
    for turn in turns:
        kept.append(turn)
        if sum(t.role == "assistant" for t in kept) == answers:
            break
    # The end that the token behind the answer has as its label, where the template writes none.
    last = tuple(label for label in encoded.labels[end : end + 1] if label != IGNORE)
    shorter = Encoded(encoded.ids[:end] + last, encoded.labels[:end] + last, encoded.ends[:answers])
    return shorter, tuple(kept)
