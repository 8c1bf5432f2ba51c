"""The application: `create_app` for uvicorn (`app.api.application:create_app`, as a factory) and for embedding."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from app import __version__
from app.api.access_gate import AccessGate
from app.api.errors import (
    HttpError,
    handle_app_error,
    handle_http_error,
    handle_starlette_error,
    handle_validation_error,
)
from app.api.event_door import EventDoor
from app.api.middleware import BodyDeadline, JsonBodies, RequestContext, RequestLimit
from app.api.openai import (
    chat_completions,
    conversation_shares,
    embeddings,
    keys,
    models,
    responses,
    usage,
    webhook_endpoints,
)
from app.api.openai import conversations as openai_conversations
from app.api.openai.upstream_shortcut import UpstreamShortcut
from app.api.openapi import TAGS, describe
from app.api.request_counts import RequestCounts
from app.api.routes import (
    ag_ui,
    ai_sdk,
    approvals,
    catalog,
    chat,
    conversations,
    docs,
    events,
    health,
    metrics,
    runs,
    sessions,
)
from app.api.routes.events import allowed_origins
from app.api.sse import EventStreams
from app.bootstrap import AgentSource, ContextFactory, open_container
from app.domain.errors import AppError
from app.settings import Settings, load_settings

ROUTERS = (
    # The framework tries them in this order for every request: what is called most, and costs least, comes first.
    embeddings.router,
    responses.router,
    chat_completions.router,
    models.router,
    health.router,
    sessions.router,
    chat.router,
    runs.router,
    approvals.router,
    conversations.router,
    catalog.router,
    openai_conversations.router,
    conversation_shares.router,
    keys.router,
    webhook_endpoints.router,
    events.router,
    events.alias,
    usage.router,
    ai_sdk.router,
    ag_ui.router,
    metrics.router,
    docs.router,
    events.pages,
)
DESCRIPTION = (
    "OpenAI Agents SDK agents as a service: durable sessions, accounted runs, streamed. "
    'Every error is `{"error": {"message", "type", "param", "code"}}`; every reply carries `x-request-id`.'
)


def create_app(
    *,
    settings: Settings | None = None,
    agents: Sequence[AgentSource] = (),
    tools: Mapping[str, Callable[..., Any]] | None = None,
    context_factory: ContextFactory | None = None,
    client: Any = None,
    engine: Any = None,
) -> FastAPI:
    """Return the application; its lifespan starts the system, finishes runs of lost processes, and stops it in order.

    Args:
        settings: None reads the environment.
        agents: served beside those that the settings name; with neither, the demo agents.
        tools: functions that declared agents may name.
        context_factory: makes the context type that the agents were written for.
        client: an `openai.AsyncOpenAI` of the caller's own.
        engine: an async SQLAlchemy engine of the caller's own, which stays open.

    Raises:
        ConfigurationError: a setting is wrong. Wrong agents and databases are reported the same way when the
            application starts, and that HOST is an address that other machines can reach while there are no keys.
    """
    settings = settings or load_settings()
    open_system = partial(
        open_container,
        settings,
        agents=agents,
        tools=tools,
        take_over=True,
        context_factory=context_factory,
        client=client,
        engine=engine,
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with open_system() as container:
            await container.access.check_bind()
            app.state.container = container
            container.monitoring.watch_readers(lambda: app.state.streams.readers)
            yield
            # A server that waits for open replies first must have done this by then; see `stop_streams`.
            app.state.streams.stop()
            del app.state.container

    app = FastAPI(
        title="durable-agents",
        version=__version__,
        description=DESCRIPTION,
        openapi_tags=TAGS,
        lifespan=lifespan,
        # Both pages load scripts from a CDN.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # Its spans would carry query strings, and those may carry session ids.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        middleware=[
            Middleware(RequestCounts),
            Middleware(RequestContext),
            Middleware(RequestLimit, max_requests=settings.server.max_requests),
            Middleware(EventDoor, origins=allowed_origins),
            Middleware(AccessGate),
            Middleware(BodyDeadline, timeout_s=settings.server.body_timeout_s),
            Middleware(JsonBodies, max_body_bytes=settings.server.max_body_bytes),
            Middleware(UpstreamShortcut),
        ],
        exception_handlers={
            AppError: handle_app_error,
            HttpError: handle_http_error,
            HTTPException: handle_starlette_error,
            RequestValidationError: handle_validation_error,
        },
    )
    app.state.streams = EventStreams(settings.server)
    for router in ROUTERS:
        # Not by `include_router`: each application would make every route once more, with its first request.
        app.router.routes.extend(router.routes)
    app.openapi = partial(describe, app)
    return app


def stop_streams(app: FastAPI) -> None:
    """End the open event streams of an application of ours; a server calls it as soon as it begins to stop.

    Servers wait for open replies before they end the lifespan, and a stream is as long as its run: without this call
    the time to stop is spent on streams, before the runs get theirs. Their clients come again, here or elsewhere, and
    lose nothing. Call it in the event loop.
    """
    app.state.streams.stop()
