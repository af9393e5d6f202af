"""Prose of the report of result files; fields in braces are filled from them."""

from __future__ import annotations

COLUMNS = ("plan", "accuracy", "against dense, points", "lost / gained", "kept", "FLOPs", "KV cache")
TABLE = (
    "{n} questions of {tasks} tasks, every task of equal weight; in brackets 95 % intervals, paired by "
    "question where dense is compared with. Lost: only dense was right; gained: only the plan was. Kept: "
    "the share of what the picture adds that is left, (accuracy - blind) / (dense - blind)."
)
NO_BLIND = "No blind baseline was run: kept is accuracy / dense accuracy."
MISSING = "Plans that could not run"
COSTS = {
    "flops_ratio": "FLOPs of the prefill",
    "kv_ratio": "KV cache after the prompt",
    "time": "time of the prefill, measured",
}
"""Costs a plan is plotted against, by the field that has them."""
KEPT = {
    "retention_above_blind": "kept of what the picture adds",
    "retention": "accuracy over dense accuracy",
}
PARETO = (
    "Up and left is better; the star is the dense model. The line joins the plans that no other beats at "
    "their cost, with names; bars are 95 % intervals, and differences inside them are noise. Rest the "
    "pointer on a plan to read it."
)
MAP = (
    "One row per plan, one cell per decoder layer, counted from 0. Left half of a cell: attention of the "
    "image's rows, right half: their FFN. Full shade: all of them do it, pale: some, empty: none. A "
    "dotted frame: no row of the image is left, nothing is cached. Rest the pointer on a name to read the "
    "plan."
)
NO_DEPTH = "No file says how many layers the model has, so plans are not drawn layer by layer."
BARS = (
    "Bars: accuracy with its 95 % limits. Black mark: the dense model; grey mark: blind, without the picture."
)
LOSSES = (
    "Change against the dense model in points, task by task. Shaded where the 95 % interval leaves out 0. "
    "Rest the pointer on a cell for its limits."
)
NOTHING_LOST = "no loss on any single task outside its interval"
MOST_LOST = "Lost by plans that are worth a look, where the interval leaves out 0:"
OFFICIAL = "As the benchmark's own judge gave them; its accuracies above are of these where they are shares."
SIDE_BY_SIDE = (
    "The dense and the blind model, and plans that stand in several files. Files differ in how many "
    "questions they asked, and perhaps in which."
)
BENCH = (
    "Stock and planned runs alternate in one process; ratios are medians over pairs, in brackets their "
    "quartiles. Captured is the share of the promised saving that arrived, (1 - time ratio) / (1 - FLOPs "
    "ratio)."
)
MEASURED = (
    "FLOPs of the prefill (pale) and its time (full), each over the stock model's; ticks are quartiles."
)
MADE_UP = "shown made-up numbers of a vision tower; its part in the tower is not timed"
SLOWER = "Slower than the stock model:"
COST = (
    "Closed form, nothing was run: decoder layers of one prompt, 2 FLOPs per multiply-accumulate, by the "
    "papers' count; executed is what the engine dispatches. The whole bill has the vision tower, the "
    "projector and the head too."
)
PLAN = "Layers were chosen by {metric}, on {drawn}."
FITTED = "How many rows leave in which layer was fitted to {metric}, on {drawn}."
BY_HAND = "Its layers were given by hand; nothing was calibrated."
AGAIN = "Run it again:"
NO_COMMAND = "The file does not name the command that made it."
ASSUMED = "The weights are not recorded in the file; it stands here by the model's name."
LEAD = "{files} of {models}."
