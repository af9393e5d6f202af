"""Prose of the HTML report; fields in braces are filled from the study."""

from __future__ import annotations

LEAD = (
    "{parameters:.1f} million parameters, {layers} decoder layers, {visual_tokens} visual tokens an image. "
    "{calibration_samples} samples chose the layers; {questions} held-out questions ({per_task} from each of "
    "{tasks} tasks) judged them, in {duration}."
)
LAYERS = (
    "Each bar is one decoder layer. Left: how far the answer's distribution moves when the image's rows "
    "skip <em>attention</em> in that layer and in no other (visual information gain, VIG). V-Skip takes "
    "layers in ascending order of it. Right: the same question for the other methods, each by its own "
    "score. In the last layer the first three are exactly 0: nothing after it reads the image's rows."
)
RETENTION = (
    "100 % is the dense model, 0 % the same model with a grey image in place of the picture. Layers are "
    "skipped in each method's calibrated order; VTW withdraws from the end. Plans that touch as many "
    "layers do <em>not</em> cost the same: the next figure puts them on one scale."
)
FLOPS = (
    "Every plan that was run. A method is better where its line is higher at the same FLOPs. The grey "
    "band is the dense model's own 95 % interval: this many questions place it no better."
)
MEASURED = (
    "Prefill of a batch of {batch} prompts of {rows} rows, dense and planned runs taken in turn in one "
    "process ({repeats} pairs); bars are medians of paired ratios, ticks their quartiles. The model is "
    "tiny, so fixed costs weigh far more than on a real one; <code>saccade bench</code> measures full width."
)
TABLES = (
    ("layers", "As many layers", "Every method in the same number of layers."),
    ("flops", "As many FLOPs", "Every method at the budget whose cost is nearest to V-Skip's above."),
)
COLUMNS = (
    "plan",
    "layers",
    "accuracy",
    "against dense",
    "above blind",
    "FLOPs",
    "prefill time",
    "KV cache",
)
TASKS = (
    "Accuracy on each task, {per_task} questions each, with {budget} of {layers} layers skipped. Shade is "
    "the loss against dense. A single task's interval is wide (the limits beside dense): read rows as hints."
)
QUESTIONS = (
    "Each cell is one decoder layer; the image's rows are in colour. Left half: did they attend? Right "
    "half: did they pass the FFN? These questions were picked to show differences; they are no sample."
)
FAMILY_LEAD = (
    "Every registered method at {ratios} % of the decoder's FLOPs on the embedded model ({layers} layers, "
    "{visual_tokens} visual tokens an image), beside plain baselines that look at nothing. {questions} "
    "held-out questions, {per_task} from each of {tasks} tasks, in {duration}; layers of methods that choose "
    "them come from {calibration_samples} samples. Dense: {dense}; blind: {blind}."
)
FAMILY_FIGURE = (
    "Up and left is better. The star is the dense model, the dotted line the same model without the picture, "
    "the pale grey line random rows: a method below it chooses worse than chance. Grey: plain baselines; "
    "blue: reduced before the decoder; green: inside it; red: layers skipped; yellow: composed."
)
FAMILY_COLUMNS = ("plan", "accuracy", "against dense", "above blind", "FLOPs", "KV cache")
FAMILY_LIMITS = (
    "<b>Few questions.</b> {per_task} a task: differences inside the intervals are noise. With more: "
    "<code>saccade study iso-flops</code>.",
    "<b>A tower that knows little.</b> The embedded model's vision tower does not mix patches. Its CLS row "
    "was taught to attend to patches in which something is drawn, and methods that rank patches by it "
    "(FasterVLM, VisPruner, VisionZip, PruMerge) have no more than that to go by; CLIP's knows more.",
    "<b>Layers are scaled.</b> Stages that the papers give for 32 layers stand at the same depth, FastV's "
    "and DART's not before layer 2.",
    "<b>FLOPs</b> are the papers' rectangle of the decoder's prefill, of the rows that really ran; ratios "
    "asked for are reached by the mildest setting that does.",
)
LIMITS = (
    "<b>Few questions.</b> {per_task} a task: differences inside the intervals are noise. With more: "
    "<code>saccade study budget</code>.",
    "<b>Few calibration samples.</b> The layers were chosen on {calibration_samples} samples; another draw "
    "can give another order, above all among layers of like score.",
    "<b>A miniature.</b> The embedded model is trained on generated scenes, and its vision tower does not "
    "mix patches, so that looking happens in the decoder. It is made to make skipping visible; what a "
    "method loses here says nothing about what it loses on a model of billions of parameters.",
    "<b>FLOPs</b> are the papers' rectangle of the decoder's prefill: no vision tower, no output head.",
    "<b>Time</b> is of this machine, at this width, beside whatever else it was doing.",
    "<b>Above blind</b> is (accuracy - blind) / (dense - blind) of means over tasks; it can pass 100 %.",
)
