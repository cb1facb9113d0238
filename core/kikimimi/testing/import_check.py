"""What importing a component's module costs, seen in a process that has imported nothing of the kind.

A fresh interpreter per module would take seconds each, most of them for torch and transformers. So there is
one server: a fresh interpreter that imports the contracts and forks for every module that is asked about.
What a fork loaded of the large libraries, the server loads before the next one, so that later forks find it;
never a plugin's own modules. Another server, without torch, is for the plugins that have to do without.
"""

import atexit
import json
import os
import pickle
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from typing import IO, Any

from kikimimi.testing.subject import ContractError, Tested, expect

_SERVER = """
import importlib, importlib.util, json, os, sys, traceback

LIBRARIES = ("numpy", "safetensors", "tokenizers", "torch", "torchaudio", "transformers")
HEAVY = ("pytorch_lightning", "kikimimi.training.train", "kikimimi.cli")

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # whatever a module prints is no answer
from kikimimi.contracts import registry as plugins

list(plugins.plugins())
EARLY = sorted({"torch", "transformers"} & set(sys.modules))
LIGHT = sys.argv[1] == "light"
if not EARLY and not LIGHT:
    import kikimimi.contracts.component


def refuse(event, arguments):
    if event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        raise ConnectionRefusedError(f"a connection to {arguments[1]}")
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        raise ConnectionRefusedError(f"a name look-up of {arguments[0]}")


def complaint(name, path):
    plugins.refresh()
    list(plugins.plugins())
    early = EARLY + [name] * (name in sys.modules)
    if early:
        return f"expected that listing plugins imports neither torch nor a plugin, found {', '.join(early)}"
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
        return f"expected that importing {name} opens no connection, found {error}"
    except BaseException:
        return traceback.format_exc().strip()
    heavy = sorted(set(HEAVY) & set(sys.modules))
    if heavy:
        return f"expected that importing {name} leaves the trainer alone, found {', '.join(heavy)}"
    if LIGHT and "torch" in sys.modules:
        return f"expected that importing {name} leaves torch alone, found it imported"
    return None


def conversations(request):
    import operator, pickle, random

    component = operator.attrgetter(request["class"])(sys.modules[request["name"]])
    task, found = component(pickle.loads(bytes.fromhex(request["config"]))), []
    for record, clips in request["records"]:
        made = task.conversation(record, clips, random.Random(0))
        found.append(repr((made.messages, made.rejected)))
    return found


def in_a_fork(request):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        sys.path[:] = request["sys_path"]
        answer = {"complaint": complaint(request["name"], request["path"]), "libraries": []}
        if answer["complaint"] is None and not LIGHT:
            answer["libraries"] = [n for n in sys.modules if n.partition(".")[0] in LIBRARIES]
        if "records" in request:
            try:
                answer["complaint"] = {"found": conversations(request)}
            except BaseException:
                answer["complaint"] = {"raised": traceback.format_exc().strip()}
        with os.fdopen(write, "w") as pipe:
            pipe.write(json.dumps(answer))
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if text:
        return json.loads(text)
    ended = f"expected that importing {request['name']} comes to an end, found the process gone ({status})"
    return {"complaint": ended, "libraries": []}


libraries = []
for line in sys.stdin:
    for library in libraries:
        if library not in sys.modules:
            try:
                importlib.import_module(library)
            except Exception:
                pass  # made by the library itself as it went along, and not to be had by its name
    answer = in_a_fork(json.loads(line))
    libraries = answer["libraries"]
    print(json.dumps(answer["complaint"]), file=answers, flush=True)
"""


def import_is_quiet(subject: Tested) -> None:
    """Importing the module opens no connection; listing plugins does not import it."""
    _check(subject, light=False)


def import_is_light(subject: Tested) -> None:
    """Importing the module opens no connection and imports no torch; listing plugins does not import it."""
    _check(subject, light=True)


def _check(subject: Tested, *, light: bool) -> None:
    module = sys.modules[subject.component.__module__]
    complaint = _import_alone(module.__name__, getattr(module, "__file__", None) or "", light)
    expect(complaint is None, complaint or "")


def conversations_elsewhere(
    subject: Tested, records: list[tuple[dict[str, Any], list[str]]], hash_seed: str
) -> list[str]:
    """Return what a task makes of records in a process with a ``PYTHONHASHSEED`` of its own, as texts.

    Raises:
        ContractError: It cannot be made there.
    """
    component = subject.component
    module = sys.modules[component.__module__]
    request = {
        **_of_module(module.__name__, getattr(module, "__file__", None) or ""),
        "class": component.__qualname__,
        "config": pickle.dumps(subject.config).hex(),
        "records": records,
    }
    answer: dict[str, Any] = _ask(hash_seed, True, request)
    expect("found" in answer, f"in another process: expected conversations, found {answer.get('raised')}")
    found: list[str] = answer["found"]
    return found


@cache
def _import_alone(name: str, path: str, light: bool) -> str | None:
    found: str | None = _ask(None, light, _of_module(name, path))
    return found


def _of_module(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "path": path, "sys_path": [entry for entry in sys.path if entry]}


def _ask(hash_seed: str | None, light: bool, request: dict[str, Any]) -> Any:
    process, said = _server(hash_seed, light)
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError):  # what is wrong then, is told below
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        said.seek(0)
        complaint = said.read().decode(errors="replace").strip()
        raise ContractError(f"expected an interpreter that lists plugins, found one that fails: {complaint}")
    return json.loads(answer)


@cache
def _server(hash_seed: str | None, light: bool) -> tuple[subprocess.Popen[str], IO[bytes]]:
    """Return the server and the file with what it says; it lives as long as this process."""
    said = tempfile.TemporaryFile()  # noqa: SIM115 - a pipe that nobody reads would block it
    hashes = {} if hash_seed is None else {"PYTHONHASHSEED": hash_seed}
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER, "light" if light else "full"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=said,
        text=True,
        env={**os.environ, **hashes, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
    )

    def end() -> None:
        process.communicate()
        said.close()

    atexit.register(end)
    return process, said
