"""The HTTP side: routes, keys, bodies; everything else is behind `Backend`."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from . import catalog_api, chat_api, conversations_api, responses_api
from .backend import Answer, Backend, Call
from .delivery import Delivery, Wiring, refusing
from .wire import ApiError

Group = Literal["responses", "chat", "conversations", "catalog"]
Endpoint: TypeAlias = Callable[[Backend, Call], Answer]

_ROUTES: tuple[tuple[Group, str, str, Endpoint], ...] = (
    ("responses", "POST", "/v1/responses", responses_api.create),
    ("responses", "GET", "/v1/responses/{response_id}", responses_api.retrieve),
    ("chat", "POST", "/v1/chat/completions", chat_api.create),
    ("conversations", "POST", "/v1/conversations", conversations_api.create),
    ("conversations", "GET", "/v1/conversations/{conversation_id}", conversations_api.retrieve),
    ("conversations", "POST", "/v1/conversations/{conversation_id}", conversations_api.update),
    ("conversations", "DELETE", "/v1/conversations/{conversation_id}", conversations_api.delete),
    ("conversations", "POST", "/v1/conversations/{conversation_id}/items", conversations_api.add_items),
    ("conversations", "GET", "/v1/conversations/{conversation_id}/items", conversations_api.list_items),
    ("conversations", "GET", "/v1/conversations/{conversation_id}/items/{item_id}", conversations_api.retrieve_item),
    ("conversations", "DELETE", "/v1/conversations/{conversation_id}/items/{item_id}", conversations_api.delete_item),
    ("catalog", "GET", "/v1/models", catalog_api.list_models),
    ("catalog", "GET", "/v1/models/{model:path}", catalog_api.retrieve_model),
    ("catalog", "POST", "/v1/embeddings", catalog_api.embed),
)


@dataclass(frozen=True)
class Api:
    """The endpoints of one server, as Starlette wants them."""

    backend: Backend
    wiring: Wiring
    api_key: str

    def build(self, groups: frozenset[Group]) -> Starlette:
        """The application with the routes of `groups`; those of others are unknown, as on a compatible host."""
        routes = [
            Route(path, self._endpoint(endpoint), methods=[method])
            for group, method, path, endpoint in _ROUTES
            if group in groups
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: self._not_routed})

    def _endpoint(self, endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            return await self._handle(request, endpoint)

        return handle

    async def _handle(self, request: Request, endpoint: Endpoint) -> Response:
        body, parse_error = _parsed(await request.body())
        authorized = request.headers.get("authorization") == f"Bearer {self.api_key}"
        number = self._record(request, body, authorized=authorized)
        call = Call(body or {}, dict(request.path_params), dict(request.query_params))
        if not authorized:
            return self._deliver(number, refusing(_unauthorized(request)))
        fault = self.wiring.faults.take(request.url.path)
        if request.method == "POST" and parse_error is not None:
            return self._deliver(number, refusing(parse_error), fault)
        return self._deliver(number, partial(endpoint, self.backend, call), fault)

    async def _not_routed(self, request: Request, error: Exception) -> Response:
        """404 and 405 of the router, in the API's envelope."""
        status = error.status_code if isinstance(error, HTTPException) else 500
        authorized = request.headers.get("authorization") == f"Bearer {self.api_key}"
        body, _ = _parsed(await request.body())
        number = self._record(request, body, authorized=authorized)
        if status == 405:
            message = f"Not allowed to {request.method} on {request.url.path}."
            refusal = ApiError(message, status=status, code="method_not_supported")
        else:
            refusal = ApiError(f"Invalid URL ({request.method} {request.url.path})", status=status)
        return self._deliver(number, refusing(refusal))

    def _record(self, request: Request, body: Any, *, authorized: bool) -> int:
        return self.wiring.recorder.begin(
            method=request.method,
            path=request.url.path,
            query=request.query_params,
            headers=request.headers,
            authorized=authorized,
            body=body,
        )

    def _deliver(self, number: int, work: Callable[[], Answer], fault: Any = None) -> Delivery:
        request_id = self.backend.ids.new("req")
        return Delivery(self.wiring, number=number, request_id=request_id, fault=fault, work=work)


def _unauthorized(request: Request) -> ApiError:
    """The message does not repeat the key, unlike the real one, which shows its first and last characters."""
    if "authorization" in request.headers:
        message = (
            "Incorrect API key provided. You can find your API key at https://platform.openai.com/account/api-keys."
        )
    else:
        message = "You didn't provide an API key. You need to provide your API key in an Authorization header."
    return ApiError(message, status=401, code="invalid_api_key")


def _parsed(raw: bytes) -> tuple[Any, ApiError | None]:
    """The JSON object of a body, or None and the refusal."""
    try:
        body = json.loads(raw) if raw else None
    except (ValueError, RecursionError):
        body = None
    if isinstance(body, dict):
        return body, None
    message = "We could not parse the JSON body of your request. The API expects a JSON object as the payload."
    return None, ApiError(message)
