"""Checks of building a component: its size, where it can be built, what importing it costs."""

from __future__ import annotations

import copy
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch

from kikimimi.testing.contract import ContractError, expect
from kikimimi.testing.subject import Subject

MAX_PARAMETERS = 1_000_000


def builds_tiny(subject: Subject) -> None:
    """The tiny variant has fewer than a million parameters."""
    count = sum(parameter.numel() for parameter in subject.build().parameters())
    expect(
        count < MAX_PARAMETERS,
        f"tiny_config: expected fewer than {MAX_PARAMETERS:,} parameters, found {count:,}",
    )


def builds_without_network(subject: Subject) -> None:
    """Building the tiny variant, and loading its (random) weights, opens no connection."""
    with _no_network():
        subject.build().load_weights()


def builds_on_meta(subject: Subject) -> None:
    """On the meta device nothing is allocated, and names and shapes are those of a real build."""
    with torch.device("meta"):
        empty = dict(subject.construct().named_parameters())
    real = {name: parameter.shape for name, parameter in subject.build().named_parameters()}
    for name, parameter in empty.items():
        expect(
            parameter.is_meta, f"{name}: expected the meta device when built there, found {parameter.device}"
        )
    found = {name: parameter.shape for name, parameter in empty.items()}
    differing = sorted(name for name in real.keys() | found.keys() if real.get(name) != found.get(name))
    expect(
        not differing,
        f"expected the same parameters on the meta device, found others: {', '.join(differing)}",
    )


def builds_the_same_from_a_seed(subject: Subject) -> None:
    """The seed decides the random weights: a run can be repeated."""
    first, second = (subject.build(seed=3).state_dict() for _ in range(2))
    differing = [name for name, value in first.items() if not torch.equal(value, second[name])]
    expect(
        not differing,
        f"expected equal weights from equal torch seeds, found others in {', '.join(differing)}",
    )


def shard_classes_are_modules(subject: Subject) -> None:
    """`shard_classes` is not empty, and each class occurs in `modules()` below the component itself."""
    part = subject.build()
    classes = part.shard_classes()
    expect(bool(classes), "shard_classes: expected at least one class, found none")
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
    named = part.pretrained_names()
    expect(
        named == set(),
        f"pretrained_names: expected none with random weights, found {', '.join(sorted(named))}",
    )
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
def _no_network() -> Iterator[None]:
    def refuse(*arguments: Any, **options: Any) -> NoReturn:
        raise ContractError(f"expected that building opens no connection, found one to {arguments[-1]}")

    replaced: Any = socket.socket
    connect, look_up = replaced.connect, socket.getaddrinfo
    replaced.connect = refuse
    socket.getaddrinfo = refuse
    try:
        yield
    finally:
        replaced.connect = connect
        socket.getaddrinfo = look_up
