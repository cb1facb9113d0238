"""Exports, served by vLLM over its API, against the runs that they were made of.

vLLM has an environment of its own, which `KIKIMIMI_TEST_VLLM` names: its Python (docs/vllm.md).
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from tests.published.models import TINY, Turn, write_tekken
from tests.published.test_export import trained
from tests.published.test_import import LATER, LONG, ONE, SILENT, noise, prompt
from transformers import VoxtralConfig, VoxtralForConditionalGeneration, WhisperFeatureExtractor

from kikimimi import Generation
from kikimimi.inference.engine import Engine
from kikimimi.inference.load import load_model
from kikimimi.published.exporting import export_run
from kikimimi_recognisers.tiny_audio_flamingo import TINY_LLM

VARIABLE = "KIKIMIMI_TEST_VLLM"
OTHER = [Turn("Tell me.", [noise(2.0, 7)])]
SHORT = [Turn("Tell me.", [noise(0.4, 8)])]
STACKED = [
    *([Turn("Tell me.", [noise(seconds, 9)])] for seconds in (1.28, 2.08, 0.48, 31.28)),
    [Turn("Who?", [noise(0.64, 1)]), Turn("Nobody.", role="assistant"), Turn("And?", [noise(2.56, 2)])],
]
"""Of clips that fill their last audio token of 160 ms: Ultravox hears what pads the others in batches."""
NUM_TOKENS = 12
PATIENCE = 600
"""Seconds within which a server has to be up; a minute is usual."""


@dataclass(frozen=True)
class Shape:
    """What is exported.

    Attributes:
        kind: The tiny model that the run begins with.
        to: The format.
        asked: Conversations, no two of which it may answer alike.
        changes: Of the recipe.
        options: Of the server.
    """

    kind: str
    to: str
    asked: Sequence[list[Turn]]
    changes: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


MISTRAL = (
    *("--tokenizer-mode", "mistral", "--config-format", "mistral", "--load-format", "mistral"),
    *("--limit-mm-per-prompt", '{"audio": 2}'),
)
SHAPES = {
    "qwen2_audio": Shape("qwen2_audio", "qwen2_audio", [ONE, OTHER, SHORT, LATER, SILENT]),
    "audioflamingo3": Shape("audioflamingo3", "audioflamingo3", [ONE, OTHER, SHORT, LONG, SILENT]),
    "ultravox": Shape("ultravox", "ultravox", [*STACKED, SILENT]),
    "granite_speech": Shape(
        "granite_speech", "granite_speech", [ONE, OTHER, SHORT, SILENT], ("llm.lora=null",)
    ),
    "voxtral-mistral": Shape(
        "voxtral", "voxtral-mistral", [ONE, OTHER, SHORT, LATER, SILENT], options=MISTRAL
    ),
    "hf": Shape("qwen2_audio", "hf", [ONE, OTHER, SHORT, LATER, SILENT], ("adapter=conv",)),
}


@dataclass(frozen=True)
class Served:
    """A server, and the run whose export it serves."""

    engine: Engine
    asked: Sequence[list[Turn]]
    port: int

    def answer(self, turns: Sequence[Turn]) -> tuple[str, str]:
        """Return the server's text, and the text of its tokens: bytes that are no text yet are in it, too."""
        body = {
            "model": "served",
            "messages": [{"role": turn.role, "content": contents(turn)} for turn in turns],
            "max_tokens": NUM_TOKENS,
            "temperature": 0,
            "return_token_ids": True,
        }
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:
                choice = json.load(response)["choices"][0]
        except urllib.error.HTTPError as error:
            pytest.fail(f"{error}: {error.read().decode()}")
        tokenizer: Any = self.engine.model.llm.tokenizer
        tokens = tokenizer.decode(choice["token_ids"], skip_special_tokens=True)
        return (choice["message"]["content"] or "").strip(), tokens.strip()


def contents(turn: Turn) -> list[dict[str, Any]]:
    """Return a turn's parts as the API of OpenAI has them."""
    parts: list[dict[str, Any]] = []
    for clip in turn.clips:
        file = io.BytesIO()
        soundfile.write(file, clip, 16_000, subtype="FLOAT", format="WAV")
        data = base64.b64encode(file.getvalue()).decode()
        parts.append({"type": "input_audio", "input_audio": {"data": data, "format": "wav"}})
    return [*parts, {"type": "text", "text": turn.words}]


def write_large_voxtral(folder: Path) -> None:
    """Write a Voxtral as Mistral's files have to have it: sinusoids, 128 mel bins, heads of 32 channels."""
    tower = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 256}
    config = VoxtralConfig(
        audio_config={**tower, "num_mel_bins": 128, "max_source_positions": 1500},
        text_config={
            **{"model_type": "llama", "vocab_size": 296, "head_dim": 32},
            **{**TINY_LLM, "initializer_range": 0.2},
        },
        audio_token_id=24,
    )
    torch.manual_seed(0)
    model: Any = VoxtralForConditionalGeneration(config)
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=128).save_pretrained(folder)
    write_tekken(folder)
    tokenizer = json.loads((folder / "tekken.json").read_bytes())
    tokenizer["audio"]["audio_encoding_config"]["num_mel_bins"] = 128
    (folder / "tekken.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    state = load_file(folder / "model.safetensors")
    rates = torch.exp(-math.log(10_000) / 31 * torch.arange(32))
    angles = torch.arange(1500)[:, None] * rates
    positions = "audio_tower.embed_positions.weight"
    # So large that clips are told apart, among the tokens of 30 s of silence.
    for name, value in state.items():
        tower_matrix = name.startswith("audio_tower.") and value.dim() > 1
        layer_matrix = name.startswith("language_model.model.layers.") and value.dim() == 2
        value.mul_(12 if tower_matrix else 8 if layer_matrix else 4 if "projector" in name else 1)
    state["language_model.lm_head.weight"][:40] = 0  # control tokens: no answer shows them alike
    state[positions] = torch.cat([angles.sin(), angles.cos()], 1)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def python_with_vllm(kind: str) -> str:
    """Return the Python that has what a shape is served with."""
    python = os.environ.get(VARIABLE)
    if python is None:
        pytest.skip(f"{VARIABLE} names no Python that has vLLM: docs/vllm.md says how to get one")
    needed = ["vllm", "soundfile", *(["torchaudio"] if kind == "granite_speech" else [])]
    for module in needed:
        found = subprocess.run([python, "-c", f"import {module}"], capture_output=True, text=True)
        if found.returncode and module == "torchaudio":
            pytest.skip(f"{python} has no torchaudio, which Granite-Speech's processor takes")
        assert not found.returncode, f"{VARIABLE}={python}: {module} cannot be imported:\n{found.stderr}"
    return python


@pytest.fixture(scope="module", params=sorted(SHAPES))
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    shape = SHAPES[request.param]
    python = python_with_vllm(shape.kind)
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        # vLLM's attention on the CPU takes heads of 32 channels and more.
        patch.setitem(TINY_LLM, "num_attention_heads", 1)
        patch.setitem(TINY_LLM, "num_key_value_heads", 1)
        patch.setitem(TINY, "voxtral", replace(TINY["voxtral"], write=write_large_voxtral))
        run = trained(shape.kind, folder, *shape.changes)
    export_run(run, shape.to, folder / "out")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", "out"]
    command += ["--served-model-name", "served", "--trust-remote-code", "--dtype", "float32"]
    command += ["--enforce-eager", "--max-model-len", "2048", "--host", "127.0.0.1", "--port", str(port)]
    command += shape.options
    quiet = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    environment = {**os.environ, **quiet, "VLLM_TARGET_DEVICE": "cpu", "VLLM_CPU_KVCACHE_SPACE": "1"}
    with (folder / "server.log").open("w", encoding="utf-8") as log:
        server = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_for(server, port, folder / "server.log")
        yield Served(Engine(load_model(run), torch.device("cpu")), shape.asked, port)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(60)
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()


def wait_for(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until a server answers."""
    for _ in range(PATIENCE):
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10):
                return
        except OSError:
            time.sleep(1)
    pytest.fail(f"the server is not up: {log.read_text(encoding='utf-8', errors='replace')[-6000:]}")


@pytest.mark.slow
def test_vllm_answers_as_the_run_does(served: Served) -> None:
    prompts = [prompt(turns) for turns in served.asked]
    expected = [
        served.engine.answer([one], Generation(max_new_tokens=NUM_TOKENS))[0] for one in prompts
    ]  # one by one: in batches, some shapes let shorter clips hear what pads them
    assert len(set(expected)) == len(expected)
    for turns, answer in zip(served.asked, expected, strict=True):
        text, tokens = served.answer(turns)
        assert tokens == answer
        assert answer.startswith(text)
        assert text
    with ThreadPoolExecutor(2) as pool:  # two requests at once
        found = list(pool.map(served.answer, served.asked))
    assert [tokens for _, tokens in found] == expected
