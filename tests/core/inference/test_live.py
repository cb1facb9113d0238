"""Requests that come at any time are answered as they would be alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest
import torch

from kikimimi import AudioPart, Conversation, Generation, Message, TextPart
from kikimimi.errors import DataError
from kikimimi.inference.engine import Engine, Prompt
from kikimimi.inference.growing_text import GrowingText
from kikimimi.inference.live import BusyError, LiveEngine
from kikimimi.inference.reply import Reply
from kikimimi.model.lora import AudioGate
from kikimimi.recipe import load_recipe, shipped_recipe
from kikimimi.testing import tiny_model

LONG = Generation(max_new_tokens=24)
WARM = Generation(max_new_tokens=12, temperature=1.5, top_p=0.9)


@pytest.fixture(scope="module")
def engine() -> Engine:
    torch.manual_seed(0)
    model = tiny_model(load_recipe(shipped_recipe("quickstart"))).eval()
    with torch.no_grad():  # so that answers differ
        for parameter in model.llm.parameters():
            parameter.mul_(3)
    return Engine(model, torch.device("cpu"))


@pytest.fixture
def live(engine: Engine) -> Iterator[LiveEngine]:
    with LiveEngine(engine, max_rows=3) as made:
        yield made


def prompt(number: int, seconds: float | None = None, text: str = "何。") -> Prompt:
    seconds = 0.2 + 0.1 * (number * 3 % 5) if seconds is None else seconds
    generator = torch.Generator().manual_seed(number)
    clips = [torch.randn(round(seconds * 16000), generator=generator)] if seconds else []
    audio = [AudioPart(str(number)) for _ in clips]
    return Prompt(f"p{number}", Conversation((Message("user", (*audio, TextPart(text))),)), clips)


def hold(live: LiveEngine, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let the engine stop before it reads its next prompts, until the function that is returned is called."""
    go, opened = threading.Event(), live.engine.open

    def wait(*given: Any) -> Any:
        assert go.wait(30)
        return opened(*given)

    monkeypatch.setattr(live.engine, "open", wait)
    return go.set


@pytest.mark.parametrize("generation", [LONG, WARM])
def test_each_gets_its_own_answer(engine: Engine, live: LiveEngine, generation: Generation) -> None:
    prompts = [prompt(number) for number in range(7)] + [prompt(7, 0, "文だけ。")]
    replies = [live.submit(one, generation) for one in prompts]
    found = [reply.answer(60) for reply in replies]
    wanted = [engine.answer([one], generation)[0] for one in prompts]
    assert found == wanted
    assert [answer.cut for answer in found] == [answer.cut for answer in wanted]
    assert len(set(found)) > 5
    assert ["".join(reply) for reply in replies] == found
    assert all(reply.tokens and reply.prompt_tokens for reply in replies)


def test_who_comes_late_enters_beside_others(engine: Engine, live: LiveEngine) -> None:
    late: list[Reply] = []

    def come() -> None:
        if not late:
            late.append(live.submit(prompt(1), LONG))

    first = live.submit(prompt(0), LONG, come)
    assert first.answer(60) == engine.answer([prompt(0)], LONG)[0]
    assert late[0].answer(60) == engine.answer([prompt(1)], LONG)[0]


def test_text_comes_in_pieces(engine: Engine, live: LiveEngine) -> None:
    reply = live.submit(prompt(2), LONG)
    pieces = list(reply)
    assert len(pieces) > 3
    assert "".join(pieces) == reply.answer() == engine.answer([prompt(2)], LONG)[0]


def test_updates_that_act_beside_audio_alone(
    engine: Engine, live: LiveEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gate(AudioGate):
        def __call__(self, module: Any, inputs: Any, output: Any) -> Any:
            return output if self.state()[0] else -output

    gate = Gate()
    llm: Any = engine.model.llm
    hook = llm.model.lm_head.register_forward_hook(gate)
    monkeypatch.setattr(engine.model, "gate", gate)
    try:
        prompts = [prompt(0), prompt(1, 0, "文だけ。"), prompt(2), prompt(3, 0, "もっと。")]
        replies = [live.submit(one, LONG) for one in prompts]
        found = [reply.answer(60) for reply in replies]
        assert found == [engine.answer([one], LONG)[0] for one in prompts]
    finally:
        hook.remove()


def test_whole_answers(engine: Engine, live: LiveEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    beams = Generation(max_new_tokens=4, num_beams=2)
    replies = [live.submit(prompt(number), beams) for number in range(2)]
    assert [reply.answer(60) for reply in replies] == engine.answer([prompt(0), prompt(1)], beams)
    monkeypatch.setattr(engine.model.llm, "running_batch", lambda: None)
    with LiveEngine(engine) as other:
        reply = other.submit(prompt(3), LONG)
        assert list(reply) == [reply.answer()] == engine.answer([prompt(3)], LONG)


def test_cancelled_requests_give_their_place(live: LiveEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    go = hold(live, monkeypatch)
    told = threading.Event()
    replies = [live.submit(prompt(number), Generation(max_new_tokens=10**6), told.set) for number in range(5)]
    replies[4].cancel()
    go()
    assert told.wait(30)
    for reply in replies:
        reply.cancel()
    assert live.submit(prompt(9), LONG).answer(60) is not None
    assert live.answering == live.waiting == 0
    with pytest.raises(CancelledError):
        replies[0].answer()
    assert list(replies[4]) == []


def test_no_more_wait_than_may(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with LiveEngine(engine, max_rows=1, max_waiting=2) as live:
        go = hold(live, monkeypatch)
        begun = live.submit(prompt(0), LONG)
        while live.waiting:
            threading.Event().wait(0.001)
        waiting = [live.submit(prompt(number), LONG) for number in (1, 2)]
        with pytest.raises(BusyError, match="2 requests wait already"):
            live.submit(prompt(3), LONG)
        waiting[0].cancel()
        again = live.submit(prompt(3), LONG)
        with pytest.raises(TimeoutError, match=r"no answer within 0\.01 s"):
            again.answer(0.01)
        go()
        assert [reply.answer(60) for reply in (begun, waiting[1], again)] == [
            engine.answer([prompt(number)], LONG)[0] for number in (0, 2, 3)
        ]


def test_what_fails_fails_alone(engine: Engine, live: LiveEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    go = hold(live, monkeypatch)
    begun = live.submit(prompt(0), LONG)
    bad = live.submit(prompt(1, text="長い" * 3000), LONG)
    good = live.submit(prompt(2), LONG)
    go()
    assert begun.answer(60) == engine.answer([prompt(0)], LONG)[0]
    assert good.answer(60) == engine.answer([prompt(2)], LONG)[0]
    with pytest.raises(DataError, match="p1: too long for this run's LLM"):
        bad.answer(60)
    with pytest.raises(DataError, match="p1: too long for this run's LLM"):
        list(bad)
    with pytest.raises(DataError, match=r"p4: the clip lasts 31\.00 s"):
        live.submit(prompt(4, 31.0), LONG)


def test_a_step_that_fails_ends_those_that_grow_and_no_later_ones(
    engine: Engine, live: LiveEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("kikimimi.inference.running_answers.choose", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            live.submit(prompt(0), LONG).answer(60)
    assert live.submit(prompt(1), LONG).answer(60) == engine.answer([prompt(1)], LONG)[0]


def test_closing_cancels(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    live = LiveEngine(engine, max_rows=1)
    told = threading.Event()
    replies = [live.submit(prompt(number), Generation(max_new_tokens=10**6), told.set) for number in range(2)]
    assert told.wait(30)
    live.close()
    for reply in replies:
        with pytest.raises(CancelledError):
            reply.answer(1)
    with pytest.raises(RuntimeError, match="the engine is closed"):
        live.submit(prompt(3), LONG)


def test_text_is_said_once_and_never_taken_back() -> None:
    text = GrowingText()
    written = [
        "Good",
        "Good day",
        "Good day ",
        "Good day <",
        "Good day <b",
        "Good day <b> 日\ufffd",
        "Good day <b> 日本",
    ]
    assert [text.grow(one) for one in written] == ["Good", " day", "", "", " <b", "> 日", "本"]
    assert text.end("Good day <b> 日本。") == "。"
    text = GrowingText()
    thought = [
        "<",
        "<thi",
        "<think>",
        "<think>hm",
        "<think>hm</thi",
        "<think>hm</think>",
        "<think>hm</think>Yes",
    ]
    assert [text.grow(one) for one in thought] == ["", "", "", "", "", "", "Yes"]
    assert text.end("Yes") == ""
    assert text.end("No") == ""  # what was said stays
