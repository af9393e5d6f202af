"""How the rows of a step split: runs of text rows, and the places of rows once others are gone (pure, on the
host).

A step holds rows of several requests, one after another: of each the rows from what was computed to where
this step ends. All of this is known on the host before the step runs.

Shape letters: N rows of the step, Q requests, S runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Runs:
    """Unbroken runs of text rows, each as if it were a request of its own.

    Attributes:
        starts_S1: Where each begins among the text rows of the step, and their number at the end.
        lengths_S: Rows of its request up to its last row: what it attends to.
        request_S: Whose rows they are.
    """

    starts_S1: Ints
    lengths_S: Ints
    request_S: Ints


@dataclass(frozen=True, eq=False)
class TextRows:
    """The text rows of a step, request by request, for layers that have no others.

    Attributes:
        starts_S1: Where the rows of each request begin among the text rows, for requests that have some.
        request_S: Which these are.
        count_Q: Text rows of every request in this step.
        nth_T: Of every text row, which of its request's in this step it is.
        request_T: Whose it is.
    """

    starts_S1: Ints
    request_S: Ints
    count_Q: Ints
    nth_T: Ints
    request_T: Ints


def text_runs(visual_N: Mask, starts_Q1: Ints, lengths_Q: Ints) -> Runs:
    """The runs of text rows of a step.

    Args:
        visual_N: Which rows are visual.
        starts_Q1: Where the rows of each request begin, and N at the end.
        lengths_Q: Rows of each request once the step is over, those of earlier steps included.
    """
    text_N = ~visual_N
    first_N = np.zeros(len(text_N) + 1, dtype=bool)
    first_N[starts_Q1] = True
    begins_N = text_N & (first_N[:-1] | ~np.concatenate(([False], text_N[:-1])))
    ends_N = text_N & (first_N[1:] | ~np.concatenate((text_N[1:], [False])))
    begin_S, end_S = np.flatnonzero(begins_N), np.flatnonzero(ends_N) + 1
    request_S = np.searchsorted(starts_Q1, begin_S, side="right") - 1
    lengths_S = lengths_Q[request_S] - (starts_Q1[request_S + 1] - end_S)
    return Runs(np.concatenate(([0], np.cumsum(end_S - begin_S))), lengths_S, request_S)


def text_rows(visual_N: Mask, starts_Q1: Ints) -> TextRows:
    """The text rows of a step, request by request."""
    upto_N1 = np.concatenate(([0], np.cumsum(~visual_N)))
    bounds_Q1 = upto_N1[starts_Q1]
    count_Q = np.diff(bounds_Q1)
    request_S = np.flatnonzero(count_Q)
    request_T = np.repeat(np.arange(len(count_Q)), count_Q)
    nth_T = np.arange(len(request_T)) - bounds_Q1[request_T]
    return TextRows(np.append(bounds_Q1[request_S], bounds_Q1[-1]), request_S, count_Q, nth_T, request_T)


def shown_at(visual_N: Mask, starts_Q1: Ints) -> Ints:
    """Which text row (numbered among those of the step) is shown at every row, once visual rows are gone.

    The last one of the same request that is not after it; where the step has none before it, the request's
    first or, without any, row 0: what stands there is never read.
    """
    upto_N1 = np.concatenate(([0], np.cumsum(~visual_N)))
    request_N = np.repeat(np.arange(len(starts_Q1) - 1), np.diff(starts_Q1))
    first_N = upto_N1[starts_Q1[:-1]][request_N]
    last = max(int(upto_N1[-1]) - 1, 0)
    return np.clip(np.maximum(upto_N1[1:] - 1, first_N), 0, last)
