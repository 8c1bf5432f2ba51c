"""Counts every answer by its route's template: paths hold ids, and as many names would fill whoever keeps them."""

import time
from collections.abc import Awaitable
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.middleware import path_of
from app.api.openai.upstream_shortcut import SHORT_PATHS
from app.bootstrap import Container

UNMATCHED: Final = "unmatched"
"""Stands for the route of a request that was refused before one was found, or for which there is none."""


class RequestCounts:
    """Reports each request once, at the end of its answer; an event stream's end is the stream's."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand outermost, so that answers of all other middleware are counted."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; see ASGI."""
        container: Any = getattr(scope["app"].state, "container", None) if scope["type"] == "http" else None
        if not isinstance(container, Container):
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0

        def noted(message: Message) -> Awaitable[None]:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            return send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            duration_s = time.perf_counter() - started
            container.monitoring.metrics.answered(scope["method"], _route_of(scope), status, duration_s)


def _route_of(scope: Scope) -> str:
    template = getattr(scope.get("route"), "path", None)
    if isinstance(template, str):
        return template
    path = path_of(scope)
    return path if path in SHORT_PATHS else UNMATCHED
