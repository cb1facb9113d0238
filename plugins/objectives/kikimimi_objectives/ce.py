"""Cross-entropy of what the assistant has to say."""

from dataclasses import dataclass

from torch.nn import functional as F

from kikimimi import Loss, Objective, ObjectiveConfig, Step


class CrossEntropy(Objective):
    """Mean cross-entropy over the assistant's tokens: its content and what ends its turn."""

    @dataclass(kw_only=True, frozen=True)
    class Config(ObjectiveConfig):
        """The `ce` objective has no options."""

    def loss(self, step: Step) -> Loss:
        """Return the mean over the micro-batch's targets, as part ``text``."""
        value = F.cross_entropy(step.scored.logits.float(), step.scored.targets)
        return Loss(value, {"text": value})
