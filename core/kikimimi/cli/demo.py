"""``kikimimi demo``."""

from pathlib import Path
from typing import Literal

import typer

from kikimimi.console.terminal import say


def demo(
    run: Path = typer.Argument(..., help="A run folder."),
    language: Literal["en", "ja"] | None = typer.Option(
        None, "--language", help="Language of the page. Default: the browser's."
    ),
    stage: str | None = typer.Option(None, "--stage", help="Weights of this stage. Default: the last one's."),
    host: str = typer.Option("127.0.0.1", "--host", help="Address to listen at: this machine's own alone."),
    port: int = typer.Option(7860, "--port", min=0, max=65535, help="Port; 0 takes any that is free."),
) -> None:
    """Talk to a run in the browser: microphone, files and text, on a page of this machine."""
    import threading

    from kikimimi.run.folder import RunFolder

    folder = RunFolder.open(run)
    folder.newest_weights(stage)
    from kikimimi.inference.live import LiveEngine
    from kikimimi.inference.load import open_engine
    from kikimimi.talking.demo import Demo, load_gradio
    from kikimimi.training.stop import give_back, handle

    load_gradio()
    engine, _ = open_engine(folder, stage=stage)
    with LiveEngine(engine) as live, Demo(folder, live, language).serving(host, port) as address:
        if host not in ("127.0.0.1", "localhost", "::1"):
            say(f"warning: whoever reaches {host} can use this page: it asks for no password", error=True)
        ended = threading.Event()
        handlers = handle(lambda *_: ended.set())
        try:
            say(f"{address} (Ctrl-C ends it)")
            ended.wait()
        finally:
            give_back(handlers)
