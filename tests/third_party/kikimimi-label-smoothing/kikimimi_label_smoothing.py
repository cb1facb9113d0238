"""Cross-entropy with smoothed labels."""

from __future__ import annotations

from dataclasses import dataclass

from kikimimi import Fraction, Loss, Objective, ObjectiveConfig, Step


class LabelSmoothing(Objective):
    """Cross-entropy of the target tokens with smoothed labels.

    Szegedy et al. 2016, arXiv 1512.00567, section 7. The label is the target with 1 - epsilon
    and every token of the vocabulary with epsilon / V: the loss is (1 - epsilon) times the cross-entropy
    plus epsilon times that of the uniform distribution.
    """

    contract_version = 1

    @dataclass(kw_only=True, frozen=True)
    class Config(ObjectiveConfig):
        """What a recipe may set."""

        epsilon: Fraction = 0.1
        """Part of a label that is spread over the whole vocabulary; 0 is the cross-entropy."""

    config: Config

    def loss(self, step: Step) -> Loss:
        """Return the mean over the target tokens, which is what `units` says by default."""
        scored = step.scored
        losses = -scored.logits.float().log_softmax(-1)  # (M, V), in float32 also under autocast
        ce = losses.gather(1, scored.targets[:, None]).mean()
        uniform = losses.mean()
        epsilon = self.config.epsilon
        return Loss(
            (1 - epsilon) * ce + epsilon * uniform,
            parts={"ce": ce, "uniform": uniform},
            weights={"ce": 1 - epsilon, "uniform": epsilon},
        )
