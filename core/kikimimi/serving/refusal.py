"""What a server answers where it does not do what was asked, in the shape of OpenAI's errors."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import CancelledError
from traceback import format_exception
from typing import Any

from fastapi import Response
from pydantic import ValidationError

from kikimimi.console.terminal import json_text, say, shortened, visible
from kikimimi.console.words import listing, nearest
from kikimimi.errors import DamagedError, DataError, RequestError, StorageError
from kikimimi.inference.live import BusyError

RETRY_SECONDS = 1
"""How long who finds the server full is told to wait [s]."""
_AGAIN = {429, 503}
_LONGEST = 60  # characters of a value that are repeated
_KINDS = {401: "authentication_error", 429: "rate_limit_error"}


class RefusalError(Exception):
    """A request that is not done.

    Args:
        status: The status of HTTP: below 500 the request is to blame, from there on the server.
        message: What was wrong, and what is allowed.
        param: The parameter that was wrong.
        code: A word for programs.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    @property
    def body(self) -> dict[str, Any]:
        """The error as OpenAI words it."""
        kind = _KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    @property
    def response(self) -> Response:
        """The whole answer."""
        headers = {"Retry-After": str(RETRY_SECONDS)} if self.status in _AGAIN else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return Response(json_text(self.body), self.status, headers, "application/json")


def refusal_of(error: Exception) -> RefusalError:
    """Return how an error is told to who has asked. What nobody outside can mend is told here alone."""
    match error:
        case RefusalError():
            return error
        case BusyError():
            return RefusalError(429, f"{error}; try again later", code="busy")
        case CancelledError():
            return RefusalError(503, "the server is stopping", code="stopping")
        case ValidationError():
            return _of_parameters(error)
        case RequestError() | DataError() if not isinstance(error, (DamagedError, StorageError)):
            return RefusalError(400, str(error))
    say("".join(["error: a request failed\n", *format_exception(error)]).rstrip(), error=True)
    return RefusalError(500, "the server failed; what went wrong stands in its log", code="failed")


def not_supported(name: str, allowed: Iterable[str]) -> RefusalError:
    """Return the refusal of a parameter that is not known here."""
    allowed, name = list(allowed), _shown(name)
    return RefusalError(
        400,
        f"{name}: not supported here, and nothing is ignored.{nearest(name.rpartition('.')[2], allowed)} "
        f"Supported: {listing(allowed)}",
        param=name,
        code="unsupported_parameter",
    )


def _of_parameters(error: ValidationError) -> RefusalError:
    first: Any = error.errors(include_url=False, include_context=True)[0]
    where = ""
    for step in first["loc"]:
        where += f"[{step}]" if isinstance(step, int) else f".{_shown(step)}" if where else _shown(step)
    match first["type"]:
        case "not_supported":
            name = first["ctx"]["name"]
            return not_supported(f"{where}.{name}" if where else name, first["ctx"]["allowed"])
        case "missing":
            said = "must be given"
        case "literal_error":
            said = f"{_shown(repr(first['input']))} is not supported; allowed: {first['ctx']['expected']}"
        case "value_error":
            said = str(first["ctx"]["error"])
        case _:
            said = first["msg"][:1].lower() + first["msg"][1:]
    return RefusalError(400, f"{where}: {said}" if where else said, param=where or None)


def _shown(text: str) -> str:
    return shortened(visible(text), _LONGEST)
