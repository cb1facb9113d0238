"""What a server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from kikimimi.inference.live import LiveEngine
from kikimimi.inference.reply import Reply
from kikimimi.serving.limits import Load

_SECONDS = (0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)


class Metrics:
    """Counters of one server.

    Args:
        load: What it has taken on.
        engine: The engine that answers.
    """

    def __init__(self, load: Load, engine: LiveEngine) -> None:
        # Of its own: two servers in a process count apart.
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "kikimimi_requests", "Requests that ended, by status.", ["route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "kikimimi_request_seconds",
            "Time from a request's first byte to its answer's last.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._first = Histogram(
            "kikimimi_first_text_seconds",
            "Time from a request's last byte to the first text of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._gone = Counter(
            "kikimimi_clients_gone",
            "Requests whose client went away before the end.",
            ["route"],
            registry=registry,
        )
        self._audio = Counter("kikimimi_audio_seconds", "Audio that was heard.", registry=registry)
        self._tokens = Counter(
            "kikimimi_tokens",
            "Tokens of prompts, audio included, and of answers.",
            ["kind"],
            registry=registry,
        )
        self._cut = Counter(
            "kikimimi_cut_answers", "Answers that ended at the most tokens allowed.", registry=registry
        )
        taken = Gauge(
            "kikimimi_requests_in_flight", "Requests that are read, wait or are answered.", registry=registry
        )
        taken.set_function(lambda: load.requests)
        held = Gauge("kikimimi_held_bytes", "Bytes of uploads in memory.", registry=registry)
        held.set_function(lambda: load.held)
        waiting = Gauge("kikimimi_waiting", "Clips and conversations that wait for a row.", registry=registry)
        waiting.set_function(lambda: engine.waiting)
        rows = Gauge("kikimimi_answering", "Clips and conversations that are answered.", registry=registry)
        rows.set_function(lambda: engine.answering)

    def ended(self, route: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def gone(self, route: str) -> None:
        """Count a request whose client went away."""
        self._gone.labels(route).inc()

    def first_text(self, route: str, seconds: float) -> None:
        """Count how long a client waited for the first text."""
        self._first.labels(route).observe(seconds)

    def heard(self, seconds: float) -> None:
        """Count audio that goes to the model."""
        self._audio.inc(seconds)

    def answered(self, reply: Reply, *, cut: bool) -> None:
        """Count an answer."""
        self._tokens.labels("prompt").inc(reply.prompt_tokens or 0)
        self._tokens.labels("answer").inc(reply.tokens or 0)
        self._cut.inc(cut)

    def text(self) -> bytes:
        """Return all of it, as Prometheus reads it."""
        return generate_latest(self._registry)
