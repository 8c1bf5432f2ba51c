"""What routes ask for: the running system, its open streams, and whom a request is made for."""

from dataclasses import replace
from typing import Annotated

from fastapi import Depends, Header, Query, Request

from app.api.errors import HttpError
from app.api.openai.access import Access
from app.api.sse import EventStreams
from app.bootstrap import Container
from app.domain.errors import SessionNotFound, UnknownAgent
from app.domain.models.access import Principal
from app.domain.models.conversations import Caller, ClientSession


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


async def session_of(access: Principal, container: Container, session_id: str) -> ClientSession:
    """Return a session for the one who asks, accounted to that one's key.

    Raises:
        SessionNotFound: it does not exist, or belongs to another organization or user than the key.
    """
    session = await container.client_sessions.get(session_id)
    mine, theirs = access.caller, session.caller
    if not access.keyless and (
        theirs.organization_id != mine.organization_id or mine.user_id not in {None, theirs.user_id}
    ):
        raise SessionNotFound(session_id)
    return replace(session, caller=replace(theirs, project_id=mine.project_id, api_key_id=mine.api_key_id))


def check_agent(access: Principal, agent: str) -> None:
    """Make sure that the one who asks may run an agent.

    Raises:
        UnknownAgent: the key does not allow it; an agent that does not exist looks the same.
    """
    if not access.may_use_agent(agent):
        raise UnknownAgent(agent, tuple(sorted(access.agents or ())))


async def caller_of(
    access: Access,
    container: Running,
    header: Annotated[str | None, Header(alias="X-Session-Id", description="The session that asks.")] = None,
    query: Annotated[
        str | None, Query(alias="sessionId", description="The same, for clients that cannot set headers.")
    ] = None,
) -> Caller:
    """Return the organization and user of the session that a request names.

    Raises:
        HttpError: it names none (401).
        SessionNotFound: there is no such session for the one who asks.
    """
    session_id = header or query
    if not session_id:
        message = "Name a session: header X-Session-Id or query sessionId. POST /api/session opens one."
        raise HttpError(401, "session_required", message, param="X-Session-Id")
    return (await session_of(access, container, session_id)).caller


SessionCaller = Annotated[Caller, Depends(caller_of)]
