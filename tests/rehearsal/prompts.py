"""Whether a prompt is what transformers itself makes: text, ids, pixels, visual tokens, positions, answer.

``python -m rehearsal.prompts CHECKPOINT MODEL SCENE PICTURE...`` prints what was seen. What a checkpoint
should give is told twice by nothing of ours: by the stock processor, where it opens in the environment at
hand (one with a part for videos needs torchvision), and by the model card's words around as many
placeholders as the data of the checkpoint say.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from rehearsal import checkpoint, layout, scene

TOKENS = 3
PLAN = "vskip(layers=1-2)"
"""A plan that keeps every row: under it positions must be those of the stock model."""


def main(words: Sequence[str]) -> int:
    """Compares, and prints what was found as JSON.

    Returns:
        0; an AssertionError says what differs.
    """
    import saccade
    from saccade import models
    from saccade.inputs.samples import Sample

    known = checkpoint.every()[words[0]]
    folder, where = Path(words[1]), scene.Scene(Path(words[2]))
    loaded = saccade.load(str(folder), device="cpu")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    stock = stock_processor(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto").eval()
    found: dict[str, Any] = {"stock_processor": stock is not None, "visual_tokens": {}}
    for name in words[3:]:
        image = where.image(name)
        asked = Sample("", "", "", (image,), scene.QUESTION)
        ours = dict(models.inputs(loaded, [asked]))
        size = "{}x{}".format(*image.size)
        count = int((ours["input_ids"] == tokenizer.convert_tokens_to_ids(known.placeholder())).sum())
        assert count == known.visual_tokens[size], f"{size}: {count} visual tokens"
        assert models.prompt(loaded, asked) == layout.written_prompt(known, 1, scene.QUESTION)
        text = expanded(known, count, size)
        # What writes its first token itself does not get it twice.
        ids = tokenizer(text, add_special_tokens=(tokenizer.bos_token or "\0") not in text).input_ids
        assert ours["input_ids"][0].tolist() == ids, f"{size}: token ids"
        if stock is not None:
            ours = same(ours, stock_inputs(stock, image), model.dtype, size)
        with positions(loaded.model) as seen, torch.no_grad(), saccade.apply(loaded.model, PLAN):
            loaded.model(**ours, logits_to_keep=1)
        with positions(model) as expected, torch.no_grad():
            dense = model(**ours, logits_to_keep=1)
        assert len(seen) == len(expected) > 0, f"{size}: positions"
        assert all(map(torch.equal, seen, expected)), f"{size}: positions"
        answer = loaded.model.generate(**ours, **models.greedy(TOKENS))
        usual = model.generate(**ours, do_sample=False, max_new_tokens=TOKENS)
        assert torch.equal(answer, usual), f"{size}: answers"
        first = answer[0, len(ids)]
        if known.files["generation_config.json"].get("repetition_penalty", 1) == 1:
            assert first == dense.logits[0, -1].argmax(), f"{size}: the answer is not greedy"
        found["visual_tokens"][size] = count
    print(json.dumps(found))
    return 0


def stock_processor(folder: Path) -> Any:
    """The stock processor, its pictures by Pillow as ours are; None where transformers cannot open it."""
    try:
        made = AutoProcessor.from_pretrained(folder)
    except ImportError:
        return None
    if hasattr(transformers, f"{type(made.image_processor).__name__}Pil"):
        made.image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    return made


def stock_inputs(processor: Any, image: Any) -> dict[str, torch.Tensor]:
    """What the stock processor makes of a question about a picture."""
    content = [{"type": "image"}, {"type": "text", "text": scene.QUESTION}]
    talk, text = [{"role": "user", "content": content}], f"<image>{scene.QUESTION}"
    if processor.chat_template is not None:
        text = processor.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    special = not text.startswith(processor.tokenizer.bos_token or "\0")
    made = processor(text=[text], images=[image], add_special_tokens=special, return_tensors="pt")
    return {key: value for key, value in made.items() if key != "labels"}


def same(ours: dict[str, Any], theirs: dict[str, Any], dtype: torch.dtype, size: str) -> dict[str, Any]:
    """Holds inputs against those of the stock processor; returns the stock ones as the model takes them."""
    assert ours.keys() == theirs.keys(), f"{size}: {sorted(ours)} and stock {sorted(theirs)}"
    cast = {k: v.to(dtype) if v.is_floating_point() else v for k, v in theirs.items()}
    for key, value in cast.items():
        assert torch.equal(ours[key], value), f"{size}: {key} differs from stock"
    return cast


def expanded(known: checkpoint.Checkpoint, count: int, size: str) -> str:
    """The model card's prompt with a placeholder for every visual token, and the marks between them."""
    token = known.placeholder()
    before, after = known.chat.get("around", ("", ""))
    # What stands for a picture in words may be another token than its rows'.
    written = known.chat.get("written", token)
    whole = layout.written_prompt(known, 1, scene.QUESTION)
    assert whole.count(written) == 1
    shown = laid(known.chat, token, size) or token * count
    assert shown.count(token) == count
    whole = whole.replace(written, before + shown + after)
    return known.chat.get("before", "") + whole + known.chat.get("behind", "")


def laid(chat: Mapping[str, Any], token: str, size: str) -> str:
    """A picture whose rows have marks between them; nothing where they have none."""
    if "planes" in chat:
        told, numbers = chat["planes"], iter(chat["planes"]["grids"][size])
        each = zip(told["planes"], zip(numbers, numbers, strict=True), strict=True)
        return "".join(plane.format(lines=told["line"].format(rows=token * m) * n) for plane, (n, m) in each)
    told = chat.get("laid")
    return "" if told is None else cells(told, token, *told["grids"][size])


def cells(laid: Mapping[str, Any], token: str, lines: int, columns: int, whole: int | None = None) -> str:
    """A picture as so many lines of cells (tiles, or single rows) with marks between, then the whole.

    Args:
        laid: The marks.
        token: What stands for a row.
        lines: Lines of cells; none where the picture is one view.
        columns: Cells of a line.
        whole: Rows of the whole, where it has others than a cell.
    """
    rows, said = token * laid["rows"], ""
    last = rows if whole is None else token * whole
    for line in range(1, lines + 1):
        each = (laid["cell"].format(line=line, column=column, rows=rows) for column in range(1, columns + 1))
        said += laid.get("between", "").join(each) + (laid["end"] if line == lines else laid["line"])
    return said + laid["whole" if lines else "alone"].format(rows=last)


@contextmanager
def positions(model: Any) -> Iterator[list[torch.Tensor]]:
    """The positions that the decoder's rotary embedding gets while the block runs."""
    from saccade.families import find

    seen: list[torch.Tensor] = []

    def note(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(kwargs.get("position_ids", args[1] if len(args) > 1 else None).clone())

    rotary = find(model).parts(model).decoder.rotary_emb
    hook = rotary.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
