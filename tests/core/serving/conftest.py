"""A small run behind a real server on loopback, and an engine that answers by hand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from tests.core.serving.by_hand import ByHand, scatter

from kikimimi.recipe import load_recipe
from kikimimi.run.folder import RunFolder
from kikimimi.serving.app import build_app
from kikimimi.serving.limits import Limits
from kikimimi.serving.server import Server, listen
from kikimimi.serving.service import Service
from kikimimi.testing import write_shard
from kikimimi.training.train import train

Start = Callable[..., tuple[str, ByHand, Service]]
# The encoder's window is 2 s, so that what is longer is quick to try.
RECIPE = """
name: small
encoder:
  name: whisper
  fixed: ["*"]
  weights: random
  sizes: {{dim: 32, num_layers: 1, num_heads: 2, ffn_dim: 32, num_positions: 100}}
adapter: {{name: mlp, hidden_dim: 32}}
llm:
  name: llama
  weights: random
  scratch: {{dim: 32, num_layers: 1, num_heads: 2, ffn_dim: 32}}
stages:
  asr:
    train: {{adapter: {{lr: 1.0e-3}}, llm: {{lr: 2.0e-3}}}}
    data: {{tones: {{shards: "{shards}", task: asr}}}}
    batch: {{seconds: 3, global: 1}}
    steps: 1
    schedule: {{name: constant, warmup: 1}}
evaluate:
  held_out: {{shards: "{shards}", task: asr, generate: {{max_new_tokens: 12}}}}
trainer: {{log_every: 1, accelerator: cpu}}
"""


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A trained run; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("serving")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIKIMIMI_CACHE", str(folder / "cache"))
        recipe = folder / "small.yaml"
        recipe.write_text(RECIPE.format(shards=write_shard(folder / "data", 4)), encoding="utf-8")
        run = RunFolder.create(folder / "run", load_recipe(recipe))
        train(run)
    return run


@pytest.fixture(scope="session")
def serve() -> Callable[..., Any]:
    """Serve a service on a free port, as a context that gives the URL."""

    @contextmanager
    def serve(service: Service, api_key: str | None = None) -> Iterator[str]:
        ready = threading.Event()
        server = Server(
            build_app(service, api_key),
            listen("127.0.0.1", 0),
            service.limits,
            drain_seconds=5,
            ready=lambda _: ready.set(),
        )
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            assert ready.wait(60)
            yield server.url
        finally:
            server.should_exit = True
            thread.join()

    return serve


@pytest.fixture(scope="module")
def service(run: RunFolder) -> Service:
    """The run's model, each clip with a text of its own."""
    return scatter(Service(run, device=torch.device("cpu"), cut="quietest"))


@pytest.fixture(scope="module")
def url(serve: Callable[..., Any], service: Service) -> Iterator[str]:
    """Where it is served."""
    with serve(service) as url:
        yield url


@pytest.fixture
def by_hand(
    run: RunFolder, serve: Callable[..., Any]
) -> Iterator[Callable[..., tuple[str, ByHand, Service]]]:
    """Serve with an engine that the test answers for."""
    with ExitStack() as stack:

        def start(api_key: str | None = None, **limits: Any) -> tuple[str, ByHand, Service]:
            service = Service(run, limits=Limits(**limits), device=torch.device("cpu"), cut="quietest")
            engine = ByHand(service.engine.engine)
            service.engine = service.asker.engine = engine  # type: ignore[assignment]
            return stack.enter_context(serve(service, api_key)), engine, service

        yield start
