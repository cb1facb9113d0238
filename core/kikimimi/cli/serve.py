"""``kikimimi serve``."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import typer

from kikimimi.console.terminal import say

API_KEY = "KIKIMIMI_API_KEY"
"""Environment variable with the key that clients have to give."""
_NEEDED = {
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
    "python_multipart": "python-multipart",
    "prometheus_client": "prometheus-client",
}


def serve(
    run: Path = typer.Argument(..., help="A run folder."),
    host: str = typer.Option("127.0.0.1", "--host", help="Address to listen on."),
    port: int = typer.Option(8000, "--port", min=0, max=65535, help="Port to listen on; 0 takes a free one."),
    name: str = typer.Option(None, "--name", help="Name of the model for clients. Default: the recipe's."),
    rows: int = typer.Option(16, "--rows", min=1, help="Clips and conversations that are answered together."),
    requests: int = typer.Option(
        256, "--requests", min=1, help="Requests that are answered or wait; one more is told to come again."
    ),
    timeout: float = typer.Option(300.0, "--timeout", min=1, help="Longest time for a request, in seconds."),
    max_megabytes: int = typer.Option(
        25, "--max-megabytes", min=1, help="Largest upload, in MB of 1,048,576 bytes."
    ),
    max_seconds: float = typer.Option(7200.0, "--max-seconds", min=1, help="Longest audio, in seconds."),
    cut: Literal["silence", "quietest"] = typer.Option(
        "silence",
        "--cut",
        help="Where audio is cut that is longer than the model's window. silence: where nobody speaks, which "
        "is left out; quietest: in the quietest moment near a window's end, and nothing is left out.",
    ),
    pause: float = typer.Option(
        None,
        "--pause",
        min=0.1,
        help="Shortest silence, in seconds, that ends a segment; shorter files are cut as well. Default: 0.5 "
        "for srt and vtt; else segments are as long as the model takes.",
    ),
) -> None:
    """Serve a trained run to clients of OpenAI's API: transcriptions, translations, chat with clips.

    Where the environment variable KIKIMIMI_API_KEY is set, clients have to give that key.
    """
    from kikimimi.errors import MissingExtraError, RequestError
    from kikimimi.run.folder import RunFolder

    for module, package in _NEEDED.items():
        if find_spec(module) is None:
            raise MissingExtraError("kikimimi serve", package, "serve")
    api_key = os.environ.get(API_KEY)
    if api_key is not None and (not api_key.isascii() or not api_key.strip() or api_key != api_key.strip()):
        raise RequestError(
            f"{API_KEY}: expected ASCII without white space around it; unset it to let everybody in"
        )
    folder = RunFolder.open(run)
    folder.newest_weights()
    from kikimimi.serving.app import build_app
    from kikimimi.serving.limits import Limits
    from kikimimi.serving.server import Server, check_host, listen
    from kikimimi.serving.service import Service

    if pause is not None and cut == "quietest":
        raise RequestError("--pause: pauses end segments with --cut silence only")
    check_host(host, api_key)
    listening = listen(host, port)
    limits = Limits(
        max_rows=rows,
        max_requests=requests,
        max_upload_bytes=max_megabytes << 20,
        max_audio_seconds=max_seconds,
        timeout_seconds=timeout,
    )
    service = Service(folder, name, limits, cut=cut, pause=pause)
    service.warm_up()
    server = Server(
        build_app(service, api_key),
        listening,
        limits,
        drain_seconds=timeout,
        ready=lambda url: say(f"'{service.name}' is served at {url}/v1; Ctrl-C or SIGTERM ends it"),
    )
    server.run()
    say("what was begun is answered; ended", error=True)
