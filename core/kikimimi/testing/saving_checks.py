"""Checks that a component comes back as it was: from its state, from a checkpoint, from another process."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import torch
from safetensors.torch import load, save

from kikimimi.model.trainable import named_tensors
from kikimimi.testing.contract import expect, expect_close
from kikimimi.testing.subject import Subject
from kikimimi.testing.training_checks import take_step

EXACT = 1e-6
"""Nothing but the memory that the tensors lie in may differ."""


def state_dict_restores(subject: Subject) -> None:
    """`load_state_dict` makes another build, of another seed, give the same output."""
    part, other = subject.build(), subject.build(seed=1)
    other.load_state_dict(part.state_dict())
    _expect_same(subject, other, part, "after load_state_dict")


def checkpoint_restores(subject: Subject) -> None:
    """After a training step, what checkpoints hold (parameters and persistent buffers) does the same."""
    part = subject.build()
    take_step(subject, part)
    state = load(save({name: t.detach().contiguous() for name, t in named_tensors(part).items()}))
    other = subject.build(seed=1)
    tensors = named_tensors(other)
    expect(
        tensors.keys() == state.keys(),
        f"expected the same tensors in every build, found others: "
        f"{', '.join(sorted(tensors.keys() ^ state.keys()))}",
    )
    with torch.no_grad():
        for name, value in state.items():
            tensors[name].copy_(value)
    _expect_same(subject, other, part, "restored from a checkpoint (parameters and persistent buffers)")


def deepcopy_keeps(subject: Subject) -> None:
    """`copy.deepcopy` gives a component with the same output."""
    part = subject.build()
    _expect_same(subject, copy.deepcopy(part), part, "a deep copy")


def pickle_keeps(subject: Subject) -> None:
    """Pickling, by which a component reaches the processes of a data loader, keeps the output."""
    part = subject.build()
    _expect_same(subject, pickle.loads(pickle.dumps(part)), part, "pickled and unpickled")


def _expect_same(subject: Subject, found: Any, expected: Any, what: str) -> None:
    sequences = subject.sequences(expected)
    with torch.no_grad():
        pairs = zip(
            subject.outputs(found.eval(), sequences), subject.outputs(expected, sequences), strict=True
        )
        for number, (output, wanted) in enumerate(pairs):
            expect_close(output, wanted, f"{what}: sequence {number}", EXACT)
