"""Teaching one layer to look: which visual rows a word of the question is about.

Reading a place ("the top line") is learned from answers alone within minutes; finding what a word names
("the red line") is not, because it takes an attention head that matches words with patches, and nothing
rewards half of one. So three heads of two layers are told where to look while the model is trained:

- head 0: patches that show what the word names, or, for "red circle", what both words name;
- head 1: in diagrams, boxes that an arrow from the named box leads to;
- head 2: in diagrams, boxes whose arrow leads to the named box.

The row that begins the answer is told to look where the last name in its question looks (heads 0 to 2) and,
outside diagrams, where the first does (head 1): answers then need one more step instead of three.
The second of the two layers looks again; for "two arrows from A" it looks for the box that A leads to.
Where nothing fits, they are told to look at the first row, which says "not there".

The first layer can be told too: names as above, all other words at whatever is drawn, so that methods which
choose rows by what words look at there find the picture's.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from saccade.glance.tokenizer import ASSISTANT, EOS, build_tokenizer
from saccade.glance.vocabulary import (
    COLOR_INDEX,
    CONTENT_INDEX,
    HEAD_INDEX,
    LETTER_INDEX,
    LETTERS,
    PLURAL_OF,
    SHAPES,
)

HEADS = 3


@lru_cache(maxsize=1)
def vocabulary() -> dict[str, int]:
    """Ids of all tokens."""
    return build_tokenizer().get_vocab()


@lru_cache(maxsize=1)
def _classes() -> dict[str, torch.Tensor]:
    """Per token id: the class of each kind of label that it names, or 0."""
    ids = vocabulary()
    tables = {name: torch.zeros(len(ids), dtype=torch.long) for name in ("color", "shape", "letter", "box")}
    for name, index in COLOR_INDEX.items():
        tables["color"][ids[name]] = index
    for name in SHAPES:
        tables["shape"][ids[name]] = tables["shape"][ids[PLURAL_OF[name]]] = CONTENT_INDEX[name]
    for name in LETTERS:
        tables["letter"][ids[name]] = CONTENT_INDEX[name]
        tables["box"][ids[name]] = LETTER_INDEX[name]
    return tables


def aims(batch: dict[str, torch.Tensor], first_layer: bool = False) -> torch.Tensor:
    """Where each text row should look: batch x looks x heads x text x (1 + patches), boolean.

    A row that is all False is not taught: it names nothing, or lies within an answer.

    Args:
        batch: A batch of questions.
        first_layer: Whether a third look, that of the first layer, is asked for.
    """
    ids, labels = batch["ids"], batch["labels"].long()
    named = {name: table.to(ids.device)[ids] for name, table in _classes().items()}
    asking = (batch["segments"] >= 0) & (batch["tasks"] < 0)
    second = named | _one_arrow_on(named["box"], ids, labels)
    looks = [_aims(names, asking, ids, labels) for names in (named, second)]
    if first_layer:
        looks.append(_with_words_at_things(looks[0], batch["segments"] >= 0, labels))
    return torch.stack(looks, dim=1)


def _with_words_at_things(aim: torch.Tensor, text: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Add, for text rows that are not taught, a look at whatever is drawn."""
    drawn = F.pad(labels[:, :, HEAD_INDEX["content"]] > 0, (1, 0))
    untaught = text & ~aim.any(dim=(1, 3))
    return aim | (untaught[:, None, :, None] & drawn[:, None, None])


def _one_arrow_on(box: torch.Tensor, ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Names of boxes, where A in "two arrows from A" stands for the box that A leads to."""
    content = labels[:, :, HEAD_INDEX["content"]]
    first = CONTENT_INDEX[LETTERS[0]]
    letter = torch.where((content >= first) & (content < first + len(LETTERS)), content - first + 1, 0)
    leads = torch.zeros(len(ids), len(LETTERS) + 1, dtype=torch.long, device=ids.device)
    source = labels[:, :, HEAD_INDEX["source"]].clamp_min(0)
    target = labels[:, :, HEAD_INDEX["target"]].clamp_min(0)
    leads.scatter_(1, source, letter)
    leads[:, 0] = 0
    # Index 0 collects what is no arrow; it is never read.
    leads.scatter_reduce_(1, torch.where(target > 0, letter, 0), target, "amax")
    leads[:, 0] = 0
    twice = torch.zeros_like(ids, dtype=torch.bool)
    twice[:, 2:] = ids[:, :-2] == vocabulary()["arrows"]
    moved = torch.where(twice & (box > 0), leads.gather(1, box), box)
    return {"box": moved, "letter": torch.where(moved > 0, moved + first - 1, 0)}


def _aims(named: dict[str, torch.Tensor], asking, ids, labels) -> torch.Tensor:
    """Aims of one look: batch x heads x text x (1 + patches)."""

    def fits(classes: torch.Tensor, head: str) -> torch.Tensor:
        return (classes[:, :, None] == labels[:, None, :, HEAD_INDEX[head]]) & (classes > 0)[:, :, None]

    color = _narrowed(fits(named["color"], "color"), labels)
    after_color = torch.zeros_like(color)
    after_color[:, 1:] = color[:, :-1]
    colored = torch.zeros_like(asking)
    colored[:, 1:] = named["color"][:, :-1] > 0
    shape = fits(named["shape"], "content") & (after_color | ~colored[:, :, None])
    first = color | shape | fits(named["letter"], "content")
    teach = asking & ((named["color"] > 0) | (named["shape"] > 0) | (named["letter"] > 0))
    diagram = (labels[:, :, HEAD_INDEX["source"]] >= 0).any(dim=1)[:, None]
    links = asking & (named["box"] > 0) & diagram
    found = torch.stack((first, fits(named["box"], "source"), fits(named["box"], "target")), dim=1)
    taught = torch.stack((teach, links, links), dim=1)
    nothing = ~found.any(dim=-1, keepdim=True)
    aim = torch.cat((nothing, found), dim=-1) & taught[..., None]
    return _with_answers(aim, ids, diagram)


def _narrowed(color: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Of the patches in a colour those worth looking at: where things are named, and where a line begins."""
    content = labels[:, None, :, HEAD_INDEX["content"]]
    color = color & (content > 0) & (content < CONTENT_INDEX["bar"])
    order = labels[:, None, :, HEAD_INDEX["order"]].expand(color.shape)
    rank = torch.where(color & (order > 0), order, 99)
    least = rank.min(dim=-1, keepdim=True).values
    objects = (labels[:, :, HEAD_INDEX["same_color"]] > 0).any(dim=1)[:, None, None]
    return torch.where(objects | (least == 99), color, rank == least)


def _with_answers(aim: torch.Tensor, ids: torch.Tensor, diagram: torch.Tensor) -> torch.Tensor:
    """Add the aims of the rows that begin an answer.

    They look where the last name of their question does; outside diagrams, head 1 looks where the first does.
    """
    begins, ends = vocabulary()[ASSISTANT], vocabulary()[EOS]
    rows = ids.shape[1]
    at = torch.arange(rows, device=ids.device).expand_as(ids)
    taught = aim[:, 0].any(dim=-1)
    last = torch.where(taught, at, -1).cummax(dim=1).values
    former = torch.where(ids == ends, at, -1).cummax(dim=1).values
    # "red circle" is one name, complete at its second word.
    complete = taught.clone()
    complete[:, :-1] &= ~taught[:, 1:]
    following = torch.where(complete, at, rows - 1).flip(1).cummin(dim=1).values.flip(1)
    first = following.gather(1, (former + 1).clamp_max(rows - 1))
    carries = ((ids == begins) & (last > former))[:, None, :, None]

    def fetch(source: torch.Tensor) -> torch.Tensor:
        return aim.gather(2, source.clamp_min(0)[:, None, :, None].expand_as(aim)) & carries

    answers = fetch(last)
    one = torch.where(diagram[:, :, None], answers[:, 1], fetch(first)[:, 0])
    return aim | torch.stack((answers[:, 0], one, answers[:, 2]), dim=1)


def pointing_loss(layer, hidden, rotary, mask, aim: torch.Tensor) -> torch.Tensor:
    """Mean of -log(attention on the rows aimed at) over the rows that are taught.

    Args:
        layer: The decoder layer whose first heads are taught.
        hidden: Its input, batch x rows x width.
        rotary: Cosines and sines of the positions.
        mask: Additive attention mask of the text rows.
        aim: One look of `aims`.
    """
    attention = layer.self_attn
    size, text = attention.head_dim, aim.shape[2]
    normed = layer.input_layernorm(hidden)
    shape = (len(hidden), hidden.shape[1], -1, size)
    query = attention.q_proj(normed).view(shape).transpose(1, 2)[:, :HEADS]
    key = attention.k_proj(normed).view(shape).transpose(1, 2)[:, :HEADS]
    query, key = apply_rotary_pos_emb(query, key, *rotary)
    scores = (query[:, :, -text:] @ key.transpose(2, 3)).float() * attention.scaling + mask
    chance = scores.log_softmax(dim=-1)[..., : aim.shape[3]]
    taught = aim.any(dim=-1)
    # Rows that are not taught get a harmless target, so that no gradient is ever infinite.
    target = torch.where(taught[..., None], aim, torch.ones_like(aim))
    loss = -torch.logsumexp(chance.masked_fill(~target, -1e9), dim=-1)
    return (loss * taught).sum() / taught.sum().clamp_min(1)
