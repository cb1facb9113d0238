"""Published speech LLMs, taken in, against transformers' own classes with the same weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.published.models import TINY, Tiny, Turn

from kikimimi import AudioPart, Conversation, Generation, Message, TextPart
from kikimimi.inference.engine import Engine, Prompt
from kikimimi.inference.load import load_model
from kikimimi.published.importing import import_model


def noise(seconds: float, seed: int) -> NDArray[np.float32]:
    """Return noise of 16 bits: mistral-common hands clips to Voxtral's processor as such, finer ones rounded.

    Rounding alone moves the tiny Voxtral's logits by 1e-5 to 1e-4, and everything else together by 3e-6.
    """
    drawn = np.random.default_rng(seed).normal(0, 0.1, int(seconds * 16_000))
    return (np.round(drawn * 32_768) / 32_768).astype(np.float32)


ONE = [Turn("Tell me.", [noise(1.23, 0)])]
LONG = [Turn("And now?", [noise(31.3, 3)])]
LATER = [Turn("Who?", [noise(0.7, 1)]), Turn("Nobody.", role="assistant"), Turn("And?", [noise(2.5, 2)])]
ALIKE = [Turn("Who?", [noise(1.7, 1)]), Turn("Nobody.", role="assistant"), Turn("And?", [noise(1.7, 2)])]
LAST = [Turn("Who?"), Turn("Nobody.", role="assistant"), Turn("And?", [noise(2.5, 2)])]
SILENT = [Turn("Only words, mostly.")]


@pytest.fixture(scope="module", params=sorted(TINY))
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tiny, Path]:
    if request.param == "voxtral":
        pytest.importorskip("mistral_common", reason="builds Voxtral's prompts")
    folder = tmp_path_factory.mktemp(request.param)
    tiny = TINY[request.param]
    tiny.write(folder)
    return tiny, folder


@pytest.fixture(scope="module")
def engine(published: tuple[Tiny, Path], tmp_path_factory: pytest.TempPathFactory) -> Engine:
    run = import_model(str(published[1]), tmp_path_factory.mktemp("run") / "imported")
    return Engine(load_model(run), torch.device("cpu"))


def prompt(turns: Sequence[Turn]) -> Prompt:
    clips = [torch.from_numpy(clip) for turn in turns for clip in turn.clips]
    numbers = iter(range(len(clips)))
    messages = [
        Message(
            turn.role,  # type: ignore[arg-type]
            (*(AudioPart(f"{next(numbers)}.flac") for _ in turn.clips), TextPart(turn.words)),
        )
        for turn in turns
    ]
    return Prompt("a prompt", Conversation(tuple(messages)), clips)


def logits_of(engine: Engine, asked: Sequence[Sequence[Turn]]) -> tuple[list[list[int]], list[torch.Tensor]]:
    """Return the ids of each conversation, -1 at its audio tokens, and the logits after each."""
    _, packed, _ = engine.pack([prompt(turns) for turns in asked])
    if engine.model.gate is not None:
        heard = torch.tensor([any(turn.clips for turn in turns) for turns in asked])
        engine.model.gate.set(heard, packed.lengths)
    with torch.inference_mode():
        logits = engine.model.llm(packed.embeddings, packed.lengths, torch.arange(len(packed.ids)))
    lengths = packed.lengths.tolist()
    return [part.tolist() for part in torch.split(packed.ids, lengths)], list(torch.split(logits, lengths))


def fitting(tiny: Tiny, batch: list[list[Turn]]) -> list[list[Turn]]:
    """Return conversations of as many clips as the model takes, of one length where padding leaks."""
    later = LAST if tiny.one_clip else ALIKE if tiny.leaks else LATER
    return [later if turns is LATER else turns for turns in batch]


@pytest.mark.parametrize("batch", [[ONE], [LATER], [SILENT], [ONE, SILENT, LATER], [LONG]])
def test_logits_are_those_of_transformers(
    published: tuple[Tiny, Path], engine: Engine, batch: list[list[Turn]]
) -> None:
    tiny, folder = published
    if LONG in batch and not tiny.cuts:
        pytest.skip("takes no longer clip")
    batch = fitting(tiny, batch)
    model: Any = tiny.opened(folder).eval()
    found_ids, found = logits_of(engine, batch)
    for turns, ids, logits in zip(batch, found_ids, found, strict=True):
        inputs = tiny.asked(folder, turns)
        audio = tiny.audio_token(model.config)
        assert [audio if number < 0 else number for number in ids] == inputs["input_ids"][0].tolist()
        tiny.prepare(model, inputs)
        with torch.inference_mode():
            expected = model(**inputs).logits[0] / tiny.scale
        assert (logits - expected).abs().max() < 1e-4
        assert expected.std() > 0.1  # there is something to compare


def test_answers_are_those_of_transformers(published: tuple[Tiny, Path], engine: Engine) -> None:
    tiny, folder = published
    model: Any = tiny.opened(folder).eval()
    asked = fitting(tiny, [ONE, SILENT, LATER])
    answers = engine.answer([prompt(turns) for turns in asked], Generation(max_new_tokens=8))
    llm: Any = engine.model.llm
    for turns, answer in zip(asked, answers, strict=True):
        inputs = tiny.asked(folder, turns)
        tiny.prepare(model, inputs)
        ids = model.generate(**inputs, max_new_tokens=8, do_sample=False, eos_token_id=llm.chat.stop_ids)
        new = ids[0, inputs["input_ids"].shape[1] :]
        assert answer == llm.tokenizer.decode(new, skip_special_tokens=True).strip()
