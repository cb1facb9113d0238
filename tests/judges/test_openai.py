"""The judge `openai` against a real endpoint that fails in every way."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import islice
from typing import Any

import pytest
from tests.judges.endpoint import KEY, Endpoint, Said, completion

from kikimimi import JudgePrompt, JudgeReply
from kikimimi.errors import KikimimiError, RequestError
from kikimimi.testing import Check, list_checks, parametrize_checks
from kikimimi_judges.openai import OpenAIJudge, _retry_after

GOOD = JudgeReply(text="7", tokens_in=100, tokens_out=7)


def ask(endpoint: Endpoint, number: int = 1, **options: Any) -> list[JudgeReply]:
    judge = OpenAIJudge(endpoint.judge(**options).config)
    found = dict(judge.ask([JudgePrompt(system="be fair", text=f"text {n}") for n in range(number)]))
    return [found[n] for n in range(number)]


def in_turn(*answers: Said) -> Any:
    return lambda request, number: answers[min(number, len(answers) - 1)]


def test_what_is_sent(endpoint: Endpoint) -> None:
    endpoint.answer = in_turn(completion("7"))
    assert ask(endpoint, extra={"seed": 3}, max_tokens=None, temperature=0.5) == [GOOD]
    assert endpoint.requests == [
        {
            "model": "judge-1",
            "messages": [{"role": "system", "content": "be fair"}, {"role": "user", "content": "text 0"}],
            "temperature": 0.5,
            "seed": 3,
        }
    ]
    assert endpoint.paths == ["/v1/chat/completions"]
    assert endpoint.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_without_a_key(endpoint: Endpoint) -> None:
    endpoint.answer = in_turn(completion("7"))
    assert ask(endpoint, key_variable=None) == [GOOD]
    assert "Authorization" not in endpoint.headers[0]


@pytest.mark.fault("judge", "asked again, and answered")
@pytest.mark.parametrize(
    "wrong",
    [
        Said({"error": {"message": "slow down"}}, 429),
        Said({"error": {"message": "slow down"}}, 429, {"Retry-After": "0.003"}),
        Said(b"oops", 500),
        Said(b"", 503),
        Said(b'{"choices": [', missing=100),
        Said(b'{"choices": ['),
        Said(b"[" * 5000),
        Said([1]),
        Said({"choices": []}),
        Said({"choices": [{"message": None}]}),
        Said({"choices": [{"message": {"content": "1"}}, {"message": {"content": "2"}}]}),
    ],
)
def test_what_passes_is_asked_again(endpoint: Endpoint, wrong: Said) -> None:
    endpoint.answer = in_turn(wrong, wrong, completion("7"))
    assert ask(endpoint) == [GOOD]
    assert len(endpoint.requests) == 3


@pytest.mark.fault("judge", "a failure that says why, never a score of 0")
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (Said({"error": {"message": "slow down"}}, 429), "HTTP 429: slow down (asked 4 times)"),
        (Said(b"oops\n\nno", 502), "HTTP 502: oops no (asked 4 times)"),
        (Said({"error": "queue full"}, 503), "HTTP 503: queue full (asked 4 times)"),
        (Said(b"{}", missing=9), "RemoteProtocolError: "),
        (Said({}), "the endpoint's answer is no chat completion of one choice (asked 4 times)"),
        (Said(b"<html>"), "the endpoint's answer is no JSON (asked 4 times)"),
        (Said({"error": {"message": "too long"}}, 400), "HTTP 400: too long"),
        (Said({"error": {"code": None}}, 422), "HTTP 422"),
        (completion("1", finish="length"), "the answer was cut: max_tokens is too low"),
        (completion("", finish="content_filter"), "the endpoint's filter refused the content"),
        (completion(None), "an empty answer"),
        (completion(" \n"), "an empty answer"),
    ],
)
def test_what_does_not_pass_is_a_failure(endpoint: Endpoint, wrong: Said, said: str) -> None:
    endpoint.answer = in_turn(wrong)
    (reply,) = ask(endpoint)
    assert (reply.failure or "").startswith(said)
    assert reply.text == ""
    assert len(endpoint.requests) == (4 if "asked" in (reply.failure or "") else 1)


def test_a_timeout_is_that_of_the_whole_answer(endpoint: Endpoint) -> None:
    endpoint.answer = in_turn(Said(completion("1").body, after=0.2), completion("7"))
    assert ask(endpoint, timeout=0.05) == [GOOD]
    endpoint.answer = in_turn(Said(completion("1").body, after=0.2))
    (reply,) = ask(endpoint, timeout=0.05, retries=1)
    assert reply.failure == "ReadTimeout: timed out (asked 2 times)"


def test_nobody_is_there(endpoint: Endpoint) -> None:
    url = "http://127.0.0.1:9/v1"
    (reply,) = ask(endpoint, base_url=url, retries=1)
    assert (reply.failure or "").startswith("ConnectError: ")


@pytest.mark.fault("judge", "the work ends at once, with what to do")
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            Said({"error": {"message": f"wrong key: {KEY}"}}, 401),
            "does not accept the key (HTTP 401:",
        ),
        (Said({"error": {"message": "no model judge-1"}}, 404), "has no such address or model (HTTP 404: no"),
        (Said({"error": {"code": "insufficient_quota", "message": "pay"}}, 429), "has no credit left (HTTP"),
        (
            Said(b"", 307, {"Location": "http://127.0.0.1:9/"}),
            "sends requests elsewhere, where no key is sent",
        ),
    ],
)
def test_what_never_passes_ends_the_work(endpoint: Endpoint, wrong: Said, said: str) -> None:
    endpoint.answer = in_turn(wrong)
    with pytest.raises(KikimimiError) as caught:
        ask(endpoint, 50, concurrency=2)
    assert said in str(caught.value)
    assert KEY not in str(caught.value)
    assert len(endpoint.requests) <= 3


def test_retry_after_is_kept_by_all(endpoint: Endpoint) -> None:
    """A pause that is longer than allowed is a failure; nobody waits an hour."""
    began = time.monotonic()
    endpoint.answer = in_turn(Said(b"", 429, {"Retry-After": "0.05"}), completion("7"))
    assert ask(endpoint, 3, concurrency=1, longest_pause=1.0) == [GOOD] * 3
    assert time.monotonic() - began >= 0.05
    endpoint.answer = in_turn(Said(b"", 429, {"Retry-After": "3600"}))
    (reply,) = ask(endpoint)
    assert reply.failure == "HTTP 429; it asks to wait for 3600 s, longer than longest_pause"


def test_how_retry_after_is_read() -> None:
    assert _retry_after(None) is None
    assert _retry_after("2") == 2.0
    assert _retry_after("soon") is None
    assert _retry_after("-1") is None
    soon = _retry_after(format_datetime(datetime.now(UTC) + timedelta(seconds=100)))
    assert soon is not None
    assert 90 < soon <= 100
    assert _retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0


def test_the_bound_of_requests_is_held(endpoint: Endpoint) -> None:
    endpoint.answer = in_turn(Said(completion("7").body, after=0.005))
    assert ask(endpoint, 30, concurrency=3) == [GOOD] * 30
    assert endpoint.most == 3
    assert len(endpoint.requests) == 30


def test_who_stops_asks_no_more(endpoint: Endpoint) -> None:
    gate = threading.Event()

    def answer(request: Any, number: int) -> Said:
        if number:
            gate.wait(5)
        return completion("7")

    endpoint.answer = answer
    judge = OpenAIJudge(endpoint.judge(concurrency=2).config)
    replies = judge.ask([JudgePrompt(system="", text=f"{n}") for n in range(20)])
    assert len(list(islice(replies, 1))) == 1
    replies.close()  # type: ignore[attr-defined]
    gate.set()
    endpoint.settle()
    assert len(endpoint.requests) <= 3


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "set the environment variable JUDGE_KEY"),
        ("  ", "set the environment variable JUDGE_KEY"),
        ("sk-a b", "JUDGE_KEY: holds no key: it has spaces"),
        ("sk-\u3042", "JUDGE_KEY: holds no key: it has spaces"),
    ],
)
def test_no_key(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, value: str | None, said: str) -> None:
    if value is None:
        monkeypatch.delenv("JUDGE_KEY")
    else:
        monkeypatch.setenv("JUDGE_KEY", value)
    with pytest.raises(RequestError) as caught:
        ask(endpoint)
    assert said in str(caught.value)
    assert "sk-" not in str(caught.value)
    assert endpoint.requests == []


def test_a_key_with_a_line_feed(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """As files of secrets end."""
    monkeypatch.setenv("JUDGE_KEY", f"{KEY}\n")
    endpoint.answer = in_turn(completion("7"))
    assert ask(endpoint) == [GOOD]
    assert endpoint.headers[0]["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"key_variable": KEY}, "key_variable: must be the name of an environment variable"),
        ({"key_variable": "hf_abcdef"}, "key_variable: must be the name of an environment variable"),
        ({"base_url": f"https://me:{KEY}@there/v1"}, "base_url: must be http:// or https://, a host and a"),
        ({"base_url": f"https://there/v1?key={KEY}"}, "base_url: must be http:// or https://, a host and a"),
        ({"base_url": "ftp://there"}, "base_url: must be http:// or https://, a host and a path"),
        ({"extra": {"messages": []}}, "extra.messages: has an option of its own"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        OpenAIJudge.Config(model="m", **options)
    assert KEY not in str(caught.value)
    assert "hf_" not in str(caught.value)


def test_what_is_said_never_holds_the_key(endpoint: Endpoint) -> None:
    endpoint.answer = in_turn(Said({"error": {"message": f"bad {KEY}"}}, 400))
    assert ask(endpoint)[0].failure == "HTTP 400: bad (key)"
    endpoint.answer = in_turn(Said(f"echo {KEY}".encode(), 500))
    assert ask(endpoint, retries=0)[0].failure == "HTTP 500: echo (key)"
    endpoint.answer = in_turn(completion(f"7 {KEY}"))
    assert ask(endpoint)[0].text == "7 (key)"


def test_identity_and_cost(endpoint: Endpoint) -> None:
    """Answers depend on the model and on how it is asked, not on whose key, patience or price."""
    config = endpoint.judge().config
    own = OpenAIJudge.identity(config)
    same = endpoint.judge(timeout=9.0, retries=1, concurrency=1, key_variable=None, price_in=1.0).config
    assert OpenAIJudge.identity(same) == own
    for other in ({"model": "judge-2"}, {"temperature": 1.0}, {"max_tokens": 9}, {"extra": {"seed": 1}}):
        assert OpenAIJudge.identity(endpoint.judge(**other).config) != own
    assert "JUDGE_KEY" not in own
    assert OpenAIJudge(config).cost(10, 10) is None
    priced = OpenAIJudge(endpoint.judge(price_in=2.5, price_out=10.0).config)
    assert priced.cost(2_000_000, 100_000) == pytest.approx(6.0)


@pytest.mark.parametrize("name", [check.name for check in list_checks("judge", OpenAIJudge)])
def test_contract(endpoint: Endpoint, name: str) -> None:
    def answer(request: dict[str, Any], number: int) -> Said:
        text = request["messages"][-1]["content"]
        return completion(f"score {len(text)}", tokens=(len(text), 2))

    endpoint.answer = answer
    checks = list_checks("judge", OpenAIJudge, endpoint.judge().config)
    next(check for check in checks if check.name == name)()


@parametrize_checks(OpenAIJudge)
def test_contract_without_an_endpoint(check: Check) -> None:
    check()
