"""What a checkpoint has to be like, for a stage to go on from it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from pytorch_lightning.loops.fit_loop import _FitLoop
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop

from kikimimi.console.words import listing
from kikimimi.model.speech_lm import SpeechLM
from kikimimi.model.trainable import downstream_names, misfit, named_tensors
from kikimimi.recipe import Stage
from kikimimi.training.optimiser import make_optimiser


@dataclass(frozen=True)
class StageForm:
    """What a checkpoint of a stage has to be like.

    Attributes:
        optimiser: The stage's optimiser as it begins.
        names: Names of the parameters in each of its groups.
        apart: Names of those that earlier versions did not train: the encoder's that train with the adapter.
        shapes: Shape of each tensor that the stage keeps.
        num_steps: Length of the stage; None where it is given in epochs.
    """

    optimiser: torch.optim.Optimizer
    names: Sequence[Sequence[str]]
    apart: Collection[str]
    shapes: Mapping[str, torch.Size]
    num_steps: int | None

    @classmethod
    def of(
        cls, model: SpeechLM, stage: Stage, trained: Mapping[str, Sequence[str]], kept: Collection[str]
    ) -> StageForm:
        """Return the form of a stage's checkpoints.

        Args:
            model: The stage's; its parameters may be on the meta device.
            stage: The stage's options.
            trained: Parameter names by component, or by ``component.group``.
            kept: Names of the tensors that a checkpoint holds.
        """
        tensors = named_tensors(model)
        shapes = {name: tensors[name].shape for name in kept}
        optimiser = make_optimiser(model, stage, trained)
        called = {parameter: name for name, parameter in model.named_parameters()}
        names = [[called[parameter] for parameter in group["params"]] for group in optimiser.param_groups]
        return cls(optimiser, names, downstream_names(model), shapes, stage.steps)

    def check(self, state: Mapping[str, Any]) -> None:
        """Check that weights, optimiser, schedule and loops of a state are those of the stage.

        Raises:
            ValueError: They are not.
        """
        if problem := misfit(self.shapes, state["state_dict"]):
            raise ValueError(f"its weights are not those of this stage: {problem}")
        step = state["global_step"]
        if self.num_steps is not None and step > self.num_steps:
            raise ValueError(f"it is of step {step}, and this stage has {self.num_steps}")
        (saved,), groups = state["optimizer_states"], self.optimiser.param_groups
        rates = [group["lr"] for group in groups]
        shapes = [parameter.shape for group in groups for parameter in group["params"]]
        moments = {number: moment["exp_avg"].shape for number, moment in saved["state"].items()}
        if (
            [len(group["params"]) for group in saved["param_groups"]]
            != [len(group["params"]) for group in groups]
            or [*map(_options, saved["param_groups"])] != [*map(_options, groups)]
            or [group["initial_lr"] for group in saved["param_groups"]] != rates
            or any(shapes[number] != shape for number, shape in moments.items())
        ):
            what = "optimiser"
        elif state["lr_schedulers"][0]["base_lrs"] != rates:
            what = "schedule"
        elif not _alike(state["loops"]["fit_loop"], _loops()):
            what = "loops"
        else:
            return
        raise ValueError(f"its {what} is not that of this stage" + self._lacking(saved["param_groups"]))

    def _lacking(self, saved: Sequence[Mapping[str, Any]]) -> str:
        """Return which parameters a version lacked that left the weights of a sum of layers as they began."""
        before = [number for names in self.names if (number := sum(name not in self.apart for name in names))]
        lacking = [name for names in self.names for name in names if name in self.apart]
        if not lacking or [len(group["params"]) for group in saved] != before:
            return ""
        return (
            f": it lacks {listing(lacking)}, which earlier versions of kikimimi left as it began, and which "
            "trains with the adapter now"
        )


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of an optimiser's group that do not change while it trains."""
    names = ("name", "weight_decay", "betas", "eps", "amsgrad", "maximize", "capturable")
    return {name: group.get(name) for name in names}


def _loops() -> dict[str, Any]:
    """Return the state of Lightning's loops as they begin."""
    loops = _FitLoop(cast(Any, None))  # a trainer asks at once which GPUs and processes there are
    loops.epoch_loop = _TrainingEpochLoop(cast(Any, None))
    return dict(loops.state_dict())


def _alike(saved: Any, fresh: Any) -> bool:
    """Tell whether saved counts have all that fresh ones have; where the data stands is checked elsewhere."""
    if not isinstance(fresh, Mapping):
        return type(saved) is type(fresh)
    return isinstance(saved, Mapping) and all(
        name in saved and _alike(saved[name], value) for name, value in fresh.items() if name != "state_dict"
    )
