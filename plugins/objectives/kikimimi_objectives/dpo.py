"""Direct preference optimisation."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Lt
from torch.nn import functional as F

from kikimimi import Loss, Objective, ObjectiveConfig, PositiveFloat, Step, Turns, Units, View


class DPO(Objective):
    """Direct preference optimisation of spoken or written prompts (Rafailov et al., 2023, arXiv 2305.18290).

    With log-probabilities of the answers' tokens, summed, and h the preferred answer's log-ratio of the model
    to the model as it was at the start of the stage, less that of the rejected answer:

    - ``sigmoid``: -log sigmoid(beta h), equation 7; with label smoothing e, conservative DPO (Mitchell 2023):
      -(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h).
    - ``ipo``: (h - 1 / (2 beta))^2 over mean log-probabilities per token (Azar et al., 2023, arXiv
      2310.12036, equation 17; the mean as in trl, after the authors' advice).

    As in trl (`DPOTrainer`), the answer is the last turn of the assistant, what comes before is its prompt,
    and the model trains without dropout.

    Both answers of a pair follow the same prompt, whose clips are encoded once. A frozen encoder hears them
    once for the model and its reference.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(ObjectiveConfig):
        """Options of the `dpo` objective."""

        beta: PositiveFloat = 0.1
        """How strongly the model is held to the reference."""
        form: Literal["sigmoid", "ipo"] = "sigmoid"
        """Which loss is made of the log-ratios."""
        label_smoothing: Annotated[float, Ge(0), Lt(0.5)] = 0.0
        """Probability that a preference is the wrong way round [fraction], of the sigmoid form."""
        turns: Turns = field(default="last", metadata={"before": "all"})
        """Which turns of the assistant are compared: the last, which is the one that differs between the two
        answers; or all. The earlier ones cancel out where sums are compared, and weigh in the mean of ipo."""
        disable_dropout: bool = field(default=True, metadata={"before": False})
        """Whether the model trains in eval mode, so that before the first step it equals its reference: no
        dropout, and nothing else that acts in training alone (augmentation, statistics of a batch)."""

        def __post_init__(self) -> None:
            if self.form != "sigmoid" and self.label_smoothing:
                raise ValueError("label_smoothing is read only where form is sigmoid")

    @property
    def views(self) -> frozenset[View]:
        """The rejected answers."""
        return frozenset({"rejected"})

    @property
    def reference(self) -> tuple[str, ...]:
        """All parts."""
        return ("encoder", "adapter", "llm")

    @property
    def eval_mode(self) -> bool:
        """Whether dropout is off."""
        off: bool = self.config.disable_dropout
        return off

    @property
    def turns(self) -> Turns:
        """The last, or all."""
        turns: Turns = self.config.turns
        return turns

    def units(self, step: Step) -> Mapping[str, Units]:
        """The pairs."""
        return {"preference": Units("pairs", len(step.batch.names))}

    def loss(self, step: Step) -> Loss:
        """Return the mean over the micro-batch's pairs, with rewards, margins and log-probabilities."""
        options, number = self.config, len(step.batch.names)
        pairs = step.batch.with_rejected()
        if options.turns == "last":
            pairs = pairs.last_turns()
        if not any(parameter.requires_grad for parameter in step.model.encoder.parameters()):
            pairs = step.model.encode(pairs)
        with step.frozen():
            before, _ = step.model(pairs).log_probabilities(2 * number)
        now, lengths = step.score(pairs).log_probabilities(2 * number)
        if options.form == "ipo":
            now, before = now / lengths, before / lengths
        chosen, rejected = (now - before).chunk(2)  # (B,) each
        difference = chosen - rejected
        if options.form == "ipo":
            value = (difference - 1 / (2 * options.beta)).square().mean()
        else:
            right, wrong = F.logsigmoid(options.beta * difference), F.logsigmoid(-options.beta * difference)
            value = -((1 - options.label_smoothing) * right + options.label_smoothing * wrong).mean()
        return Loss(
            value,
            {"preference": value},
            {
                "reward/chosen": options.beta * chosen.detach().mean(),
                "reward/rejected": options.beta * rejected.detach().mean(),
                "reward/margin": options.beta * difference.detach().mean(),
                "reward/accuracy": (difference.detach() > 0).float().mean(),
                "logps/chosen": now[:number].detach().mean(),
                "logps/rejected": now[number:].detach().mean(),
            },
            {"pairs": number},
        )
