"""Every error as HTTP: one table, one envelope `{"error": {"message", "type", "param", "code"}}`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from msgspec import UNSET, Struct, UnsetType
from starlette.exceptions import HTTPException
from starlette.requests import Request

from app.api.json_replies import JsonReply, camel_case
from app.domain import errors
from app.domain.delivery_ports import SendFailed
from app.domain.models.runs import ErrorInfo, RunOptions, RunResult

MAX_ECHO_CHARS: Final = 80
_DEFAULT_RETRY_AFTER_S: Final = 5


@dataclass(frozen=True, slots=True)
class HttpStatus:
    """How one kind of error looks over HTTP."""

    status: int
    type: str
    """OpenAI's words: `invalid_request_error`, `rate_limit_error`, `server_error`, ..."""
    code: str | None = None
    """None: the error's own code."""
    retry_after_s: int | None = None
    """Advice when the error has none of its own; None: no header."""


_INVALID: Final = "invalid_request_error"
_SERVER: Final = "server_error"

HTTP_ERRORS: Final[Mapping[type[errors.AppError], HttpStatus]] = {
    errors.AppError: HttpStatus(500, _SERVER),
    # The caller can mend these.
    errors.RequestError: HttpStatus(400, _INVALID),
    errors.InvalidInput: HttpStatus(400, _INVALID),
    errors.UnknownAgent: HttpStatus(404, _INVALID),
    errors.ConversationNotFound: HttpStatus(404, _INVALID),
    errors.RunNotFound: HttpStatus(404, _INVALID),
    errors.SessionNotFound: HttpStatus(404, _INVALID),
    errors.RunConflict: HttpStatus(409, _INVALID),
    # The model's endpoint failed, or refused us (its 401 is our key, not the caller's): we are a gateway to it.
    errors.ProviderError: HttpStatus(502, _SERVER),
    errors.ProviderTimeout: HttpStatus(504, _SERVER),
    errors.ProviderRejected: HttpStatus(502, _SERVER),
    errors.RateLimited: HttpStatus(429, "rate_limit_error", retry_after_s=_DEFAULT_RETRY_AFTER_S),
    # The run ended badly. A limit or a guardrail did its work on this input: 400, since another input may pass.
    errors.TurnLimitReached: HttpStatus(400, _INVALID),
    errors.GuardrailTripped: HttpStatus(400, _INVALID),
    # The agent's code (or a change of it under the run), a tool or an unusable answer: nothing the caller sent is
    # known to be wrong.
    errors.AgentFailed: HttpStatus(500, _SERVER),
    errors.ReplayMismatch: HttpStatus(500, _SERVER),
    errors.RunError: HttpStatus(500, _SERVER),
    errors.RunCancelled: HttpStatus(409, _INVALID),
    errors.LeaseLost: HttpStatus(409, _INVALID),
    # Told to operators in deliveries; the send of a test event is the one request that can meet it.
    SendFailed: HttpStatus(502, _SERVER),
    errors.StorageUnavailable: HttpStatus(503, _SERVER, retry_after_s=1),
    # At start-up only; a client that sees one has met our fault.
    errors.ConfigurationError: HttpStatus(500, _SERVER),
}

# Who stopped a run decides what its caller is told; they all share the code `run_cancelled` in our rows.
_STOPPED: Final[Mapping[str, HttpStatus]] = {
    "user": HTTP_ERRORS[errors.RunCancelled],
    "timeout": HttpStatus(504, _SERVER, code="run_timeout"),
    # By a newer input of the same conversation: someone wanted it so, as with `user`.
    "interrupted": HTTP_ERRORS[errors.RunCancelled],
    "process_lost": HttpStatus(503, _SERVER, code="run_interrupted", retry_after_s=1),
}

_BY_CODE: Final[Mapping[str, HttpStatus]] = {kind.code: entry for kind, entry in HTTP_ERRORS.items()}

API_PARAMS: Final[Mapping[str, str]] = {
    "input": "message",
    "idempotency_key": "Idempotency-Key",
    "on_busy": "options.onBusy",
    "organization_id": "tenantId",
    "query": "q",
    **{
        field.name: f"options.{camel_case(field.name)}"
        for field in fields(RunOptions)
        if field.name != "output_type"  # a Python type: nothing that JSON could hold
    },
}
"""How clients of `/api` write what services call otherwise; any other name only becomes camelCase."""

_HTTP_CODES: Final[Mapping[int, str]] = {
    400: "invalid_body",
    404: "unknown_url",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "body_too_large",
}


class ErrorBody(Struct, frozen=True):
    """What went wrong."""

    message: str
    """For people; safe to show."""
    type: str
    param: str | None
    """The field, parameter or header at fault, if it is one."""
    code: str
    """Stable, for programs."""


class ErrorEnvelope(Struct, frozen=True, omit_defaults=True):
    """Every error reply."""

    error: ErrorBody
    run_id: str | UnsetType = UNSET
    """The run that ended badly, when one was started."""
    conversation_id: str | UnsetType = UNSET


class HttpError(Exception):
    """An error that only HTTP knows: no session, a foreign origin, a body that is no JSON."""

    def __init__(self, status: int, code: str, message: str, *, type: str = _INVALID, param: str | None = None) -> None:  # noqa: A002 - the envelope's word
        """Keep what the envelope says."""
        super().__init__(message)
        self.status: Final = status
        self.body: Final = ErrorBody(message, type, param, code)


def status_of(error: errors.AppError) -> HttpStatus:
    """Return the table's entry for an error, the nearest class that has one."""
    if isinstance(error, errors.RunCancelled):
        return _STOPPED.get(error.reason, HTTP_ERRORS[errors.RunCancelled])
    return next(HTTP_ERRORS[kind] for kind in type(error).__mro__ if kind in HTTP_ERRORS)


def status_of_end(info: ErrorInfo) -> HttpStatus:
    """Return the table's entry for how a run ended badly, by its code."""
    if info.code == errors.RunCancelled.code:
        return _STOPPED.get(str(info.details.get("reason", "")), HTTP_ERRORS[errors.RunCancelled])
    return _BY_CODE.get(info.code, HTTP_ERRORS[errors.RunError])


def body_of(error: errors.AppError, *, own_names: bool = False) -> ErrorBody:
    """Return the envelope's inside for one of our errors; `own_names`: its parameter is called as services call it."""
    entry = status_of(error)
    param = error.param if isinstance(error, errors.RequestError) else None
    code = error.reason if isinstance(error, errors.RunConflict) else entry.code or error.code
    return ErrorBody(error.public_message, entry.type, param if own_names else param and _wire_param(param), code)


def body_of_end(info: ErrorInfo) -> ErrorBody:
    """Return the envelope's inside for a run that ended badly."""
    entry = status_of_end(info)
    return ErrorBody(info.message, entry.type, None, entry.code or info.code)


def error_reply(error: errors.AppError, *, own_names: bool = False) -> JsonReply:
    """Return the reply for one of our errors; `own_names`: as in `body_of`."""
    entry = status_of(error)
    advice = error.retry_after_s if isinstance(error, errors.RateLimited) else None
    body = body_of(error, own_names=own_names)
    return JsonReply(ErrorEnvelope(body), entry.status, _retry_after(entry, advice))


def failed_run_reply(result: RunResult) -> JsonReply:
    """Return the reply for a run that did not complete: the envelope, and beside it the run's ids."""
    info = result.error or ErrorInfo(errors.RunError.code, "The run ended without an answer.")
    entry = status_of_end(info)
    advice = info.details.get("retry_after_s")
    headers = _retry_after(entry, advice if isinstance(advice, int | float) else None)
    return JsonReply(ErrorEnvelope(body_of_end(info), result.run_id, result.conversation_id), entry.status, headers)


def http_error_reply(error: HttpError) -> JsonReply:
    """Return the reply for an error that only HTTP knows."""
    return JsonReply(ErrorEnvelope(error.body), error.status)


def internal_error_body(request_id: str) -> ErrorBody:
    """Return the envelope's inside for a fault of ours: an id to quote, and nothing of the exception."""
    return ErrorBody(f"Something went wrong on our side. Quote this id: {request_id}", _SERVER, None, "internal_error")


async def handle_app_error(request: Request, error: Exception) -> JsonReply:
    """Answer one of our errors; FastAPI calls it. Only `/api` has names of its own for what services call otherwise."""
    assert isinstance(error, errors.AppError)
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    return error_reply(error, own_names=path.startswith("/v1/"))


async def handle_http_error(_request: Request, error: Exception) -> JsonReply:
    """Answer an error that only HTTP knows; FastAPI calls it."""
    assert isinstance(error, HttpError)
    return http_error_reply(error)


async def handle_starlette_error(request: Request, error: Exception) -> JsonReply:
    """Answer what the framework refuses by itself: unknown routes, wrong methods, bodies it cannot read."""
    assert isinstance(error, HTTPException)
    status = error.status_code
    message = {
        400: "The body could not be read: it must be JSON in UTF-8, and not nested too deeply.",
        404: f"There is no route {request.method} {_shown(request.url.path)}.",
        405: f"{_shown(request.url.path)} does not take {request.method}.",
    }.get(status, str(error.detail))
    kind = _SERVER if status >= 500 else _INVALID
    body = ErrorBody(message, kind, None, _HTTP_CODES.get(status, "invalid_request"))
    return JsonReply(ErrorEnvelope(body), status, dict(error.headers or {}))


async def handle_validation_error(_request: Request, error: Exception) -> JsonReply:
    """Answer a request that does not fit its route's description: 400, with the field's name, without its value."""
    assert isinstance(error, RequestValidationError)
    return JsonReply(ErrorEnvelope(_validation_body(error.errors())), 400)


def _validation_body(found: Sequence[Mapping[str, Any]]) -> ErrorBody:
    unknown = [_param(item) for item in found if item["type"] == "extra_forbidden"]
    if unknown:
        names = ", ".join(f"'{_shown(name)}'" for name in unknown[:5])
        return ErrorBody(f"Unknown field: {names}.", _INVALID, _shown(unknown[0]), "unknown_parameter")
    first = found[0]
    param = _param(first)
    match first["type"]:
        case "json_invalid":
            return ErrorBody("The body is not JSON.", _INVALID, None, "invalid_json")
        case "missing" if param:
            return ErrorBody(f"'{param}' is required.", _INVALID, param, "missing_required_parameter")
        case _ if not param:
            return ErrorBody("The body must be a JSON object.", _INVALID, None, "invalid_body")
        case kind:
            code = "invalid_type" if kind.endswith(("_type", "_parsing")) else "invalid_value"
            return ErrorBody(f"'{_shown(param)}': {first['msg']}.", _INVALID, _shown(param), code)


def _wire_param(param: str) -> str:
    root, bracket, rest = param.partition("[")
    return f"{API_PARAMS.get(root, camel_case(root))}{bracket}{rest}"


def _param(item: Mapping[str, Any]) -> str:
    """Return where the error is as the caller wrote it, without the `body` or `query` in front."""
    return ".".join(str(part) for part in item["loc"][1:])


def _shown(text: str) -> str:
    """Return text of the caller as we may echo it: printable and short."""
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return printable if len(printable) <= MAX_ECHO_CHARS else f"{printable[: MAX_ECHO_CHARS - 1]}…"


def _retry_after(entry: HttpStatus, advice_s: float | None) -> dict[str, str]:
    seconds = entry.retry_after_s if advice_s is None else max(1, math.ceil(advice_s))
    return {} if seconds is None else {"retry-after": str(seconds)}
