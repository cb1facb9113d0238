"""Adapters that each break the contract in one way, and the check that has to notice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kikimimi import Adapter, AdapterContext, AdapterOutput, ComponentConfig, Padded
from kikimimi.testing import config_checks, import_check, list_checks, number_checks
from kikimimi.testing.checks import FOR_ADAPTERS, FOR_ALL, FOR_PADDED

# test_broken_configs.py, test_broken_builds.py, test_import_check.py; and test_broken_contexts.py
ELSEWHERE = (config_checks.__name__, import_check.__name__)
OF_BUILDING = ("builds_", "shard_classes_", "pretrained_names_")


class Pairs(Adapter):
    """Pairs of frames through one linear layer: the smallest adapter that keeps the contract."""

    @dataclass(kw_only=True, frozen=True)
    class Config(ComponentConfig):
        scale: float = 1.0
        """Factor on the tokens."""

    def __init__(self, config: Any, context: AdapterContext) -> None:
        super().__init__(config, context)
        self.linear = nn.Linear(context.in_dim, context.out_dim)

    @classmethod
    def tiny_config(cls, config: Any | None = None) -> Any:
        return config or cls.Config()

    def shard_classes(self) -> set[type[nn.Module]]:
        return {nn.Linear}

    def max_tokens(self, num_frames: int) -> int:
        return -(-num_frames // 2)

    def forward(self, features: Padded) -> AdapterOutput:
        clips = self.linear(features.values.masked_fill(~features.mask()[..., None], 0.0))
        return AdapterOutput(Padded(clips[:, ::2], -(-features.lengths // 2)))


class DropsAlways(Pairs):
    def forward(self, features: Padded) -> AdapterOutput:
        tokens = super().forward(features).tokens
        return AdapterOutput(Padded(nn.functional.dropout(tokens.values, 0.5), tokens.lengths))


class WritesIntoItsInput(Pairs):
    def forward(self, features: Padded) -> AdapterOutput:
        features.values.data.mul_(0.5)
        return super().forward(features)


class ClearsThePadding(Pairs):
    def forward(self, features: Padded) -> AdapterOutput:
        features.values.data.masked_fill_(~features.mask()[..., None], 0.0)
        return super().forward(features)


class CentresTheBatch(Pairs):
    def forward(self, features: Padded) -> AdapterOutput:
        mean = torch.cat(features.unstack()).mean(0)
        return super().forward(Padded(features.values - mean, features.lengths))


class LeaksPadding(Pairs):
    def forward(self, features: Padded) -> AdapterOutput:
        shifted = nn.functional.pad(features.values, (0, 0, 0, 1))[:, 1:]
        return super().forward(Padded(features.values + shifted, features.lengths))


class MultipliesPaddingAway(Pairs):
    def forward(self, features: Padded) -> AdapterOutput:
        clips = features.values * features.mask()[..., None]
        mean = clips.sum(1, keepdim=True) / features.lengths[:, None, None]
        return super().forward(Padded(features.values + mean, features.lengths))


class MasksTooLate(Pairs):
    def forward(self, features: Padded) -> AdapterOutput:
        clips = self.linear(features.values).masked_fill(~features.mask()[..., None], 0.0)
        return AdapterOutput(Padded(clips[:, ::2], -(-features.lengths // 2)))


class LossOfPadding(Pairs):
    def forward(self, features: Padded) -> AdapterOutput:
        tokens = super().forward(features).tokens
        return AdapterOutput(tokens, {"size": features.values.square().mean()})


class SpareLayer(Pairs):
    def __init__(self, config: Any, context: AdapterContext) -> None:
        super().__init__(config, context)
        self.spare = nn.Linear(2, 2)


class Thaws(Pairs):
    def forward(self, features: Padded) -> AdapterOutput:
        self.requires_grad_()
        return super().forward(features)


def _backwards(gradient: Tensor) -> Tensor:
    return -gradient


class LearnsBackwards(Pairs):
    def forward(self, features: Padded) -> AdapterOutput:
        tokens = super().forward(features).tokens
        if tokens.values.requires_grad:
            tokens.values.register_hook(_backwards)  # type: ignore[no-untyped-call]
        return AdapterOutput(tokens)


class Fp32Only(Pairs):
    def forward(self, features: Padded) -> AdapterOutput:
        return super().forward(Padded(features.values @ torch.eye(32), features.lengths))


class Overflows(Pairs):
    def forward(self, features: Padded) -> AdapterOutput:
        tokens = super().forward(features).tokens
        low = tokens.values.dtype == torch.bfloat16
        return AdapterOutput(Padded(tokens.values * (torch.inf if low else 1.0), tokens.lengths))


class AnswersInFloat32(Pairs):
    def forward(self, features: Padded) -> AdapterOutput:
        tokens = super().forward(features).tokens
        return AdapterOutput(Padded(tokens.values.float(), tokens.lengths))


class AnswersElsewhere(Pairs):
    def forward(self, features: Padded) -> AdapterOutput:
        tokens = super().forward(features).tokens
        return AdapterOutput(Padded(tokens.values.to("meta"), tokens.lengths))


class StateOutsideTheState(Pairs):
    def __init__(self, config: Any, context: AdapterContext) -> None:
        super().__init__(config, context)
        self.offset = [torch.randn(context.out_dim)]

    def forward(self, features: Padded) -> AdapterOutput:
        tokens = super().forward(features).tokens
        return AdapterOutput(Padded(tokens.values + self.offset[0], tokens.lengths))


class RandomBuffer(Pairs):
    offset: Tensor

    def __init__(self, config: Any, context: AdapterContext) -> None:
        super().__init__(config, context)
        self.register_buffer("offset", torch.randn(context.out_dim), persistent=False)

    def forward(self, features: Padded) -> AdapterOutput:
        tokens = super().forward(features).tokens
        return AdapterOutput(Padded(tokens.values + self.offset, tokens.lengths))


class Uncopyable(Pairs):
    def __deepcopy__(self, memo: Any) -> Any:
        other = Pairs(self.config, self.context)
        nn.init.zeros_(other.linear.weight)
        return other


class Unpicklable(Pairs):
    def __init__(self, config: Any, context: AdapterContext) -> None:
        super().__init__(config, context)
        self.function = lambda x: x


class TooManyTokens(Pairs):
    def max_tokens(self, num_frames: int) -> int:
        return max(1, num_frames // 2)


class GenerousBound(Pairs):
    def max_tokens(self, num_frames: int) -> int:
        return num_frames


class WrongWidth(Pairs):
    def __init__(self, config: Any, context: AdapterContext) -> None:
        super().__init__(config, context)
        self.linear = nn.Linear(context.in_dim, context.in_dim)


class VectorLoss(Pairs):
    def forward(self, features: Padded) -> AdapterOutput:
        return AdapterOutput(super().forward(features).tokens, {"ctc": torch.zeros(len(features))})


class Detaches(Pairs):
    def forward(self, features: Padded) -> AdapterOutput:
        return super().forward(Padded(features.values.detach(), features.lengths))


class FractionalCount(Pairs):
    def forward(self, features: Padded) -> AdapterOutput:
        return AdapterOutput(super().forward(features).tokens, counts={"skipped": torch.tensor(1)})  # type: ignore[dict-item]


class OneTokenMoreInTraining(Pairs):
    def forward(self, features: Padded) -> AdapterOutput:
        tokens = super().forward(features).tokens
        values = nn.functional.pad(tokens.values, (0, 0, 0, 1))
        return AdapterOutput(Padded(values, tokens.lengths + 1) if self.training else tokens)


BROKEN = [
    (
        DropsAlways,
        "repeating_changes_nothing",
        r"sequence 0 a second time: expected the same values, found a dif",
    ),
    (WritesIntoItsInput, "input_is_left_alone", r"expected the input values unchanged"),
    (ClearsThePadding, "input_is_left_alone", r"expected the input values unchanged"),
    (CentresTheBatch, "batch_changes_nothing", r"sequence 0 \(13 long\) in a batch, against it alone"),
    (LeaksPadding, "padding_changes_nothing", r"noise past the lengths: output 0: expected the same values"),
    (
        MultipliesPaddingAway,
        "padding_changes_nothing",
        r"NaN past the lengths: output 0: expected finite values",
    ),
    (LossOfPadding, "padding_changes_nothing", r"zeros past the lengths: loss 'size'"),
    (
        MasksTooLate,
        "padding_changes_no_gradient",
        r"NaN past the lengths: the gradient of linear.weight: .*finite",
    ),
    (SpareLayer, "gradients_reach_every_parameter", r"found none in spare.weight, spare.bias"),
    (
        Thaws,
        "gradients_stay_out_of_frozen_parameters",
        r"in linear.weight alone.*in linear.bias, linear.weight",
    ),
    (LearnsBackwards, "a_step_lowers_the_loss", r"expected one step of AdamW to lower the loss of"),
    (Overflows, "bf16_runs", r"sequence 0 under autocast to bfloat16: expected finite values"),
    (
        StateOutsideTheState,
        "state_dict_restores",
        r"after load_state_dict: sequence 0: expected the same values",
    ),
    (
        RandomBuffer,
        "checkpoint_restores",
        r"restored from a checkpoint .*: sequence 0: expected the same",
    ),
    (Uncopyable, "deepcopy_keeps", r"a deep copy: sequence 0: expected the same values"),
    (Unpicklable, "pickle_keeps", r"(?s)Unpicklable.*lambda"),
    (TooManyTokens, "lengths_keep_max_tokens", r"3 frames: expected 1 to max_tokens = 1 tokens, found 2"),
    (GenerousBound, "max_tokens_is_exact", r"became \[1, 1, 2, .* expected it to say so, found \[1, 2, 3"),
    (WrongWidth, "lengths_keep_max_tokens", r"expected tokens of out_dim = 48 values, found 32"),
    (
        OneTokenMoreInTraining,
        "lengths_keep_max_tokens",
        r"in train mode: 1 frames: expected 1 to max_tokens = 1 tokens, found 2",
    ),
    (AnswersInFloat32, "dtype_and_device_are_kept", r"weights torch.bfloat16 on cpu: .* found torch.float32"),
    (AnswersElsewhere, "dtype_and_device_are_kept", r"sequence 0, .* likewise, found torch.float32 on meta"),
    (FractionalCount, "losses_are_scalars", r"in eval mode: count 'skipped': expected an int, found Tensor"),
    (VectorLoss, "losses_are_scalars", r"loss 'ctc': expected a scalar, found shape \(4,\)"),
    (Detaches, "gradients_pass_to_the_frames", r"does not require grad|expected a gradient in the frames"),
]


class NormsTheBatch(Pairs):
    """Padding is made zero, and zeros count: a norm over (B, F), as wide as the longest clip of the batch."""

    def __init__(self, config: Any, context: AdapterContext) -> None:
        super().__init__(config, context)
        self.norm = nn.BatchNorm1d(context.in_dim)

    def forward(self, features: Padded) -> AdapterOutput:
        real = features.values.masked_fill(~features.mask()[..., None], 0.0)
        normed = self.norm(real.transpose(1, 2)).transpose(1, 2)
        return super().forward(Padded(normed, features.lengths))


class NormsWhatIsThere(NormsTheBatch):
    def forward(self, features: Padded) -> AdapterOutput:
        normed = self.norm(features.values.transpose(1, 2)).transpose(1, 2)
        return Pairs.forward(self, Padded(normed, features.lengths))


class NormsTheReal(NormsTheBatch):
    """As it should be: over the real frames alone."""

    def forward(self, features: Padded) -> AdapterOutput:
        values = features.values.clone()
        values[features.mask()] = self.norm(features.values[features.mask()])
        return Pairs.forward(self, Padded(values, features.lengths))


class SeedsEverything(Pairs):
    def forward(self, features: Padded) -> AdapterOutput:
        torch.manual_seed(0)
        return super().forward(features)


class TwoZeros(Pairs):
    def __init__(self, config: Any, context: AdapterContext) -> None:
        super().__init__(config, context)
        self.down = nn.Parameter(torch.zeros(context.in_dim, 2))
        self.up = nn.Parameter(torch.zeros(2, context.in_dim))

    def forward(self, features: Padded) -> AdapterOutput:
        return super().forward(
            Padded(features.values + features.values @ self.down @ self.up, features.lengths)
        )


class OneZero(TwoZeros):
    """As it should be: low-rank updates that begin at nothing, and train."""

    def __init__(self, config: Any, context: AdapterContext) -> None:
        super().__init__(config, context)
        self.gate = nn.Parameter(torch.zeros(1, 1))
        nn.init.normal_(self.down)

    def forward(self, features: Padded) -> AdapterOutput:
        tokens = super().forward(features).tokens
        return AdapterOutput(Padded((1 + self.gate) * tokens.values, tokens.lengths))


class RoundsByDividing(Pairs):
    def max_tokens(self, num_frames: int) -> Any:
        return (num_frames + num_frames % 2) / 2


class TokensWithoutLengths(Pairs):
    def forward(self, features: Padded) -> AdapterOutput:
        tokens: Any = super().forward(features).tokens.values
        return AdapterOutput(tokens)


BROKEN += [
    (
        NormsTheBatch,
        "padding_changes_nothing_in_training",
        r"7 more positions past the lengths: output 0: expected the same values",
    ),
    (NormsWhatIsThere, "padding_changes_nothing_in_training", r"noise past the lengths: output 0: expected"),
    (SeedsEverything, "repeating_changes_nothing", r"left alone, found that of torch seeded"),
    (TwoZeros, "gradients_reach_every_parameter", r"begins at zero to train, found down, up zero after 3"),
    (RoundsByDividing, "lengths_keep_max_tokens", r"max_tokens: expected an int, found 1\.0"),
    (TokensWithoutLengths, "batch_changes_nothing", r"tokens: expected a kikimimi\.Padded, found Tensor"),
]


@pytest.mark.parametrize("component", [NormsTheReal, OneZero])
def test_what_is_done_right_passes(component: type) -> None:
    for check in list_checks("adapter", component):
        if check.name in ("padding_changes_nothing_in_training", "gradients_reach_every_parameter"):
            check()


def test_a_sound_adapter_passes() -> None:
    for check in list_checks("adapter", Pairs):
        if check.name != "import_is_quiet":  # test_import_check.py
            check()


@pytest.mark.parametrize(("component", "name", "message"), BROKEN, ids=lambda x: getattr(x, "__name__", None))
def test_is_caught(component: type, name: str, message: str) -> None:
    check = next(check for check in list_checks("adapter", component) if check.name == name)
    with pytest.raises(Exception, match=message) as caught:
        check()
    result = check.result()
    assert result.error is not None
    assert str(caught.value) in result.error


def test_fp32_only_is_told_with_its_place() -> None:
    checks = [check for check in list_checks("adapter", Fp32Only) if check.name != "import_is_quiet"]
    failed, *more = [result for result in (check.result() for check in checks) if result.error is not None]
    assert [result.name for result in (failed, *more)] == ["bf16_runs", "dtype_and_device_are_kept"]
    assert "RuntimeError: expected" in str(failed.error)
    assert f"(raised in {__file__}:" in str(failed.error)


def test_every_check_has_something_to_catch() -> None:
    functions = [
        check for check in (*FOR_ALL, *FOR_PADDED, *FOR_ADAPTERS) if check.__module__ not in ELSEWHERE
    ]
    of_numbers = {check.__name__ for check in functions if check.__module__ == number_checks.__name__}
    in_contexts = {
        "losses_are_means_over_units",
        "transcripts_change_no_tokens",
        "several_layers_are_taken_or_refused",
        "assets_restore",
    }
    names = {check.__name__ for check in functions if not check.__name__.startswith(OF_BUILDING)}
    assert {name for _, name, _ in BROKEN} == names - in_contexts - (
        of_numbers - {name for _, name, _ in BROKEN}
    )
