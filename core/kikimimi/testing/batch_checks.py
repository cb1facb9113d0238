"""Checks that a result depends on its own input alone: not on padding, not on the rest of the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from kikimimi.contracts.component import Padded
from kikimimi.testing.contract import ContractError, expect, expect_close
from kikimimi.testing.subject import PaddedSubject, Subject, in_every_way

SPARE = 7
"""Positions by which a padded batch is wider than its longest sequence needs."""


@in_every_way
def batch_changes_nothing(subject: Subject) -> None:
    """A batch of many gives what one by one gives."""
    part = subject.build()
    sequences = subject.sequences(part)
    with torch.no_grad():
        together = subject.outputs(part, sequences)
        for number, (sequence, found) in enumerate(zip(sequences, together, strict=True)):
            alone = subject.outputs(part, [sequence])[0]
            expect_close(
                found, alone, f"sequence {number} ({len(sequence)} long) in a batch, against it alone"
            )


@in_every_way
def repeating_changes_nothing(subject: Subject) -> None:
    """In eval mode the same input gives the same output again."""
    part = subject.build()
    sequences = subject.sequences(part)
    with torch.no_grad():
        first = subject.outputs(part, sequences)
        second = subject.outputs(part, sequences)
    for number, (again, before) in enumerate(zip(second, first, strict=True)):
        expect_close(again, before, f"sequence {number} a second time", 0.0)


@in_every_way
def input_is_left_alone(subject: PaddedSubject) -> None:
    """The input, which may be kept for later, is not written to."""
    part = subject.build()
    batch = Padded.stack(subject.sequences(part))
    before = Padded(batch.values.clone(), batch.lengths.clone())
    with torch.no_grad():
        subject.run(part, batch)
    expect(
        torch.equal(batch.values, before.values), "expected the input values unchanged, found them changed"
    )
    expect(torch.equal(batch.lengths, before.lengths), "expected the input lengths unchanged, found others")


@in_every_way
def padding_changes_nothing(subject: PaddedSubject) -> None:
    """Whatever stands past the lengths (noise, large values, NaN), the outputs are the same."""
    part = subject.build()
    clean = Padded.stack(subject.sequences(part))
    with torch.no_grad():
        expected, losses = subject.run(part, clean)
        for what, batch in _dirty(clean).items():
            found, dirty_losses = subject.run(part, batch)
            expect(
                torch.equal(found.lengths, expected.lengths),
                f"{what} past the lengths: expected output lengths {expected.lengths.tolist()}, "
                f"found {found.lengths.tolist()}",
            )
            pairs = zip(found.unstack(), expected.unstack(), strict=True)
            for number, (dirty, wanted) in enumerate(pairs):
                expect_close(dirty, wanted, f"{what} past the lengths: output {number}")
            for name, loss in losses.items():
                expect_close(dirty_losses[name], loss, f"{what} past the lengths: loss '{name}'")


@in_every_way
def padding_changes_no_gradient(subject: PaddedSubject) -> None:
    """Nor does what stands past the lengths change the gradient of any parameter."""
    part = subject.build()
    clean = Padded.stack(subject.sequences(part))
    expected = _gradients(subject, part, clean)
    for what, batch in _dirty(clean).items():
        found = _gradients(subject, part, batch)
        for name, wanted in expected.items():
            try:
                expect_close(found[name], wanted, f"{what} past the lengths: the gradient of {name}")
            except KeyError as error:
                raise ContractError(f"{what} past the lengths: {name} has no gradient any more") from error


def _gradients(subject: PaddedSubject, part: torch.nn.Module, batch: Padded) -> dict[str, Tensor]:
    part.zero_grad(set_to_none=True)
    subject.loss_of(part, batch).backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in part.named_parameters() if p.grad is not None}


def _dirty(clean: Padded) -> dict[str, Padded]:
    """Return batches that differ from a clean one past the lengths only, and are wider."""
    shape = (clean.values.shape[0], SPARE, *clean.values.shape[2:])
    wide = Padded(torch.cat([clean.values, clean.values.new_zeros(shape)], dim=1), clean.lengths)
    padding = ~wide.mask()
    noise = torch.randn(wide.values.shape, generator=torch.Generator().manual_seed(2))
    batches = {"zeros": wide}
    for what, filling in {"noise": noise, "values of 1e4": noise * 1e4, "NaN": noise * torch.nan}.items():
        values = wide.values.clone()
        values[padding] = filling[padding].to(values.dtype)
        batches[what] = Padded(values, wide.lengths)
    return batches
