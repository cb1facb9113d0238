"""Chat with clips by OpenAI's own client, from a real server."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import torch
from openai import APIError, OpenAI
from tests.core.serving.by_hand import ByHand, answer
from tests.core.serving.sounds import audio_file, chord

from kikimimi import AudioPart, Conversation, Generation, Message, TextPart
from kikimimi.data.audio import decode
from kikimimi.errors import DataError
from kikimimi.inference.engine import Prompt
from kikimimi.serving.service import Service

Start = Callable[..., tuple[str, ByHand, Service]]


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        yield client


def clip(seed: int = 0, kind: str = "WAV", said: str = "wav") -> dict[str, Any]:
    data = base64.b64encode(audio_file(chord(0.8, seed), kind)).decode()
    return {"type": "input_audio", "input_audio": {"data": data, "format": said}}


def user(*parts: Any) -> Any:
    return {
        "role": "user",
        "content": [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts],
    }


TURNS: list[Any] = [
    {"role": "system", "content": "短く。"},
    user(clip(1), "何。"),
    {"role": "assistant", "content": "こ。"},
    user("で、", clip(2)),
]


def test_turns_with_clips(client: OpenAI, service: Service) -> None:
    """Two clips in two turns after a system turn are what the engine hears; a stream tells the same."""
    heard = [
        torch.from_numpy(decode(audio_file(chord(0.8, seed)), sample_rate=16000, name="a")) for seed in (1, 2)
    ]
    conversation = Conversation(
        (
            Message("system", (TextPart("短く。"),)),
            Message("user", (AudioPart("0"), TextPart("何。"))),
            Message("assistant", (TextPart("こ。"),)),
            Message("user", (TextPart("で、"), AudioPart("1"))),
        )
    )
    (wanted,) = service.engine.engine.answer([Prompt("", conversation, heard)], Generation(max_new_tokens=9))
    assert wanted
    made = client.chat.completions.create(model="small", messages=TURNS, max_completion_tokens=9)
    assert made.choices[0].message.content == wanted.spoken
    assert made.choices[0].finish_reason == ("length" if wanted.cut else "stop")
    chunks = list(
        client.chat.completions.create(
            model="small", messages=TURNS, max_tokens=9, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == wanted.spoken
    assert chunks[-2].choices[0].finish_reason == made.choices[0].finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage == made.usage
    assert len({chunk.id for chunk in chunks}) == 1


@pytest.mark.parametrize(("kind", "said"), [("FLAC", "flac"), ("MP3", "mp3"), ("OGG", "ogg")])
def test_kinds_of_clips(client: OpenAI, kind: str, said: str) -> None:
    made = client.chat.completions.create(model="small", messages=[user(clip(3, kind, said))], max_tokens=4)
    assert made.choices[0].message.content


def ask(url: str, **given: Any) -> Any:
    body = {"model": "small", "messages": [user("何。")], **given}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)


def test_what_is_asked_for_reaches_the_engine(by_hand: Start) -> None:
    url, engine, _ = by_hand()
    neutral: dict[str, Any] = {"n": 1, "logprobs": False, "frequency_penalty": 0, "presence_penalty": 0.0}
    neutral |= {"modalities": ["text"], "response_format": {"type": "text"}, "stream": False}
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(ask, url, temperature=0.5, top_p=0.25, max_tokens=5, **neutral)
        reply = engine.reply()
        assert reply.generation == Generation(max_new_tokens=5, temperature=0.5, top_p=0.25)
        answer(reply, "a", "b", cut=True)
        made = asked.result().json()
        assert made["usage"] == {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
        assert made["choices"][0]["finish_reason"] == "length"
        assert made["choices"][0]["message"]["content"] == "ab"
        asked = threads.submit(ask, url)
        reply = engine.reply(1)
        assert reply.generation == Generation(max_new_tokens=12)  # the run's own
        answer(reply)
        assert asked.result().json()["choices"][0]["message"]["content"] == ""


def test_a_seed_reaches_the_engine(by_hand: Start) -> None:
    url, engine, _ = by_hand()
    with ThreadPoolExecutor(1) as threads:
        for number, given in enumerate(({"seed": 7}, {"seed": -1}, {})):
            asked = threads.submit(ask, url, temperature=0.5, **given)
            reply = engine.reply(number)
            assert reply.prompt.seed == given.get("seed")
            answer(reply, "a")
            assert asked.result().status_code == 200


def test_stop_ends_an_answer_and_frees_its_row(by_hand: Start) -> None:
    url, engine, _ = by_hand()
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(ask, url, stop=["。", "END"])
        reply = engine.reply()
        reply.prompt_tokens, reply.tokens = 7, 3
        for piece in ("good E", "N", "Dless"):
            reply.give(piece)
        made = asked.result().json()
        assert made["choices"][0]["message"]["content"] == "good "
        assert made["choices"][0]["finish_reason"] == "stop"
        assert made["usage"]["completion_tokens"] == 3
        assert reply.cancelled
        asked = threads.submit(ask, url, stop="END")
        answer(engine.reply(1), "good E", "N")
        assert asked.result().json()["choices"][0]["message"]["content"] == "good EN"


def test_an_error_in_the_middle_of_a_stream(
    by_hand: Start, wait_for: Callable[[Callable[[], bool]], None]
) -> None:
    url, engine, service = by_hand()

    def fail() -> None:
        engine.reply().give("so")
        engine.reply().end(error=RuntimeError("out of memory"))

    threading.Thread(target=fail).start()
    with OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        stream: Any = client.chat.completions.create(model="small", messages=[user("何。")], stream=True)
        assert [next(stream).choices[0].delta.content for _ in range(2)] == ["", "so"]
        with pytest.raises(APIError, match="the server failed; what went wrong stands in its log"):
            next(stream)
    wait_for(lambda: service.load.requests == 0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (DataError("too long for this run's LLM"), 400, "too long for this run's LLM"),
        (RuntimeError("secret"), 500, "the server failed; what went wrong stands in its log"),
    ],
)
def test_errors_before_the_first_text_have_a_status(
    by_hand: Start, error: Exception, status: int, said: str, stream: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    url, engine, _ = by_hand()
    threading.Thread(target=lambda: engine.reply().end(error=error)).start()
    got = ask(url, stream=stream)
    assert (got.status_code, got.json()["error"]["message"]) == (status, said)
    assert ("secret" in capfd.readouterr().err) == (status == 500)


def part(**given: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [given]}]}


def audio(data: str, kind: str = "wav") -> dict[str, Any]:
    return part(type="input_audio", input_audio={"data": data, "format": kind})


WHERE = "messages[0].content[0].input_audio"


@pytest.mark.fault(
    "Clients of the server: parameters that are wrong or not supported",
    "400 or 404 that names the parameter and what is allowed",
)
@pytest.mark.parametrize(
    ("given", "status", "param", "said"),
    [
        ({"model": "gpt-4o"}, 404, "model", "one model, 'small'"),
        ({"messages": []}, 400, "messages", "messages: list should have at least 1 item"),
        ({"messages": None}, 400, "messages", "messages: input should be a valid array"),
        ({"messages": [user("a")] * 1001}, 400, "messages", "at most 1000 items"),
        ({"messages": [user(*["a"] * 66)]}, 400, "messages[0].content", "at most 65 items"),
        ({"messages": [user("a", 1)] * 2}, 400, "messages[0].content[1]", "should be an object"),
        (
            {"messages": [{"role": "user", "content": None}]},
            400,
            "messages[0].content",
            "expected a text, or",
        ),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            400,
            "messages[0].role",
            "'tool' is not supported",
        ),
        ({"messages": [{"role": "user"}]}, 400, "messages[0].content", "must be given"),
        ({"messages": [{"role": "user", "content": []}]}, 400, "messages[0].content", "at least 1 item"),
        ({"messages": [user("a"), {"role": "assistant", "content": "b"}]}, 400, None, "is an answer already"),
        ({"messages": [{"role": "system", "content": [clip()]}]}, 400, "messages[0]", "of the user alone"),
        ({"messages": [user(*[clip()] * 33)]}, 400, None, "33 clips; at most 32"),
        (part(type="image_url", image_url={}), 400, "messages[0].content[0].image_url", "not supported here"),
        (part(type="audio_url"), 400, "messages[0].content[0].type", "allowed: 'text' or 'input_audio'"),
        (part(type="text"), 400, "messages[0].content[0]", "a part of type 'text' holds 'text'"),
        (audio("http://10.0.0.1/a.wav"), 400, f"{WHERE}.data", "is a URL. Nothing is fetched"),
        (audio("data:audio/wav;base64,AAAA"), 400, f"{WHERE}.data", "is a URL. Nothing is fetched"),
        (audio("file:///etc/passwd"), 400, f"{WHERE}.data", "is a URL. Nothing is fetched"),
        (audio("/etc/passwd"), 400, f"{WHERE}.data", "is not base64 (in one line, without spaces)"),
        (audio("あ"), 400, f"{WHERE}.data", "is not base64"),
        (audio(""), 400, f"{WHERE}.data", "the file is empty"),
        (audio("AAAA"), 400, None, f"{WHERE}: cannot be decoded"),
        (audio("AAAA", "exe"), 400, f"{WHERE}.format", "not supported; allowed: wav, flac, mp3"),
        (
            {"messages": [user(clip(0, "FLAC", "wav"))]},
            400,
            f"{WHERE}.format",
            "says wav, but the file is flac",
        ),
        ({"n": 2}, 400, "n", "n: 2 is not supported; allowed: 1"),
        ({"logprobs": True}, 400, "logprobs", "allowed: False"),
        ({"frequency_penalty": 0.1}, 400, "frequency_penalty", "nothing is ignored; allowed: 0"),
        ({"tools": []}, 400, "tools", "tools: not supported here, and nothing is ignored. Supported: "),
        ({"max_token": 3}, 400, "max_token", "Did you mean 'max_tokens'?"),
        ({"max_tokens": 0}, 400, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, 400, None, "leave one of them out"),
        ({"max_tokens": "5"}, 400, "max_tokens", "valid integer"),
        ({"temperature": -1}, 400, "temperature", "greater than or equal to 0"),
        ({"top_p": 0}, 400, "top_p", "greater than 0"),
        ({"top_p": 0.5}, 400, None, "set temperature above 0, or top_p to 1"),
        ({"stop": ["a"] * 5}, 400, "stop", "at most 4 items"),
        (
            {"modalities": ["text", "audio"]},
            400,
            "modalities[1]",
            "'audio' is not supported; allowed: 'text'",
        ),
        ({"stop": ""}, 400, "stop[0]", "at least 1 character"),
        ({"stream_options": {"include_usage": True}}, 400, None, "set stream to true"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format.type", "allowed: 'text'"),
    ],
)
def test_what_is_refused(url: str, given: dict[str, Any], status: int, param: str | None, said: str) -> None:
    got = ask(url, **given)
    error = got.json()["error"]
    assert (got.status_code, error["param"]) == (status, param)
    assert said in error["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"model": "\\ud800"}', b"[" * 100_000])
def test_what_is_no_request(url: str, body: bytes) -> None:
    got = httpx.post(f"{url}/v1/chat/completions", content=body)
    assert got.status_code == 400
    assert set(got.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("name", ["stop", "seed", "n", "modalities", "frequency_penalty", "response_format"])
def test_null_asks_for_nothing(url: str, name: str) -> None:
    asked = user(clip())
    assert (
        ask(url, messages=[asked], **{name: None}).json()["choices"]
        == (ask(url, messages=[asked]).json()["choices"])
    )


def test_a_clip_longer_than_the_window(url: str) -> None:
    data = base64.b64encode(audio_file(chord(2.5, 0))).decode()
    got = ask(url, **audio(data))
    assert got.status_code == 400
    assert (
        "lasts 2.50 s, longer than the encoder takes (2 s). Nothing is cut" in got.json()["error"]["message"]
    )
