"""What routes ask for: the running system, its open streams, and whom a request is made for."""

from typing import Annotated

from fastapi import Depends, Header, Query, Request

from app.api.errors import HttpError
from app.api.sse import EventStreams
from app.bootstrap import Container
from app.domain.models.conversations import Caller


async def container_of(request: Request) -> Container:
    """Return the running system."""
    container = getattr(request.app.state, "container", None)
    if not isinstance(container, Container):
        # Starlette runs the lifespan of the outermost app only.
        raise RuntimeError("The app was not started: a mounted app needs its lifespan entered by the app around it.")
    return container


Running = Annotated[Container, Depends(container_of)]


async def streams_of(request: Request) -> EventStreams:
    """Return the event streams of the application."""
    streams = request.app.state.streams
    assert isinstance(streams, EventStreams)
    return streams


Streaming = Annotated[EventStreams, Depends(streams_of)]


async def caller_of(
    container: Running,
    header: Annotated[str | None, Header(alias="X-Session-Id", description="The session that asks.")] = None,
    query: Annotated[
        str | None, Query(alias="sessionId", description="The same, for clients that cannot set headers.")
    ] = None,
) -> Caller:
    """Return the organization and user of the session that a request names.

    Raises:
        HttpError: it names none (401).
        SessionNotFound: there is no such session.
    """
    session_id = header or query
    if not session_id:
        message = "Name a session: header X-Session-Id or query sessionId. POST /api/session opens one."
        raise HttpError(401, "session_required", message, param="X-Session-Id")
    return (await container.client_sessions.get(session_id)).caller


SessionCaller = Annotated[Caller, Depends(caller_of)]
