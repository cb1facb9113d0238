"""Checks of any component: how it is built, what its results depend on, how it trains and comes back."""

import copy
import pickle
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn
from unittest.mock import patch

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from kikimimi.console.words import listing
from kikimimi.contracts.component import Padded, own_blocks
from kikimimi.model.trainable import named_tensors
from kikimimi.testing.subject import (
    ContractError,
    PaddedSubject,
    Subject,
    expect,
    expect_all_close,
    expect_close,
    expect_not_seeded,
    gradients_of,
    in_every_way,
    nudge,
)

MAX_PARAMETERS = 1_000_000
SPARE = 7
"""Positions by which a padded batch is wider than its longest sequence needs."""
LEARNING_RATE = 1e-3
_STEPS = 3
NUDGE = 0.02
"""Size of the noise that is added to weights."""
EXACT = 1e-6
"""Largest difference where nothing but the memory that the tensors lie in may differ."""


def builds_tiny(subject: Subject) -> None:
    """The tiny variant has fewer than a million parameters."""
    count = sum(parameter.numel() for parameter in subject.build().parameters())
    expect(
        count < MAX_PARAMETERS,
        f"tiny_config: expected fewer than {MAX_PARAMETERS:,} parameters, found {count:,}",
    )


def builds_without_network(subject: Subject) -> None:
    """Building the tiny variant, and loading its (random) weights, opens no connection and leaves them as the
    constructor drew them.
    """
    with _no_network():
        part = subject.build()
        before = {name: tensor.clone() for name, tensor in part.state_dict().items()}
        part.load_weights()
    others = [name for name, value in part.state_dict().items() if not torch.equal(value, before[name])]
    expect(
        not others,
        f"load_weights: expected random weights left as they are, found others in {listing(others)}",
    )


def builds_on_meta(subject: Subject) -> None:
    """On the meta device nothing is allocated, and names and shapes are those of a real build."""
    with torch.device("meta"):
        empty = dict(subject.construct().named_parameters())
    for name, parameter in empty.items():
        expect(
            parameter.is_meta, f"{name}: expected the meta device when built there, found {parameter.device}"
        )
    real = dict(subject.build().named_parameters())
    expect_same_shapes(empty, real, "expected the same parameters on the meta device")


def builds_the_same_from_a_seed(subject: Subject) -> None:
    """The seed decides the random weights: a run can be repeated, and no value is memory as it was."""
    with _new_memory_as_nan():
        part, again = (subject.build(seed=3) for _ in range(2))
    unset = [name for name, value in (*part.named_parameters(), *part.named_buffers()) if value.isnan().any()]
    expect(
        not unset,
        "expected every value to be drawn or computed, found memory as it was (`torch.empty`) in "
        f"{listing(unset)}",
    )
    first, second = part.state_dict(), again.state_dict()
    others = [name for name, value in first.items() if not torch.equal(value, second[name])]
    expect(not others, f"expected equal weights from equal torch seeds, found others in {', '.join(others)}")


def builds_another_from_another_seed(subject: Subject) -> None:
    """Another seed gives other random weights: no generator with a seed of its own draws them."""
    first, second = (dict(subject.build(seed=seed).named_parameters()) for seed in (3, 4))
    drawn = [name for name, weights in first.items() if weights.numel() and weights.min() < weights.max()]
    expect(
        not drawn or any(not torch.equal(first[name], second[name]) for name in drawn),
        "expected other weights from another torch seed, found the same: torch's generator has to draw them",
    )


def expect_same_shapes(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Expect tensors of the same names and shapes; ``what`` starts the message."""
    shapes, others = ({name: t.shape for name, t in tensors.items()} for tensors in (found, expected))
    differing = sorted(name for name in shapes.keys() | others.keys() if shapes.get(name) != others.get(name))
    expect(not differing, f"{what}, found others: {', '.join(differing)}")


def shard_classes_are_modules(subject: Subject) -> None:
    """`shard_classes` is not empty, and each class occurs in `modules()` below the component itself.

    A component that holds all of its parameters itself has no block.
    """
    part = subject.build()
    classes = part.shard_classes()
    expect(
        bool(classes) or next(own_blocks(part), None) is None,
        "shard_classes: expected at least one class, found none",
    )
    inside = {type(module) for module in part.modules() if module is not part}
    absent = sorted(cls.__name__ for cls in classes - inside)
    expect(
        not absent,
        f"shard_classes: expected classes of the component's own modules, found {', '.join(absent)}; it has "
        f"{', '.join(sorted(cls.__name__ for cls in inside))}",
    )


def pretrained_names_are_parameters(subject: Subject) -> None:
    """`pretrained_names` names the component's own parameters, and none where all weights are random."""
    part = subject.build()
    random = sorted(part.pretrained_names())
    expect(not random, f"pretrained_names: expected none with random weights, found {', '.join(random)}")
    config = getattr(part, "config", None)
    if not hasattr(config, "weights"):
        return
    # As it would be with a source, which no check can fetch.
    pretended = copy.copy(config)
    object.__setattr__(pretended, "weights", "organisation/name")
    part.config = pretended
    strange = sorted(part.pretrained_names() - {name for name, _ in part.named_parameters()})
    expect(not strange, f"pretrained_names: expected names of parameters, found {', '.join(strange)}")


@contextmanager
def _new_memory_as_nan() -> Iterator[None]:
    """Let torch fill what `torch.empty` returns, which may by chance hold anything."""
    deterministic: Any = torch.utils.deterministic
    filled = deterministic.fill_uninitialized_memory
    decided = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(decided, warn_only=warned)
        deterministic.fill_uninitialized_memory = filled


@contextmanager
def _no_network() -> Iterator[None]:
    def refuse(*arguments: Any, **options: Any) -> NoReturn:
        raise ContractError(f"expected that building opens no connection, found one to {arguments[-1]}")

    with patch.object(socket.socket, "connect", refuse), patch.object(socket, "getaddrinfo", refuse):
        yield


@in_every_way
def repeating_changes_nothing(subject: Subject) -> None:
    """In eval mode the same input gives the same output again, and no generator of the process is seeded."""
    part = subject.build()
    sequences = subject.sequences(part)
    with torch.no_grad():
        first, second = expect_not_seeded(lambda: subject.outputs(part, sequences))
    for number, (again, before) in enumerate(zip(second, first, strict=True)):
        expect_close(again, before, f"sequence {number} a second time", 0.0)


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
def input_is_left_alone(subject: PaddedSubject) -> None:
    """The input, which may be kept for later, is not written to, nor is what stands past the lengths."""
    part = subject.build()
    batch = _dirty(Padded.stack(subject.sequences(part)))["noise"]
    values, lengths = batch.values.clone(), batch.lengths.clone()
    with torch.no_grad():
        subject.run(part, batch)
    expect(torch.equal(batch.values, values), "expected the input values unchanged, found them changed")
    expect(torch.equal(batch.lengths, lengths), "expected the input lengths unchanged, found others")


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
            expect_all_close(found.unstack(), expected.unstack(), f"{what} past the lengths: output")
            for name, loss in losses.items():
                expect_close(dirty_losses[name], loss, f"{what} past the lengths: loss '{name}'")


@in_every_way
def padding_changes_nothing_in_training(subject: PaddedSubject) -> None:
    """Nor in train mode, where a norm may be over the batch: neither what stands there nor how much."""
    part = subject.build().train()
    for module in part.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    clean = Padded.stack(subject.sequences(part))
    batches = _dirty(clean)

    def outputs(batch: Padded, seed: int = 0) -> list[Tensor]:
        torch.default_generator.manual_seed(seed)
        with torch.no_grad():
            return subject.run(part, batch)[0].unstack()

    narrow, again, wide = outputs(clean), outputs(clean, 1), outputs(batches["zeros"])
    for what in ("noise", "NaN"):
        expect_all_close(outputs(batches[what]), wide, f"{what} past the lengths: output")
    if all(torch.equal(one, other) for one, other in zip(narrow, again, strict=True)):  # nothing is drawn
        expect_all_close(wide, narrow, f"{SPARE} more positions past the lengths: output")


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
    return {name: p.grad for name, p in part.named_parameters() if p.grad is not None}


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


def gradients_reach_every_parameter(subject: Subject) -> None:
    """The loss gives each parameter that can be trained a finite gradient that is not zero; two factors that
    both begin at zero never have one.
    """
    part = subject.build()
    _expect_zeros_move(subject)
    # Layers that start at zero would hide a gradient.
    nudge([p for p in part.parameters() if p.requires_grad], NUDGE, seed=4)
    if getattr(part, "augmentation", None) is not None:
        part.augmentation.train()  # its parameters (a learned mask) have no part in the output otherwise
    subject.loss(part, subject.sequences(part)).backward()  # type: ignore[no-untyped-call]
    trainable = [name for name, p in part.named_parameters() if p.requires_grad]
    expect(bool(trainable), "expected parameters that can be trained, found none")
    found = gradients_of(part)
    without = [name for name in trainable if name not in found or not found[name].any()]
    expect(not without, f"expected a gradient in every parameter, found none in {', '.join(without)}")


def _expect_zeros_move(subject: Subject) -> None:
    """Expect what begins at zero to be something else after a few steps."""
    part = subject.build()

    def unmoved() -> list[str]:
        trained = ((name, p) for name, p in part.named_parameters() if p.requires_grad and p.dim() > 1)
        return [name for name, p in trained if not p.any()]

    if len(unmoved()) > 1:
        for _ in range(_STEPS):
            take_step(subject, part)
        stuck = unmoved()
        expect(
            len(stuck) < 2,
            f"expected what begins at zero to train, found {listing(stuck)} zero after {_STEPS} steps: of "
            "two factors, one has to begin at random",
        )


def gradients_stay_out_of_frozen_parameters(subject: Subject) -> None:
    """With every second parameter frozen, the others alone get a gradient."""
    part = subject.build()
    names = [name for name, p in part.named_parameters() if p.requires_grad]
    wanted = set(names[::2])
    for name, parameter in part.named_parameters():
        parameter.requires_grad_(name in wanted)
    part.train()
    subject.loss(part, subject.sequences(part)).backward()  # type: ignore[no-untyped-call]
    found = gradients_of(part).keys()
    expect(
        found == wanted,
        f"expected gradients in {', '.join(sorted(wanted))} alone, as only they were not frozen; "
        f"found them in {', '.join(sorted(found)) or 'none'}",
    )


def a_step_lowers_the_loss(subject: Subject) -> None:
    """One step of AdamW towards a fixed target, in train mode, lowers the loss."""
    part = subject.build()
    before, after = take_step(subject, part)
    expect(after < before, f"expected one step of AdamW to lower the loss of {before:.6f}, found {after:.6f}")


def take_step(subject: Subject, part: Any) -> tuple[float, float]:
    """Take one step of AdamW; return the loss in eval mode before and after it."""
    sequences = subject.sequences(part)
    optimiser = torch.optim.AdamW([p for p in part.parameters() if p.requires_grad], lr=LEARNING_RATE)
    with torch.no_grad():
        before = float(subject.loss(part.eval(), sequences))
    subject.loss(part.train(), sequences).backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    part.zero_grad(set_to_none=True)
    with torch.no_grad():
        return before, float(subject.loss(part.eval(), sequences))


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
    others = ", ".join(sorted(tensors.keys() ^ state.keys()))
    expect(not others, f"expected the same tensors in every build, found others: {others}")
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
        outputs, wanted = subject.outputs(found.eval(), sequences), subject.outputs(expected, sequences)
        expect_all_close(outputs, wanted, f"{what}: sequence", EXACT)
