"""The words of the wire that every module of the fake shares: JSON objects, errors, ids."""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import Mapping
from typing import Any

JsonObject = dict[str, Any]
"""One JSON object as parsed; `Any` because that is what JSON from a stranger is."""


class ApiError(Exception):
    """A refusal in the API's own envelope; raised by any rule, sent by the delivery.

    `param` is the path of the offending parameter in the API's notation (`input[0].id`), None when the API gives
    none; `code` is None where the real API answers null.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        error_type: str = "invalid_request_error",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.param = param
        self.code = code
        self.error_type = error_type
        self.headers = dict(headers or {})

    def envelope(self) -> JsonObject:
        """The body of the reply; all four keys are always there."""
        return {
            "error": {"message": self.message, "type": self.error_type, "param": self.param, "code": self.code},
        }


class IdSource:
    """Ids that never repeat, not even between two servers of one test: a token of this server and a counter."""

    def __init__(self) -> None:
        self._token = secrets.token_hex(8)
        self._numbers = itertools.count(1)

    def new(self, prefix: str) -> str:
        """Return `prefix_` and 32 hexadecimal digits; at most 64 characters in all, as the API demands of ids."""
        return f"{prefix}_{self._token}{next(self._numbers):016x}"


def encode(value: object) -> bytes:
    """Encode as compact UTF-8 JSON, as the API sends it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def unsupported(what: str, param: str) -> ApiError:
    """The error for what the real API can do and this fake cannot: never a silent wrong answer."""
    return ApiError(f"The fake OpenAI server does not support {what}.", param=param, code="unsupported_by_fake")


def model_not_found(model: str) -> ApiError:
    """The 404 of an unknown model; `/v1/responses` itself answers 400 with the same code in some versions."""
    return ApiError(
        f"The model `{model}` does not exist or you do not have access to it.",
        status=404,
        param="model",
        code="model_not_found",
    )
