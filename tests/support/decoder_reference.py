"""What the reducers inside the decoder do, in plain loops: one sample, whole attention maps, real dropping.

The stock layers of an eager model run one after another on a sequence that really gets shorter; scores are
read from their N x N attention maps, and everything is chosen, merged and sorted in Python. Nothing here
knows the package under test.

Shape letters: N rows that are left, D hidden, W head width, H heads, G key heads.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from support.models import IMAGE, decoder_of
from support.recurrent import last_norm, recurs
from support.sight import angles, kind_of, last_logits, sees_BNN, told_kinds


@dataclass
class Row:
    """One row of the shortened sequence.

    Attributes:
        seat: Number of the row of the prompt in whose place it stands.
        image: Which image it belongs to, None for text.
        made_of: Weights of the prompt's rows in it.
        state: What it holds (D).
        angles: By kind of layer: cosines and sines of its position (W each).
        later: What is still added to it (D), one entry for each of the next layers that are followed by that.
    """

    seat: int
    image: int | None
    made_of: dict[int, float]
    state: torch.Tensor
    angles: dict[str, tuple[torch.Tensor, torch.Tensor]]
    later: list[torch.Tensor] = field(default_factory=list)


@dataclass
class Seen:
    """One layer that ran on all rows there are: its map (H, N, N), keys (G, N, W) and output (N, D)."""

    map_HNN: torch.Tensor
    keys_GNW: torch.Tensor
    out_ND: torch.Tensor

    def mean_row(self, asking: Sequence[int]) -> list[float]:
        """Mean over heads, then over the asking rows, of the attention that each row gets."""
        head_mean = self.map_HNN.float().mean(0)
        return (sum(head_mean[i] for i in asking) / len(asking)).tolist()


@dataclass
class Run:
    """What is left after each decision, and in the end.

    Attributes:
        alive: By first layer: seats of the visual rows that are left, in the order they stand in.
        made: By first layer: what each of them is made of.
        seats: Seats of all rows that reach the head.
        logits: Their logits (N, V).
    """

    alive: dict[int, list[int]] = field(default_factory=dict)
    made: dict[int, list[dict[int, float]]] = field(default_factory=dict)
    seats: list[int] = field(default_factory=list)
    logits: torch.Tensor = field(default_factory=lambda: torch.zeros(0))


Decide = Callable[["Walk", Seen, int], None]


class Walk:
    """A sample on its way through the layers."""

    def __init__(self, model: Any, inputs: dict[str, torch.Tensor], image_id: int = IMAGE) -> None:
        """Runs the stock model once for the decoder's input; ``inputs`` hold one sample without padding."""
        assert inputs["input_ids"].shape[0] == 1 and bool(inputs["attention_mask"].all())
        assert model.config.get_text_config()._attn_implementation == "eager"
        self.model, self.decoder = model, decoder_of(model)
        caught: dict[str, Any] = {}

        self.kinds = [kind_of(model.config, number) for number in range(len(self.decoder.layers))]
        self.kind, self.compact, self.types = self.kinds[0], False, told_kinds(inputs)

        def catch(number: int):
            def hook(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
                if number == 0:
                    caught["hidden"] = args[0] if args else kwargs["hidden_states"]
                caught[self.kinds[number]] = _tables(kwargs["position_embeddings"])

            return hook

        def enter(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
            caught["later"] = kwargs.get("deepstack_visual_embeds") or []

        handles = [
            self.decoder.register_forward_pre_hook(enter, with_kwargs=True),
            *(
                layer.register_forward_pre_hook(catch(number), with_kwargs=True)
                for number, layer in enumerate(self.decoder.layers)
            ),
        ]
        try:
            model(**inputs)
        finally:
            for handle in handles:
                handle.remove()
        self.rows: list[Row] = []
        image, shown = -1, 0
        before = False
        for n, token in enumerate(inputs["input_ids"][0].tolist()):
            visual = token == image_id
            image += visual and not before
            before = visual
            state = caught["hidden"][0, n]
            later = [level[shown] for level in caught["later"]] if visual else []
            shown += visual
            turned = {kind: tuple(part[0, n] for part in caught[kind]) for kind in set(self.kinds)}
            self.rows.append(Row(n, image if visual else None, {n: 1.0}, state, turned, later))
        self.images = image + 1
        # Positions of PaliGemma begin at 1.
        self.begins = int(model.config.model_type == "paligemma")
        self.places = {}
        for one in range(self.images):
            for place, row in enumerate(r for r in self.rows if r.image == one):
                self.places[row.seat] = place

    def look(self, number: int) -> Seen:
        """Runs a layer on what is left, without going on."""
        layer, caught = self.decoder.layers[number], {}
        if recurs(layer):
            # It has no map: nobody looks at it.
            hidden = torch.stack([row.state for row in self.rows])[None]
            none = torch.zeros(0)
            return Seen(none, none, layer(hidden, position_embeddings=None)[0])
        handle = layer.self_attn.register_forward_hook(lambda m, a, out: caught.update(map=out[1]))
        hidden = torch.stack([row.state for row in self.rows])[None]
        self.kind = self.kinds[number]
        parts = range(len(self.rows[0].angles[self.kind]))
        angles: Any = tuple(torch.stack([row.angles[self.kind][i] for row in self.rows])[None] for i in parts)
        # Complex turns are one table.
        angles = angles if len(parts) > 1 else angles[0]
        seats = torch.tensor([row.seat for row in self.rows])
        place = torch.arange(int(seats.max()) + 1)
        place[seats] = torch.arange(len(seats)) if self.compact else seats
        sees = sees_BNN(self.model.config, number, self.types, len(place), place[None])
        sees = sees[0][seats][:, seats]
        mask = torch.zeros(sees.shape, dtype=hidden.dtype)
        mask = mask.masked_fill(~sees, torch.finfo(hidden.dtype).min)[None, None]
        cache = DynamicCache()
        try:
            out = layer(hidden, attention_mask=mask, past_key_values=cache, position_embeddings=angles)
        finally:
            handle.remove()
        out = out[0] if isinstance(out, tuple) else out
        return Seen(caught["map"][0], cache.layers[number].keys[0], out[0])

    def go(self, seen: Seen) -> None:
        """Takes a layer's output, and what is added to it, as the new states."""
        for row, state in zip(self.rows, seen.out_ND, strict=True):
            row.state = state + row.later.pop(0) if row.later else state

    def of(self, image: int) -> list[int]:
        """Where in the sequence the rows of an image are."""
        return [i for i, row in enumerate(self.rows) if row.image == image]

    def replace(self, image: int, new: list[Row]) -> None:
        """Puts other rows in the place of an image's."""
        old = self.of(image)
        gone = set(old)
        head = [r for i, r in enumerate(self.rows) if i < old[0]]
        tail = [r for i, r in enumerate(self.rows) if i > old[0] and i not in gone]
        self.rows = head + new + tail

    def close_up(self) -> None:
        """Numbers the positions of what is left from 0 on."""
        ids, self.compact = torch.arange(len(self.rows))[None] + self.begins, True
        for kind in set(self.kinds):
            tables = _tables(
                angles(self.decoder, self.rows[0].state[None, None], ids, self.kinds.index(kind))
            )
            for i, row in enumerate(self.rows):
                row.angles = row.angles | {kind: tuple(part[0, i] for part in tables)}

    def instruction(self) -> list[int]:
        """Where the text after the last image is."""
        last = max((i for i, row in enumerate(self.rows) if row.image is not None), default=-1)
        return list(range(last + 1, len(self.rows)))

    def run(self, decisions: dict[int, int], decide: Decide, moment: str, compact: bool) -> Run:
        """Goes through all layers; ``decisions`` names the stage that comes before a layer."""
        done, seen = Run(), None
        with torch.no_grad():
            for number in range(len(self.decoder.layers)):
                if number in decisions and self.images:
                    seen = self.look(number) if moment == "before" else seen
                    decide(self, seen, decisions[number])
                    if compact:
                        self.close_up()
                    visual = [row for row in self.rows if row.image is not None]
                    done.alive[number] = [row.seat for row in visual]
                    done.made[number] = [dict(row.made_of) for row in visual]
                seen = self.look(number)
                self.go(seen)
            hidden = last_norm(self.decoder)(torch.stack([row.state for row in self.rows]))
            done.logits = last_logits(self.model, hidden[None])[0]
        done.seats = [row.seat for row in self.rows]
        return done


def _tables(given: Any) -> tuple[torch.Tensor, ...]:
    return (given,) if isinstance(given, torch.Tensor) else given


def best(scores: Sequence[float], among: Sequence[int], count: int) -> list[int]:
    """The highest-scored of some rows, highest first, the earlier of equals first."""
    return sorted(among, key=lambda i: (-scores[i], i))[:count]


def keep_best(walk: Walk, scores: Sequence[float], counts: Sequence[int]) -> None:
    """Drops all rows of every image but the best, which stay in order."""
    chosen = [sorted(best(scores, walk.of(image), count)) for image, count in enumerate(counts)]
    rows = walk.rows
    for image, places in enumerate(chosen):
        walk.replace(image, [rows[i] for i in places])


def fastv(model: Any, inputs: dict[str, torch.Tensor], layer: int, keep: float) -> Run:
    """FastV: one cut by the last row's attention in the layer before."""

    def decide(walk: Walk, seen: Seen, stage: int) -> None:
        scores = seen.mean_row([len(walk.rows) - 1])
        keep_best(walk, scores, [int(len(walk.of(image)) * keep) for image in range(walk.images)])

    return Walk(model, inputs).run({layer: 0}, decide, "after", compact=False)


def pyramiddrop(
    model: Any, inputs: dict[str, torch.Tensor], layers: Sequence[int], keep: float, compact: bool = True
) -> Run:
    """PyramidDrop: a cut before each layer, by the last row's attention in that very layer."""
    walk = Walk(model, inputs)
    whole = [len(walk.of(image)) for image in range(walk.images)]

    def decide(walk: Walk, seen: Seen, stage: int) -> None:
        scores = seen.mean_row([len(walk.rows) - 1])
        keep_best(walk, scores, [int(count * keep ** (stage + 1)) for count in whole])

    return walk.run({layer: stage for stage, layer in enumerate(layers)}, decide, "before", compact)


def raters(walk: Walk) -> list[int]:
    """Seats of the text rows that the image points to; the last row where there is none."""
    visual = [row.state.double() for row in walk.rows if row.image is not None]
    said = [walk.rows[i] for i in walk.instruction()]
    if not visual or not said:
        return [walk.rows[-1].seat]
    total = [0.0] * len(said)
    for v in visual:
        shares = torch.stack([v @ word.state.double() for word in said]).softmax(0).tolist()
        total = [t + s / len(visual) for t, s in zip(total, shares, strict=True)]
    mean = sum(total) / len(total)
    found = [row.seat for row, rating in zip(said, total, strict=True) if rating > mean + 1e-9]
    return found or [walk.rows[-1].seat]


def density_peaks(points: Sequence[torch.Tensor], clusters: int, luck: Sequence[float]) -> list[list[int]]:
    """Members of every cluster, its centre first, the strongest cluster first."""
    n, width = len(points), len(points[0])
    far = [[float((a.double() - b.double()).norm()) / width**0.5 for b in points] for a in points]
    density = []
    for i in range(n):
        nearest = sorted(d * d for d in far[i])[:clusters]
        density.append(float(np.exp(-sum(nearest) / clusters)) + 1e-6 * luck[i])
    furthest = max(max(line) for line in far)
    peak = []
    for i in range(n):
        denser = [far[i][j] for j in range(n) if density[j] > density[i]]
        peak.append(density[i] * (min(denser) if denser else furthest))
    centres = sorted(range(n), key=lambda i: (-peak[i], i))[:clusters]
    groups = [[c] for c in centres]
    for i in range(n):
        if i not in centres:
            groups[min(range(clusters), key=lambda c: (far[i][centres[c]], c))].append(i)
    return groups


def recycled(walk: Walk, pruned: list[int], tau: float, theta: float, seed: int) -> list[list[Row]]:
    """Clusters of the best pruned rows (given best first); the first row of each is the centre."""
    again = pruned[: int(round(tau * len(pruned), 6)) + 1]
    luck = np.random.default_rng(seed).random(4096)
    mine = [float(luck[walk.places[walk.rows[i].seat]]) for i in again]
    count = int(round(theta * len(again), 6)) + 1
    groups = density_peaks([walk.rows[i].state for i in again], count, mine)
    return [[walk.rows[again[i]] for i in group] for group in groups]


def merged(members: list[Row]) -> Row:
    """The plain mean of some rows, in the seat of the first."""
    made_of: dict[int, float] = {}
    for row in members:
        for source, weight in row.made_of.items():
            made_of[source] = made_of.get(source, 0.0) + weight / len(members)
    state = sum(row.state for row in members) / len(members)
    later = [sum(level) / len(members) for level in zip(*(row.later for row in members), strict=True)]
    return Row(members[0].seat, members[0].image, made_of, state, members[0].angles, later)


def sparsevlm(
    model: Any,
    inputs: dict[str, torch.Tensor],
    layers: Sequence[int],
    kept: Callable[[int, int], int],
    recycle: bool = True,
    compact: bool = True,
    rank: tuple[float, float] | None = None,
    tau: float = 0.3,
    theta: float = 0.1,
    seed: int = 0,
) -> Run:
    """SparseVLM: raters score; part of what is pruned comes back as clusters.

    Args:
        model: The eager model.
        inputs: One sample.
        layers: First layer after each stage.
        kept: Rows that stay as they are, for a stage and the rows that an image had at first.
        recycle: Whether there are clusters.
        compact: Whether positions close up, and clusters stand after the kept rows.
        rank: Scale and bias of the rank-adaptive count, which replaces ``kept``.
        tau: Part of the pruned rows that is recycled.
        theta: Clusters per recycled row.
        seed: Of the noise.
    """
    walk = Walk(model, inputs)
    asking = raters(walk)
    whole = [len(walk.of(image)) for image in range(walk.images)]

    def decide(walk: Walk, seen: Seen, stage: int) -> None:
        asks = [i for i, row in enumerate(walk.rows) if row.seat in asking and row.image is None]
        scores, cut = seen.mean_row(asks), {}
        for image in range(walk.images):
            at = walk.of(image)
            count = kept(stage, whole[image])
            if rank is not None:
                found = int(torch.linalg.matrix_rank(seen.map_HNN.float().mean(0)[asks][:, at]))
                count = len(at) if found == len(at) else min(int(rank[0] * found + rank[1]), len(at) - 1)
            if count >= len(at):
                continue
            order = best(scores, at, len(at))
            new = [walk.rows[i] for i in sorted(order[:count])]
            if recycle:
                new += [merged(group) for group in recycled(walk, order[count:], tau, theta, seed)]
            if len(new) < len(at):
                cut[image] = new
        for image, new in cut.items():
            if compact and recycle:
                seats = sorted(walk.rows[i].seat for i in walk.of(image))
                for row, seat in zip(new, seats, strict=False):
                    row.seat = seat
            else:
                new.sort(key=lambda row: row.seat)
            walk.replace(image, new)

    return walk.run({layer: stage for stage, layer in enumerate(layers)}, decide, "after", compact)


def sparsevlm_plus(
    model: Any,
    inputs: dict[str, torch.Tensor],
    layers: Sequence[int],
    kept: Callable[[int, int], int],
    heads: int = 14,
) -> Run:
    """SparseVLM+: the raters' map over what rotation alone gives, and the heads that look at the image."""
    walk = Walk(model, inputs)
    asking = raters(walk)
    whole = [len(walk.of(image)) for image in range(walk.images)]

    attn = walk.decoder.layers[0].self_attn
    # As the stock layer turns, which may leave part of a head as it is.
    turn = sys.modules[type(attn).__module__].apply_rotary_pos_emb

    def turned_ones(row: Row) -> torch.Tensor:
        cos, sin = (part.double()[None, None] for part in row.angles[walk.kind])
        ones = torch.ones(1, 1, 1, attn.head_dim, dtype=torch.float64)
        return turn(ones, ones, cos, sin)[0].flatten()

    def decide(walk: Walk, seen: Seen, stage: int) -> None:
        asks = [i for i, row in enumerate(walk.rows) if row.seat in asking and row.image is None]
        visual = [i for i, row in enumerate(walk.rows) if row.image is not None]
        width = attn.head_dim
        by_head = []
        for head in seen.map_HNN.double():
            line = [0.0] * len(walk.rows)
            for j in visual:
                for i in asks:
                    bias = float(turned_ones(walk.rows[i]) @ turned_ones(walk.rows[j])) / width**0.5
                    line[j] += float(head[i, j]) / bias / len(asks)
            by_head.append(line)
        mass = [sum(line[j] for j in visual) for line in by_head]
        chosen = sorted(range(len(mass)), key=lambda h: (-mass[h], h))[:heads]
        scores = [sum(by_head[h][j] for h in chosen) / len(chosen) for j in range(len(walk.rows))]
        keep_best(walk, scores, [kept(stage, count) for count in whole])

    return walk.run({layer: stage for stage, layer in enumerate(layers)}, decide, "after", compact=False)


def dart(model: Any, inputs: dict[str, torch.Tensor], layer: int, keep: float, pivots: int = 4) -> Run:
    """DART: pivots by the size of keys, and what is least like them."""

    def decide(walk: Walk, seen: Seen, stage: int) -> None:
        size = seen.keys_GNW.float().abs().sum((0, 2)).tolist()
        normed = [last_norm(walk.decoder)(row.state).float() for row in walk.rows]
        words = best(size, walk.instruction(), pivots)
        news = []
        for image in range(walk.images):
            at = walk.of(image)
            share = int(len(at) * keep / (2 * pivots))
            if pivots + 2 * pivots * share >= len(at):
                continue
            seen_first = best(size, at, pivots)
            # Where a text pivot is missing, the visual one of its number has its share.
            second = [words[i] if i < len(words) else seen_first[i] for i in range(pivots)]
            chosen = list(seen_first)
            # The authors hold pivots in a set of row numbers, and walk over it as Python does.
            pivot_rows = seen_first + second
            for pivot in [p for p in set(pivot_rows) for _ in range(pivot_rows.count(p))]:
                unlike = [
                    -float(torch.nn.functional.cosine_similarity(normed[pivot], normed[j], dim=0))
                    for j in range(len(walk.rows))
                ]
                chosen += best(unlike, [j for j in at if j not in chosen], share)
            news.append((image, [walk.rows[i] for i in sorted(chosen)]))
        for image, rows in news:
            walk.replace(image, rows)

    return Walk(model, inputs).run({layer: 0}, decide, "after", compact=False)
