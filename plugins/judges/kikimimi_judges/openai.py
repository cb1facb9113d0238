"""A judge behind an endpoint that speaks OpenAI's chat completions: OpenAI, vLLM, Ollama and many others."""

import json
import os
import queue
import random
import re
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Annotated, Any

import httpx
from annotated_types import Ge

from kikimimi import (
    Judge,
    JudgeConfig,
    JudgePrompt,
    JudgeReply,
    KikimimiError,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    RequestError,
    Text,
    counted,
)

_AGAIN = {408, 409, 425, 429, *range(500, 600)}
"""Statuses of HTTP after which the same request may well be answered."""
_NEVER = {
    401: "does not accept the key",
    402: "asks to be paid first",
    403: "does not accept the key for this",
    404: "has no such address or model",
    405: "takes no chat completions at this address",
}
"""Statuses that every request would meet, in words."""
_DRAW = random.SystemRandom()  # the generators of the process are other people's
_LARGEST = 4 << 20  # bytes of an answer
_VARIABLE = re.compile("[A-Z_][A-Z0-9_]*")
_OWN = ("model", "messages", "temperature", "max_tokens", "stream", "n")
_NOT_IN_IDENTITY = (
    *("key_variable", "timeout", "concurrency", "retries", "first_pause", "longest_pause"),
    *("price_in", "price_out"),
)
"""Options that no answer depends on."""


class OpenAIJudge(Judge):
    """A model behind an endpoint that speaks OpenAI's chat completions (`POST BASE_URL/chat/completions`).

    Each prompt is a request of its own, and several are under way at once. What fails for a while (HTTP 408,
    409, 425, 429 and 5xx, time-outs, connections that are refused or cut, bodies that are no JSON) is asked
    again after a pause that doubles each time, drawn at random from half of it to the whole, and no shorter
    than what `Retry-After` asks; that pause all requests keep. A key that is refused, or an address or a
    model that is not there, ends the work, with what was answered kept.
    """

    @dataclass(kw_only=True, frozen=True)
    class Config(JudgeConfig):
        """Options of the `openai` judge."""

        model: Text
        """The model, as the endpoint calls it: a dated version, where there is one."""
        base_url: Text = "https://api.openai.com/v1"
        """Address of the endpoint, without `/chat/completions`. It holds no key."""
        key_variable: Text | None = "OPENAI_API_KEY"
        """NAME of the environment variable that holds the key, never the key itself; null sends none."""
        temperature: NonNegativeFloat | None = 0.0
        """Sampling temperature; null sends none, for models that refuse it. At 0 votes are the same."""
        max_tokens: PositiveInt | None = 512
        """Longest answer [tokens]; null sends no bound. An answer that is cut there is a failure."""
        extra: dict[str, Any] = field(default_factory=dict)
        """Further fields of each request, such as `reasoning_effort`, `max_completion_tokens` or `seed`."""
        timeout: PositiveFloat = 120.0
        """Longest time that one request may take [s]."""
        concurrency: PositiveInt = 8
        """Most requests that are under way at once."""
        retries: NonNegativeInt = 6
        """How often a request is sent again."""
        first_pause: PositiveFloat = 1.0
        """Pause before the first of these [s]; it doubles each time."""
        longest_pause: Annotated[float, Ge(0)] = 60.0
        """Longest pause [s]; an endpoint that asks for a longer one has failed."""
        price_in: NonNegativeFloat | None = None
        """Price of a million tokens of prompts, in any currency: then the cost is said. Null: not known."""
        price_out: NonNegativeFloat | None = None
        """Price of a million tokens of answers."""

        def __post_init__(self) -> None:
            # None of these values is repeated: a key may stand there by mistake.
            if self.key_variable is not None and not _VARIABLE.fullmatch(self.key_variable):
                raise ValueError(
                    "key_variable: must be the name of an environment variable (capital letters, digits and "
                    "'_'), such as OPENAI_API_KEY. A key itself never stands in a recipe: if one does, take "
                    "it out, and have it replaced where the file was shared"
                )
            if not re.fullmatch(r"https?://[^/?#@\s]+(/[^?#@\s]*)?", self.base_url):
                raise ValueError(
                    "base_url: must be http:// or https://, a host and a path, such as "
                    "https://api.openai.com/v1, without a user, a password or a query: keys come from "
                    "key_variable"
                )
            for name in _OWN:
                if name in self.extra:
                    raise ValueError(f"extra.{name}: has an option of its own, or is always sent as it is")

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._not_before = 0.0  # on the monotonic clock: what the endpoint asks of all
        self._url = f"{config.base_url.rstrip('/')}/chat/completions"

    @classmethod
    def identity(cls, config: Config) -> str:
        """Return the endpoint, the model, and how it is asked; nothing of the key."""
        told = {
            one.name: getattr(config, one.name) for one in fields(config) if one.name not in _NOT_IN_IDENTITY
        }
        return json.dumps(told, sort_keys=True, default=str)

    def ready(self) -> None:
        """Check that there is a key, where one is asked for.

        Raises:
            RequestError: The environment variable of the key is not set, or holds none.
        """
        _ = self._key

    def cost(self, tokens_in: int, tokens_out: int) -> float | None:
        """Return what tokens cost by the prices of the options; None where neither is given."""
        prices = (self.config.price_in, self.config.price_out)
        if prices == (None, None):
            return None
        return (tokens_in * (prices[0] or 0) + tokens_out * (prices[1] or 0)) / 1e6

    def ask(self, prompts: Sequence[JudgePrompt]) -> Iterator[tuple[int, JudgeReply]]:
        """Yield the replies as they come, `concurrency` requests at once.

        Raises:
            RequestError: The environment variable of the key is not set, or no key.
            KikimimiError: The endpoint would refuse every request.
        """
        if not prompts:
            return
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        waiting: queue.SimpleQueue[tuple[int, JudgePrompt]] = queue.SimpleQueue()
        for numbered in enumerate(prompts):
            waiting.put(numbered)
        replies: queue.SimpleQueue[tuple[int, JudgeReply] | BaseException] = queue.SimpleQueue()
        stop = threading.Event()
        # Made once, as it takes a while; without TLS there is nobody to trust.
        secure = self.config.base_url.startswith("https:")
        trusted = httpx.create_ssl_context() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

        def work() -> None:
            try:
                with httpx.Client(headers=headers, verify=trusted, timeout=self.config.timeout) as client:
                    while not stop.is_set():
                        try:
                            number, prompt = waiting.get_nowait()
                        except queue.Empty:
                            return
                        replies.put((number, self._reply(client, prompt, stop)))
            except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
                replies.put(error)

        try:
            # Daemons: an interrupt does not wait for an endpoint that does not answer.
            for _ in range(min(self.config.concurrency, len(prompts))):
                threading.Thread(target=work, daemon=True, name="judge").start()
            for _ in prompts:
                reply = replies.get()
                if isinstance(reply, BaseException):
                    raise reply
                yield reply
        finally:
            stop.set()

    @cached_property
    def _key(self) -> str:
        variable = self.config.key_variable
        if variable is None:
            return ""
        key = os.environ.get(variable, "").strip()
        if not key:
            raise RequestError(
                f"the judge's key is missing: set the environment variable {variable}, name another "
                "(key_variable), or write 'key_variable: null' for an endpoint that asks for none"
            )
        if not re.fullmatch(r"[\x21-\x7e]+", key):
            raise RequestError(f"{variable}: holds no key: it has spaces or other characters that no key has")
        return key

    def _reply(self, client: httpx.Client, prompt: JudgePrompt, stop: threading.Event) -> JudgeReply:
        config, body, said, attempt = self.config, self._body(prompt), "stopped", 0
        for attempt in range(config.retries + 1):
            if stop.wait(max(0.0, self._not_before - time.monotonic())):
                break
            asked: float | None = None
            try:
                response = self._post(client, body)
                if response.status_code == 200:
                    return self._read(_json(response.content))
                said, asked = self._refusal(response), _retry_after(response.headers.get("retry-after"))
            except httpx.HTTPError as error:
                said = f"{type(error).__name__}: {error}".rstrip(": ")
            except _FinalError as error:
                said = str(error)
                break
            except _UnusableError as error:
                said = str(error)
            if attempt == config.retries:
                break
            if asked is not None and asked > config.longest_pause:
                said = f"{said}; it asks to wait for {asked:.0f} s, longer than longest_pause"
                break
            pause = min(config.first_pause * 2**attempt, config.longest_pause)
            if asked is not None:
                self._not_before = max(self._not_before, time.monotonic() + asked)
            if stop.wait(max(asked or 0.0, pause * _DRAW.uniform(0.5, 1.0))):
                break
        tried = f" (asked {counted(attempt + 1, 'time')})" if attempt else ""
        return JudgeReply(failure=f"{self._without_key(said)}{tried}")

    def _body(self, prompt: JudgePrompt) -> bytes:
        config = self.config
        said = [{"role": "system", "content": prompt.system}] if prompt.system else []
        body: dict[str, Any] = {
            "model": config.model,
            "messages": [*said, {"role": "user", "content": prompt.text}],
        }
        for name in ("temperature", "max_tokens"):
            if (value := getattr(config, name)) is not None:
                body[name] = value
        return json.dumps(body | config.extra).encode()

    def _post(self, client: httpx.Client, body: bytes) -> httpx.Response:
        """Send a request; the time-out is that of the whole answer, not of each piece."""
        end = time.monotonic() + self.config.timeout
        sent = {"Content-Type": "application/json"}
        with client.stream("POST", self._url, content=body, headers=sent) as response:
            content = b""
            for piece in response.iter_bytes():
                content += piece
                if len(content) > _LARGEST:
                    raise _UnusableError(f"the endpoint's answer is larger than {_LARGEST >> 20} MiB")
                if time.monotonic() > end:
                    raise httpx.ReadTimeout(f"no whole answer within {self.config.timeout:g} s")
        headers = {k: v for k, v in response.headers.items() if k == "retry-after"}
        return httpx.Response(response.status_code, headers=headers, content=content)

    def _refusal(self, response: httpx.Response) -> str:
        """Return what the endpoint says of a request that it did not answer.

        Raises:
            KikimimiError: It would say so of every one.
        """
        status, code, words = response.status_code, None, ""
        try:
            held = _json(response.content)
            error = held.get("error")
            error = error if isinstance(error, dict) else {"message": error or held.get("message")}
            code, words = error.get("code"), str(error.get("message") or "")
        except _UnusableError:
            words = response.text
        words = self._without_key(" ".join(words.split()))[:200]
        said = f"HTTP {status}{f': {words}' if words else ''}"
        reason = "has no credit left" if code == "insufficient_quota" else _NEVER.get(status)
        if 300 <= status < 400:
            reason = "sends requests elsewhere, where no key is sent"
        if reason is not None:
            raise KikimimiError(f"{self.config.base_url} {reason} ({said})")
        if status not in _AGAIN:
            raise _FinalError(said)
        return said

    def _read(self, held: dict[str, Any]) -> JudgeReply:
        """Return the reply of an answer.

        Raises:
            _UnusableError: It is not of the form of chat completions.
        """
        try:
            (choice,) = held["choices"]
            text = choice["message"].get("content")
            ended = choice.get("finish_reason")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _UnusableError("the endpoint's answer is no chat completion of one choice") from error
        usage = held.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        numbers = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        counts = [number if type(number) is int and number >= 0 else 0 for number in numbers]
        reply = JudgeReply(tokens_in=counts[0], tokens_out=counts[1])
        if ended == "length":
            return replace(reply, failure="the answer was cut: max_tokens is too low")
        if ended == "content_filter":
            return replace(reply, failure="the endpoint's filter refused the content")
        if not isinstance(text, str) or not text.strip():
            return replace(reply, failure="an empty answer")
        return replace(reply, text=self._without_key(text))

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "(key)") if self._key else text


class _UnusableError(Exception):
    """An answer cannot be used; the same request may be answered otherwise."""


class _FinalError(Exception):
    """The endpoint refuses this request, and would again."""


def _json(content: bytes) -> dict[str, Any]:
    try:
        held = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _UnusableError("the endpoint's answer is no JSON") from error
    if not isinstance(held, dict):
        raise _UnusableError("the endpoint's answer is no JSON object")
    return held


def _retry_after(said: str | None) -> float | None:
    """Return the seconds that a header ``Retry-After`` asks for: a number, or until a date (RFC 9110)."""
    if said is None:
        return None
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", said.strip()):
        return float(said)
    try:
        at = parsedate_to_datetime(said)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
