"""Checks of building a component: its size, where it can be built, what importing it costs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NoReturn

import torch

from kikimimi.testing.contract import ContractError, expect
from kikimimi.testing.subject import Subject

MAX_PARAMETERS = 1_000_000

# Runs in a fresh interpreter: arguments are a module and its file.
_IMPORT = """
import importlib, importlib.util, sys

name, path = sys.argv[1:]
from kikimimi import plugins

listed = list(plugins.plugins())
early = sorted({name, "torch", "transformers"} & set(sys.modules))
if early:
    sys.exit(f"expected that listing plugins imports neither torch nor a plugin, found {', '.join(early)}")

def refuse(event, arguments):
    if event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        raise ConnectionRefusedError(f"a connection to {arguments[1]}")
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        raise ConnectionRefusedError(f"a name look-up of {arguments[0]}")

sys.addaudithook(refuse)
try:
    known = importlib.util.find_spec(name) is not None
except (ImportError, ValueError):
    known = False
try:
    if known:
        importlib.import_module(name)
    else:
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
except ConnectionRefusedError as error:
    sys.exit(f"expected that importing {name} opens no connection, found {error}")
heavy = sorted({"pytorch_lightning", "kikimimi.training.train", "kikimimi.cli"} & set(sys.modules))
if heavy:
    sys.exit(f"expected that importing {name} leaves the trainer alone, found {', '.join(heavy)}")
"""


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


def import_is_quiet(subject: Subject) -> None:
    """Importing the module opens no connection; listing plugins does not import it."""
    module = sys.modules[subject.component.__module__]
    complaint = _import_alone(module.__name__, getattr(module, "__file__", None) or "")
    if complaint is not None:
        raise ContractError(complaint)


@cache
def _import_alone(name: str, path: str) -> str | None:
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT, name, path],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
    )
    return None if done.returncode == 0 else done.stderr.strip()


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
