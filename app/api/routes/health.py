"""Whether the process is up, whether it can work, and what it is."""

from typing import Literal

from fastapi import APIRouter
from msgspec import UNSET, Struct, UnsetType

from app import __version__
from app.api.dependencies import Running
from app.api.errors import ErrorBody
from app.api.json_replies import JsonReply
from app.api.openapi import replies
from app.bootstrap import Readiness

router = APIRouter(tags=["service"])

DEMO_NOTE = "No OPENAI_API_KEY is set: the demo model stands in. It is deterministic and knows nothing."


class HealthReply(Struct, frozen=True):
    """The process is up."""

    status: Literal["ok"] = "ok"


class ReadyReply(Struct, frozen=True, omit_defaults=True):
    """Whether this process can take work."""

    ready: bool
    database: str
    """`ok`, `unavailable`, or what is wrong with its schema."""
    error: ErrorBody | UnsetType = UNSET
    """Only when it cannot."""


class ServiceReply(Struct, frozen=True, omit_defaults=True):
    """What answers here."""

    name: str
    version: str
    description: str
    model: str
    """The model of the default agent; `demo` while the demo model stands in."""
    links: dict[str, str]
    note: str | UnsetType = UNSET
    """Only while the demo model stands in."""


@router.head("/healthz", include_in_schema=False)
@router.get(
    "/healthz",
    summary="Is the process up?",
    responses=replies(HealthReply, description="It is."),
    response_class=JsonReply,
    response_model=None,
)
async def healthz() -> JsonReply:
    """Say that the process is up; nothing else is asked."""
    return JsonReply(HealthReply())


@router.head("/readyz", include_in_schema=False)
@router.get(
    "/readyz",
    summary="Can it take work?",
    responses=replies(ReadyReply, 503, description="It can."),
    response_class=JsonReply,
    response_model=None,
)
async def readyz(container: Running) -> JsonReply:
    """Look at the database and its schema."""
    state: Readiness = await container.ready()
    if state.ready:
        return JsonReply(ReadyReply(ready=True, database=state.database))
    error = ErrorBody(f"Not ready: the database is {state.database}.", "server_error", None, "not_ready")
    return JsonReply(ReadyReply(ready=False, database=state.database, error=error), 503, {"retry-after": "1"})


@router.get(
    "/",
    summary="What is this?",
    responses={**replies(ServiceReply, description="The service.")},
    response_class=JsonReply,
    response_model=None,
)
async def service(container: Running) -> JsonReply:
    """Say what answers here and where to go on."""
    demo = container.provider.name == "demo"
    return JsonReply(
        ServiceReply(
            name="durable-agents",
            version=__version__,
            description="OpenAI Agents SDK agents as a service: durable sessions, accounted runs, streamed.",
            model=container.provider.agent(None).model,
            links={
                "openapi": "/openapi.json",
                "agents": "/api/agents",
                "tools": "/api/tools",
                "session": "/api/session",
                "chat": "/api/chat",
                "stream": "/api/chat/stream",
                "runs": "/api/runs",
                "approvals": "/api/approvals",
                "conversations": "/api/conversations",
                "health": "/healthz",
                "readiness": "/readyz",
            },
            note=DEMO_NOTE if demo else UNSET,
        )
    )
