"""Choosing layers by training: gates and adapter learn together, then the gates are shut for good."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from saccade.evaluation.runner import count_prompts
from saccade.healing.batches import AnswerCollator, AnsweredPool
from saccade.healing.building import wrapped
from saccade.healing.gates import Gates, chosen, gated, savings, skipping
from saccade.healing.settings import OPTION, HealingConfig, HealingSettings
from saccade.healing.trainer import HealingTrainer
from saccade.inputs.samples import Sample
from saccade.models import Loaded
from saccade.opening.bars import quiet_bars
from saccade.plans.plan import Plan
from saccade.system.files import read_json, write_json
from saccade.training import build as building
from saccade.training.checkpoints import WEIGHTS, save_weights
from saccade.training.folder import checkpoint_of
from saccade.training.mixture import RecordMixture
from saccade.training.parts import linear_names
from saccade.training.run import Fit, begun, check_learnt, check_weights, take_steps
from saccade.tuning.price import FlopsMeter, Pricer, typical

GATES, LEARNT = "gates", "learnt.json"
"""Folder of the gates' run in that of the healing, and what it came to."""

GATE_LR, MULTIPLIER_LR = 0.05, 0.05
"""Learning rates of the gates' log odds and of the multipliers, which are of no weight's size."""


class Stopped(Exception):
    """A run that was asked to stop early; the same call goes on from its last checkpoint."""


@dataclass(frozen=True)
class Learnt:
    """What the gates came to.

    Attributes:
        plan: The plan with their layers.
        start: The adapter's weights, by parameter.
        facts: What the result file says of it.
    """

    plan: Plan
    start: dict[str, torch.Tensor]
    facts: dict[str, Any]


class GateTrainer(HealingTrainer):
    """Trains gates and adapters towards the same model without either.

    Attributes:
        gates: The gates, which are on the model.
    """

    def __init__(self, gates: Gates, price: tuple[float, torch.Tensor], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gates, self._price = gates, price

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """As of adapters; gates and multipliers at rates of their own."""
        made = self.optimizer is None
        optimizer = super().create_optimizer(model)
        rates = {id(self.gates.odds_GL): GATE_LR, id(self.gates.multipliers): MULTIPLIER_LR}
        for group in optimizer.param_groups if made else ():
            rate = next((rates[id(p)] for p in group["params"] if id(p) in rates), None)
            if rate is not None:
                group |= {"lr": rate, "weight_decay": 0.0}
        return optimizer

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """KL of the batch's answers over the labels of the global batch, and a share of the penalty."""
        self.gates.draw()
        self.gates.visual_BN = self.family.visual_mask(self._model, inputs["input_ids"])
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        done = self.state.global_step / self.args.max_steps
        whole, saved_GL = self._price
        penalty = self.gates.penalty(whole, saved_GL.to(loss.device), done)
        return loss + penalty / self.args.gradient_accumulation_steps

    @contextmanager
    def _without(self) -> Any:
        with self.gates.off(), super()._without():
            yield


def learn(
    loaded: Loaded,
    base: Plan,
    pool: AnsweredPool,
    questions: Sequence[Sample],
    settings: HealingSettings,
    folder: Path,
    world: Any,
) -> Learnt:
    """Trains gates and an adapter beside a plan, and shuts gates until the FLOPs are those asked for.

    Args:
        loaded: The model.
        base: The plan beside them, resolved; it may hold no method.
        pool: Questions with the dense model's answers.
        questions: The same, to price plans on.
        settings: ``learn`` says what the plan may cost, ``learn_steps`` how long gates are trained.
        folder: Folder of the healing.
        world: The processes that train together.

    Raises:
        ValueError: If gates do not work on this model, the FLOPs cannot be reached, or the folder's run had
            other settings.
        Stopped: If a signal asked it to stop early.
    """
    assert settings.learn is not None
    layers, here = loaded.shape.layers, folder / GATES
    pricer = Pricer(FlopsMeter(loaded.shape), loaded.shape, typical(count_prompts(loaded, questions)))
    whole, saved_GL = savings(base, pricer, layers)
    everything = skipping(base, {(op, n): True for op in range(2) for n in range(layers)}, layers)
    if not pricer.ratio(everything) <= settings.learn < whole:
        raise ValueError(
            f"with {base.spec} choices of layers cost from {pricer.ratio(everything):.3f} to {whole:.3f} of "
            f"the FLOPs; {settings.learn:g} is not between"
        )
    config = settings.learning(base.spec, str(here), settings.rate(loaded.shape.hidden))
    if (here / LEARNT).exists():
        checkpoint_of(here, begun(config, RecordMixture([pool], settings.seed), world), None, OPTION)
    else:
        _trained(loaded, base, pool, config, (whole, saved_GL), world)
    told = read_json(here / LEARNT)
    plan = chosen(base, torch.tensor(told["odds"]), pricer, settings.learn)
    facts = {"share": settings.learn, "steps": settings.learn_steps, "beside": base.spec, **told}
    facts |= {"spec": plan.spec, "flops_ratio": pricer.ratio(plan)}
    return Learnt(plan, load_file(here / WEIGHTS), facts)


def _trained(
    loaded: Loaded,
    base: Plan,
    pool: AnsweredPool,
    config: HealingConfig,
    price: tuple[float, torch.Tensor],
    world: Any,
) -> None:
    folder, lora = Path(config.out), config.lora
    assert lora is not None and config.learn is not None
    gates = Gates(loaded.shape.layers, config.learn).to(loaded.device)
    names = linear_names(loaded.model, loaded.family, ())

    def trainer(built: building.Built, args: Any, stream: Any, meter: Any) -> GateTrainer:
        assert built.plan is not None
        rest = (built.plan, built.model, loaded.family, config, args, stream)
        return GateTrainer(gates, price, *rest, AnswerCollator(loaded, base), meter)

    with ExitStack() as stack:
        stack.enter_context(gated(loaded.model, loaded.family, gates))
        build = stack.enter_context(wrapped(loaded, base, lora, names))
        stack.enter_context(quiet_bars())

        def with_gates() -> building.Built:
            built = build()
            built.model.gates = gates
            return built

        done = take_steps(config, Fit([pool], with_gates, trainer, OPTION), world, resume=True)
        if done.reporter.stopped:
            raise Stopped(f"step {done.trainer.state.global_step} of {config.optimisation.steps} is saved")
        check_learnt(done.trainer)
        check_weights(done.built.model)
        named = done.built.model.named_parameters()
        save_weights(folder, {name: p for name, p in named if "lora_" in name})
    odds = gates.odds_GL.detach().cpu()
    write_json(folder / LEARNT, {"odds": odds.tolist(), "open": gates.chances_GL.detach().cpu().tolist()})
