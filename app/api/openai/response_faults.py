"""What is wrong with a request to the Responses API, in that API's words: codes, and `param` as a path."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from pydantic import ValidationError

from app.api.errors import HttpError, body_of, status_of
from app.domain.errors import RequestError

_SHOWN_CHARS: Final = 80

_KINDS: Final[Mapping[type[Any], str]] = {
    bool: "a boolean",
    dict: "an object",
    float: "a decimal",
    int: "an integer",
    list: "an array",
    str: "a string",
    type(None): "null",
}
_EXPECTED: Final[Mapping[str, str]] = {
    "bool": "a boolean",
    "dict": "an object",
    "float": "a decimal",
    "int": "an integer",
    "list": "an array",
    "model": "an object",
    "string": "a string",
}
_PARAMS: Final[Mapping[str, str]] = {
    "after_run_id": "previous_response_id",
    "agent": "model",
    "callId": "input",
    "client_tools": "tools",
    "conversation_id": "conversation",
    "decisions": "input",
    "idempotency_key": "Idempotency-Key",
    "on_busy": "conversation",
    "output_schema": "text.format.schema",
    "runId": "input",
    "run_id": "previous_response_id",
}
"""What services call otherwise than this API."""


def missing(param: str) -> HttpError:
    """Return the error for what must be there."""
    return HttpError(400, "missing_required_parameter", f"Missing required parameter: '{param}'.", param=param)


def wrong_type(param: str, expected: str, given: object) -> HttpError:
    """Return the error for a value of another type."""
    message = f"Invalid type for '{param}': expected {expected}, but got {_KINDS.get(type(given), 'it')} instead."
    return HttpError(400, "invalid_type", message, param=param)


def wrong_value(param: str, reason: str) -> HttpError:
    """Return the error for a value that cannot be; `reason` is the end of a sentence."""
    return HttpError(400, "invalid_value", f"Invalid value for '{param}': {reason}", param=param)


def refused(param: str, reason: str, *, code: str = "unsupported_parameter") -> HttpError:
    """Return the error for what the API has and this server does not."""
    return HttpError(400, code, f"Unsupported parameter: '{param}': {reason}", param=param)


def unknown(param: str) -> HttpError:
    """Return the error for what the API does not have."""
    return HttpError(400, "unknown_parameter", f"Unknown parameter: '{param}'.", param=param)


def fault_of(error: ValidationError) -> HttpError:
    """Return the error for what pydantic has found first; unknown parameters before all else."""
    found = error.errors(include_url=False)
    first = next((item for item in found if item["type"] == "extra_forbidden"), found[0])
    param = path_of(first["loc"])
    kind = first["type"]
    if kind == "extra_forbidden":
        return unknown(param)
    if kind == "missing":
        return missing(param)
    if kind.endswith("_type"):
        return wrong_type(param, _EXPECTED.get(kind.removesuffix("_type"), "another type"), first["input"])
    return wrong_value(param, f"{first['msg']}.")


def path_of(location: tuple[int | str, ...]) -> str:
    """Return where something is, as `tools[0].name`; what a caller wrote in it is shortened."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            name = "".join(character if character.isprintable() else "?" for character in part[:_SHOWN_CHARS])
            path += f".{name}" if path else name
    return path


@contextmanager
def wire_params() -> Generator[None]:
    """Name parameters as this API does in what services refuse in the block."""
    try:
        yield
    except RequestError as error:
        body = body_of(error)
        raise HttpError(status_of(error).status, body.code, body.message, param=_wire(error.param)) from error


def _wire(param: str | None) -> str | None:
    if param is None:
        return None
    root, bracket, rest = param.replace(".callId", ".approval_request_id").partition("[")
    return f"{_PARAMS.get(root, root)}{bracket}{rest}"
